"""Copying a store: keys stay valid, an interrupted copy goes on, damage is left out, another store is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lloco_integrations.errors import StoreError
from lloco_integrations.store import CopyReport, SummaryStore
from lloco_integrations.types import SummaryEmbeddings

from .conftest import DictStore

Summary = Callable[..., SummaryEmbeddings]


@pytest.fixture
def source(tmp_path: Path, summary: Summary) -> SummaryStore:
    store = SummaryStore.open(tmp_path / "source.sqlite", storage="int8")
    store.put_many([(str(n), summary(n, group=f"g{n % 2}")) for n in range(40)])
    return store


def test_to_every_place_and_back(source: SummaryStore, target: Any) -> None:
    steps: list[tuple[int, int]] = []
    assert source.copy_to(target, progress=lambda *step: steps.append(step)) == CopyReport(40, 0, [])
    assert steps[-1] == (40, 40)
    there = SummaryStore.open(target, create=False)
    assert there.storage == "int8"
    assert there.key("fp", "7") == source.key("fp", "7")
    keys = sorted(source.keys())
    assert sorted(there.keys()) == keys
    assert there.info_many(keys) == source.info_many(keys)
    for one, other in zip(source.get_many(keys), there.get_many(keys), strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one.vectors, other.vectors)
    assert there.verify() == []
    assert source.copy_to(there) == CopyReport(0, 40, [])
    assert there.copy_to(source) == CopyReport(0, 40, []), "and back: they are one store in two places"


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_an_interrupted_copy_goes_on(stop: int, source: SummaryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = SummaryStore.open("memory://")
    del there
    inner = DictStore()
    put, calls = inner.mset, []

    def failing(pairs: list[tuple[str, bytes]]) -> None:
        if pairs[0][0] != "lloco-meta":
            calls.append(len(pairs))
            if len(calls) > stop:
                raise ConnectionError("connection reset")
        put(pairs)

    with monkeypatch.context() as patched:
        patched.setattr(inner, "mset", failing)
        with pytest.raises(StoreError, match=r"connection reset.*repeat"):
            source.copy_to(inner)
    assert len(list(SummaryStore.open(inner, create=False).keys())) == 16 * stop
    assert source.copy_to(inner) == CopyReport(40 - 16 * stop, 16 * stop, [])


def test_damaged_entries_are_left_out_and_named(source: SummaryStore, rewrite: Any) -> None:
    bad = [source.key("fp", "3"), source.key("fp", "30")]
    rewrite(source, bad[0], lambda value: value[:-1] + bytes([value[-1] ^ 1]))
    rewrite(source, bad[1], lambda value: b"")
    inner = DictStore()
    report = source.copy_to(inner)
    assert (report.copied, report.present) == (38, 0)
    assert sorted(report.damaged) == sorted(bad)
    there = SummaryStore.open(inner)
    assert there.verify() == []
    assert there.contains_many(bad) == [False, False]


def test_broken_pages_of_the_source_cost_only_what_lies_there(tmp_path: Path, summary: Summary) -> None:
    path = tmp_path / "s.sqlite"
    with SummaryStore.open(path) as store:
        keys = store.put_many([(str(n), summary(n, rows=30, width=300)) for n in range(20)])
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 2, len(data) // 2 + 40_000):
        data[at] = 0xA5
    path.write_bytes(data)
    with SummaryStore.open(path) as store:
        report = store.copy_to(DictStore())
        assert 0 < len(report.damaged) < 20
        assert report.copied + len(report.damaged) == len(keys)


def test_damage_in_the_destination_is_healed(source: SummaryStore, rewrite: Any) -> None:
    inner = DictStore()
    source.copy_to(inner)
    there = SummaryStore.open(inner)
    rewrite(there, there.key("fp", "5"), lambda value: value[:-3])
    assert source.copy_to(inner) == CopyReport(1, 39, [])
    assert there.verify() == []


def test_the_later_put_stays(source: SummaryStore, summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    there = SummaryStore.open(source._meta and _copied(source))
    monkeypatch.setattr("lloco_integrations.store.store.time.time", lambda: 4e9)
    source.put_many([("0", summary(0, group="new here"))])
    there.put_many([("1", summary(1, group="new there")), ("only there", summary(99))])
    assert source.copy_to(there) == CopyReport(1, 39, [])
    groups = [info and info.group for info in there.info_many([there.key("fp", text) for text in ("0", "1", "only there")])]
    assert groups == ["new here", "new there", None]


def _copied(source: SummaryStore) -> DictStore:
    inner = DictStore()
    source.copy_to(inner)
    return inner


def test_another_store_is_refused(source: SummaryStore, target: Any) -> None:
    foreign = SummaryStore.open(target)
    with pytest.raises(StoreError, match=r"another store.*secret differs.*name a place that is empty"):
        source.copy_to(target)
    assert list(foreign.keys()) == []


def test_a_copy_onto_itself_is_refused(source: SummaryStore) -> None:
    inner = DictStore()
    held = SummaryStore.open(inner)
    for store, same in ((source, source), (source, source.url), (held, inner)):
        with pytest.raises(StoreError, match="onto itself"):
            store.copy_to(same)
    assert held.copy_to(DictStore()) == CopyReport()


def test_a_place_that_does_not_keep_what_is_written(source: SummaryStore) -> None:
    class Forgetful(DictStore):
        def mset(self, pairs: list[tuple[str, bytes]]) -> None:
            self.data.update((key, value if key == "lloco-meta" else value[:-1]) for key, value in pairs)

    with pytest.raises(StoreError, match=r"does not give entry [a-z2-7]{26} back.*goes on where it stopped"):
        source.copy_to(Forgetful())


def test_a_cache_is_passed_over_on_both_sides(source: SummaryStore, tmp_path: Path, make_target: Any) -> None:
    target = make_target("cached")
    source.copy_to(target)
    middle = SummaryStore.open(target, create=False)
    cache = SummaryStore.open(f"sqlite:///{tmp_path}/cache.sqlite") if (tmp_path / "cache.sqlite").exists() else None
    assert cache is None or list(cache.keys()) == []
    assert middle.copy_to(DictStore()).copied == 40
