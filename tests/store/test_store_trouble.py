"""Every place under strain: several first writers, a failure halfway, listings that lag, calls that take long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lloco_integrations.errors import StoreError
from lloco_integrations.store import SummaryStore
from lloco_integrations.store.cached import origin
from lloco_integrations.types import SummaryEmbeddings

from .conftest import bucket_target

Summary = Callable[..., SummaryEmbeddings]


@pytest.mark.parametrize("place", ["memory", "sqlite", "directory", "langchain", "dict", "llamaindex", "redis", "s3"])
def test_of_many_first_writers_one_makes_the_store(place: str, make_target: Callable[[str], Any], summary: Summary) -> None:
    target = make_target(place)
    start = threading.Barrier(5)

    def work(n: int) -> str:
        start.wait(timeout=60)
        return SummaryStore.open(target).put_many([("text", summary(1))])[0]

    with ThreadPoolExecutor(5) as pool:
        keys = set(pool.map(work, range(5)))
    assert len(keys) == 1, "all had one secret"
    store = SummaryStore.open(target, create=False)
    assert list(store.keys()) == list(keys)
    assert store.verify() == []


def test_writers_that_disagree_leave_one_sound_entry(target: Any, summary: Summary) -> None:
    SummaryStore.open(target)
    start = threading.Barrier(4)

    def work(n: int) -> None:
        with SummaryStore.open(target, create=False) as mine:
            start.wait(timeout=60)
            for _ in range(3):
                mine.put_many([("text", summary(1, rows=40, group=f"g{n}")), ("other", summary(2, group=f"g{n}"))])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    store = SummaryStore.open(target)
    assert store.verify() == []
    for info in store.info_many([store.key("fp", text) for text in ("text", "other")]):
        assert info is not None
        assert info.group in {"g0", "g1", "g2", "g3"}


def test_a_failure_in_the_middle_keeps_what_was_acknowledged(target: Any, summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SummaryStore.open(target)
    backend: Any = origin(store._backend)
    items = [(str(n), summary(n)) for n in range(40)]
    batches: list[list[str]] = []
    put = backend.put

    def flaky(some: Any) -> None:
        if len(batches) == 1:
            put(some[:5])  # some of the batch may arrive
            raise StoreError("connection reset")
        batches.append([key for key, _, _ in some])
        put(some)

    with monkeypatch.context() as patched:
        patched.setattr(backend, "put", flaky)
        with pytest.raises(StoreError, match="connection reset"):
            store.put_many(items)
    assert all(store.get_many(batches[0]))
    assert store.stats().entries == 37
    before = store.info_many(batches[0])
    keys = store.put_many(items)
    assert store.info_many(batches[0]) == before, "the retry wrote only what was missing"
    assert len(keys) == 40
    assert all(store.get_many(keys))
    assert store.verify() == []


def test_a_listing_that_lags_hides_nothing_from_readers(summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SummaryStore.open(bucket_target())
    (old,) = store.put_many([("old", summary(1))])
    backend: Any = store._backend
    fs = backend._place()[0]
    listed = fs.find(backend._place()[1])
    for name in ("find", "ls", "glob", "walk"):
        monkeypatch.setattr(fs, name, lambda *_, **__: list(listed))
    (new,) = store.put_many([("new", summary(2))])
    assert list(store.keys()) == [old], "the listing is behind"
    assert all(store.get_many([old, new]))
    assert store.contains_many([new]) == [True]
    assert all(store.info_many([new]))
    assert store.put_many([("new", summary(2))]) == [new]
    assert store.delete_many([old]) == 1
    assert list(store.keys()) == [old], "and behind again"
    assert store.get_many([old]) == [None]
    assert store.verify() == []
    assert store.stats().entries == 0
    assert store.gc(older_than=0, damaged=True) == 0


@pytest.mark.parametrize("place", ["redis", "s3", "fsspec"])
def test_reading_lists_nothing(place: str, make_target: Callable[[str], Any], summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SummaryStore.open(make_target(place))
    backend: Any = store._backend
    there = backend._client() if place == "redis" else backend._place()[0]
    for name in ("scan_iter", "scan", "keys", "find", "ls", "_find", "_ls", "_lsdir"):
        if hasattr(there, name):
            monkeypatch.setattr(there, name, lambda *_, **__: pytest.fail("listed"))
    keys = store.put_many([(str(n), summary(n)) for n in range(3)])
    assert all(store.get_many(keys)) and all(store.info_many(keys)) and all(store.contains_many(keys))
    assert store.delete_many(keys) == 3


def test_threads_do_not_wait_for_each_others_calls(summary: Summary) -> None:
    """A store that is 20 ms away serves eight threads at once: no lock is held around a call."""
    store = SummaryStore.open(bucket_target(0.02))
    keys = store.put_many([(str(n), summary(n)) for n in range(8)])
    backend: Any = store._backend
    fs = backend._place()[0]
    together: list[int] = []
    inside = threading.Semaphore(0)
    cat = fs.cat_file

    def counted(*args: Any, **kwargs: Any) -> Any:
        inside.release()
        together.append(inside._value)
        try:
            time.sleep(0.02)
            return cat(*args, **kwargs)
        finally:
            inside.acquire()

    fs.cat_file = counted
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda key: store.get_many([key])[0] is not None, keys))
    finally:
        del fs.cat_file
    assert max(together) > 1
