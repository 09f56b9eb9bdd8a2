"""Every file operation fails once, every byte is flipped once: what was acknowledged is right or reported, never wrong.

The model are SQLite's own I/O-error tests: fail the n-th operation for n = 1, 2, ... until a run meets no failure.
"""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import itertools
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from lloco_integrations.errors import StoreError
from lloco_integrations.store import Damage, SummaryStore, directory
from lloco_integrations.store.cached import CachedBackend
from lloco_integrations.types import SummaryEmbeddings

OLD = {f"old {n}": n for n in range(3)}
NEW = {f"new {n}": 10 + n for n in range(3)}


def made(n: int) -> SummaryEmbeddings:
    return SummaryEmbeddings(torch.full((2, 6), float(n)), 7 + n, "fp", 4, f"group {n}")


def fill(store: SummaryStore, texts: dict[str, int]) -> list[str]:
    return store.put_many([(text, made(n)) for text, n in texts.items()])


def work(store: SummaryStore, acknowledged: dict[str, int], gone: set[str]) -> None:
    """Puts, reads, changes and deletes; notes what was acknowledged."""
    for text, n in NEW.items():
        store.put_many([(text, made(n))])
        acknowledged[text] = n
    gone.add("old 2")
    store.delete_many([store.key("fp", "old 2")])
    store.info_many(list(store.keys()))
    store.verify()
    store.get_many(list(store.keys()))


def check(url: str, acknowledged: dict[str, int], gone: set[str], *, damage_is_fine: bool = False) -> None:
    """What a fresh process finds."""
    with SummaryStore.open(url, create=False) as store:
        damaged = store.verify()
        assert damage_is_fine or damaged == []
        for text, n in {**OLD, **NEW}.items():
            key = store.key("fp", text)
            if key in damaged:
                continue
            (found,), (info,) = store.get_many([key]), store.info_many([key])
            if found is None:
                assert text in gone or text not in acknowledged, f"{text} was acknowledged, and is not there"
                continue
            assert torch.equal(found.vectors, made(n).vectors)
            assert info is not None
            assert (found.n_tokens, found.group, info.n_tokens, info.group) == (7 + n, f"group {n}", 7 + n, f"group {n}")
        fill(store, {**OLD, **NEW})
        assert len(list(store.keys())) >= 6


def fails_at_each(prepare: Callable[[], str], failing: Callable[[int], Any], most: int = 400) -> int:
    """Runs ``work`` with the n-th operation failing, for each n, until none fails; returns how many there are."""
    for n in range(1, most):
        url = prepare()
        acknowledged, gone = dict(OLD), set[str]()
        store = SummaryStore.open(url)
        with failing(n) as failed:
            try:
                work(store, acknowledged, gone)
            except StoreError:
                assert failed(), "an error without a failure"
            try:
                store.close()
            except StoreError:
                assert failed()
        store.close()
        check(url, acknowledged, gone)
        if not failed():
            return n - 1
    pytest.fail(f"more than {most} operations")


