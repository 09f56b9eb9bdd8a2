"""What every place promises, in both storages."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from lloco_integrations.errors import BadInput
from lloco_integrations.placeholder import make
from lloco_integrations.store import EntryInfo, SummaryStore
from lloco_integrations.types import SummaryEmbeddings

Summary = Callable[..., SummaryEmbeddings]
ABSENT = "a" * 26


def same(got: SummaryEmbeddings | None, put: SummaryEmbeddings, storage: str) -> bool:
    assert got is not None
    assert (got.n_tokens, got.compressor, got.window, got.group) == (
        put.n_tokens,
        put.compressor,
        put.window,
        put.group,
    )
    assert got.vectors.dtype == put.vectors.dtype
    assert got.vectors.shape == put.vectors.shape
    if storage == "exact":
        return torch.equal(got.vectors, put.vectors)
    bound = put.vectors.float().abs().amax(dim=1, keepdim=True) / 254 * 1.001 + 1e-12
    slack = {torch.float32: 0.0, torch.float16: 2e-3, torch.bfloat16: 2e-2}[put.vectors.dtype]
    return bool(((got.vectors.float() - put.vectors.float()).abs() <= bound + slack * put.vectors.float().abs()).all())


def test_what_is_put_comes_back(store: SummaryStore, storage: str, summary: Summary) -> None:
    items = [
        ("plain", summary(1)),
        ("half", summary(2, dtype="float16", window=4, group="law")),
        ("bf", summary(3, rows=1, dtype="bfloat16", fingerprint="other", group="Gruppe ü 法\n")),
        ("", summary(4, rows=40, width=1)),
        ("lone surrogate \ud800", summary(5)),
    ]
    keys = store.put_many(items)
    assert len(set(keys)) == 5
    assert keys == [store.key(s.compressor, text) for text, s in items]
    for key, got, (_, put) in zip(keys, store.get_many(keys), items, strict=True):
        assert same(got, put, storage)
        make(key)
    assert sorted(store.keys()) == sorted(keys)
    assert store.verify() == []


def test_order_duplicates_and_absent_keys(store: SummaryStore, summary: Summary) -> None:
    one, two = store.put_many([("one", summary(1)), ("two", summary(2))])
    asked = [two, ABSENT, one, two, "../../etc/passwd", "", "A" * 26, ABSENT[:-1] + "b"]
    found = [True, False, True, True, False, False, False, False]
    assert [value is not None for value in store.get_many(asked)] == found
    assert [value is not None for value in store.info_many(asked)] == found
    assert store.contains_many(asked) == found
    assert store.get_many([]) == []
    assert store.put_many([]) == []
    assert store.delete_many([]) == 0


def test_putting_the_same_again_keeps_the_first(store: SummaryStore, summary: Summary) -> None:
    (key,) = store.put_many([("text", summary(1))])
    first = store.info_many([key])
    again = store.put_many([("text", summary(2)), ("text", summary(2))])
    assert again == [key, key]
    assert store.info_many([key]) == first
    assert store.stats().entries == 1


def test_another_group_replaces(store: SummaryStore, summary: Summary) -> None:
    (key,) = store.put_many([("text", summary(1))])
    store.put_many([("text", summary(1, group="law"))])
    (info,) = store.info_many([key])
    assert info is not None
    assert info.group == "law"
    assert store.stats().entries == 1


def test_info_and_stats(store: SummaryStore, summary: Summary) -> None:
    items = [("a", summary(1, rows=3, window=4, group="g")), ("b", summary(2, rows=5, fingerprint="other"))]
    keys = store.put_many(items)
    a, b = store.info_many(keys)
    assert a is not None
    assert b is not None
    assert a == EntryInfo(3, 11, 8, "fp", 4, "g", a.nbytes, a.created)
    stats = store.stats()
    assert (stats.entries, stats.vectors, stats.source_tokens) == (2, 8, 30)
    assert stats.nbytes == a.nbytes + b.nbytes
    assert stats.by_fingerprint["other"].vectors == 5
    assert stats.unreadable == 0
    assert stats.ratio == 30 / 8


def test_delete(store: SummaryStore, summary: Summary) -> None:
    keys = store.put_many([(str(n), summary(n)) for n in range(5)])
    assert store.delete_many([keys[0], keys[0], ABSENT, keys[1], "no key"]) == 2
    assert store.contains_many(keys) == [False, False, True, True, True]
    assert sorted(store.keys()) == sorted(keys[2:])
    assert store.put_many([("0", summary(0))]) == [keys[0]]


def test_many_more_than_a_batch(store: SummaryStore, summary: Summary) -> None:
    one = summary(1, rows=1, width=2)
    slow = {"file": 150, "s3": 70, "cache": 150}  # a file or a request each
    count = slow.get(store.url.partition(":")[0], 1100)
    keys = store.put_many([(str(n), one) for n in range(count)])
    assert len(set(keys)) == count == len(list(store.keys()))
    assert all(value is not None for value in store.get_many(keys))
    assert all(store.contains_many(keys))
    seen: list[tuple[int, int]] = []
    assert store.verify(lambda done, total: seen.append((done, total))) == []
    assert seen[-1] == (count, count)
    assert store.delete_many(keys[:-50]) == count - 50
    assert sorted(store.keys()) == sorted(keys[-50:])


def test_refused_at_put(store: SummaryStore, summary: Summary) -> None:
    good = summary(1)
    nan, inf = good.vectors.clone(), good.vectors.clone()
    nan[1, 2], inf[0, 0] = float("nan"), float("inf")
    refused: list[Any] = [
        SummaryEmbeddings(nan, 3, "fp"),
        SummaryEmbeddings(inf, 3, "fp"),
        SummaryEmbeddings(good.vectors.double(), 3, "fp"),
        SummaryEmbeddings(good.vectors[:0], 3, "fp"),
        SummaryEmbeddings(good.vectors, 0, "fp"),
        SummaryEmbeddings(good.vectors, 3, ""),
        SummaryEmbeddings(good.vectors, 3, "fp", window=0),
        SummaryEmbeddings(good.vectors, 3, "fp", group="x" * 300),
        SummaryEmbeddings(good.vectors, 3, "fp", group="\ud800"),
        good.vectors,
    ]
    for bad in refused:
        with pytest.raises(BadInput):
            store.put_many([("good", good), ("bad", bad)])
    assert list(store.keys()) == []
    with pytest.raises(BadInput, match="list of keys"):
        store.get_many(ABSENT)


def test_gc_conditions(store: SummaryStore, summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lloco_integrations.store.store.time.time", lambda: 1000.0)
    old = store.put_many([("old", summary(1, group="g")), ("old other", summary(2, fingerprint="other"))])
    monkeypatch.setattr("lloco_integrations.store.store.time.time", lambda: 5000.0)
    (new,) = store.put_many([("new", summary(3, group="g"))])
    assert store.gc() == 0
    assert set(store.find_garbage(older_than=3000)) == set(old)
    assert set(store.find_garbage(group="g")) == {old[0], new}
    assert store.find_garbage(group="g", older_than=3000) == [old[0]]
    assert store.find_garbage(fingerprint_keep=["fp"]) == [old[1]]
    with pytest.raises(BadInput):
        store.gc(fingerprint_keep="fp")
    with pytest.raises(BadInput):
        store.gc(older_than=float("nan"))
    assert store.gc(fingerprint_keep={"fp"}) == 1
    assert store.gc(group="g", older_than=3000) == 1
    assert list(store.keys()) == [new]


def test_reopening_finds_the_same(target: Any, store: SummaryStore, storage: str, summary: Summary) -> None:
    (key,) = store.put_many([("text", summary(1))])
    store.close()
    again = SummaryStore.open(target)
    assert again.storage == storage
    assert again.key("fp", "text") == key
    assert same(again.get_many([key])[0], summary(1), storage)
    assert store.contains_many([key]) == [True], "a closed store opens its handles again"
    again.close()


def test_random_round_trips(store: SummaryStore, storage: str) -> None:
    generator = torch.Generator().manual_seed(7)

    def draw(top: int) -> int:
        return int(torch.randint(1, top + 1, (), generator=generator))

    items = []
    for n in range(60):
        dtype = (torch.float32, torch.float16, torch.bfloat16)[n % 3]
        scale = 10.0 ** (draw(8) - 5)
        vectors = torch.randn(draw(20), draw(70), generator=generator) * min(scale, 1000.0)
        group = None if n % 2 else f"group {draw(5)}"
        items.append((f"text {n}" * draw(50), SummaryEmbeddings(vectors.to(dtype), draw(9999), f"fp{draw(3)}", draw(64), group)))
    keys = store.put_many(items)
    for got, (_, put) in zip(store.get_many(keys), items, strict=True):
        if storage == "exact" or put.vectors.dtype != torch.float16:
            assert same(got, put, storage)
    assert store.verify() == []


def test_inputs_are_not_touched(store: SummaryStore) -> None:
    vectors = torch.randn(6, 4).T[:, ::2].requires_grad_()
    before = vectors.detach().clone()
    (key,) = store.put_many([("text", SummaryEmbeddings(vectors, 9, "fp"))])
    (got,) = store.get_many([key])
    assert got is not None
    assert torch.equal(vectors, before)
    assert not got.vectors.requires_grad
    got.vectors.zero_()
    (again,) = store.get_many([key])
    assert again is not None
    assert bool(again.vectors.any())


def test_threads(store: SummaryStore, summary: Summary) -> None:
    rounds = 2 if store.url.startswith("s3:") else 8

    def work(seed: int) -> None:
        for n in range(rounds):
            keys = store.put_many([(f"{seed}-{n}", summary(seed)), (f"shared {n}", summary(n))])
            assert all(store.contains_many(keys))
            assert all(store.get_many(keys))
            list(store.keys())

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert store.stats().entries == 6 * rounds + rounds
    assert store.verify() == []
