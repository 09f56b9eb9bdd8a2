"""A cache in front of a store: what is read from where, what it may show, and what it must never do."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version

from lloco_integrations.errors import DamagedEntry, StoreError
from lloco_integrations.store import SummaryStore
from lloco_integrations.store.opening import uncached
from lloco_integrations.types import SummaryEmbeddings

from .conftest import DictStore, bucket_target

Summary = Callable[..., SummaryEmbeddings]


class Place:
    """A remote that counts its calls, the address of a cache, and the store made of both."""

    def __init__(self, tmp_path: Path) -> None:
        self.url = bucket_target()
        self.cache_url = f"sqlite:///{tmp_path}/cache.sqlite"
        self.remote = SummaryStore.open(self.url)
        self.store = SummaryStore.open(self.url, cache=self.cache_url)
        self.cache = SummaryStore.open(self.cache_url)
        backend: Any = self.store._origin
        self.calls: list[str] = backend._place()[0].calls
        self.calls.clear()

    def takes(self, call: Callable[[], object]) -> int:
        """Calls to the remote during ``call``."""
        self.calls.clear()
        call()
        return len(self.calls)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def group(store: SummaryStore, key: str) -> str | None:
    (info,) = store.info_many([key])
    assert info is not None
    return info.group


def test_a_second_read_stays_here(place: Place, summary: Summary) -> None:
    keys = place.remote.put_many([(str(n), summary(n)) for n in range(3)])
    assert place.takes(lambda: place.store.get_many(keys)) == 3
    assert place.takes(lambda: place.store.get_many(keys)) == 0
    assert place.takes(lambda: place.store.info_many(keys)) == 0
    (more,) = place.remote.put_many([("more", summary(4))])
    assert place.takes(lambda: place.store.info_many([*keys, more])) == 1
    assert place.takes(lambda: place.store.get_many([*keys, more])) == 1, "only what is missing is fetched"
    for key, got in zip(keys, place.store.get_many(keys), strict=True):
        assert got is not None
        assert torch.equal(got.vectors, place.remote.get_many([key])[0].vectors)  # type: ignore[union-attr]


def test_what_is_put_is_in_both_and_the_remote_comes_first(place: Place, summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    (key,) = place.store.put_many([("text", summary())])
    assert place.remote.contains_many([key]) == place.cache.contains_many([key]) == [True]
    assert place.takes(lambda: place.store.get_many([key])) == 0
    backend: Any = place.store._backend

    def down(*_: object) -> None:
        raise StoreError("down")

    monkeypatch.setattr(backend.remote, "put", down)
    with pytest.raises(StoreError, match="down"):
        place.store.put_many([("lost", summary(2))])
    assert list(place.cache.keys()) == [key], "what the remote did not take is not in the cache"


def test_a_copy_does_not_stand_for_the_remote_at_a_put(place: Place, summary: Summary) -> None:
    (key,) = place.store.put_many([("text", summary())])
    place.remote.delete_many([key])
    assert place.store.get_many([key])[0] is not None, "a copy outlives what others delete"
    assert place.store.contains_many([key]) == [False], "but does not pretend that the remote has it"
    place.store.put_many([("text", summary())])
    assert place.remote.contains_many([key]) == [True]


def test_a_group_that_others_change_is_seen_after_a_put(place: Place, summary: Summary) -> None:
    (key,) = place.store.put_many([("text", summary(1, group="law"))])
    place.remote.put_many([("text", summary(1, group="tax"))])
    assert group(place.store, key) == "law", "out of date, as documented"
    place.store.put_many([("text", summary(1, group="tax"))])
    assert group(place.store, key) == "tax", "the remote held it already; the copy was brought up to date"
    place.remote.put_many([("text", summary(1, group="law"))])
    place.store.put_many([("text", summary(1, group="tax"))])
    assert group(place.remote, key) == group(place.store, key) == "tax", "the last put decides, whatever the copy said"


def test_deleting_is_in_both(place: Place, summary: Summary) -> None:
    keys = place.store.put_many([("one", summary(1, group="g")), ("two", summary(2, group="g")), ("three", summary(3))])
    assert place.store.delete_many(keys[:1]) == 1
    assert place.store.gc(group="g") == 1
    assert list(place.remote.keys()) == list(place.cache.keys()) == keys[2:]
    assert place.store.get_many(keys)[:2] == [None, None]


def test_looking_after_the_store_concerns_the_remote(place: Place, summary: Summary, rewrite: Any) -> None:
    bad, good = place.remote.put_many([("bad", summary(1)), ("good", summary(2))])
    place.store.get_many([good])
    assert sorted(place.store.keys()) == sorted([bad, good])
    assert place.store.stats() == place.remote.stats()
    rewrite(place.remote, bad, lambda value: value[:-1])
    assert place.store.verify() == [bad]
    with pytest.raises(DamagedEntry, match=bad):
        place.store.get_many([bad])
    assert list(place.cache.keys()) == [good], "damage is not kept"
    assert place.store.gc(damaged=True) == 1


@pytest.mark.parametrize(
    "change", [lambda v: v[:-1] + bytes([v[-1] ^ 1]), lambda v: b"", lambda v: v[:50]], ids=["flipped", "empty", "cut"]
)
def test_a_damaged_copy_is_fetched_again(place: Place, summary: Summary, rewrite: Any, change: Any) -> None:
    (key,) = place.store.put_many([("text", summary())])
    rewrite(place.cache, key, change)
    (got,) = place.store.get_many([key])
    assert got is not None
    assert torch.equal(got.vectors, summary().vectors)
    assert place.cache.verify() == []
    assert place.takes(lambda: place.store.get_many([key])) == 0


def test_a_broken_or_missing_cache_costs_time_and_no_answer(
    tmp_path: Path, place: Place, summary: Summary, caplog: pytest.LogCaptureFixture
) -> None:
    (key,) = place.store.put_many([("text", summary())])
    place.store.close()
    place.cache.close()
    for path in tmp_path.glob("cache.sqlite*"):
        path.unlink()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert place.store.get_many([key])[0] is not None
            assert place.store.info_many([key])[0] is not None
        place.store.put_many([("more", summary(2))])
    assert len([r for r in caplog.records if "without the cache" in r.message]) == 1
    assert SummaryStore.open(place.url, cache=place.cache_url).get_many([key])[0] is not None, "opened again, it is made anew"


def test_what_was_read_stays_readable_through_an_outage(place: Place, summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    (key,) = place.store.put_many([("text", summary())])
    (unread,) = place.remote.put_many([("unread", summary(2))])

    def down(*_: object, **__: object) -> None:
        raise ConnectionError("connection reset")

    monkeypatch.setattr(place.store._origin, "_read", down)
    assert place.store.get_many([key])[0] is not None
    for call in (lambda: place.store.get_many([unread]), lambda: place.store.put_many([("text", summary())])):
        with pytest.raises(StoreError, match="connection reset") as caught:
            call()
        assert not isinstance(caught.value, DamagedEntry)


def test_a_cache_of_another_store_is_refused(tmp_path: Path, place: Place, summary: Summary) -> None:
    place.store.put_many([("text", summary())])
    other = bucket_target()
    for make in (lambda: None, lambda: SummaryStore.open(other)):
        make()
        with pytest.raises(StoreError, match=r"belongs to another store.*name another cache"):
            SummaryStore.open(other, cache=place.cache_url)
        if make() is None:
            with pytest.raises(StoreError, match="no store at"):
                SummaryStore.open(other, create=False)
    assert len(list(place.cache.keys())) == 1


def test_a_cache_alone_is_a_store_with_the_same_keys(place: Place, summary: Summary) -> None:
    keys = place.store.put_many([(str(n), summary(n)) for n in range(4)])
    assert place.cache.key("fp", "0") == keys[0]
    assert place.cache.gc(max_bytes=0) == 4, "which is how to bound it"
    assert place.takes(lambda: place.store.get_many(keys)) == 4


def test_in_one_string(place: Place, summary: Summary) -> None:
    (key,) = place.store.put_many([("text", summary())])
    url = f"cache::{place.cache_url}::{place.url}"
    assert place.store.url == url
    for name in (url, f"CACHE::{place.cache_url}::{place.url}", f"cache::{place.cache_url[10:]}::{place.url}"):
        store = SummaryStore.open(name)
        assert store.url == url
        assert place.takes(lambda store=store: store.get_many([key])) == 0  # type: ignore[misc]
    assert SummaryStore.open(SummaryStore.open(place.url), cache=place.cache_url).url == url
    for twin in (copy.deepcopy(place.store), pickle.loads(pickle.dumps(place.store))):
        assert twin.url == url
    assert uncached(url) == uncached(place.url) == place.url
    assert uncached(f"cache::sqlite:///a::cache::sqlite:///b::simplecache::{place.url}") == f"simplecache::{place.url}"


@pytest.mark.skipif(Version(version("fsspec")) < Version("2026.9"), reason="fsspec itself chains simplecache wrongly before 2026.9")
def test_it_does_not_take_over_what_fsspec_chains(tmp_path: Path, place: Place, summary: Summary) -> None:
    """fsspec knows cached, filecache, simplecache and blockcache, and no cache: that name is ours."""
    from fsspec.registry import known_implementations

    assert "cache" not in known_implementations
    (key,) = place.remote.put_many([("text", summary())])
    store = SummaryStore.open(f"cache::sqlite:///{tmp_path}/other.sqlite::simplecache::{place.url}")
    assert store.get_many([key])[0] is not None
    assert place.takes(lambda: store.get_many([key])) == 0


@pytest.mark.parametrize(
    "wrong", ["cache::", "cache::sqlite:///a.sqlite", "cache::sqlite:///a.sqlite::", "cache::::memory://x", "cache::foo://x::memory://x"]
)
def test_strings_that_name_no_cache(wrong: str) -> None:
    with pytest.raises(StoreError, match="sqlite:///path"):
        SummaryStore.open(wrong)


@pytest.mark.parametrize("cache", [5, {}, "memory://same", "memory://a::b"])
def test_places_that_are_no_cache(cache: Any) -> None:
    with pytest.raises(StoreError, match=r"address|own cache"):
        SummaryStore.open("memory://same", cache=cache)


def test_in_front_of_an_object(tmp_path: Path, summary: Summary) -> None:
    inner = DictStore()
    store = SummaryStore.open(inner, cache=f"sqlite:///{tmp_path}/cache.sqlite")
    (key,) = store.put_many([("text", summary())])
    assert store.url == "object:DictStore"
    again = copy.deepcopy(store)
    values, inner.data = inner.data, {}
    assert all(again.get_many([key]))
    inner.data = values
    twin = pickle.loads(pickle.dumps(store))
    assert twin.contains_many([key]) == [True]
    assert twin._backend.cache.url == store._backend.cache.url  # type: ignore[attr-defined]
