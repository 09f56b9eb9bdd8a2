"""The grammar of placeholders: ``<|lloco:KEY|>``, ``<|lloco:KEY@RATIO|>``, and with a slice ``<|lloco:KEY@RATIO[FROM-TO]|>``, each with
``~WEIGHT`` before its end where it counts. Nothing else knows it.

KEY is the store's key: 26 characters of RFC 4648 base32 in lower case (128 bit). A placeholder is ASCII and has no blanks,
so no text splitter breaks it at a word boundary. Whoever holds one can read the entry: it is a capability. A slice names the windows of
the stored ratio from FROM (counted from 0) up to, not including, TO. WEIGHT is there only where texts of several groups stand side by
side: see ``show.groups``. ``<|lloco:KEY=|>`` (or ``=WEIGHT``) is a *vote*: it stands beside a text that is shown raw, takes no position,
and only tells the text's group and, as ``<|lloco:KEY=WEIGHT-OMITTED|>``, how many of its tokens are not shown at all.
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
_WHOLE = re.compile(
    rf"<\|lloco:(?P<key>{_KEY})(?:@(?P<ratio>[1-9][0-9]{{0,4}}))?(?:\[(?P<start>[0-9]{{1,8}})-(?P<stop>[0-9]{{1,8}})\])?"
    r"(?:~(?P<weight>[0-9]{1,4}))?\|>"
)
_VOTE = re.compile(rf"<\|lloco:(?P<key>{_KEY})=(?P<weight>[0-9]{{1,4}})?(?:-(?P<omitted>[0-9]{{1,9}}))?\|>")
_LOOKALIKE = re.compile(r"(?:<|&lt;)\|(?=\s*lloco\b)", re.IGNORECASE)  # or escaped by a template that makes HTML
_TAIL = re.compile(
    rf"(?<!< \|lloco):(?={_KEY}(?:@[0-9]{{1,5}})?(?:\[[0-9]{{1,8}}-[0-9]{{1,8}}\])?(?:~[0-9]{{1,4}}|=[0-9]{{0,4}}(?:-[0-9]{{1,9}})?)?\|>)"
)  # of one that was cut within its first letters


def _written(char: str) -> str:
    """A pattern for ``char`` in either case, or for what becomes it when JSON, HTML or an address is read."""
    ways = [re.escape(char)]
    for code in sorted({ord(char.lower()), ord(char.upper())}):
        ways += [rf"\\{{1,4}}(?:u00|x){code:02x}", rf"%{code:02x}", rf"&#(?:0{{0,6}}{code}|x0{{0,6}}{code:x});?"]
    return f"(?:{'|'.join(ways + _NAMES.get(char, []))})"


_NAMES = {"<": ["&lt;?"], ">": ["&gt;?"], "|": ["&vert;", "&verbar;", "&verticalline;"], ":": ["&colon;"]}
_LETTER = r"(?:[a-z2-7]|\\{1,4}(?:u00|x)[3-7][0-9a-f]|%[3-7][0-9a-f]|&#(?:0{0,6}[0-9]{2,3}|x0{0,6}[3-7][0-9a-f]);?)"
_NAME = "".join(map(_written, "lloco"))
_HOSTILE = re.compile(
    rf"(?P<open>{_written('<')})(?P<bar>{_written('|')})(?:(?=\s*{_NAME}(?!\w))|(?P<end>(?=\s*(?:l|ll|llo|lloc)?\Z)))"  # what follows may complete it
    rf"|(?<!<\|lloco)(?<!< \|lloco)(?P<tail>{_written(':')})(?={_LETTER}{{{KEY_LENGTH}}}[^\s|<>]{{0,60}}?{_written('|')}{_written('>')})",
    re.IGNORECASE,
)
_BEGUN = r"(?:\\{1,4}(?:u[0-9a-f]{0,4}|x[0-9a-f]{0,2})?|%[0-9a-f]{0,2}|&[#a-z0-9]{0,14};?)"
_MORE = r"[<|>:@~=,.\[\]a-z0-9\\%&#;-]*"
_OPEN_END = re.compile(rf"(?:(?:<|{_BEGUN})(?:(?:\||{_BEGUN})\s*{_MORE})?|(?::|{_BEGUN}){_MORE})\Z", re.IGNORECASE)
"""The end of a text that what follows may make a placeholder of."""


@dataclass(frozen=True)
class Placeholder:
    """What a placeholder, or a vote, says.

    Attributes:
        key: of the store's entry.
        ratio: the coarser ratio wanted, if any.
        weight: how much it counts when groups are weighed (0 to 9999).
        windows: the slice wanted: first window of the stored ratio, and the one after the last; None is all of it.
        omitted: of a vote: the source tokens that are not shown.
    """

    key: str
    ratio: int | None = None
    weight: int | None = None
    windows: tuple[int, int] | None = None
    omitted: int = 0

    def __str__(self) -> str:
        return make(self.key, self.ratio, self.weight, self.windows)


def make(key: str, ratio: int | None = None, weight: int | None = None, windows: tuple[int, int] | None = None) -> str:
    """The placeholder for ``key``. Raises PlaceholderError if it would not be read back as the same."""
    part = "" if windows is None else f"[{windows[0]}-{windows[1]}]"
    text = f"{_OPEN}{key}{'' if ratio is None else f'@{ratio}'}{part}{'' if weight is None else f'~{weight}'}|>"
    if not _WHOLE.fullmatch(text) or (windows is not None and windows[0] >= windows[1]):
        raise PlaceholderError(
            f"key {key!r} with ratio {ratio!r}, windows {windows!r} and weight {weight!r} makes no placeholder; keys come from "
            f"SummaryStore.put_many, windows count from 0 and their end is above their start"
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
        parts.append(_read(match))
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


def vote(key: str, weight: int | None = None, omitted: int = 0) -> str:
    """The vote for the group of the text stored under ``key``, of which ``omitted`` tokens are not shown. Raises PlaceholderError as
    ``make`` does."""
    ending = f"={'' if weight is None else weight}{f'-{omitted}' if omitted else ''}|>"
    return make(key).replace("|>", ending)


def split_votes(text: str) -> tuple[str, list[Placeholder]]:
    """``text`` without its votes, as the model reads it, and the votes."""
    votes = [
        Placeholder(m["key"], weight=int(m["weight"]) if m["weight"] else None, omitted=int(m["omitted"] or 0))
        for m in _VOTE.finditer(text)
    ]
    return _VOTE.sub("", text) if votes else text, votes


def omitted(text: str) -> int:
    """The source tokens that votes in ``text`` say are not shown."""
    return sum(vote.omitted for vote in split_votes(text)[1])


def unknown_key(place: str, key: str) -> str:
    """The message for a placeholder whose entry the store at ``place`` does not have."""
    return (
        f"the store {shown(place)} does not hold the placeholder key {key!r}; give the LLM and the postprocessor or retriever the same store=, "
        f"or compress the document again"
    )


def neutralise(text: str) -> str:
    """``text`` with everything that looks like a placeholder, whole or broken, made harmless (``<|lloco`` -> ``< |lloco``).

    So is what would look like one after JSON, HTML or an address was read (``\\u003c|lloco``, ``&lt;|lloco``, ``%3C|lloco``). Applied to all
    raw text that comes from documents, so that a document cannot name an entry of the store. Idempotent.
    """
    return _HOSTILE.sub(_broken, text)


def settled(text: str) -> str:
    """As much of an unfinished text as nothing that follows can make a placeholder of, neutralised: the beginning of what ``neutralise``
    makes of the whole."""
    found = _OPEN_END.search(text)
    end = len(text) if found is None else found.start()
    return _HOSTILE.sub(lambda m: m[0] if m["end"] is not None else _broken(m), text[:end])


def _broken(found: re.Match[str]) -> str:
    return f"{found['tail']} " if found["tail"] else f"{found['open']} {found['bar']}"


def _read(match: re.Match[str]) -> Placeholder:
    ratio, weight, start, stop = match["ratio"], match["weight"], match["start"], match["stop"]
    windows = (int(start), int(stop)) if start is not None else None
    if windows is not None and windows[0] >= windows[1]:
        raise PlaceholderError(f"the placeholder {match[0]!r} names no window: the end of a slice is above its start")
    return Placeholder(match["key"], int(ratio) if ratio else None, int(weight) if weight else None, windows)


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
