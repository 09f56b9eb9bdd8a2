"""A text as spans: sentences, lines of tables, lists and code, or stretches of words where there is neither.

Spans lie end to end: put together they are the text, whatever is in it. Sentences are found by ``sentencex`` (some 300 languages); it gives
character offsets, which are exact for any Unicode.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MOST_TOKENS = 96
"""A span with more is cut between words: it is no sentence, and too much to be shown for one match."""

_BLOCK = re.compile(r"\n[^\S\n]*\n\s*")
_LINE = re.compile(r"\n")
_ITEM = re.compile(r"\s*(?:[-*+•·]\s|\d{1,3}[.)]\s|[#|>]|\s{4}|\t|```)|.*(?:\t|\|.*\||\s{3,}\S)|.*[{};]\s*$")
_CLOSED = re.compile(r"""[.!?。！？:;,…]["'”’)\]]*\s*$""")
_SURROGATE = re.compile("[\ud800-\udfff]")
_WORD = re.compile(r"\s+|(?<=[^\x00-\u2fff])(?=[^\x00-\u2fff])")  # or between two letters of a script without blanks


@dataclass(frozen=True)
class Span:
    """A stretch of a text: characters ``start`` up to ``stop``, and the tokens of the text that end in it, ``first`` up to ``last``."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def n_tokens(self) -> int:
        return self.last - self.first


def split(text: str, ends: Sequence[int], most: int = MOST_TOKENS) -> list[Span]:
    """The spans of ``text``, in order, without a gap, each with at least one token and hardly more than ``most``.

    ``ends``: where each token of the text ends, in characters, as the tokenizer gives them; never falling.
    """
    spans: list[Span] = []
    start = first = 0
    for stop in _stops(text):
        last = bisect_right(ends, stop)
        if last - first > most:
            spans += _cut(text, start, stop, ends, most)
        elif last > first:
            spans.append(Span(start, stop, first, last))
        else:  # characters inside one token
            continue
        start, first = stop, last
    if spans and (start < len(text) or first < len(ends)):
        spans[-1] = Span(spans[-1].start, len(text), spans[-1].first, len(ends))
    return _without_blanks(text, spans)


def pieces(text: str, spans: Sequence[Span], ends: Sequence[int], most: int) -> tuple[list[Span], list[int]]:
    """``spans`` with those of more than ``most`` tokens cut between words, and which of ``spans`` each piece is of."""
    found: list[Span] = []
    owners: list[int] = []
    for i, span in enumerate(spans):
        parts = [span] if span.n_tokens <= most else list(_cut(text, span.start, span.stop, ends, most))
        found += parts
        owners += [i] * len(parts)
    return found, owners


def _stops(text: str) -> Iterator[int]:
    """Where each sentence or line ends, what follows it in blanks included."""
    import sentencex

    plain = _SURROGATE.sub("\ufffd", text)
    at = 0
    for found in (*_BLOCK.finditer(plain), None):
        stop = found.end() if found else len(plain)
        block = plain[at:stop]
        lines = [line.end() for line in _LINE.finditer(block)]
        if _by_lines(block):
            yield from (at + end for end in lines if end < len(block))
        else:
            yield from (at + s["end_index"] for s in sentencex.get_sentence_boundaries("en", block) if s["end_index"] < len(block))
        if stop > at:
            yield stop
        at = stop


def _by_lines(block: str) -> bool:
    """Whether ``block`` is a table, a list, code or verse: most of its lines look like items, or end in mid-air and are short."""
    lines = [line for line in block.split("\n") if line.strip()]
    if len(lines) < 2:
        return False
    items = sum(1 for line in lines if _ITEM.match(line))
    if items * 2 >= len(lines):
        return True
    short = sum(1 for line in lines if len(line) < 50 and not _CLOSED.search(line))
    return short * 3 >= len(lines) * 2


def _cut(text: str, start: int, stop: int, ends: Sequence[int], most: int) -> Iterator[Span]:
    """The stretch from ``start`` to ``stop`` in parts of like size, each of at most ``most`` tokens, cut between words where there are any."""
    first, last = bisect_right(ends, start), bisect_right(ends, stop)
    n_parts = -(-(last - first) // most)
    words = [start + found.end() for found in _WORD.finditer(text[start:stop])]
    begin, begun = start, first
    for part in range(1, n_parts):
        target = ends[first + (last - first) * part // n_parts - 1]
        word = words[bisect_right(words, target) - 1] if words and words[0] <= target else target
        if bisect_right(ends, word) - begun < (last - first) // n_parts // 2:  # one long word
            word = target
        at = bisect_right(ends, word)
        if at > begun and word < stop:
            yield Span(begin, word, begun, at)
            begin, begun = word, at
    yield Span(begin, stop, begun, last)


def _without_blanks(text: str, spans: Sequence[Span]) -> list[Span]:
    """``spans`` with those of nothing but blanks joined to the one before, or after."""
    joined: list[Span] = []
    for span in spans:
        if joined and (not text[span.start : span.stop].strip() or not text[joined[-1].start : joined[-1].stop].strip()):
            joined[-1] = Span(joined[-1].start, span.stop, joined[-1].first, span.last)
        else:
            joined.append(span)
    return joined
