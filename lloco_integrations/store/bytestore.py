"""A store in any object with ``mget`` and ``mset``: LangChain's ByteStores (Redis, files, ...) among them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from lloco_integrations.errors import StoreError
from lloco_integrations.store.backend import Head, absent, chunks, guarded, heads_in, seal_of
from lloco_integrations.store.info import EntryInfo
from lloco_integrations.store.keys import is_key
from lloco_integrations.store.meta import StoreMeta

_META = "lloco-meta"
_ENTRY = "lloco-entry-"
_BATCH = 64
_guard = threading.Lock()


class ByteStoreBackend:
    """Values under ``lloco-entry-KEY``, meta data under ``lloco-meta``: the object may hold other things too."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.url = f"object:{type(inner).__name__}"
        self._meta: StoreMeta | None = None

    def load_meta(self, proposal: StoreMeta | None) -> StoreMeta:
        with _guard, self._using("open"):
            (found,) = self.inner.mget([_META])
            if found is None:
                if proposal is None:
                    raise absent(self.url)
                # No ByteStore can create exclusively: the last of several first writers wins, and all read again.
                self.inner.mset([(_META, proposal.to_json().encode())])
                (found,) = self.inner.mget([_META])
        self._meta = StoreMeta.from_json(found, self.url)
        return self._meta

    def keep_meta(self, meta: StoreMeta) -> None:
        with self._using("write"):
            self.inner.mset([(_META, meta.to_json().encode())])
        self._meta = meta

    def get(self, keys: Sequence[str]) -> list[object]:
        values: list[object] = []
        with self._using("read"):
            for some in chunks(keys, _BATCH):
                got = list(self.inner.mget([_ENTRY + key for key in some]))
                if len(got) != len(some):
                    raise StoreError(f"mget of {self.url} gave {len(got)} values for {len(some)} keys; it must give one each")
                values.extend(got)
        return values

    def heads(self, keys: Sequence[str]) -> list[Head]:
        found: list[Head] = []
        for some in chunks(keys, _BATCH):
            found.extend(heads_in(some, self.get(some), seal_of(self._meta), self.get))
        return found

    def contains(self, keys: Sequence[str]) -> list[bool]:
        found: list[bool] = []
        for some in chunks(keys, _BATCH):
            found.extend(value is not None for value in self.get(some))
        return found

    def put(self, items: Sequence[tuple[str, bytes, EntryInfo]]) -> None:
        with self._using("write"):
            self.inner.mset([(_ENTRY + key, value) for key, value, _ in items])

    def delete(self, keys: Sequence[str]) -> int:
        delete = self._method("mdelete")
        there = [key for key, present in zip(keys, self.contains(keys), strict=True) if present]
        with self._using("write"):
            for some in chunks(there, _BATCH):
                delete([_ENTRY + key for key in some])
        return len(there)

    def keys(self) -> Iterator[str]:
        method = self._method("yield_keys")
        with self._using("read"):
            names = list(method())  # without prefix: LangChain's LocalFileStore takes one for a folder
        for name in names:
            key = str(name).removeprefix(_ENTRY)
            if str(name).startswith(_ENTRY) and is_key(key):
                yield key

    def sweep(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _method(self, name: str) -> Any:
        method = getattr(self.inner, name, None)
        if method is None:
            raise StoreError(f"{type(self.inner).__name__} has no {name}, which this needs; add it, or use sqlite:///path")
        return method

    def _using(self, action: str) -> AbstractContextManager[None]:
        return guarded(self.url, action)