def prepared(tmp_path: Path, address: str) -> Callable[[], str]:
    """Makes a store once, and gives a fresh copy of it each time."""
    master = tmp_path / "master"
    master.mkdir()
    with SummaryStore.open(address.format(master)) as store:
        fill(store, OLD)
    numbers = itertools.count()

    def copied() -> str:
        place = tmp_path / str(next(numbers))
        shutil.copytree(master, place)
        return address.format(place)

    return copied


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_each_operation_of_a_directory_fails_once(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def failing(at: int) -> Iterator[Callable[[], bool]]:
        counts = itertools.count(1)
        done = False

        def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal done
                if next(counts) == at:
                    done = True
                    raise OSError(number, os.strerror(number))
                return real(*args, **kwargs)

            return call

        with monkeypatch.context() as patched:
            for name in ("replace", "fsync", "mkdir", "unlink", "open", "scandir", "link", "chmod"):
                patched.setattr(os, name, wrapped(getattr(os, name)))
            patched.setattr(directory, "open", wrapped(open), raising=False)
            yield lambda: done

    assert fails_at_each(prepared(tmp_path, "file://{}/s"), failing) > 30


class _Calls:
    """SQLite's own way to the system, through a door that it keeps for tests: xSetSystemCall of its VFS."""

    kinds: ClassVar[dict[str, tuple[Any, ...]]] = {
        "pwrite": (ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64),
        "pwrite64": (ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64),
        "write": (ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t),
        "pread": (ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64),
        "pread64": (ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64),
        "read": (ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t),
        "ftruncate": (ctypes.c_int, ctypes.c_int, ctypes.c_int64),
    }

    class _Vfs(ctypes.Structure):
        _fields_ = (
            [("iVersion", ctypes.c_int), ("szOsFile", ctypes.c_int), ("mxPathname", ctypes.c_int), ("pNext", ctypes.c_void_p)]
            + [("zName", ctypes.c_char_p), ("pAppData", ctypes.c_void_p)]
            + [(f"x{n}", ctypes.c_void_p) for n in range(13)]
            + [("xSetSystemCall", ctypes.c_void_p), ("xGetSystemCall", ctypes.c_void_p), ("xNextSystemCall", ctypes.c_void_p)]
        )

    def __init__(self) -> None:
        spec = importlib.util.find_spec("_sqlite3")
        if spec is None or spec.origin is None or os.name == "nt":
            pytest.skip("needs SQLite as a library of a POSIX system")
        library = ctypes.CDLL(spec.origin)
        if not hasattr(library, "sqlite3_vfs_find"):
            pytest.skip("this SQLite is linked in, without a way to its VFS")
        library.sqlite3_vfs_find.restype = ctypes.POINTER(self._Vfs)
        library.sqlite3_vfs_find.argtypes = [ctypes.c_char_p]
        self.vfs = library.sqlite3_vfs_find(None)
        if self.vfs.contents.iVersion < 3 or not self.vfs.contents.xSetSystemCall:
            pytest.skip("this SQLite keeps its system calls to itself")
        self.set = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(self.vfs.contents.xSetSystemCall)
        self.get = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(self.vfs.contents.xGetSystemCall)

    @contextmanager
    def failing(self, at: int, number: int) -> Iterator[Callable[[], bool]]:
        counts = itertools.count(1)
        done = False
        kept: list[Any] = []

        def wrapped(name: str, address: int) -> Any:
            kind = ctypes.CFUNCTYPE(*self.kinds[name], use_errno=True)
            real = kind(address)

            def call(*args: Any) -> int:
                nonlocal done
                if next(counts) == at:
                    done = True
                    ctypes.set_errno(number)
                    return -1
                return int(real(*args))

            return kind(call)

        for name in self.kinds:
            address = self.get(self.vfs, name.encode())
            if address:
                kept.append(wrapped(name, address))
                self.set(self.vfs, name.encode(), ctypes.cast(kept[-1], ctypes.c_void_p))
        try:
            yield lambda: done
        finally:
            self.set(self.vfs, None, None)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_each_operation_of_sqlite_fails_once(number: int, tmp_path: Path) -> None:
    calls = _Calls()
    assert fails_at_each(prepared(tmp_path, "sqlite:///{}/s.sqlite"), lambda at: calls.failing(at, number)) > 30


@pytest.mark.parametrize("who", ["cache", "remote"])
def test_each_operation_of_a_cache_fails_once(who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = 0

    @contextmanager
    def failing(at: int) -> Iterator[Callable[[], bool]]:
        nonlocal failures
        counts = itertools.count(1)
        done = False
        with monkeypatch.context() as patched:

            def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
                def call(self: Any, *args: Any) -> Any:
                    nonlocal done
                    if self.root.name == who and next(counts) == at:
                        done = True
                        raise StoreError("it failed")
                    return real(self, *args)

                return call

            for name in ("get", "heads", "contains", "put", "delete", "keys", "sweep", "close"):
                patched.setattr(directory.DirectoryBackend, name, wrapped(getattr(directory.DirectoryBackend, name)))
            yield lambda: done
            failures += done

    def prepare() -> str:
        url = copies()
        with SummaryStore.open(url) as store:
            assert isinstance(store._backend, CachedBackend)
            store.get_many(list(store.keys()))
        return url

    copies = prepared(tmp_path, "cache::file://{0}/cache::file://{0}/remote")
    assert fails_at_each(prepare, failing) == failures > 5


def test_a_cache_that_fails_costs_time_and_never_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SummaryStore.open(f"cache::file://{tmp_path}/cache::file://{tmp_path}/remote") as store:
        keys = fill(store, OLD)
        backend: Any = store._backend

        def broken(*_: object) -> None:
            raise StoreError("it failed")

        for name in ("get", "heads", "put", "delete", "sweep"):
            monkeypatch.setattr(backend.cache, name, broken)
        assert all(store.get_many(keys))
        assert all(store.info_many(keys))
        assert store.delete_many(keys[:1]) == 1
        assert store.contains_many(keys) == [False, True, True]
        assert store.gc(max_bytes=0) == 2


def test_an_index_that_misses_rows_or_is_out_of_order_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with SummaryStore.open(path) as store:
        keys = fill(store, OLD)
    data = path.read_bytes()
    for key in keys:
        places = [at for at in range(len(data)) if data.startswith(key.encode(), at)]
        assert len(places) >= 3, "in the table, in its index, and in the table of marks"
        for at in places:
            for letter in b"a7":
                path.write_bytes(data[:at] + bytes([letter]) + data[at + 1 :])
                assert right_or_reported(path, keys), f"{key} at {at}"


@pytest.mark.slow
def test_every_flipped_byte_of_a_sqlite_file_is_right_or_reported(tmp_path: Path) -> None:
    flips(tmp_path, 1, 1)


def test_some_flipped_bytes_of_a_sqlite_file_are_right_or_reported(tmp_path: Path) -> None:
    flips(tmp_path, 4, 23)


def flips(tmp_path: Path, bit: int, step: int) -> None:
    path = tmp_path / "s.sqlite"
    with SummaryStore.open(path) as store:
        keys = fill(store, OLD)
    with closing(sqlite3.connect(path)) as db:  # small pages: a small file
        for statement in ("PRAGMA journal_mode = DELETE", "PRAGMA page_size = 512", "VACUUM"):
            db.execute(statement).fetchall()
    data = path.read_bytes()
    wrong = []
    for at in range(0, len(data), step):
        path.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
        if not right_or_reported(path, keys):
            wrong.append(at)
    assert wrong == []


def right_or_reported(path: Path, keys: list[str]) -> bool:
    try:
        with SummaryStore.open(path, create=False) as store:
            reported = set(store.verify())
            found = store.sound_many(keys)
            for key, info, n in zip(keys, found, OLD.values(), strict=True):
                if isinstance(info, Damage) or key in reported:
                    continue
                if info is None:
                    if not reported:
                        return False
                    continue
                (summary,) = store.get_many([key])
                assert summary is not None
                if not torch.equal(summary.vectors, made(n).vectors):
                    return False
                if (summary.n_tokens, summary.group, info.n_tokens, info.group) != (7 + n, f"group {n}", 7 + n, f"group {n}"):
                    return False
    except StoreError:
        return True
    return True
