"""A store in any of LlamaIndex's key-value stores: an object with ``put``, ``get``, ``get_all`` and ``delete``.

Those keep JSON, so a value is base64 in a dict: a third larger. They list a collection only by reading it whole, so totals,
``verify`` and ``gc`` cost as much as reading everything. As durable as the object is: ``SimpleKVStore`` is a dict until persisted.
"""

from __future__ import annotations

import base64
import binascii
import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from lloco_integrations.store.backend import Head, absent, guarded, heads_in, seal_of
from lloco_integrations.store.info import EntryInfo
from lloco_integrations.store.keys import is_key
from lloco_integrations.store.meta import StoreMeta

COLLECTION = "lloco"
_META = "lloco-meta"
_FIELD = "lloco"
_guard = threading.Lock()


def is_kvstore(target: object) -> bool:
    """Whether ``target`` has the methods of LlamaIndex's BaseKVStore, with its argument ``collection``."""
    if not all(callable(getattr(target, name, None)) for name in ("put", "get", "get_all", "delete")):
        return False
    try:
        return "collection" in inspect.signature(target.put).parameters  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return False


class KVStoreBackend:
    """Collection ``lloco``: entries under their keys, meta data under ``lloco-meta``."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.url = f"object:{type(inner).__name__}"
        self._meta: StoreMeta | None = None

    def load_meta(self, proposal: StoreMeta | None) -> StoreMeta:
        with _guard, self._using("open"):
            found = self._get(_META)
            if found is None:
                if proposal is None:
                    raise absent(self.url)
                # No such store can create exclusively: the last of several first writers wins, and all read again.
                self._put(_META, proposal.to_json().encode())
                found = self._get(_META)
        self._meta = StoreMeta.from_json(found, self.url)
        return self._meta

    def keep_meta(self, meta: StoreMeta) -> None:
        with self._using("write"):
            self._put(_META, meta.to_json().encode())
        self._meta = meta

    def get(self, keys: Sequence[str]) -> list[object]:
        with self._using("read"):
            return [self._get(key) for key in keys]

    def heads(self, keys: Sequence[str]) -> list[Head]:
        return heads_in(keys, self.get(keys), seal_of(self._meta), self.get)

    def contains(self, keys: Sequence[str]) -> list[bool]:
        return [value is not None for value in self.get(keys)]

    def put(self, items: Sequence[tuple[str, bytes, EntryInfo]]) -> None:
        with self._using("write"):
            for key, value, _ in items:
                self._put(key, value)

    def delete(self, keys: Sequence[str]) -> int:
        with self._using("write"):
            return sum(bool(self.inner.delete(key, collection=COLLECTION)) for key in keys)

    def keys(self) -> Iterator[str]:
        with self._using("read"):
            names = list(self.inner.get_all(collection=COLLECTION))
        return filter(is_key, names)

    def sweep(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _get(self, name: str) -> object:
        """The bytes under ``name``, None where absent, and anything else as it is found there."""
        found = self.inner.get(name, collection=COLLECTION)
        try:
            return base64.b64decode(found[_FIELD], validate=True)
        except (TypeError, KeyError, ValueError, binascii.Error):
            return found

    def _put(self, name: str, value: bytes) -> None:
        self.inner.put(name, {_FIELD: base64.b64encode(value).decode("ascii")}, collection=COLLECTION)

    def _using(self, action: str) -> AbstractContextManager[None]:
        return guarded(self.url, action)
