"""What a document calls by name, and which of those are persons."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lloco_integrations.training.questions import english

_TOKEN = re.compile(r"\d(?:[\d,]*\d)?(?:\.\d+)?(?:st|nd|rd|th)?\b|['’]s\b|[^\W\d_]+(?:['’\-](?!s\b)[^\W\d_]+)*|\S")
_POSSESSIVE = ("'s", "’s")
_PARTICLES = ("de", "van", "von", "der", "den", "di", "du", "da", "la", "le", "el", "al", "bin")
_BEFORE_THINGS = ("the", "in", "at", "into", "near", "across", "on", "from", "a", "an", "called", "this")
_NO_NAMES = english.PRONOUNS | english.MONTHS | english.WEEKDAYS | {"the", "a", "an"}
_OF_PERSONS = frozenset(("he", "she", "his", "her", "him", "herself", "himself", "who", "whose"))


@dataclass(frozen=True)
class Token:
    """A word, a number, or a mark, and where it stands in its sentence."""

    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def lower(self) -> str:
        return self.text.lower()


def tokens_of(text: str) -> list[Token]:
    return [Token(m[0], m.start()) for m in _TOKEN.finditer(text)]


def is_name_word(token: Token) -> bool:
    """Whether it begins with a capital and may be part of a name."""
    return token.text[0].isupper() and token.lower not in _NO_NAMES


class Names:
    """Made from all sentences of one document, in order, and its title."""

    def __init__(self, sentences: Sequence[str], title: str = "") -> None:
        parsed = [tokens_of(s) for s in sentences]
        self._common = {t.text for tokens in parsed for t in tokens if t.text[0].islower()}
        self._inner = {t.text for tokens in parsed for t in tokens[1:] if is_name_word(t)}
        self._inner |= {t.text for t in tokens_of(title) if is_name_word(t) and t.lower not in self._common | english.FUNCTION_WORDS}
        self._persons: Counter[str] = Counter()
        self._things: Counter[str] = Counter()
        self._surnames: set[str] = set()
        for tokens, following in zip(parsed, [*parsed[1:], []], strict=True):
            self._weigh(tokens, following[0].lower if following else "")
        self._surnames = {n.split()[-1] for n in {*self._persons, *self._things} if " " in n and self.kind(n) == "person"}

    def end_of_name(self, tokens: Sequence[Token], at: int) -> int:
        """The token after the name that begins at ``at``; ``at`` itself if none does."""
        end = at
        while end < len(tokens):
            token, after = tokens[end], tokens[end + 1] if end + 1 < len(tokens) else None
            if is_name_word(token) and not (end == 0 and self._begins_plainly(tokens)):
                end += 1
            elif end > at and after is not None and is_name_word(after) and self._joins(token, tokens[end - 1]):
                end += 2
            else:
                break
        return end

    def spans(self, tokens: Sequence[Token]) -> list[tuple[int, int]]:
        """All names in a sentence, first token and the one after."""
        out, at = [], 0
        while at < len(tokens):
            end = self.end_of_name(tokens, at)
            if end > at:
                out.append((at, end))
            at = max(end, at + 1)
        return out

    def kind(self, name: str) -> str:
        """person, thing, or unknown."""
        words = name.split()
        for_, against = self._persons[name], self._things[name]
        if any(w.lower() in english.THINGS or not w[0].isalpha() or (w.isupper() and len(w) > 1) for w in words):
            return "thing"
        plain = 2 <= len(words) <= 4 and not any(w.lower() in self._common for w in words)
        if name in self._surnames or for_ > against or (plain and for_ == against):
            return "person"
        return "thing" if against > for_ else "unknown"

    def inside(self, phrase: str) -> str:
        """A phrase from the beginning of a sentence as it is written inside one."""
        word = re.match(r"[^\W\d_]+(?:-[^\W\d_]+)*", phrase)
        if word is None or (len(word[0]) > 1 and word[0].isupper()) or word[0] in self._inner:
            return phrase
        lower = word[0].lower()
        known = lower in self._common or lower in english.PRONOUNS or lower in ("a", "an", "the") or english.is_number(lower)
        return phrase[0].lower() + phrase[1:] if known or " " in phrase or english.is_plural(lower) else phrase

    def _begins_plainly(self, tokens: Sequence[Token]) -> bool:
        """Whether the first word of a sentence has its capital only for that."""
        first = tokens[0]
        if first.lower in english.FUNCTION_WORDS or first.lower in ("a", "an", "the"):
            return True
        if first.text in self._inner:
            return False
        return first.lower in self._common or english.is_number(first.lower) or not (len(tokens) > 1 and is_name_word(tokens[1]))

    @staticmethod
    def _joins(token: Token, before: Token) -> bool:
        return token.text in (*_POSSESSIVE, "&", *_PARTICLES) or (token.text == "of" and before.lower in english.THINGS)

    def _weigh(self, tokens: Sequence[Token], next_word: str) -> None:
        """Count what speaks for and against persons."""
        for start, end in self.spans(tokens):
            name = re.sub(r" (?=['’]s)", "", " ".join(t.text for t in tokens[start:end]))
            before = tokens[start - 1].lower if start else ""
            earlier = {t.lower for t in tokens[max(0, start - 3) : start]}
            after = [t.lower for t in tokens[end : end + 6]]
            follows = next((w for w in after if w != ","), "")
            person = (
                before in english.ROLES
                or (before == "," and bool(earlier & english.ROLES))
                or tokens[start].lower in english.TITLES
                or (after[:1] == [","] and bool(set(after) & english.ROLES))
                or follows in english.PERSONAL
                or bool(_OF_PERSONS.intersection(after[:4]))
                or (start == 0 and next_word in _OF_PERSONS)
            )
            self._persons[name] += person
            self._things[name] += before in _BEFORE_THINGS
