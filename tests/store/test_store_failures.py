"""Places that cannot be written, are full, are not stores, or vanish."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lloco_integrations.errors import DamagedEntry, StoreError
from lloco_integrations.store import SummaryStore
from lloco_integrations.types import SummaryEmbeddings

Summary = Callable[..., SummaryEmbeddings]


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write anywhere: be nobody for a while."""
    if not hasattr(os, "geteuid"):
        pytest.skip("needs POSIX permissions")
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that an unprivileged user can reach, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="lloco-test-"))
    path.chmod(0o755)
    yield path
    for part in [path, *path.rglob("*")]:
        part.chmod(0o755)
    shutil.rmtree(path)


def freeze(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.mark.parametrize("url", ["sqlite:///{}/s.sqlite", "file://{}/s"])
def test_a_read_only_store_can_be_read(folder: Path, url: str, summary: Summary) -> None:
    url = url.format(folder)
    with SummaryStore.open(url) as store:
        keys = store.put_many([("one", summary(1)), ("two", summary(2))])
    freeze(folder)
    with unprivileged(), SummaryStore.open(url) as store:
        assert all(store.get_many(keys))
        assert len(list(store.keys())) == 2
        assert store.stats().entries == 2
        assert store.verify() == []
        assert store.put_many([("one", summary(1))]) == keys[:1], "already there: nothing to write"
        for write in (lambda: store.put_many([("new", summary(3))]), lambda: store.delete_many(keys)):
            with pytest.raises(StoreError, match=rf"(?s){folder}.*read-only.*permission"):
                write()
        assert all(store.contains_many(keys))


def test_a_read_only_file_in_a_writable_folder(folder: Path, summary: Summary) -> None:
    with SummaryStore.open(f"sqlite:///{folder}/s.sqlite") as store:
        keys = store.put_many([("one", summary(1))])
    (folder / "s.sqlite").chmod(0o444)
    folder.chmod(0o777)
    with unprivileged(), SummaryStore.open(f"sqlite:///{folder}/s.sqlite") as store:
        assert all(store.get_many(keys))
        with pytest.raises(StoreError, match="read-only"):
            store.put_many([("new", summary(3))])


def test_a_reader_without_rights_notices_what_is_written_later(folder: Path, summary: Summary) -> None:
    url = f"sqlite:///{folder}/s.sqlite"
    with SummaryStore.open(url) as store:
        store.put_many([("one", summary(1))])
    (folder / "s.sqlite").chmod(0o644)
    with unprivileged():
        reader = SummaryStore.open(url)
        assert len(list(reader.keys())) == 1
        assert reader.verify() == []
    with SummaryStore.open(url) as store:
        (key,) = store.put_many([("two", summary(2))])
    with unprivileged(), reader:
        assert reader.contains_many([key]) == [True]


def test_nothing_can_be_made_in_a_read_only_folder(folder: Path) -> None:
    folder.chmod(0o555)
    with unprivileged():
        for url in (f"sqlite:///{folder}/s.sqlite", f"sqlite:///{folder}/sub/s.sqlite", f"file://{folder}/s"):
            with pytest.raises(StoreError):
                SummaryStore.open(url)


def test_disk_full_in_sqlite(tmp_path: Path, summary: Summary) -> None:
    store = SummaryStore.open(f"sqlite:///{tmp_path}/s.sqlite")
    keys = store.put_many([("one", summary(1)), ("two", summary(2))])
    backend: Any = store._backend
    with backend._session("read") as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages + 4}").fetchone()
    with pytest.raises(StoreError, match=r"no room left.*repeat"):
        store.put_many([(f"big {n}", summary(n, rows=20, width=500)) for n in range(5)])
    assert all(store.get_many(keys))
    assert store.verify() == []
    assert store.stats().entries == 2
    store.close()
    assert len(store.put_many([("big 0", summary(0, rows=20, width=500))])) == 1, "there is room again"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_disk_full_in_a_directory(tmp_path: Path, summary: Summary, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    store = SummaryStore.open(f"file://{tmp_path}")
    keys = store.put_many([("one", summary(1))])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(StoreError, match="no room left"):
            store.put_many([("two", summary(2)), ("three", summary(3))])
    assert [path for path in tmp_path.rglob("*") if path.name.startswith(".tmp")] == []
    assert list(store.keys()) == keys
    assert store.verify() == []
    assert len(store.put_many([("two", summary(2))])) == 1


@pytest.mark.parametrize("kind", ["sqlite", "directory"])
def test_a_store_removed_or_replaced_while_open(kind: str, tmp_path: Path, summary: Summary) -> None:
    root = tmp_path / "s"
    root.mkdir()
    url = f"sqlite:///{root}/s.sqlite" if kind == "sqlite" else f"file://{root}"
    store = SummaryStore.open(url)
    store.put_many([("one", summary(1))])
    shutil.rmtree(root)
    with pytest.raises(StoreError, match="removed or replaced"):
        store.put_many([("two", summary(2))])
    SummaryStore.open(url).close()
    with pytest.raises(StoreError, match="removed or replaced"):
        store.put_many([("two", summary(2))])


def test_a_copied_file_in_its_place_is_the_same_store(tmp_path: Path, summary: Summary) -> None:
    path = tmp_path / "s.sqlite"
    store = SummaryStore.open(path)
    keys = store.put_many([("one", summary(1))])
    store.close()
    shutil.copy(path, tmp_path / "backup")
    assert store.contains_many(keys) == [True]
    store.close()
    os.replace(tmp_path / "backup", path)
    assert store.contains_many(keys) == [True]


@pytest.mark.parametrize("place", ["fsspec", "dict"])
def test_an_outage_is_an_error_and_never_damage(place: str, make_target: Any, summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SummaryStore.open(make_target(place))
    keys = store.put_many([("one", summary(1))])

    def down(*_: object, **__: object) -> None:
        raise ValueError("connection reset")

    backend: Any = store._backend
    with monkeypatch.context() as patched:
        for name in ("_read", "_write"):
            if hasattr(backend, name):
                patched.setattr(backend, name, down)
        if hasattr(backend, "inner"):
            patched.setattr(backend.inner, "mget", down)
        for call in (
            lambda: store.get_many(keys),
            lambda: store.put_many([("two", summary(2))]),
            lambda: store.verify(),
            lambda: store.gc(damaged=True),
            lambda: store.stats(),
        ):
            with pytest.raises(StoreError, match="connection reset") as caught:
                call()
            assert not isinstance(caught.value, DamagedEntry)
    assert store.verify() == []
    assert store.contains_many(keys) == [True]
