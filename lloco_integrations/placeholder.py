"""The grammar of placeholders: ``<|lloco:KEY|>`` or ``<|lloco:KEY@RATIO|>``, either with ``~WEIGHT`` before its end. Nothing else knows it.

KEY is the store's key: 26 characters of RFC 4648 base32 in lower case (128 bit). A placeholder is ASCII and has no blanks,
so no text splitter breaks it at a word boundary. Whoever holds one can read the entry: it is a capability. WEIGHT is there only where
texts of several groups stand side by side: see ``voting``. ``<|lloco:KEY=|>`` (or ``=WEIGHT``) is a *vote*: it stands beside a text that
is shown raw, takes no position, and only tells the text's group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lloco_integrations.errors import PlaceholderError
from lloco_integrations.secret import shown

KEY_LENGTH = 26
_KEY = rf"[a-z2-7]{{{KEY_LENGTH}}}"
_OPEN = "<|lloco:"
_WHOLE = re.compile(rf"<\|lloco:(?P<key>{_KEY})(?:@(?P<ratio>[1-9][0-9]{{0,4}}))?(?:~(?P<weight>[0-9]{{1,4}}))?\|>")
_VOTE = re.compile(rf"<\|lloco:(?P<key>{_KEY})=(?P<weight>[0-9]{{1,4}})?\|>")
_LOOKALIKE = re.compile(r"(?:<|&lt;)\|(?=\s*lloco\b)", re.IGNORECASE)  # or escaped by a template that makes HTML
_TAIL = re.compile(
    rf"(?<!< \|lloco):(?={_KEY}(?:@[0-9]{{1,5}})?(?:~[0-9]{{1,4}}|=[0-9]{{0,4}})?\|>)"
)  # of one that was cut within its first letters
_HOSTILE = re.compile(rf"{_LOOKALIKE.pattern}|<\|(?=\s*(?:l|ll|llo|lloc)?\Z)", re.IGNORECASE)  # the text that follows may complete it


@dataclass(frozen=True)
class Placeholder:
    """A key of the store, the coarser ratio wanted, if any, and how much it counts when groups are weighed (0 to 9999)."""

    key: str
    ratio: int | None = None
    weight: int | None = None

    def __str__(self) -> str:
        return make(self.key, self.ratio, self.weight)


def make(key: str, ratio: int | None = None, weight: int | None = None) -> str:
    """The placeholder for ``key``. Raises PlaceholderError if it would not be read back as the same."""
    text = f"{_OPEN}{key}{'' if ratio is None else f'@{ratio}'}{'' if weight is None else f'~{weight}'}|>"
    if not _WHOLE.fullmatch(text):
        raise PlaceholderError(
            f"key {key!r} with ratio {ratio!r} and weight {weight!r} makes no placeholder; keys come from SummaryStore.put_many"
        )
    return text


def split(text: str) -> list[str | Placeholder]:
    """``text`` as its pieces in order: strings (never empty) and placeholders.

    Raises PlaceholderError on a broken fragment, such as a placeholder cut in two by a text splitter.
    """
    parts: list[str | Placeholder] = []
    at = 0
    for match in _WHOLE.finditer(text):
        if match.start() > at:
            parts.append(_checked(text[at : match.start()]))
        ratio, weight = match["ratio"], match["weight"]
        parts.append(Placeholder(match["key"], int(ratio) if ratio else None, int(weight) if weight else None))
        at = match.end()
    if at < len(text):
        parts.append(_checked(text[at:]))
    return parts


def find(text: str) -> Iterator[Placeholder]:
    """All whole placeholders in ``text``, in order."""
    return (part for part in split(text) if isinstance(part, Placeholder))


def count(text: str) -> int:
    """How many whole placeholders ``text`` holds."""
    return sum(1 for _ in _WHOLE.finditer(text))


def vote(key: str, weight: int | None = None) -> str:
    """The vote for the group of the text stored under ``key``. Raises PlaceholderError as ``make`` does."""
    made = make(key, None, weight)
    return made.replace("~", "=") if weight is not None else made.replace("|>", "=|>")


def split_votes(text: str) -> tuple[str, list[Placeholder]]:
    """``text`` without its votes, as the model reads it, and the votes."""
    votes = [Placeholder(m["key"], weight=int(m["weight"]) if m["weight"] else None) for m in _VOTE.finditer(text)]
    return _VOTE.sub("", text) if votes else text, votes


def unknown_key(place: str, key: str) -> str:
    """The message for a placeholder whose entry the store at ``place`` does not have."""
    return (
        f"the store {shown(place)} does not hold the placeholder key {key!r}; give the LLM and the postprocessor or retriever the same store=, "
        f"or compress the document again"
    )


def neutralise(text: str) -> str:
    """``text`` with everything that looks like a placeholder, whole or broken, made harmless (``<|lloco`` -> ``< |lloco``).

    Applied to all raw text that comes from documents, so that a document cannot name an entry of the store. Idempotent.
    """
    return _TAIL.sub(": ", _HOSTILE.sub(lambda found: f"{found[0][:-1]} |", text))


def settled(text: str) -> str:
    """As much of an unfinished text as nothing that follows can make a placeholder of, neutralised."""
    at = text.rfind("<")
    tail = text[at:]
    if at < 0 or (tail != "<" and neutralise(tail) == tail):
        return neutralise(text)
    return neutralise(text[: at + 1])[:-1]


def _checked(piece: str) -> str:
    match = _LOOKALIKE.search(piece) or _TAIL.search(piece)
    if match:
        fragment = piece[match.start() : match.start() + 48]
        raise PlaceholderError(
            f"the prompt holds a broken placeholder: {fragment!r}. A text splitter or prompt helper cut it: use LLoCOPromptHelper or fewer "
            f"nodes; or a template escaped it as HTML: use one that does not (mustache: three braces); if the text came from a document or "
            f"a user, pass it through placeholder.neutralise"
        )
    return piece
