"""Statements with a word or two left out, for what no wh-question can be made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from lloco_integrations.training.questions import english, verbs
from lloco_integrations.training.questions.draft import BLANK, Asked
from lloco_integrations.training.questions.names import Names, Token, tokens_of

_DATE = re.compile(rf"\b(?:{english.DATE})(?=$|[\s,;.)])")
_COUNTED = re.compile(rf"(?<![\w.,-])(?P<number>{english.NUMBER}) (?P<what>(?:[a-z-]+ ){{0,2}}?[a-z-]+)\b")
_NUMBER = re.compile(rf"(?<![\w.,-])(?<!past )(?:{english.NUMBER})(?![\w-]|[.,]\d)")
_TIED = ("-", "–", "/", "%", "$", "€", "£", "'", "’")
_QUOTED = re.compile(r"[“\"](?P<answer>[^“”\"]{3,80})[”\"]")


def blanks(text: str, names: Names, counts: Mapping[str, int]) -> Iterator[Asked]:
    """Ways to leave something out of the sentence ``text``; ``counts`` says how often the document has a word."""
    taken: list[tuple[int, int]] = []
    for start, end, score in _spans(text, names, counts):
        if any(start < b and a < end for a, b in taken) or text[start - 1 : start] in _TIED or text[end : end + 1] in _TIED:
            continue
        taken.append((start, end))
        answer = text[start:end]
        if len(re.findall(rf"(?<!\w){re.escape(answer)}(?!\w)", text)) == 1:
            frame = f"{text[:start]}{BLANK}{text[end:]}".replace('"', "'")
            yield f'Fill in the blank: "{frame}"', answer, score


def _spans(text: str, names: Names, counts: Mapping[str, int]) -> Iterator[tuple[int, int, float]]:
    for found in _QUOTED.finditer(text):
        yield found.start("answer"), found.end("answer"), 1.2
    for found in _DATE.finditer(text):
        yield found.start(), found.end(), 1.5
    for found in _COUNTED.finditer(text):
        words = found["what"].split()
        n = next((i for i, w in enumerate(words, 1) if english.is_plural(w)), 0)
        if n and not set(words[:n]) & (english.PREPOSITIONS | english.BOUNDARY):
            yield found.start(), found.start("what") + len(" ".join(words[:n])), 1.5
    for found in _NUMBER.finditer(text):
        yield found.start(), found.end(), 1.1
    tokens = tokens_of(text)
    for start, end in names.spans(tokens):
        possessive = end < len(tokens) and tokens[end].text in ("'s", "’s")
        if not possessive and not tokens[start].text.isupper():
            yield tokens[start].start, tokens[end - 1].end, 1.3 if start else 1.0
    rare = [t for t in map(_noun, tokens, tokens[1:], [*tokens[2:], None]) if t is not None and counts.get(t.text) == 1]
    for token in sorted(rare, key=lambda t: (-len(t.text), t.start))[:2]:
        yield token.start, token.end, 0.5


def _noun(before: Token, token: Token, after: Token | None) -> Token | None:
    """``token``, if it looks like the last word of a noun phrase: by its own form and by its neighbours."""
    word = token.text
    other = word in english.FUNCTION_WORDS or word.endswith(("ly", "ing", "ed")) or verbs.form(word) is not None or len(word) < 5
    begins = before.lower in english.PREPOSITIONS - {"to"} or before.lower in ("a", "an", "the", "and", "or")
    ends = after is None or after.lower in english.FUNCTION_WORDS or not after.text[0].isalnum()
    return token if word.islower() and begins and ends and not other else None
