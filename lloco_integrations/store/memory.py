"""A store in this process's memory: for tests and for trying things out.

Single operations on a dict are atomic, so it needs no lock.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Sequence
from weakref import WeakValueDictionary

from lloco_integrations.errors import StoreError
from lloco_integrations.store.backend import Head, absent, heads_in, seal_of
from lloco_integrations.store.info import EntryInfo
from lloco_integrations.store.meta import StoreMeta

_PREFIX = "memory://"
_NAMELESS = "anonymous-"
_named: dict[str, MemoryBackend] = {}
_nameless: WeakValueDictionary[str, MemoryBackend] = WeakValueDictionary()
_guard = threading.Lock()


class MemoryBackend:
    """Encoded values in a dict."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._values: dict[str, bytes] = {}
        self._meta: dict[str, StoreMeta] = {}

    def load_meta(self, proposal: StoreMeta | None) -> StoreMeta:
        if proposal is not None:
            return self._meta.setdefault("meta", proposal)
        if not self._meta:
            raise absent(self.url)
        return self._meta["meta"]

    def keep_meta(self, meta: StoreMeta) -> None:
        self._meta["meta"] = meta

    def get(self, keys: Sequence[str]) -> list[object]:
        return [self._values.get(key) for key in keys]

    def heads(self, keys: Sequence[str]) -> list[Head]:
        return heads_in(keys, self.get(keys), seal_of(self._meta.get("meta")), self.get)

    def contains(self, keys: Sequence[str]) -> list[bool]:
        return [key in self._values for key in keys]

    def put(self, items: Sequence[tuple[str, bytes, EntryInfo]]) -> None:
        for key, value, _ in items:
            self._values[key] = value

    def delete(self, keys: Sequence[str]) -> int:
        return sum(self._values.pop(key, None) is not None for key in keys)

    def keys(self) -> Iterator[str]:
        return iter(list(self._values))

    def sweep(self) -> None:
        pass

    def close(self) -> None:
        pass


def open_memory(url: str) -> MemoryBackend:
    """``memory://`` is a new store that lives as long as it is used, ``memory://name`` one for the whole process.

    Raises StoreError if ``url`` names a nameless store of another process, as an unpickled one does.
    """
    name = url.removeprefix(_PREFIX).strip("/")
    with _guard:
        if name.startswith(_NAMELESS):
            found = _nameless.get(name)
            if found is None:
                raise StoreError(f"{url} lived in the memory of another process, or is gone; use sqlite:///path to share a store")
            return found
        if name:
            return _named.setdefault(name, MemoryBackend(_PREFIX + name))
        name = _NAMELESS + secrets.token_hex(8)
        made = MemoryBackend(_PREFIX + name)
        _nameless[name] = made
        return made
