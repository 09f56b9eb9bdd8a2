"""A store on any fsspec file system: S3, Google Cloud Storage, Azure, SFTP, ...

One object per entry, laid out as in a local directory. Object stores write an object whole or not at all; elsewhere a
killed writer may leave a cut value that nobody was told about: it is reported as damaged and replaced by the next put.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from importlib import import_module
from typing import Any

from lloco_integrations.store.backend import Head, absent, chunks, guarded, heads_in, replaced, seal_of
from lloco_integrations.store.directory import META_NAME, SUFFIX
from lloco_integrations.store.header import HEAD_BYTES
from lloco_integrations.store.info import EntryInfo
from lloco_integrations.store.keys import is_key
from lloco_integrations.store.meta import StoreMeta

_BATCH = 64
_FLAT = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss", "tos"})
"""Protocols without directories: making one there might make a bucket."""


class RemoteBackend:
    """Every read goes to the file system: no listing is trusted."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._meta: StoreMeta | None = None
        self._opened: tuple[int, Any, str] | None = None

    def load_meta(self, proposal: StoreMeta | None) -> StoreMeta:
        with self._using("open"):
            found = self._read([META_NAME])[0]
            if found is None:
                if proposal is None:
                    raise absent(self.url)
                self._create_meta(proposal.to_json().encode())
                found = self._read([META_NAME])[0]
            self._meta = StoreMeta.from_json(found, self.url)
        return self._meta

    def keep_meta(self, meta: StoreMeta) -> None:
        with self._using("write"):
            self._write({META_NAME: meta.to_json().encode()})
        self._meta = meta

    def get(self, keys: Sequence[str]) -> list[object]:
        with self._using("read"):
            return [value for some in chunks(keys, _BATCH) for value in self._read([_name(key) for key in some])]

    def heads(self, keys: Sequence[str]) -> list[Head]:
        found: list[Head] = []
        with self._using("read"):
            for some in chunks(keys, _BATCH):
                starts = self._read([_name(key) for key in some], HEAD_BYTES)
                found.extend(heads_in(some, starts, seal_of(self._meta), self.get))
        return found

    def contains(self, keys: Sequence[str]) -> list[bool]:
        return [found is not None for found in self.heads(keys)]

    def put(self, items: Sequence[tuple[str, bytes, EntryInfo]]) -> None:
        with self._using("write"):
            meta = self._read([META_NAME])[0]
            if meta is None or StoreMeta.from_json(meta, self.url) != self._meta:
                raise replaced(self.url)
            for some in chunks(items, _BATCH):
                self._write({_name(key): value for key, value, _ in some})

    def delete(self, keys: Sequence[str]) -> int:
        fs, root = self._place()
        there = [key for key, present in zip(keys, self.contains(keys), strict=True) if present]
        with self._using("write"):
            for key in there:
                try:
                    fs.rm_file(posixpath.join(root, _name(key)))
                except FileNotFoundError:
                    continue
        return len(there)

    def keys(self) -> Iterator[str]:
        fs, root = self._place()
        with self._using("read"):
            fs.invalidate_cache()
            names = [str(name) for name in fs.find(root)]
        for name in names:
            folder, base = posixpath.split(name)
            key = base.removesuffix(SUFFIX)
            if base.endswith(SUFFIX) and is_key(key) and posixpath.basename(folder) == key[:2]:
                yield key

    def sweep(self) -> None:
        pass

    def close(self) -> None:
        self._opened = None

    def _place(self) -> tuple[Any, str]:
        """File system and root; made anew after a fork, since fsspec's event loops do not survive one."""
        if self._opened is None or self._opened[0] != os.getpid():
            with self._using("open"):
                fs, root = import_module("fsspec.core").url_to_fs(self.url)
            self._opened = (os.getpid(), fs, str(root).rstrip("/"))
        return self._opened[1], self._opened[2]

    def _read(self, names: Sequence[str], limit: int | None = None) -> list[object]:
        fs, root = self._place()
        paths = [posixpath.join(root, name) for name in names]
        starts = [None if limit is None else 0] * len(paths)
        values = fs.cat_ranges(paths, starts, [limit] * len(paths), on_error="return")
        for at, value in enumerate(values):
            if isinstance(value, Exception) and not isinstance(value, FileNotFoundError):
                if limit is None:
                    raise value
                values[at] = self._read([names[at]])[0]  # some refuse a range of an empty object
        return [None if isinstance(value, FileNotFoundError) else value for value in values]

    def _write(self, files: dict[str, bytes]) -> None:
        fs, root = self._place()
        named = {posixpath.join(root, name): data for name, data in files.items()}
        try:
            fs.pipe(named)
        except FileNotFoundError:
            protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
            if protocols & _FLAT:
                raise
            for folder in {posixpath.dirname(name) for name in named}:
                fs.makedirs(folder, exist_ok=True)
            fs.pipe(named)

    def _create_meta(self, data: bytes) -> None:
        """Exclusively where the file system can (S3, GCS with recent drivers), else written and read again."""
        fs, root = self._place()
        with suppress(Exception):  # what a driver without exclusive creation raises is anybody's guess
            fs.pipe_file(posixpath.join(root, META_NAME), data, mode="create")
            return
        if self._read([META_NAME])[0] is None:
            self._write({META_NAME: data})

    def _using(self, action: str) -> AbstractContextManager[None]:
        return guarded(self.url, action)


def _name(key: str) -> str:
    return f"{key[:2]}/{key}{SUFFIX}"
