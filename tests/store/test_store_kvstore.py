"""LlamaIndex key-value stores: recognised by their methods, next to other collections, and whatever else may lie there."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lloco_integrations.errors import DamagedEntry, StoreError
from lloco_integrations.store import SummaryStore
from lloco_integrations.types import SummaryEmbeddings

kvstore = pytest.importorskip("llama_index.core.storage.kvstore")
Summary = Callable[..., SummaryEmbeddings]


def test_it_survives_being_persisted(tmp_path: Path, summary: Summary) -> None:
    inner = kvstore.SimpleKVStore()
    store = SummaryStore.open(inner, storage="int8")
    (key,) = store.put_many([("text", summary())])
    inner.persist(str(tmp_path / "kv.json"))
    again = SummaryStore.open(kvstore.SimpleKVStore.from_persist_path(str(tmp_path / "kv.json")), create=False)
    assert again.storage == "int8"
    assert again.key("fp", "text") == key
    assert all(again.get_many([key]))


def test_other_collections_are_left_alone(summary: Summary) -> None:
    inner = kvstore.SimpleKVStore()
    inner.put("theirs", {"a": 1})
    inner.put("no key", {"b": 2}, collection="lloco")
    store = SummaryStore.open(inner)
    (key,) = store.put_many([("text", summary())])
    assert list(store.keys()) == [key]
    assert store.gc(older_than=0) == 1
    assert inner.get("theirs") == {"a": 1}
    assert inner.get("no key", collection="lloco") == {"b": 2}


@pytest.mark.parametrize("value", [{}, {"lloco": None}, {"lloco": "ä"}, {"lloco": "###"}, {"other": "QUJD"}, {"lloco": "QUJD"}])
def test_what_is_no_value_is_damage(value: dict[str, Any], summary: Summary) -> None:
    inner = kvstore.SimpleKVStore()
    store = SummaryStore.open(inner)
    bad, good = store.put_many([("bad", summary(1)), ("good", summary(2))])
    inner.put(bad, value, collection="lloco")
    with pytest.raises(DamagedEntry, match=bad):
        store.get_many([bad])
    with pytest.raises(DamagedEntry, match=bad):
        store.info_many([bad])
    assert store.verify() == [bad]
    store.put_many([("bad", summary(1))])
    assert all(store.get_many([bad, good]))


def test_what_is_none(tmp_path: Path) -> None:
    class Async:
        get_all = get = delete = put = None

    class Positional:
        def put(self, key: str, val: dict[str, Any]) -> None: ...

        get = get_all = delete = put

    for wrong in (queue.Queue(), Async(), Positional(), {}):
        with pytest.raises(StoreError, match="LlamaIndex key-value store"):
            SummaryStore.open(wrong)


def test_a_failing_one_is_an_error_and_never_damage(summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = kvstore.SimpleKVStore()
    store = SummaryStore.open(inner)
    (key,) = store.put_many([("text", summary())])

    def down(*_: object, **__: object) -> None:
        raise TimeoutError("connection reset")

    with monkeypatch.context() as patched:
        for name in ("put", "get", "get_all", "delete"):
            patched.setattr(inner, name, down)
        for call in (lambda: store.get_many([key]), store.verify, store.stats, lambda: store.delete_many([key])):
            with pytest.raises(StoreError, match="connection reset") as caught:
                call()
            assert not isinstance(caught.value, DamagedEntry)
    assert store.verify() == []
