"""Finding what may go from a store: by compressor, age, group, damage, reachability and size."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from typing import TypedDict

from lloco_integrations.errors import BadInput, DamagedEntry
from lloco_integrations.store.backend import Backend
from lloco_integrations.store.seal import Seal
from lloco_integrations.store.upkeep import heads, verify

Keep = Collection[str] | Callable[[set[str]], Collection[str]]


class Conditions(TypedDict, total=False):
    """What ``gc`` deletes: entries that meet every condition given. With none at all it deletes nothing.

    fingerprint_keep: entries of any other compressor.
    older_than: entries stored more than so many seconds ago.
    group: entries of this group.
    keep_keys: entries whose key is not among these; or a function that takes the fingerprints of the entries in question and
        returns keys. It is called after the entries were listed, so that what is added meanwhile is not taken for unused.
    max_bytes: of the entries that meet the other conditions, the oldest, until the whole store fits in so many bytes
        (as ``stats().nbytes`` counts: values, without what the place adds).
    damaged: damaged entries, too; the other conditions do not apply to them, and they count nothing towards the size.
    """

    fingerprint_keep: Collection[str] | None
    older_than: float | None
    group: str | None
    keep_keys: Keep | None
    max_bytes: int | None
    damaged: bool


def garbage(
    backend: Backend,
    seal: Seal,
    *,
    fingerprint_keep: Collection[str] | None = None,
    older_than: float | None = None,
    group: str | None = None,
    keep_keys: Keep | None = None,
    max_bytes: int | None = None,
    damaged: bool = False,
) -> list[str]:
    """Keys of entries that may go, see Conditions. Raises BadInput for a condition that makes no sense."""
    for name, value in (("fingerprint_keep", fingerprint_keep), ("keep_keys", keep_keys)):
        if isinstance(value, str):
            raise BadInput(f"{name} takes a collection of strings; write [{value!r}]")
    if older_than is not None and not (math.isfinite(older_than) and older_than >= 0):
        raise BadInput(f"older_than must be an age in seconds from 0 on, not {older_than!r}")
    if max_bytes is not None and (type(max_bytes) is not int or max_bytes < 0):
        raise BadInput(f"max_bytes must be a whole number from 0 on, not {max_bytes!r}")
    doomed = verify(backend, seal) if damaged else []
    if fingerprint_keep is None and older_than is None and group is None and keep_keys is None and max_bytes is None:
        return doomed
    already = set(doomed)
    now = time.time()
    total = 0
    fingerprints: set[str] = set()
    found: list[tuple[float, str, int]] = []
    for key, info in heads(backend):
        if key in already or isinstance(info, DamagedEntry):
            continue
        total += info.nbytes
        if fingerprint_keep is not None and info.fingerprint in fingerprint_keep:
            continue
        if older_than is not None and now - info.created <= older_than:
            continue
        if group is not None and info.group != group:
            continue
        fingerprints.add(info.fingerprint)
        found.append((info.created, key, info.nbytes))
    if keep_keys is not None:
        kept = set(keep_keys(fingerprints) if callable(keep_keys) else keep_keys)
        found = [one for one in found if one[1] not in kept]
    if max_bytes is not None:
        found = _oldest(found, total - max_bytes)
    return doomed + [key for _, key, _ in found]


def _oldest(found: list[tuple[float, str, int]], excess: int) -> list[tuple[float, str, int]]:
    """Of (created, key, bytes) the oldest that together make up ``excess`` bytes."""
    some = []
    for one in sorted(found):
        if excess <= 0:
            break
        some.append(one)
        excess -= one[2]
    return some
