"""Looking after a store: totals, and finding damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice

from lloco_integrations.errors import DamagedEntry
from lloco_integrations.store.backend import Backend, Head, PlaceDamaged, chunks, described
from lloco_integrations.store.codec import decode, reseal
from lloco_integrations.store.header import read_header
from lloco_integrations.store.info import Damage, EntryInfo, StoreStats, Totals
from lloco_integrations.store.keys import is_key
from lloco_integrations.store.seal import Seal

_HEADS = 500
_VALUES = 16
_NEAR = ("sqlite:", "file:", "memory:")


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


def verify(backend: Backend, seal: Seal, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Keys of entries that are damaged: every value is read, checked and decoded once.

    Raises PlaceDamaged where no entry is, and the place still contradicts itself.
    """
    keys = list(backend.keys())
    bad: list[str] = []
    done = 0
    for some in chunks(keys, _VALUES):
        for key, value, found in read(backend, some):
            if _is_damaged(key, value, found, seal):
                bad.append(key)
        done += len(some)
        if progress is not None:
            progress(done, len(keys))
    if not bad and (inspect := getattr(backend, "inspect", None)) is not None:
        inspect()
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


def sound(backend: Backend, seal: Seal, keys: Sequence[str]) -> dict[str, EntryInfo | Damage]:
    """Descriptions of what is there, Damage where it is damaged. Values are read whole where they are on this machine."""
    found: dict[str, EntryInfo | Damage] = {}
    whole = backend.url.startswith(_NEAR)
    for some in chunks(keys, _VALUES if whole else _HEADS):
        for key, value, head in read(backend, some) if whole else zip(some, some, backend.heads(some), strict=True):
            value_is = described(key, value, seal) if whole else head
            if isinstance(value_is, EntryInfo) and value_is == head:
                found[key] = head
            elif value_is is not None:
                found[key] = Damage(head.group if isinstance(head, EntryInfo) else None)
    return found


def upgrade(backend: Backend, seal: Seal) -> int:
    """Writes values of format 1 anew in the present one and returns how many; damaged ones are left to ``verify``."""
    count = 0
    for some in chunks(list(filter(is_key, backend.keys())), _VALUES):
        items: list[tuple[str, bytes, EntryInfo]] = []
        for key, value, _ in read(backend, some):
            if not isinstance(value, (bytes, bytearray, memoryview)):
                continue
            with suppress(DamagedEntry):
                made, info = reseal(key, bytes(value), seal)
                if made != value:
                    items.append((key, made, info))
        if items:
            backend.put(items)
        count += len(items)
    return count


def _is_damaged(key: str, value: object, found: Head, seal: Seal) -> bool:
    if not is_key(key):
        return True
    if value is None:
        return isinstance(found, DamagedEntry)  # else deleted meanwhile
    try:
        decode(key, value, seal)
        return found is not None and found != read_header(key, value, seal).info
    except DamagedEntry:
        return True
