"""What a store says of itself and its entries is believed only with the mark under its secret; stores of earlier versions are read."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lloco_integrations.errors import DamagedEntry, StoreError
from lloco_integrations.store import Damage, EntryInfo, SummaryStore, codec, header
from lloco_integrations.store.meta import StoreMeta
from lloco_integrations.types import SummaryEmbeddings

Summary = Callable[..., SummaryEmbeddings]
OLD = Path(__file__).parent / "format1"
TEXTS = {"An owl hunts at night.": (1, 7, None, None), "Bread rises.": (2, 8, 4, "kitchen"), "The tide turns.": (3, 6, 4, None)}


@pytest.fixture(params=[f"{storage}.{place}" for storage in ("exact", "int8") for place in ("sqlite", "directory")])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a copy of a store that commit 4882116 made."""
    source, copied = OLD / request.param, tmp_path / request.param
    if source.is_dir():
        shutil.copytree(source, copied)
        return f"file://{copied}"
    shutil.copy(source, copied)
    return f"sqlite:///{copied}"


def holds_all(store: SummaryStore) -> None:
    keys = [store.key("fp", text) for text in TEXTS]
    for summary, info, (n, n_tokens, window, group) in zip(store.get_many(keys), store.info_many(keys), TEXTS.values(), strict=True):
        assert summary is not None and info is not None
        expected = (torch.arange(8).reshape(2, 4) + n) / 8
        atol = 0.0 if store.storage == "exact" else float(expected.max()) / 254
        torch.testing.assert_close(summary.vectors, expected, rtol=0, atol=atol)
        for found in (summary, info):
            assert (found.n_tokens, found.window, found.group) == (n_tokens, window, group)
    assert store.verify() == []
    assert store.stats().source_tokens == 21


def files(url: str) -> dict[str, bytes]:
    path = Path(url.removeprefix("sqlite:///").removeprefix("file://"))
    found = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {str(p): p.read_bytes() for p in found}


def test_a_store_of_an_earlier_version_is_read_and_not_written(old: str) -> None:
    before = files(old)
    with SummaryStore.open(old) as store:
        holds_all(store)
        assert store.find_garbage(damaged=True) == []
    assert files(old) == before


def test_a_store_of_an_earlier_version_is_written(old: str, summary: Summary) -> None:
    with SummaryStore.open(old) as store:
        (key,) = store.put_many([("new", summary(1, rows=2, width=4, group="g"))])
        holds = store.info_many([key])[0]
        assert holds is not None and holds.group == "g"
    with SummaryStore.open(old) as store:
        assert store.get_many([key])[0] is not None
        store.delete_many([key])
        holds_all(store)


def test_a_store_of_an_earlier_version_is_upgraded(old: str, tmp_path: Path) -> None:
    with SummaryStore.open(old) as store:
        assert store.upgrade() == 3
        assert store.upgrade() == 0
        holds_all(store)
    with SummaryStore.open(old) as store:
        assert not store._meta.legacy
        holds_all(store)
        assert store.upgrade() == 0
        assert all(
            header.read_header(key, value, store._meta.seal).sealed for key in list(store.keys()) for value in store._backend.get([key])
        )
    version = json.loads(SummaryStore.open(old)._meta.to_json())["lloco_store"]
    assert version == 2, "an earlier version then says that it cannot read it"


def test_a_copy_is_in_this_versions_format(old: str, tmp_path: Path) -> None:
    with SummaryStore.open(old) as store:
        report = store.copy_to(f"sqlite:///{tmp_path}/copy.sqlite")
        assert (report.copied, report.damaged) == (3, [])
        assert store.copy_to(f"sqlite:///{tmp_path}/copy.sqlite").copied == 0
    with SummaryStore.open(f"sqlite:///{tmp_path}/copy.sqlite") as copied:
        holds_all(copied)
        assert all(
            header.read_header(key, value, copied._meta.seal).sealed for key in list(copied.keys()) for value in copied._backend.get([key])
        )


def test_earlier_values_are_checked_whole_before_their_description_is_believed(old: str) -> None:
    if not old.startswith("file:"):
        pytest.skip("sqlite keeps columns")
    (path,) = Path(old.removeprefix("file://")).rglob(f"{SummaryStore.open(old).key('fp', 'Bread rises.')}*")
    value = path.read_bytes()
    believed = []
    with SummaryStore.open(old) as store:
        before = store.info_many([path.stem])
        for at in range(len(value)):
            path.write_bytes(value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :])
            try:
                found = store.info_many([path.stem])
            except DamagedEntry:
                continue
            believed += [at] if found != before else []
    assert believed == []


def test_earlier_values_are_refused_once_a_store_was_upgraded(old: str) -> None:
    if not old.startswith("file:"):
        pytest.skip("one place is enough")
    (path,) = Path(old.removeprefix("file://")).rglob(f"{SummaryStore.open(old).key('fp', 'Bread rises.')}*")
    value = path.read_bytes()
    with SummaryStore.open(old) as store:
        store.upgrade()
        path.write_bytes(value)
        assert store.verify() == [path.stem]
        with pytest.raises(DamagedEntry, match="format 1"):
            store.get_many([path.stem])


COLUMNS = {
    "n_tokens": 999_999_999,
    "n_vectors": 1,
    "hidden_size": 4,
    "fingerprint": "another",
    "window_tokens": 2,
    "group_name": "another",
    "nbytes": 7,
    "created": 0.0,
}


