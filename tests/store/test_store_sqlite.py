"""Files that are no store, broken pages, foreign rows, and a busy database."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lloco_integrations.errors import DamagedEntry, StoreError
from lloco_integrations.store import SummaryStore
from lloco_integrations.types import SummaryEmbeddings

Summary = Callable[..., SummaryEmbeddings]


def test_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_bytes(b"this is no database, it is a letter to a friend " * 100)
    with pytest.raises(StoreError, match="not a SQLite database"):
        SummaryStore.open(tmp_path / "x.sqlite")
    assert (tmp_path / "x.sqlite").read_bytes().startswith(b"this is no")


def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "docs.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE documents (id)")
    db.close()
    with pytest.raises(StoreError, match=r"something else.*documents"):
        SummaryStore.open(path)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("documents",)]
    db.close()


def test_directories_and_files_taken_for_each_other(tmp_path: Path) -> None:
    (tmp_path / "d.sqlite").mkdir()
    (tmp_path / "f").write_text("x")
    with pytest.raises(StoreError, match=r"is a directory.*file://"):
        SummaryStore.open(tmp_path / "d.sqlite")
    with pytest.raises(StoreError, match=r"is a file.*sqlite:///"):
        SummaryStore.open(f"file://{tmp_path}/f")


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "s.sqlite").touch()
    with pytest.raises(StoreError, match="no store at"):
        SummaryStore.open(tmp_path / "s.sqlite", create=False)
    assert SummaryStore.open(tmp_path / "s.sqlite").stats().entries == 0


def test_broken_pages_are_damage_and_the_rest_is_read(tmp_path: Path, summary: Summary) -> None:
    path = tmp_path / "s.sqlite"
    with SummaryStore.open(path) as store:
        keys = store.put_many([(str(n), summary(n, rows=30, width=300)) for n in range(20)])
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 2, len(data) // 2 + 40_000):
        data[at] = 0xA5
    path.write_bytes(data)
    with SummaryStore.open(path) as store:
        bad = store.verify()
        assert 0 < len(bad) < 20
        for key in keys:
            if key in bad:
                with pytest.raises((DamagedEntry, StoreError)):
                    store.get_many([key])
            else:
                assert store.get_many([key])[0] is not None


def test_keys_that_no_store_makes_are_damage(tmp_path: Path, summary: Summary) -> None:
    store = SummaryStore.open(tmp_path / "s.sqlite")
    (key,) = store.put_many([("one", summary(1))])
    backend: Any = store._backend
    with backend._session("write") as db:
        db.execute(
            "INSERT INTO lloco_entries SELECT 'short', n_vectors, n_tokens, hidden_size, fingerprint, window_tokens, "
            "group_name, nbytes, created, value FROM lloco_entries"
        )
        db.execute("UPDATE lloco_entries SET n_vectors = 77 WHERE key = ?", (key,))
    assert sorted(store.verify()) == sorted([key, "short"]), "a foreign key, and columns that contradict the value"
    assert list(store.keys()) == [key]
    assert store.gc(damaged=True) == 2


def test_a_busy_database_says_so(tmp_path: Path, summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lloco_integrations.store.sqlite.BUSY_SECONDS", 0.05)
    store = SummaryStore.open(tmp_path / "s.sqlite")
    other = sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="busy"):
        store.put_many([("one", summary(1))])
    other.execute("ROLLBACK")
    other.close()
    assert len(store.put_many([("one", summary(1))])) == 1


def test_a_process_that_ends_leaves_no_log_beside_the_file(tmp_path: Path) -> None:
    code = (
        "import sys, torch\nfrom lloco_integrations import SummaryEmbeddings, SummaryStore\n"
        "store = SummaryStore.open(sys.argv[1])\nstore.put_many([('a', SummaryEmbeddings(torch.ones(2, 8), 8, 'f', 4))])\n"
        "import builtins; builtins.kept = store\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "store.sqlite")], check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["store.sqlite"]
