"""A store in a local directory: one safetensors file per entry, written under a temporary name and renamed.

A new store is for its user only. Whoever shares one gives its ``lloco-store.json`` another mode, which entries then take (and folders, with
the right to enter where there is one to read).
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lloco_integrations.errors import StoreError
from lloco_integrations.paths import PRIVATE, make_private
from lloco_integrations.store.backend import Head, absent, heads_in, replaced, seal_of, unusable
from lloco_integrations.store.header import HEAD_BYTES
from lloco_integrations.store.info import EntryInfo
from lloco_integrations.store.keys import is_key
from lloco_integrations.store.meta import StoreMeta

META_NAME = "lloco-store.json"
SUFFIX = ".safetensors"
STALE_SECONDS = 600
_TEMPORARY = ".tmp-"


class DirectoryBackend:
    """``ROOT/ab/abcd....safetensors``. Keeps nothing open, so threads, processes and forks need no care."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        self.url = f"file://{self.root.as_posix()}"
        self._meta: StoreMeta | None = None

    def load_meta(self, proposal: StoreMeta | None) -> StoreMeta:
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"{self.root} is a file; name a directory, or open sqlite:///{self.root}")
        with self._using("open"):
            meta = self._read_meta()
            if meta is None and proposal is None:
                raise absent(self.url)
        if meta is None and proposal is not None:
            with self._using("write"):
                make_private(self.root)
                _create(self.root / META_NAME, proposal.to_json().encode())
                meta = self._read_meta()
        if meta is None:
            raise absent(self.url)
        self._meta = meta
        return meta

    def keep_meta(self, meta: StoreMeta) -> None:
        with self._using("write"):
            _write([(self.root / META_NAME, meta.to_json().encode())], self._mode())
            _sync(self.root)
        self._meta = meta

    def get(self, keys: Sequence[str]) -> list[object]:
        with self._using("read"):
            return [_read(self._path(key)) for key in keys]

    def heads(self, keys: Sequence[str]) -> list[Head]:
        with self._using("read"):
            starts = [_read(self._path(key), HEAD_BYTES) for key in keys]
        return heads_in(keys, starts, seal_of(self._meta), self.get)

    def contains(self, keys: Sequence[str]) -> list[bool]:
        with self._using("read"):
            return [self._path(key).exists() for key in keys]

    def put(self, items: Sequence[tuple[str, bytes, EntryInfo]]) -> None:
        with self._using("write"):
            if self._read_meta() != self._meta:
                raise replaced(self.url)
            files = [(self._path(key), value) for key, value, _ in items]
            for attempt in range(3):
                try:
                    _write(files, self._mode())
                    break
                except FileNotFoundError:  # swept, or a folder was removed, under our hands
                    if attempt == 2:
                        raise
            for directory in {self.root, *(path.parent for path, _ in files)}:
                _sync(directory)

    def delete(self, keys: Sequence[str]) -> int:
        count = 0
        with self._using("write"):
            for key in keys:
                with suppress(FileNotFoundError):
                    self._path(key).unlink()
                    count += 1
        return count

    def keys(self) -> Iterator[str]:
        for path in self._files():
            key = path.name.removesuffix(SUFFIX)
            if path.name.endswith(SUFFIX) and is_key(key) and path.parent.name == key[:2]:
                yield key

    def sweep(self) -> None:
        """Removes temporary files that no living writer can still be at (older than STALE_SECONDS)."""
        limit = time.time() - STALE_SECONDS
        for path in self._files():
            with suppress(OSError):
                if path.name.startswith(_TEMPORARY) and path.stat().st_mtime < limit:
                    path.unlink()

    def close(self) -> None:
        pass

    def _mode(self) -> int:
        return os.stat(self.root / META_NAME).st_mode & 0o666

    def _path(self, key: str) -> Path:
        return self.root / key[:2] / f"{key}{SUFFIX}"

    def _files(self) -> Iterator[Path]:
        with self._using("read"):
            found = [Path(folder) / name for folder, _, names in os.walk(self.root) for name in names]
        return iter(found)

    def _read_meta(self) -> StoreMeta | None:
        """Where files cannot be linked, another process may be in the middle of writing it: look again for a while."""
        for attempt in range(10):
            text = _read(self.root / META_NAME)
            if text is None:
                return None
            if text.endswith(b"}") or attempt == 9:
                break
            time.sleep(0.05)
        return StoreMeta.from_json(text, str(self.root))

    @contextmanager
    def _using(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unusable(self.url, action, error) from error


def _read(path: Path, limit: int = -1) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except FileNotFoundError:
        return None


def _write(files: Sequence[tuple[Path, bytes]], mode: int = PRIVATE) -> None:
    """Puts bytes at each path: readers see the old file or the whole new one. Leaves nothing else behind on failure.

    All are written, then all brought to the disk, then all renamed: the first flush does most of the others' work.
    """
    temporaries: list[Path] = []
    try:
        with ExitStack() as stack:
            handles = []
            for path, data in files:
                if not path.parent.exists():
                    path.parent.mkdir(mode=0o700, exist_ok=True)
                    if mode != PRIVATE:
                        path.parent.chmod(0o700 | mode | (mode & 0o444) >> 2)
                temporaries.append(path.parent / f"{_TEMPORARY}{secrets.token_hex(8)}")
                handles.append(stack.enter_context(open(temporaries[-1], "xb", opener=_private)))
                if mode != PRIVATE:
                    os.chmod(temporaries[-1], mode)
                handles[-1].write(data)
                handles[-1].flush()
            for handle in handles:
                os.fsync(handle.fileno())
        for temporary, (path, _) in zip(temporaries, files, strict=True):
            os.replace(temporary, path)
    finally:
        for temporary in temporaries:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE)


def _create(path: Path, data: bytes) -> None:
    """Puts ``data`` at ``path`` unless something is there: of several processes exactly one succeeds."""
    temporary = path.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
    _write([(temporary, data)])
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        with suppress(FileExistsError), open(path, "xb", opener=_private) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    """Makes renames in ``directory`` durable; Windows and some network file systems cannot, and need not."""
    with suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
