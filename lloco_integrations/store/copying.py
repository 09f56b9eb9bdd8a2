"""Copying a store to another place, with its secret: keys and placeholders stay valid there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from lloco_integrations.errors import DamagedEntry, StoreError
from lloco_integrations.store.backend import Backend, Head, NoStore, PlaceDamaged, chunks, described, shown
from lloco_integrations.store.codec import reseal
from lloco_integrations.store.info import EntryInfo
from lloco_integrations.store.keys import is_key
from lloco_integrations.store.meta import StoreMeta
from lloco_integrations.store.upkeep import read

_BATCH = 16


@dataclass(frozen=True)
class CopyReport:
    """What a copy did.

    Attributes:
        copied: entries written, read back and found equal.
        present: entries that the destination held soundly already.
        damaged: keys of damaged entries of the source; they were left out.
    """

    copied: int = 0
    present: int = 0
    damaged: list[str] = field(default_factory=list)


def copy(source: Backend, meta: StoreMeta, destination: Backend, progress: Callable[[int, int], None] | None = None) -> CopyReport:
    """Brings every sound entry of ``source`` to ``destination``; deletes nothing there. See SummaryStore.copy_to."""
    if _same_place(source, destination):
        raise StoreError(f"{shown(source.url)} cannot be copied onto itself; name another place")
    _claim(meta, destination)
    keys = list(source.keys())
    copied = present = done = 0
    damaged: list[str] = []
    for some in chunks(keys, _BATCH):
        damaged.extend(key for key in some if not is_key(key))
        valid = [key for key in some if is_key(key)]
        there = _sound(destination, valid, meta)
        wanted = [key for key, found in zip(valid, _heads(source, valid), strict=True) if not _up_to_date(there.get(key), found)]
        items: list[tuple[str, bytes, EntryInfo]] = []
        for key, value, _ in read(source, wanted):
            if value is None:
                continue  # deleted meanwhile
            try:
                if not isinstance(value, (bytes, bytearray, memoryview)):
                    raise DamagedEntry(f"{type(value).__name__} in place of bytes")
                items.append((key, *reseal(key, bytes(value), meta.seal)))
            except DamagedEntry:
                damaged.append(key)
        _write(destination, items)
        copied += len(items)
        present += len(valid) - len(wanted)
        done += len(some)
        if progress is not None:
            progress(done, len(keys))
    return CopyReport(copied, present, damaged)


def _same_place(one: Backend, other: Backend) -> bool:
    if hasattr(one, "inner") or hasattr(other, "inner"):
        return getattr(one, "inner", one) is getattr(other, "inner", other)
    return one.url == other.url


def _claim(meta: StoreMeta, destination: Backend) -> None:
    """Gives ``destination`` the source's meta data; raises StoreError if it has others."""
    try:
        found = destination.load_meta(None)
    except NoStore:
        found = destination.load_meta(meta.upgraded())
    if found != meta:
        raise StoreError(
            f"{shown(destination.url)} is another store: its secret differs, so the keys of the source mean nothing there; "
            f"name a place that is empty, or an earlier copy of the same store, or compress the documents into that store"
        )


def _sound(backend: Backend, keys: Sequence[str], meta: StoreMeta) -> dict[str, EntryInfo]:
    """Descriptions of the entries that ``backend`` holds whole."""
    found = {}
    for key, value, _ in read(backend, keys):
        info = described(key, value, meta.seal)
        if isinstance(info, EntryInfo):
            found[key] = info
    return found


def _heads(backend: Backend, keys: Sequence[str]) -> list[Head]:
    try:
        return backend.heads(keys)
    except PlaceDamaged as error:
        return [DamagedEntry(str(error))] if len(keys) == 1 else [head for key in keys for head in _heads(backend, [key])]


def _up_to_date(there: EntryInfo | None, here: Head) -> bool:
    """Whether the destination's entry may stay: of two puts of one text the later counts."""
    if there is None or not isinstance(here, EntryInfo):
        return there is not None
    return there.created > here.created or replace(there, nbytes=here.nbytes) == here  # an older format takes other bytes


def _write(destination: Backend, items: list[tuple[str, bytes, EntryInfo]]) -> None:
    if not items:
        return
    destination.put(items)
    for (key, value, _), found in zip(items, destination.get([key for key, _, _ in items]), strict=True):
        if found != value:
            raise StoreError(
                f"{shown(destination.url)} does not give entry {key} back as it was written; check that place (its disk, its "
                f"settings, whether something else deletes there), then repeat the copy: it goes on where it stopped"
            )
