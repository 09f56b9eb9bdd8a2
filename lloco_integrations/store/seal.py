"""Marks under the store's secret: what a store says of itself and of its entries is believed only with the mark that belongs to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

_BYTES = 16
_PERSON = b"lloco-store-seal"


@dataclass(frozen=True)
class Seal:
    """Attributes:
    secret: the store's, 32 bytes.
    legacy: whether values of format 1, which have a checksum but no mark, are read.
    """

    secret: bytes = field(repr=False)
    legacy: bool = False

    def row(self, row: tuple[str | int | float | None, ...]) -> bytes:
        """The mark (16 bytes) of a row: a key, and what is kept of the entry's description apart from its value."""
        return self._mark("row", row)

    def table(self, kind: str, key: str, values: Mapping[str, object]) -> str:
        """The mark (32 hex digits) of a table of strings and numbers; ``kind`` keeps marks of one purpose from serving another."""
        return self._mark(kind, (key, sorted(values.items()))).hex()

    def _mark(self, kind: str, what: object) -> bytes:
        mark = self._keyed.copy()
        # repr tells strings, numbers and None apart, and where each ends.
        mark.update(f"{kind} {what!r}".encode("utf-8", "surrogatepass"))
        return mark.digest()

    @cached_property
    def _keyed(self) -> hashlib.blake2b:
        return hashlib.blake2b(digest_size=_BYTES, key=self.secret, person=_PERSON)
