"""The sentences of a document and the passages they stand in: plain text, Markdown, or what a PDF or HTML page leaves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

FEWEST_WORDS, MOST_WORDS = 6, 45
PASSAGE_WORDS, PASSAGE_CHARACTERS = 300, 2400

_HEADING = re.compile(r"\s{0,3}#{1,6}\s+(.*?)\s*#*\s*$")
_UNDERLINE = re.compile(r"\s{0,3}(?:={3,}|-{3,}|\*{3,}|_{3,}|~{3,})\s*$")
_FENCE = re.compile(r"\s*(?:```|~~~)")
_TABLE = re.compile(r"\s*\||.*\S\s+\|\s+\S.*\s\|\s|.*\t.*\t")
_ITEM = re.compile(r"\s*(?:[-*+•–]|\d{1,3}[.)]|[a-z]\))\s+")
_QUOTED = re.compile(r"\s{0,3}>\s?")
_SKIPPED = re.compile(r"\s*(?:<[^>]*>\s*$|\.\. |!\[|\[[^\]]+\]:\s)")
_END = re.compile(r"[.!?…]+[\"'”’)\]»*_]*(?=\s|$)")
_NEXT = re.compile(r"[\s>]*[\"'“‘«(\[*_`]*(\S)")
_TITLES = re.compile(r"mrs?|ms|dr|prof|st|mt|capt|lt|sgt|rev|hon|sen|rep|gov|messrs|vs|cf|approx|viz|al|eds|[a-z](?:\.[a-z])*")
_BEFORE_NUMBERS = re.compile(r"nos?|figs?|eqs?|vols?|ch|sec|art|pp?|ca|gen|ed|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec")
_MARKUP = (
    (re.compile(r"!\[[^\]]*\]\([^)]*\)"), ""),
    (re.compile(r"\[([^\]]+)\](?:\([^)]*\)|\[[^\]]*\])"), r"\1"),
    (re.compile(r"\[\d+(?:[,–-]\s?\d+)*\]|\[\^[^\]]+\]"), ""),
    (re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<!\w)([*_])(?=\S)(.+?)(?<=\S)\1(?!\w)"), r"\2"),
    (re.compile(r"`([^`]*)`"), r"\1"),
    (re.compile(r"<[^<>]{1,80}>"), ""),
    (re.compile(r"\s+"), " "),
)
_CODE = re.compile(
    r"[{}<>=|\\~^@]|https?:|www\.|\w_\w|\.{3}|…|\w\(\)|[a-z]\.[A-Z]|[\w,)] (?:The|Our|We|Your?|This|These|If|When|Please) [a-z]"
)


@dataclass(frozen=True)
class Sentence:
    """``text`` on one line and without markup; ``start`` where it begins in the document; ``paragraph`` counts from 0."""

    text: str
    start: int
    paragraph: int

    @property
    def usable(self) -> bool:
        """Whether it states something: neither a fragment nor a question nor code."""
        words = self.text.split()
        letters = sum(c.isalpha() or c == " " for c in self.text)
        return (
            FEWEST_WORDS <= len(words) <= MOST_WORDS
            and bool(re.search(r"[.!]['\"”’)\]»]*$", self.text))
            and (self.text[0].isupper() or self.text[0].isdigit())
            and letters >= 0.75 * len(self.text)
            and sum(w.isupper() and len(w) > 1 for w in words) <= len(words) // 3
            and not _CODE.search(self.text)
        )


def heading(text: str) -> str:
    """The first heading, or an empty string."""
    found = (_HEADING.match(line) for line in text.splitlines())
    return next((m[1] for m in found if m), "")


def sentences(text: str) -> Iterator[Sentence]:
    """All sentences of ``text`` in order, usable or not; headings, tables, code and front matter are left out."""
    for paragraph, (start, end) in enumerate(_blocks(text)):
        block = text[start:end]
        at = 0
        for stop in _stops(block):
            raw = block[at:stop]
            clean = "" if re.search(r"\w-\r?\n", raw) else _clean(raw)
            if clean:
                yield Sentence(clean, start + at + len(raw) - len(raw.lstrip()), paragraph)
            at = stop


def passages(text: str, words: int = PASSAGE_WORDS, characters: int = PASSAGE_CHARACTERS) -> list[tuple[int, int]]:
    """``text`` as spans of up to about ``words`` words: whole paragraphs where they fit, else whole sentences."""
    spans: list[tuple[int, int]] = []
    begin = end = 0
    for stop in _joints(text, words, characters):
        piece = text[begin:stop]
        if end > begin and (len(piece) > characters or len(piece.split()) > words):
            spans.append((begin, end))
            begin = end
        end = stop
    return [*spans, (begin, len(text))] if text[begin:].strip() else spans


def _joints(text: str, words: int, characters: int) -> Iterator[int]:
    """Where ``text`` may be cut, so that no piece is too long."""
    at = 0
    for found in re.finditer(r"\n[^\S\n]*\n\s*|\Z", text):
        paragraph = text[at : found.end()]
        if len(paragraph.split()) > words or len(paragraph) > characters:
            begin = 0
            for stop in [*_stops(paragraph), len(paragraph)]:
                while stop - begin > characters:
                    begin = max(paragraph.rfind(" ", begin + 1, begin + characters) + 1, begin + characters // 2)
                    yield at + begin
                begin = stop
                yield at + stop
        at = found.end()
        yield at


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Spans of paragraphs and list items."""
    begin = end = at = 0
    lines = text.splitlines(keepends=True)
    fenced = False
    matter = _front_matter(lines)
    for number, line in enumerate(lines):
        start, at = at, at + len(line)
        if _FENCE.match(line):
            fenced = not fenced
        ends = not line.strip() or number < matter or fenced or any(p.match(line) for p in (_FENCE, _HEADING, _TABLE, _SKIPPED))
        item = None if ends else _ITEM.match(line)
        if _UNDERLINE.match(line):  # what stands above it is a heading, if it is one line
            if text.count("\n", begin, end) > 1:
                yield begin, end
            begin = end = at
        elif ends or item:
            if end > begin:
                yield begin, end
            begin = end = at
            if item:
                begin, end = start + item.end(), at
        else:
            if end <= begin:
                quoted = _QUOTED.match(line)
                begin = start + (quoted.end() if quoted else 0)
            end = at
    if end > begin:
        yield begin, end


def _front_matter(lines: list[str]) -> int:
    """How many lines at the start are YAML."""
    if not lines or lines[0].strip() != "---":
        return 0
    return next((i + 1 for i, line in enumerate(lines[1:60], 1) if line.strip() == "---"), 0)


def _stops(block: str) -> Iterator[int]:
    """Where the sentences of ``block`` end; the last one is its end."""
    for found in _END.finditer(block):
        word = re.search(r"\S*$", block[max(0, found.start() - 20) : found.start()])
        last = word[0].lstrip("(\"'“‘[*_").lower() if word else ""
        after = _NEXT.match(block, found.end())
        if after is None:
            break
        follows = after[1]
        if found[0][0] == "." and (_TITLES.fullmatch(last) or (_BEFORE_NUMBERS.fullmatch(last) and follows.isdigit())):
            continue
        if follows.isupper() or follows.isdigit():
            yield found.end()
    if block.strip():
        yield len(block)


def _clean(raw: str) -> str:
    text = re.sub(r"\n\s*>+[ \t]?", " ", raw)
    for pattern, put in _MARKUP:
        text = pattern.sub(put, text)
    return text.strip()
