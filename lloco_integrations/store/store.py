"""SummaryStore: summary embeddings by content, on any backend."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Unpack

from lloco_integrations.errors import BadInput, DamagedEntry, StoreError
from lloco_integrations.store import upkeep
from lloco_integrations.store.backend import Backend, chunks, shown
from lloco_integrations.store.cached import CachedBackend, current, origin
from lloco_integrations.store.codec import decode, encode, holds
from lloco_integrations.store.copying import CopyReport, copy
from lloco_integrations.store.garbage import Conditions, garbage
from lloco_integrations.store.info import Damage, EntryInfo, StoreStats
from lloco_integrations.store.keys import is_key, make_key
from lloco_integrations.store.meta import FORMAT, StoreMeta, check_storage
from lloco_integrations.store.opening import open_backend, with_cache
from lloco_integrations.types import SummaryEmbeddings

if TYPE_CHECKING:
    from typing import Self

_PUT_BATCH = 32


class SummaryStore:
    """Keeps the summary embeddings of texts. Safe to share between threads; make one with ``SummaryStore.open``."""

    def __init__(self, backend: Backend, meta: StoreMeta) -> None:
        self._backend = backend
        self._origin = origin(backend)
        self._meta = meta

    @classmethod
    def open(
        cls,
        target: object = None,
        *,
        storage: str | None = None,
        create: bool = True,
        cache: str | os.PathLike[str] | None = None,
    ) -> SummaryStore:
        """Opens the store at ``target``, and makes it if there is none.

        Args:
            target: None (``store.sqlite`` in the folder of this package, see ``paths.home``), ``sqlite:///path``, a
                path that ends in .sqlite or .db, ``file:///directory``, ``memory://``, ``memory://name``,
                ``redis://[:password@]host:port/db?prefix=NAME``, any fsspec URL, an object with ``mget`` and ``mset`` such as a
                LangChain ByteStore, a LlamaIndex key-value store, or a SummaryStore, given back.
            storage: ``"exact"`` (every bit) or ``"int8"`` (a byte an element); chosen when the store is made. None
                takes what is there, and "exact" for a new store.
            create: False raises if there is no store yet.
            cache: address of a place on this machine that keeps copies of what is read, see ``store.cached``. In one string:
                ``cache::sqlite:///path::s3://bucket/prefix``.

        Raises:
            StoreError: an address that cannot hold a store, another storage than the store has, a cache of another store, or an
                unusable place.
            MissingExtra: the driver for the URL is not installed.
        """
        check_storage(storage)
        if isinstance(target, cls) and cache is None:
            target._agree(storage)
            return target
        backend = target._backend if isinstance(target, cls) else open_backend(target)
        if cache is not None:
            backend = with_cache(backend, cache)
        store = cls(backend, backend.load_meta(StoreMeta.new(storage or "exact") if create else None))
        store._agree(storage)
        return store

    @property
    def url(self) -> str:
        """Opens the same store again; ``object:NAME`` for a store in a mget/mset object."""
        return self._backend.url

    @property
    def storage(self) -> str:
        """``"exact"`` or ``"int8"``."""
        return self._meta.storage

    def key(self, fingerprint: str, text: str) -> str:
        """The name, in this store, of ``text`` compressed by compressor ``fingerprint``: 26 characters of base32."""
        return make_key(self._meta.secret, fingerprint, text)

    def put_many(self, items: Sequence[tuple[str, SummaryEmbeddings]]) -> list[str]:
        """Stores (text, its summary embeddings) and returns their keys once they are durable.

        What is there already is left alone. It is replaced if it is damaged, or if its group, window or counts differ:
        the last put decides which group (adapter) a text belongs to.

        Raises:
            BadInput: an item that cannot be stored; then nothing of its batch of 32 is.
            StoreError: the place cannot be written (read-only, full, gone).
        """
        keys: list[str] = []
        for some in chunks(list(items), _PUT_BATCH):
            named = [(self._name(text, summary), summary) for text, summary in some]
            fresh = dict(named)
            now = time.time()
            encoded = [(key, *encode(key, summary, self.storage, now, self._meta.seal)) for key, summary in fresh.items()]
            stored = current(self._backend, list(fresh))
            missing = [item for item, value in zip(encoded, stored, strict=True) if not holds(value, item[0], item[2], self._meta.seal)]
            if missing:
                self._upgrade_meta()
                self._backend.put(missing)
            keys.extend(key for key, _ in named)
        return keys

    def get_many(self, keys: Sequence[str]) -> list[SummaryEmbeddings | None]:
        """Summary embeddings in the order of ``keys``, None where the store holds none.

        Raises DamagedEntry, naming the key, if one is damaged.
        """
        wanted = _unique(keys)
        found: dict[str, SummaryEmbeddings] = {}
        for some in chunks(wanted, _PUT_BATCH):
            for key, value in zip(some, self._backend.get(some), strict=True):
                if value is not None:
                    found[key] = decode(key, value, self._meta.seal)
        return [found.get(key) for key in keys]

    def info_many(self, keys: Sequence[str]) -> list[EntryInfo | None]:
        """Descriptions in the order of ``keys``, None where absent; no vector is read.

        Raises DamagedEntry if a header is damaged (damage to the vectors goes unseen here).
        """
        wanted = _unique(keys)
        found: dict[str, EntryInfo | None] = {}
        for key, head in zip(wanted, self._backend.heads(wanted), strict=True):
            if isinstance(head, DamagedEntry):
                raise head
            found[key] = head
        return [found.get(key) for key in keys]

    def sound_many(self, keys: Sequence[str]) -> list[EntryInfo | Damage | None]:
        """As ``info_many``, with Damage, not raised, in the place of a damaged entry.

        Where the store is on this machine, whole values are read and checked, not only their descriptions; no tensor is made.
        """
        wanted = _unique(keys)
        found = upkeep.sound(self._origin, self._meta.seal, wanted)
        return [found.get(key) for key in keys]

    def contains_many(self, keys: Sequence[str]) -> list[bool]:
        """Which of ``keys`` the store holds."""
        wanted = _unique(keys)
        there = {key for key, yes in zip(wanted, self._backend.contains(wanted), strict=True) if yes}
        return [key in there for key in keys]

    def delete_many(self, keys: Sequence[str]) -> int:
        """Removes entries and returns how many there were."""
        wanted = _unique(keys)
        return self._backend.delete(wanted) if wanted else 0

    def keys(self) -> Iterator[str]:
        """All keys, in any order; entries may come and go meanwhile."""
        return filter(is_key, self._origin.keys())

    def stats(self) -> StoreStats:
        """Totals over all entries, also per fingerprint. Reads headers only."""
        return upkeep.stats(self._origin)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Reads, checks and decodes every entry, and removes what killed writers left.

        Args:
            progress: called with (entries done, entries in all).

        Returns the keys of damaged entries. Raises StoreError only if the store as a whole cannot be read, or its place is damaged
        in a way that hides entries (an index of SQLite that misses rows).
        """
        return upkeep.verify(self._origin, self._meta.seal, progress)

    def upgrade(self) -> int:
        """Brings a store that an earlier version made to this version's format, in place, and returns how many entries were written anew.

        It is not needed: earlier stores are read, and new entries have the new format. But only then does the description of every entry
        carry a mark under the store's secret. Raises StoreError where the store cannot be written.
        """
        if not self._meta.legacy:
            return 0
        self._upgrade_meta()
        count = upkeep.upgrade(self._origin, self._meta.seal)
        if not upkeep.verify(self._origin, self._meta.seal):
            self._keep_meta(replace(self._meta, legacy=False))
        return count

    def find_garbage(self, **conditions: Unpack[Conditions]) -> list[str]:
        """The keys that ``gc`` with the same conditions would delete."""
        return garbage(self._origin, self._meta.seal, **conditions)

    def gc(self, **conditions: Unpack[Conditions]) -> int:
        """Deletes the entries that meet every one of ``conditions`` (``older_than=``, ``max_bytes=``, ... see ``Conditions``), gives
        room back, and returns how many were deleted. Do not run it while others put: what they find stored may be gone after.
        """
        doomed = self.find_garbage(**conditions)
        count = self._backend.delete(doomed) if doomed else 0
        self._backend.sweep()
        return count

    def copy_to(self, target: object, *, progress: Callable[[int, int], None] | None = None) -> CopyReport:
        """Copies every sound entry to ``target``, an empty place or an earlier copy of this store; its keys are valid there.

        Each value is read back after it was written. What ``target`` holds soundly is left alone, so a copy that was interrupted
        goes on where it stopped; of an entry that both hold, the later put stays. Nothing is deleted.

        Args:
            progress: called with (entries done, entries in all).

        Raises StoreError if ``target`` is another store, cannot be written, or does not keep what is written.
        """
        backend = target._backend if isinstance(target, SummaryStore) else open_backend(target)
        return copy(self._origin, self._meta, origin(backend), progress)

    def close(self) -> None:
        """Lets go of file handles and connections. Using the store again takes them again."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"SummaryStore({shown(self.url)!r}, storage={self.storage!r})"

    def __copy__(self) -> SummaryStore:
        return self

    def __deepcopy__(self, memo: object) -> SummaryStore:
        return self

    def __reduce__(self) -> tuple[Callable[..., SummaryStore], tuple[object, ...]]:
        backend, cache = self._backend, None
        if isinstance(backend, CachedBackend):
            cache = backend.cache.url
            backend = backend.remote
        return _reopen, (getattr(backend, "inner", backend.url), self.storage, cache)

    def _upgrade_meta(self) -> None:
        """Before an entry of this version's format is written, the meta data say so: an earlier version then refuses the store."""
        if self._meta.version < FORMAT:
            self._meta = self._backend.load_meta(None)  # somebody else may have been first
        if self._meta.version < FORMAT:
            self._keep_meta(self._meta.upgraded())

    def _keep_meta(self, meta: StoreMeta) -> None:
        self._backend.keep_meta(meta)
        self._meta = meta

    def _agree(self, storage: str | None) -> None:
        if storage is not None and storage != self.storage:
            raise StoreError(
                f"the store {shown(self.url)} keeps {self.storage!r}, not {storage!r}; leave storage out, or make another store"
            )

    def _name(self, text: str, summary: SummaryEmbeddings) -> str:
        if not isinstance(summary, SummaryEmbeddings):
            raise BadInput(f"put_many takes pairs (text, SummaryEmbeddings), not (..., {type(summary).__name__})")
        return self.key(summary.compressor, text)


def _reopen(target: object, storage: str, cache: str | None = None) -> SummaryStore:
    return SummaryStore.open(target, storage=storage, create=False, cache=cache)


def _unique(keys: Sequence[str]) -> list[str]:
    if isinstance(keys, str):
        raise BadInput(f"a list of keys is wanted, not the string {keys!r}; write [{keys!r}]")
    return [key for key in dict.fromkeys(keys) if is_key(key)]
