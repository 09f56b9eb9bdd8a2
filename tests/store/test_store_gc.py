"""What may go: by size, by reachability, and together with the other conditions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lloco_integrations.errors import BadInput
from lloco_integrations.store import SummaryStore
from lloco_integrations.types import SummaryEmbeddings

Summary = Callable[..., SummaryEmbeddings]
LETTERS = "abcdef"


@pytest.fixture
def keys(store: SummaryStore, summary: Summary, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of six entries, a the oldest; b and e are in group g, and f is of another compressor."""
    made = []
    for age, text in enumerate(LETTERS):
        monkeypatch.setattr("lloco_integrations.store.store.time.time", lambda age=age: 1000.0 + age)
        made += store.put_many([(text, summary(age, group="g" if text in "be" else None, fingerprint="other" if text == "f" else "fp"))])
    monkeypatch.setattr("lloco_integrations.store.store.time.time", lambda: 2000.0)
    return made


def letters(keys: list[str], found: list[str]) -> str:
    return "".join(sorted(LETTERS[keys.index(key)] for key in found))


def test_the_oldest_go_until_the_store_fits(store: SummaryStore, keys: list[str]) -> None:
    sizes = [info.nbytes for info in store.info_many(keys) if info]
    total = store.stats().nbytes
    assert total == sum(sizes)
    assert store.find_garbage(max_bytes=total) == []
    assert store.find_garbage(max_bytes=total - 1) == keys[:1]
    assert store.find_garbage(max_bytes=total - sizes[0]) == keys[:1]
    assert store.find_garbage(max_bytes=total - sizes[0] - 1) == keys[:2], "oldest first"
    assert letters(keys, store.find_garbage(max_bytes=0)) == LETTERS
    assert store.gc(max_bytes=sum(sizes[3:])) == 3
    assert sorted(store.keys()) == sorted(keys[3:])
    assert store.stats().nbytes <= sum(sizes[3:])
    assert store.gc(max_bytes=sum(sizes[3:])) == 0


def test_with_other_conditions_only_what_meets_them_goes(store: SummaryStore, keys: list[str]) -> None:
    total = store.stats().nbytes
    assert letters(keys, store.find_garbage(max_bytes=total - 1, group="g")) == "b"
    assert letters(keys, store.find_garbage(max_bytes=0, group="g")) == "be", "though the store does not fit then"
    assert letters(keys, store.find_garbage(max_bytes=0, fingerprint_keep=["fp"])) == "f"
    assert letters(keys, store.find_garbage(max_bytes=0, older_than=997.5)) == "abc"
    assert letters(keys, store.find_garbage(max_bytes=total - 1, keep_keys=keys[:3])) == "d"


def test_what_is_not_reachable_goes(store: SummaryStore, keys: list[str]) -> None:
    assert letters(keys, store.find_garbage(keep_keys=keys[1:])) == "a"
    assert letters(keys, store.find_garbage(keep_keys=keys[1:], group="g")) == ""
    assert letters(keys, store.find_garbage(keep_keys={*keys[:2], "of", "another store"})) == "cdef"
    asked = []
    assert letters(keys, store.find_garbage(keep_keys=lambda names: asked.append(names) or keys[3:], group="g")) == "b"
    assert asked == [{"fp"}], "asked for the compressors of what is in question"
    assert store.gc(keep_keys=keys[4:]) == 4
    assert sorted(store.keys()) == sorted(keys[4:])
    assert store.gc(keep_keys=()) == 2


def test_what_is_put_while_entries_are_listed_is_kept(store: SummaryStore, keys: list[str], summary: Summary) -> None:
    def late(_: set[str]) -> list[str]:
        return [*keys, *store.put_many([("late", summary(9))])]

    assert store.gc(keep_keys=late) == 0
    assert store.gc(keep_keys=lambda _: store.put_many([("later", summary(9))])) == len(keys) + 1
    assert list(store.keys()) == [store.key("fp", "later")]


def test_damaged_entries_go_first_and_count_nothing(store: SummaryStore, keys: list[str], rewrite: Any) -> None:
    sizes = [info.nbytes for info in store.info_many(keys) if info]
    rewrite(store, keys[4], lambda value: value[:-1] + bytes([value[-1] ^ 1]))
    assert letters(keys, store.find_garbage(max_bytes=sum(sizes) - sizes[4], damaged=True)) == "e"
    assert letters(keys, store.find_garbage(max_bytes=sum(sizes) - sizes[4] - 1, damaged=True)) == "ae"


@pytest.mark.parametrize("wrong", [{"max_bytes": -1}, {"max_bytes": 1.5}, {"max_bytes": True}, {"keep_keys": "abc"}])
def test_conditions_that_make_no_sense(wrong: dict[str, Any], summary: Summary) -> None:
    store = SummaryStore.open("memory://")
    store.put_many([("text", summary())])
    with pytest.raises(BadInput, match=next(iter(wrong))):
        store.gc(**wrong)
    with pytest.raises(TypeError):
        store.gc(older=3)  # type: ignore[call-arg]
    assert store.stats().entries == 1
