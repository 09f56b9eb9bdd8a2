"""Looking after a store: totals, and finding damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from lloco_integrations.errors import DamagedEntry
from lloco_integrations.store.backend import Backend, Head, PlaceDamaged, chunks
from lloco_integrations.store.codec import decode
from lloco_integrations.store.header import read_header
from lloco_integrations.store.info import EntryInfo, StoreStats, Totals
from lloco_integrations.store.keys import is_key

_HEADS = 500
_VALUES = 16


def heads(backend: Backend) -> Iterator[tuple[str, EntryInfo | DamagedEntry]]:
    """Every entry with its description; those deleted meanwhile are left out."""
    keys = backend.keys()
    while some := list(islice(keys, _HEADS)):
        for key, found in zip(some, backend.heads(some), strict=True):
            if found is not None:
                yield key, found


def stats(backend: Backend) -> StoreStats:
    """Totals, also per fingerprint."""
    totals = Totals()
    per: dict[str, Totals] = {}
    unreadable = 0
    for _, found in heads(backend):
        if isinstance(found, DamagedEntry):
            unreadable += 1
            continue
        totals = totals.add(found)
        per[found.fingerprint] = per.get(found.fingerprint, Totals()).add(found)
    return StoreStats(totals.entries, totals.vectors, totals.source_tokens, totals.nbytes, per, unreadable)


def verify(backend: Backend, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Keys of entries that are damaged: every value is read, checked and decoded once."""
    keys = list(backend.keys())
    bad: list[str] = []
    done = 0
    for some in chunks(keys, _VALUES):
        for key, value, found in read(backend, some):
            if _is_damaged(key, value, found):
                bad.append(key)
        done += len(some)
        if progress is not None:
            progress(done, len(keys))
    backend.sweep()
    return bad


def read(backend: Backend, keys: Sequence[str]) -> Iterator[tuple[str, object, Head]]:
    """Values and descriptions; one that lies where the place is broken counts as damaged, the others are still read.

    An outage is raised instead: it must never look like damage, or ``gc`` would delete what is merely out of reach.
    """
    try:
        yield from zip(keys, backend.get(keys), backend.heads(keys), strict=True)
    except PlaceDamaged as error:
        if len(keys) > 1:
            for key in keys:
                yield from read(backend, [key])
        else:
            yield keys[0], error, DamagedEntry(str(error))


def _is_damaged(key: str, value: object, found: Head) -> bool:
    if not is_key(key):
        return True
    if value is None:
        return isinstance(found, DamagedEntry)  # else deleted meanwhile
    try:
        decode(key, value)
        return found is not None and found != read_header(key, value).info
    except DamagedEntry:
        return True