@pytest.mark.parametrize("column", COLUMNS)
def test_changed_columns_are_damage(column: str, tmp_path: Path, summary: Summary) -> None:
    path = tmp_path / "s.sqlite"
    with SummaryStore.open(path) as store:
        key, other = store.put_many([("a", summary(1, window=4, group="g")), ("b", summary(2))])
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE lloco_entries SET {column} = ? WHERE key = ?", (COLUMNS[column], key))
    db.close()
    with SummaryStore.open(path) as store:
        with pytest.raises(DamagedEntry, match=f"(?s){key}.*secret.*--repair"):
            store.info_many([other, key])
        assert isinstance(store.sound_many([key, other])[0], Damage)
        assert isinstance(store.sound_many([key, other])[1], EntryInfo)
        assert store.verify() == [key]
        store.put_many([("a", summary(1, window=4, group="g"))])
        assert store.get_many([key])[0] is not None, "the value itself is sound, and is left alone by a put of the same"


def test_changed_columns_of_an_earlier_version_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    shutil.copy(OLD / "exact.sqlite", path)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE lloco_entries SET n_tokens = 999999999, group_name = 'evil'")
    db.close()
    with SummaryStore.open(path) as store:
        holds_all(store)


def test_marks_of_one_entry_do_not_serve_another(tmp_path: Path, summary: Summary) -> None:
    path = tmp_path / "s.sqlite"
    with SummaryStore.open(path) as store:
        one, two = store.put_many([("a", summary(1, group="g")), ("b", summary(2))])
    with sqlite3.connect(path) as db:
        db.execute("UPDATE lloco_seals SET seal = (SELECT seal FROM lloco_seals WHERE key = ?)", (one,))
        db.execute("UPDATE lloco_entries SET group_name = 'g' WHERE key = ?", (two,))
    db.close()
    with SummaryStore.open(path) as store:
        assert store.verify() == [two]


def test_every_flip_in_a_header_is_found_without_the_tensors(summary: Summary, tmp_path: Path) -> None:
    with SummaryStore.open(f"file://{tmp_path}/s") as store:
        (key,) = store.put_many([("a", summary(1, rows=1, width=2, window=4, group="g"))])
        (path,) = (tmp_path / "s").rglob("*.safetensors")
        value = path.read_bytes()
        length = 8 + int.from_bytes(value[:8], "little")
        before = store.info_many([key])
        believed = []
        for at in range(length):
            for bit in (1, 4, 128):
                path.write_bytes(value[:at] + bytes([value[at] ^ bit]) + value[at + 1 :])
                try:
                    believed += [(at, bit)] if store.info_many([key]) != before else []
                except DamagedEntry:
                    continue
    assert believed == []


@pytest.mark.parametrize("place", ["sqlite", "directory", "fsspec", "dict"])
def test_a_changed_secret_is_damage_of_the_store(place: str, make_target: Callable[[str], Any], summary: Summary) -> None:
    target = make_target(place)
    store = SummaryStore.open(target)
    store.put_many([("a", summary(1))])
    text = store._meta.to_json()
    secret = store._meta.secret.hex()
    wrong = text.replace(secret, ("0" if secret[0] != "0" else "1") + secret[1:])
    for change in (wrong, text.replace("exact", "int8"), text.replace('"legacy": false', '"legacy": true')):
        assert change != text
        with pytest.raises(StoreError, match="damaged meta data"):
            StoreMeta.from_json(change, "x")
        forged = type("Forged", (), {"to_json": lambda self, change=change: change})()
        store._backend._meta = None  # type: ignore[attr-defined]
        store._backend.keep_meta(forged)
        store.close()
        with pytest.raises(StoreError, match="damaged meta data"):
            SummaryStore.open(target)


def test_meta_of_a_later_version(summary: Summary) -> None:
    values = json.loads(StoreMeta.new("exact").to_json())
    with pytest.raises(StoreError, match="format 3, this version reads up to 2"):
        StoreMeta.from_json(json.dumps({**values, "lloco_store": 3}), "x")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Values as a later version may write them: one optional tensor and one optional field more."""
    from safetensors import torch as safetensors

    save = safetensors.save

    def more(tensors: dict[str, Any], metadata: dict[str, str]) -> bytes:
        return save({**tensors, "spans": torch.arange(6).to(torch.int16)}, metadata)

    vouched = codec._vouched

    def with_field(key: str, metadata: dict[str, str], parts: dict[str, Any], seal: Any) -> dict[str, str]:
        extra = torch.arange(6).to(torch.int16).view(torch.uint8).numpy().data
        return vouched(key, {**metadata, "embedder": "e"}, {**parts, "spans": extra}, seal)

    monkeypatch.setattr(safetensors, "save", more)
    monkeypatch.setattr(codec, "_vouched", with_field)
    monkeypatch.setattr(header, "VALUE_FORMAT", (2, 1))


def test_optional_parts_of_a_later_format_are_passed_over(
    later: None, summary: Summary, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put = summary(1, window=4, group="g")
    with SummaryStore.open(f"file://{tmp_path}/s") as store:
        with pytest.raises(DamagedEntry, match="unknown"):
            store.put_many([("a", put)])  # of the present format: nothing unknown may be in it
        monkeypatch.setattr(codec, "read_header", lambda *args: type("H", (), {"info": None})())
        (key,) = store.put_many([("a", put)])
        monkeypatch.undo()
        (found,) = store.get_many([key])
        assert found is not None and torch.equal(found.vectors, put.vectors)
        assert store.verify() == []
        (path,) = (tmp_path / "s").rglob("*.safetensors")
        value = path.read_bytes()
        path.write_bytes(value.replace(b'"embedder":"e"', b'"embedder":"f"'))
        assert store.verify() == [key], "what is passed over is still checked"
        path.write_bytes(value.replace(b'"2.1"', b'"2.0"'))
        assert store.verify() == [key]
