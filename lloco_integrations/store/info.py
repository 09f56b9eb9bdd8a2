"""What a store tells about its entries without decoding them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lloco_integrations.errors import IncompatibleSummary


@dataclass(frozen=True)
class EntryInfo:
    """One entry, without its vectors.

    Attributes:
        n_vectors: prompt positions that the entry takes at its stored ratio.
        n_tokens: source tokens that were compressed.
        hidden_size: width of a vector.
        fingerprint: of the compressor that made it.
        window: source tokens averaged into each vector, None where vectors cannot be merged.
        group: adapter group of the text, if any.
        nbytes: size of the stored value.
        created: unix seconds.
    """

    n_vectors: int
    n_tokens: int
    hidden_size: int
    fingerprint: str
    window: int | None
    group: str | None
    nbytes: int
    created: float

    def tokens(self, windows: tuple[int, int] | None = None) -> int:
        """Source tokens of the slice ``windows``, or of all. Raises IncompatibleSummary as SummaryEmbeddings.slice does."""
        if windows is None:
            return self.n_tokens
        start, stop = windows
        if self.window is None:
            raise IncompatibleSummary(
                "a placeholder asks for a part of a summary that has a fixed ratio, and no part of it stands for a part of the text; "
                "use it whole, or an elastic compressor (kind mean_pool)"
            )
        if not 0 <= start < stop <= self.n_vectors:
            raise IncompatibleSummary(
                f"windows {start} to {stop} are not in a summary of {self.n_vectors} windows; compress the text again"
            )
        return min(self.n_tokens, stop * self.window) - start * self.window

    def positions(self, ratio: int | None = None, windows: tuple[int, int] | None = None) -> int:
        """Prompt positions of the slice ``windows``, or of all, at ``ratio`` source tokens a vector; None is the stored ratio."""
        if ratio and self.window:
            return -(-self.tokens(windows) // ratio)
        return self.n_vectors if windows is None else -(-self.tokens(windows) // (self.window or 1))


@dataclass(frozen=True)
class Damage:
    """An entry that must be made again. ``group``: the one that it was in, if its description is sound and names one."""

    group: str | None = None


@dataclass(frozen=True)
class Totals:
    """Sums over entries."""

    entries: int = 0
    vectors: int = 0
    source_tokens: int = 0
    nbytes: int = 0

    def add(self, info: EntryInfo) -> Totals:
        """These totals with one more entry."""
        return Totals(
            self.entries + 1,
            self.vectors + info.n_vectors,
            self.source_tokens + info.n_tokens,
            self.nbytes + info.nbytes,
        )


@dataclass(frozen=True)
class StoreStats(Totals):
    """Totals of a store.

    Attributes:
        by_fingerprint: the same totals per compressor fingerprint.
        unreadable: entries whose header is damaged; they count in no total.
    """

    by_fingerprint: Mapping[str, Totals] = field(default_factory=dict)
    unreadable: int = 0

    @property
    def ratio(self) -> float:
        """Source tokens per vector over the whole store; 0 for an empty one."""
        return self.source_tokens / self.vectors if self.vectors else 0.0
