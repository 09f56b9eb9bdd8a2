"""The forms in which a text can stand in a prompt: raw, or as a summary of some ratio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lloco_integrations import placeholder
from lloco_integrations.store.info import EntryInfo


@dataclass(frozen=True)
class Compressed:
    """What stands for a text in a prompt.

    ``content`` is a placeholder, or the neutralised text where there is no summary (then ``key`` is None). ``n_positions`` is
    what it costs in the prompt at the ratio asked for, ``n_tokens`` what the text costs.
    """

    content: str
    key: str | None
    n_positions: int
    n_tokens: int


@dataclass(frozen=True)
class Entry:
    """A text, its key, and what the store knows about it (None: nothing)."""

    text: str
    key: str
    info: EntryInfo | None


def as_text(entry: Entry, weight: int | None, text_ids: Callable[[str], list[int]]) -> Compressed:
    """The neutralised text, with a vote beside it if its group is known."""
    plain = placeholder.neutralise(entry.text)
    info = entry.info
    n = info.n_tokens if info and plain == entry.text else len(text_ids(plain)) if plain.strip() else 0
    vote = placeholder.vote(entry.key, weight) if info is not None and info.group is not None else ""
    return Compressed(plain + vote, None, n, n)


def as_summary(entry: Entry, ratio: int | None, weight: int | None) -> Compressed:
    """The placeholder at ``ratio``; None is the ratio that is stored. The store must know the text."""
    info = entry.info
    assert info is not None
    n_positions = -(-info.n_tokens // ratio) if ratio and info.window else info.n_vectors
    shown = ratio if ratio != info.window else None
    return Compressed(placeholder.make(entry.key, shown, weight), entry.key, n_positions, info.n_tokens)
