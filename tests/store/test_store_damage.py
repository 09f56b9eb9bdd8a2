"""Damaged entries, in every place and both storages: reported by key, never decoded, healed by the next put."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from lloco_integrations.errors import DamagedEntry
from lloco_integrations.store import SummaryStore
from lloco_integrations.types import SummaryEmbeddings

Summary = Callable[..., SummaryEmbeddings]


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value[:-1] + bytes([value[-1] ^ 1]),
        lambda value: value[: len(value) // 2],
        lambda value: value[:4],
        lambda value: b"",
        lambda value: value + b"\0",
        lambda value: pickle.dumps({"vectors": [1.0]}),
    ],
    ids=["flipped", "truncated", "cut to the length", "empty", "longer", "pickle"],
)
def test_damage_is_reported_by_key_and_never_decoded(
    store: SummaryStore, summary: Summary, rewrite: Any, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = store.put_many([("bad", summary(1, group="g")), ("good", summary(2, group="g"))])
    rewrite(store, bad, change)
    with monkeypatch.context() as patched:
        patched.setattr("safetensors.torch.load", lambda data: pytest.fail("a damaged value was decoded"))
        with pytest.raises(DamagedEntry, match=rf"(?s){bad}.*lloco store gc --damaged"):
            store.get_many([bad])
    assert store.get_many([good])[0] is not None
    assert store.verify() == [bad]
    store.stats()
    assert store.find_garbage(damaged=True) == [bad]
    assert store.gc(damaged=True) == 1
    assert store.verify() == []
    assert list(store.keys()) == [good]
    assert store.put_many([("bad", summary(1))]) == [bad]
    assert store.get_many([bad])[0] is not None


def test_putting_again_heals_damage(store: SummaryStore, summary: Summary, rewrite: Any) -> None:
    (key,) = store.put_many([("text", summary(1))])
    rewrite(store, key, lambda value: value[:-2] + b"xx")
    store.put_many([("text", summary(1))])
    assert store.get_many([key])[0] is not None
    assert store.verify() == []


def test_a_value_under_another_key_is_damage(store: SummaryStore, summary: Summary, rewrite: Any) -> None:
    one, two = store.put_many([("one", summary(1)), ("two", summary(2))])
    value: Any = store._backend.get([one])[0]
    rewrite(store, two, lambda _: value)
    assert store.verify() == [two]
