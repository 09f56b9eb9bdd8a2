"""What a place to keep bytes must do to serve as a store, and the errors all of them share."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from lloco_integrations.errors import DamagedEntry, LLoCOError, StoreError
from lloco_integrations.secret import shown as shown
from lloco_integrations.store.codec import check
from lloco_integrations.store.header import read_header
from lloco_integrations.store.info import EntryInfo
from lloco_integrations.store.meta import StoreMeta
from lloco_integrations.store.seal import Seal

Head = EntryInfo | DamagedEntry | None
T = TypeVar("T")


class PlaceDamaged(StoreError):
    """The place itself is broken where it was read: unlike an outage, this counts as damage of the entries there."""


class NoStore(StoreError):
    """There is no store at the address, and none was to be made."""


class NoRoom(StoreError):
    """The disk or quota is used up."""


class Backend(Protocol):
    """Bytes by key. Implementations are safe across threads and processes; keys are checked before they get here."""

    @property
    def url(self) -> str:
        """Opens the same place again; ``object:NAME`` where nothing but the object itself does."""

    def load_meta(self, proposal: StoreMeta | None) -> StoreMeta:
        """The store's meta data; where it has none, keeps ``proposal`` for good. Of many who race, one wins.

        Raises NoStore if there is none and ``proposal`` is None.
        """

    def keep_meta(self, meta: StoreMeta) -> None:
        """Puts ``meta``, of the same store, in the place of its meta data."""

    def get(self, keys: Sequence[str]) -> list[object]:
        """Values in the order of ``keys``, None where absent. What is not bytes is for the codec to refuse."""

    def heads(self, keys: Sequence[str]) -> list[Head]:
        """Descriptions in the order of ``keys``, None where absent, a DamagedEntry (not raised) where unreadable."""

    def contains(self, keys: Sequence[str]) -> list[bool]:
        """Which of ``keys`` are there."""

    def put(self, items: Sequence[tuple[str, bytes, EntryInfo]]) -> None:
        """Inserts or replaces; durable on return. A reader sees a whole value or none."""

    def delete(self, keys: Sequence[str]) -> int:
        """Removes and counts those that were there."""

    def keys(self) -> Iterator[str]:
        """Everything stored as an entry, in any order; entries may come and go meanwhile."""

    def sweep(self) -> None:
        """Removes what killed writers left and gives room back."""

    def close(self) -> None:
        """Lets go of handles; they are taken again when needed."""


def seal_of(meta: StoreMeta | None) -> Seal:
    """The seal of the store whose meta data were loaded; a backend is used only after that."""
    assert meta is not None
    return meta.seal


def heads_in(keys: Sequence[str], starts: Sequence[object], seal: Seal, whole: Callable[[Sequence[str]], Sequence[object]]) -> list[Head]:
    """Descriptions in the first HEAD_BYTES bytes of values, or in whole ones, for backends that keep none apart.

    ``whole``: gives values. One of format 1 is read whole: only its checksum, which covers all of it, vouches for what its header says.
    """
    found: dict[str, Head] = {}
    old = []
    for key, start in zip(keys, starts, strict=True):
        try:
            header = None if start is None else read_header(key, start, seal)
        except DamagedEntry as error:
            found[key] = error
            continue
        found[key] = header.info if header is not None else None
        if header is not None and not header.sealed:
            old.append(key)
    for key, value in zip(old, whole(old) if old else [], strict=True):
        found[key] = described(key, value, seal)
    return [found[key] for key in keys]


def described(key: str, value: object, seal: Seal) -> Head:
    """What a whole value says of itself, once all of it was checked."""
    if value is None:
        return None
    try:
        return check(key, value, seal).info
    except DamagedEntry as error:
        return error


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """``items`` in slices of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def absent(url: str) -> NoStore:
    """The error for reading a store that was never made."""
    return NoStore(f"there is no store at {shown(url)}; check the address, or compress something into it first")


def replaced(url: str) -> StoreError:
    """The error for a store that vanished, or became another one, while it was open."""
    return StoreError(f"the store {shown(url)} was removed or replaced while it was open; open it again and compress again what it lacks")


def full(url: str) -> NoRoom:
    """The error for a disk or quota that is used up."""
    return NoRoom(f"no room left for the store {shown(url)}; free some space and repeat the call. Everything acknowledged so far is kept")


def read_only(url: str) -> StoreError:
    """The error for writing where one may only read."""
    return StoreError(
        f"the store {shown(url)} is read-only; give this user write permission on the store and the directory "
        f"that holds it, or write to another store"
    )


@contextmanager
def guarded(url: str, action: str) -> Iterator[None]:
    """Whatever a driver raises inside becomes a StoreError; errors raised on purpose stay as they are."""
    try:
        yield
    except LLoCOError:
        raise
    except Exception as error:
        raise unusable(url, action, error) from error


def unusable(url: str, action: str, error: BaseException) -> StoreError:
    """The error for any other failure of the place itself."""
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return full(url)
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and action == "write":
            return read_only(url)
    return StoreError(
        f"cannot {action} the store {shown(url)}: {type(error).__name__}: {error}; check that the place exists, "
        f"can be reached and permits it, then repeat the call"
    )
