"""The main clause of a statement: its subject, its verb, and where it ends."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from lloco_integrations.training.questions import english, verbs
from lloco_integrations.training.questions.names import Names, Token, tokens_of
from lloco_integrations.training.questions.subjects import PUNCTUATION, Subject, find_subject

_LEAD = re.compile(rf"(?:In|On|By|Since|Until|During|From|At) (?:{english.DATE}),?\s")
_OPENING = ("that", "whether", "how", "why", "what", "than", "as", "if")


@dataclass(frozen=True)
class Clause:
    """``lead``: a date that stands before the subject, as in "in 1920"; ``end``: the first token after the clause; ``whole``: nothing
    that comes after belongs to it."""

    text: str
    tokens: tuple[Token, ...]
    lead: str
    subject: Subject
    end: int
    whole: bool

    @property
    def verb(self) -> str:
        return self.word(self.subject.verb)

    def word(self, i: int) -> str:
        return self.tokens[i].lower if i < len(self.tokens) else ""

    def between(self, begin: int, end: int) -> str:
        """The text of the tokens from ``begin`` to before ``end``."""
        return self.text[self.tokens[begin].start : self.tokens[end - 1].end] if begin < end else ""

    def after_verb(self) -> str:
        """What follows the verb, to the end of the clause."""
        return self.between(self.subject.verb + 1, self.end)

    def inverted(self) -> tuple[str, str] | None:
        """What begins a question ("did the roof"), and the verb to go on with ("roll", or nothing). None for a verb we do not know."""
        verb = self.verb
        shown = f"{self.subject.shown} {self.between(self.subject.adverb, self.subject.verb)}".strip()
        if verb in english.AUXILIARIES and (verb in english.BE or self._helps()):
            return f"{verb} {shown}", ""
        form = verbs.form(verb)
        if form is None or verb in ("do", "did", "does"):
            return None
        return f"{'did' if form.past else 'do' if self.subject.plural else 'does'} {shown}", form.base

    def _helps(self) -> bool:
        """Whether another verb follows, as in "has broken"."""
        after = self.subject.verb + 1
        while self.word(after) in english.ADVERBS or self.word(after).endswith("ly"):
            after += 1
        if self.verb in ("has", "had", "have"):
            return verbs.is_participle(self.word(after))
        return self.word(after) in verbs.BASES


def analyse(text: str, names: Names, he: str = "", it: str = "") -> Clause | None:
    """The main clause of the sentence ``text``; ``he`` and ``it`` are what those pronouns would mean at its beginning."""
    text = re.sub(r"[.!\s]+[\"'”’)\]]*$", "", text)
    tokens = tuple(tokens_of(text))
    lead = _LEAD.match(text)
    begin = sum(t.start < lead.end() for t in tokens) if lead else 0
    subject = find_subject(text, tokens, begin, names, he, it) if begin < len(tokens) else None
    if subject is None:
        return None
    end = _end(tokens, subject.verb + 1)
    said = lead[0].strip(" ,") if lead else ""
    whole = end >= len(tokens) or tokens[end].lower not in _OPENING
    return Clause(text, tokens, said[:1].lower() + said[1:], subject, end, whole)


def coordinated(clause: Clause) -> Clause | None:
    """What follows by "and" with the same subject: "... and weighs 610 kilograms"."""
    at = clause.end + (clause.word(clause.end) == "," and clause.word(clause.end + 1) == "and")
    adverb = verb = at + 1
    while clause.word(verb) in english.ADVERBS:
        verb += 1
    form = verbs.form(clause.word(verb))
    finite = clause.word(verb) in english.AUXILIARIES or (form is not None and (form.past or form.present))
    shares = clause.verb in english.AUXILIARIES and form is not None and form.participle  # "was cast and polished"
    if clause.word(at) != "and" or not finite or shares:
        return None
    end = _end(clause.tokens, verb + 1)
    whole = end >= len(clause.tokens) or clause.tokens[end].lower not in _OPENING
    return replace(clause, subject=replace(clause.subject, adverb=adverb, verb=verb), lead="", end=end, whole=whole)


def _end(tokens: tuple[Token, ...], at: int) -> int:
    """The first token after the clause that has its verb before ``at``."""
    for i in range(at, len(tokens)):
        word, before = tokens[i].lower, tokens[i - 1].lower
        after = tokens[i + 1] if i + 1 < len(tokens) else None
        if after is not None and after.text[0].isdigit() and ((word == "," and before.isdigit()) or word in ("since", "until")):
            continue  # May 3, 1952; since 1930
        if word in ("-", "/") or (
            word in ("than", "as") and before in ("more", "less", "fewer", "other", "rather", "such", "known", "well")
        ):
            continue
        if word in ("and", "or") and after is not None:
            follows = tokens[i + 2].lower if after.lower in english.ADVERBS and i + 2 < len(tokens) else after.lower
            if follows in english.AUXILIARIES | english.PRONOUNS | verbs.BASES or verbs.is_finite_form(follows):
                return i
        elif word in PUNCTUATION or word in english.BOUNDARY:
            return i
    return len(tokens)
