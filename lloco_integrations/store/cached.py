"""A local copy of what was read from a store that is far away: ``cache::sqlite:///path::s3://bucket/prefix``.

Under a key there is always the same text of the same compressor, so a copy never has wrong vectors. It may be out of date in two
ways: the entry's group (the adapter) may have been changed, or the entry deleted, by somebody who does not use this cache. Reads
show the copy then. A put through the cache compares with the remote and brings the copy up to date; so does removing the cache.
Everything that looks after a store (keys, totals, verify, gc, copying) and ``contains`` ask the remote.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lloco_integrations.errors import StoreError
from lloco_integrations.store.backend import Backend, Head, NoStore, described, seal_of, shown
from lloco_integrations.store.info import EntryInfo
from lloco_integrations.store.meta import StoreMeta

SCHEME = "cache"
_log = logging.getLogger(__name__)


class CachedBackend:
    """``cache`` in front of ``remote``; the cache is a store of its own with the remote's meta data, so the same keys.

    A cache that cannot be read or written costs time, never an answer: it is passed over and said so once.
    """

    def __init__(self, remote: Backend, cache: Backend) -> None:
        self.remote = remote
        self.cache = cache
        self.url = remote.url if remote.url.startswith("object:") else f"{SCHEME}::{cache.url}::{remote.url}"
        self._meta: StoreMeta | None = None
        self._warned = False

    def load_meta(self, proposal: StoreMeta | None) -> StoreMeta:
        try:
            meta = self.remote.load_meta(None)
        except NoStore:
            if proposal is None:
                raise
            self._check_unused()
            meta = self.remote.load_meta(proposal)
        if self.cache.load_meta(meta) != meta:
            raise self._foreign()
        self._meta = meta
        return meta

    def keep_meta(self, meta: StoreMeta) -> None:
        self.remote.keep_meta(meta)
        self._meta = meta
        with self._forgiving():
            self.cache.keep_meta(meta)

    def get(self, keys: Sequence[str]) -> list[object]:
        values = self._copies(keys)
        missing = [key for key in keys if key not in values]
        if missing:
            fetched = list(zip(missing, self.remote.get(missing), strict=True))
            self._keep(fetched)
            values.update(fetched)
        return [values[key] for key in keys]

    def refetch(self, keys: Sequence[str]) -> list[object]:
        """Values as the remote has them; copies that differ are brought up to date."""
        values = current(self.remote, keys)
        copies: dict[str, Head] = {}
        with self._forgiving():
            copies = dict(zip(keys, self.cache.heads(keys), strict=True))
        found = zip(keys, values, strict=True)
        self._keep([(k, v) for k, v in found if copies.get(k) is not None and copies[k] != self._info(k, v)])
        return values

    def heads(self, keys: Sequence[str]) -> list[Head]:
        found: dict[str, Head] = {}
        with self._forgiving():
            copies = zip(keys, self.cache.heads(keys), strict=True)
            found = {key: copy for key, copy in copies if isinstance(copy, EntryInfo)}
        missing = [key for key in keys if key not in found]
        if missing:
            found.update(zip(missing, self.remote.heads(missing), strict=True))
        return [found[key] for key in keys]

    def contains(self, keys: Sequence[str]) -> list[bool]:
        return self.remote.contains(keys)

    def put(self, items: Sequence[tuple[str, bytes, EntryInfo]]) -> None:
        self.remote.put(items)
        with self._forgiving():
            self.cache.put(items)

    def delete(self, keys: Sequence[str]) -> int:
        count = self.remote.delete(keys)
        with self._forgiving():
            self.cache.delete(keys)
        return count

    def keys(self) -> Iterator[str]:
        return self.remote.keys()

    def sweep(self) -> None:
        self.remote.sweep()
        with self._forgiving():
            self.cache.sweep()

    def close(self) -> None:
        self.remote.close()
        self.cache.close()

    def _copies(self, keys: Sequence[str]) -> dict[str, object]:
        """Sound copies by key."""
        with self._forgiving():
            return {key: value for key, value in zip(keys, self.cache.get(keys), strict=True) if self._info(key, value) is not None}
        return {}

    def _keep(self, fetched: Sequence[tuple[str, object]]) -> None:
        """Copies what is sound."""
        known = ((key, value, self._info(key, value)) for key, value in fetched)
        sound = [(key, value, info) for key, value, info in known if isinstance(value, bytes) and info is not None]
        if sound:
            with self._forgiving():
                self.cache.put(sound)

    def _info(self, key: str, value: object) -> EntryInfo | None:
        """What a value says of itself; None if it is absent or damaged."""
        found = described(key, value, seal_of(self._meta))
        return found if isinstance(found, EntryInfo) else None

    def _check_unused(self) -> None:
        """Where the remote is to be made, no cache of another one may be there."""
        try:
            self.cache.load_meta(None)
        except NoStore:
            return
        raise self._foreign()

    def _foreign(self) -> StoreError:
        return StoreError(
            f"the cache {shown(self.cache.url)} belongs to another store than {shown(self.remote.url)} (they have different secrets); "
            f"name another cache, or remove this one if it holds nothing but copies"
        )

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except StoreError as error:
            if not self._warned:
                _log.warning("going on without the cache %s: %s", shown(self.cache.url), error)
                self._warned = True


def origin(backend: Backend) -> Backend:
    """The place that decides what a store holds: the remote behind a cache, else the backend itself."""
    while isinstance(backend, CachedBackend):
        backend = backend.remote
    return backend


def current(backend: Backend, keys: Sequence[str]) -> list[object]:
    """Values as the place that decides has them, past any cache."""
    return backend.refetch(keys) if isinstance(backend, CachedBackend) else backend.get(keys)
