"""Who or what a statement is about, and where its verb stands, as far as that can be told without a parser."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lloco_integrations.training.questions import english, verbs
from lloco_integrations.training.questions.names import Names, Token, is_name_word

HE, IT = ("he", "she"), ("it",)
PUNCTUATION = ',;:()—–-"“”[]/'
CALLED = ("called", "named", "nicknamed")
_ARTICLES = ("a", "an", "the")
_OWNERS = ("his", "her", "their", "its", "our")
_NEVER_INSIDE = ("to", "neither", "either", "they", "he", "she", "it", "we", "you", "i")
_AFTER_PRESENT = (
    english.PREPOSITIONS
    | english.ADVERBS
    | frozenset(("a", "an", "the", "its", "his", "her", "their", "this", "these", "no", "all", "both", "each", "every", "only", "more"))
)
_NEVER_CAPITAL = ("the", "a", "an", "our", "your", "this", "these", "we", "you", "please")
_NO_START = ("no", "please", "see", "note", "click", "let")
_ADVERBIAL = ("ally", "ately", "ently", "antly", "ously", "edly", "ively")
_NEEDS_OBJECT = frozenset(
    ("find", "report", "observe", "describe", "make", "build", "publish", "identify", "detect", "use", "base", "give", "see")
)
_MOST_TOKENS = 12


@dataclass(frozen=True)
class Subject:
    """``shown`` as it stands inside a question, ``answer`` as it stands in the text (empty for a pronoun that was resolved).

    ``kind``: person, thing, role (a person without a name), or unknown. ``verb`` is the token of the verb, ``adverb`` that of its first
    adverb, else the same.
    """

    shown: str
    answer: str
    kind: str
    plural: bool
    adverb: int
    verb: int


def find_subject(text: str, tokens: Sequence[Token], begin: int, names: Names, he: str, it: str) -> Subject | None:
    """The subject that begins at a token; None where it is not plain. ``he`` and ``it`` are what those pronouns mean there."""
    first = tokens[begin].lower
    if meant := he if first in HE else it if first in IT else "":
        verb = _verb(tokens, begin + 1)
        return None if verb is None else Subject(meant, "", "person" if first in HE else "thing", False, begin + 1, verb)
    end = names.end_of_name(tokens, begin)
    if any(t.text[0].isupper() and t.lower in _NEVER_CAPITAL for t in tokens[begin + 1 : end + 6]):
        return None  # a heading that has run into the sentence
    if end == begin:
        return _noun_phrase(text, tokens, begin, names)
    name = _between(text, tokens, begin, end)
    after = _after_apposition(tokens, end)
    verb = _verb(tokens, after)
    return None if verb is None else Subject(name, name, names.kind(name), False, after, verb)


def _noun_phrase(text: str, tokens: Sequence[Token], begin: int, names: Names) -> Subject | None:
    first = tokens[begin].lower
    owned = first in _OWNERS
    if not owned and (first in english.FUNCTION_WORDS or first in _NO_START or first.endswith(("ing", "ly")) or not first[0].isalnum()):
        return None
    skipped = begin + (owned or first in _ARTICLES)
    for i in range(begin + 1, min(len(tokens), begin + _MOST_TOKENS)):
        word = tokens[i].lower
        if word == ",":
            return _named(text, tokens, begin, i, names)
        if word in PUNCTUATION or word in _NEVER_INSIDE or (word in english.BOUNDARY and word not in ("and", "or")):
            return None
        if i <= skipped or is_name_word(tokens[i]):
            continue
        form = verbs.form(tokens[i].text)
        if word in CALLED and (end := names.end_of_name(tokens, i + 1)) > i + 1:
            skipped = end - 1
        elif _is_finite(tokens, i):
            return None if owned or _only_describes(tokens, i) else _phrase(text, tokens, begin, i, names)
        elif word in verbs.BASES and any(english.is_plural(t.lower) for t in tokens[begin:i]):
            return None  # "the drawings include ...": the verb, most likely
        elif form and form.present and not (i + 1 < len(tokens) and _is_finite(tokens, i + 1)):
            return None  # "the firm takes reasonable steps to ...": the verb, perhaps
    return None


def _phrase(text: str, tokens: Sequence[Token], begin: int, verb: int, names: Names) -> Subject | None:
    end = verb
    while end > begin + 1 and (tokens[end - 1].lower in english.ADVERBS or tokens[end - 1].lower.endswith(_ADVERBIAL)):
        end -= 1
    first = verbs.form(tokens[begin].lower)
    if tokens[end - 1].lower in english.BOUNDARY or (first is not None and first.past):
        return None
    phrase, head = _between(text, tokens, begin, end), _head(tokens, begin, end)
    plural = english.is_plural(head) or any(t.lower == "and" for t in tokens[begin:end])
    kind = "role" if {head, head.rstrip("s")} & english.ROLES else "thing"
    if is_name_word(tokens[end - 1]) and any(t.lower in english.ROLES for t in tokens[begin : end - 1]) and not plural:
        kind = "person"
    return Subject(names.inside(phrase), phrase, kind, plural, end, verb)


def _named(text: str, tokens: Sequence[Token], begin: int, comma: int, names: Names) -> Subject | None:
    """His widow, Honoria Stallworth, spent ..."""
    end = names.end_of_name(tokens, comma + 1)
    if end == comma + 1 or end >= len(tokens) or tokens[end].text != ",":
        return None
    verb = _verb(tokens, end + 1)
    if verb is None or any(t.lower in english.AUXILIARIES for t in tokens[begin:comma]):
        return None
    name = _between(text, tokens, comma + 1, end)
    return Subject(name, name, "person" if _head(tokens, begin, comma) in english.ROLES else names.kind(name), False, end + 1, verb)


def _after_apposition(tokens: Sequence[Token], at: int) -> int:
    """Past ", the head night assistant," if that is what follows."""
    if at < len(tokens) and tokens[at].text == ",":
        for i in range(at + 2, min(len(tokens), at + 16)):
            if tokens[i].text == "," and _verb(tokens, i + 1) is not None:
                return i + 1
            if tokens[i].text in ";:(":
                break
    return at


def _verb(tokens: Sequence[Token], at: int) -> int | None:
    """The finite verb at ``at``, or after an adverb or two."""
    while at < len(tokens) and (tokens[at].lower in english.ADVERBS or re.fullmatch(r"[a-z]+[^p]ly", tokens[at].text)):
        at += 1
    return at if at < len(tokens) and _is_finite(tokens, at, unknown=True) else None


def _is_finite(tokens: Sequence[Token], at: int, unknown: bool = False) -> bool:
    """Whether it may be the verb of the clause; with ``unknown`` by its look alone."""
    word = tokens[at].text
    if word in english.AUXILIARIES:
        return True
    form = verbs.form(word)
    if form is not None and form.past:
        return True
    after = tokens[at + 1] if at + 1 < len(tokens) else None
    fits = after is None or english.is_number(after.lower) or after.lower in _AFTER_PRESENT
    if form is not None:
        return form.present and (fits or (after is not None and after.text[0].isupper()))
    return unknown and (verbs.is_participle(word) or (re.fullmatch(r"[a-z]{3,}[^s]s", word) is not None and fits))


def _only_describes(tokens: Sequence[Token], verb: int) -> bool:
    """Whether it may be a participle that belongs to the subject: "the weight dropped by the mule was found"."""
    form = verbs.form(tokens[verb].lower)
    if tokens[verb].lower in english.AUXILIARIES or form is None:
        return False
    follows = tokens[verb + 1].lower if verb + 1 < len(tokens) else ""
    if form.participle and (follows == "by" or (form.base in _NEEDS_OBJECT and follows in english.PREPOSITIONS)):
        return True
    for token in tokens[verb + 1 :]:
        if token.lower in PUNCTUATION or token.lower in english.BOUNDARY:
            return False
        later = verbs.form(token.text) if form.participle else None
        if token.lower in english.AUXILIARIES or (
            later is not None and later.past and not (later.participle and follows not in english.PREPOSITIONS)
        ):
            return True
    return False


def _head(tokens: Sequence[Token], begin: int, end: int) -> str:
    """The noun that a noun phrase is about: the last word before a preposition or participle."""
    at = begin + 1
    while at < end and tokens[at].lower not in english.PREPOSITIONS and not verbs.is_participle(tokens[at].lower):
        at += 1
    return tokens[at - 1].lower


def _between(text: str, tokens: Sequence[Token], begin: int, end: int) -> str:
    return text[tokens[begin].start : tokens[end - 1].end]
