"""A plain statement -> questions about who or what did it, what it is, and what it is called."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from lloco_integrations.training.questions import english, verbs
from lloco_integrations.training.questions.clauses import Clause
from lloco_integrations.training.questions.draft import Asked
from lloco_integrations.training.questions.names import Names

_LONG = 18
_PROPER = r"[A-Z][\w'’-]*(?: [A-Z][\w'’-]*)*"
_CALLED = re.compile(
    r"\b(?:a|an|the) (?P<what>(?:[a-z-]+ ){1,5}?)(?:known as|called|named|nicknamed) "
    rf"(?P<answer>(?:the )?{_PROPER})(?P<more> [a-z]+)?"
)
_APPOSED = re.compile(rf"(?P<name>{_PROPER}), (?P<role>the [a-z][^,;:()]*?)(?=[,.;]|$)")
_WITH_NAME = re.compile(rf"(?:a|an|the) (?P<what>(?:[a-z-]+ ){{1,4}}?)(?:called |named |known as )?(?P<name>{_PROPER})$")
_COUNTED = re.compile(rf"(?P<number>{english.NUMBER}) (?P<what>[a-z].*)")
_EXTREME = re.compile(r"\b(?:\w+est|most|only|first|last|main|present|current) ")
_COMPLEMENT = re.compile(
    r"(?:an?|the|one|not|that|to|whether|how|why|where|when|what|\w+ing of|"
    rf"(?:about |nearly |over |only |\w+ly |always )*(?:{english.NUMBER}|[A-Z]\w*))(?!\w)"
)
_ANOTHER = re.compile(r"\s?[;:()—]| – | and (?=(?:(?:[A-Z]\w+ )+(?:is|was|are|were|has|had|the|of|a|in)|none|nobody|nothing|all of) )")
_JOINED = re.compile(r", (?:and|but) (?:(?:then|also|still|now|never) )?(\w+)")
_SERIES = re.compile(
    r", (?!(?:and|but|or|so|who|which|whose|where|when|while|because|although|though|with|without|in|on|at|by|after|before|until|from|for|to|"
    r"as|if|unless|a|an|the|not|since|including|such) |\d{4})(?P<next>\w*)"
)
_PLAIN = (
    "cause result reason rule rest same other first second third last former latter following problem matter answer question example "
    "remainder whole purpose idea point way thing things fact case number series work list one ones most best time part book side end"
)
_PLAIN_WORDS = frozenset(_PLAIN.split())
_UNFINISHED = re.compile(
    r"\b(?:which|that|the|an?|of|but|and|or|with|to|for|from|not|as|than|whose?|is|are|was|were|between \w+)$", re.IGNORECASE
)
_SINGULAR = {"were": "was", "are": "is", "have": "has", "do": "does"}


def of_clause(clause: Clause, names: Names) -> Iterator[Asked]:
    """What the main clause says of its subject."""
    predicate = _predicate(clause)
    if predicate and clause.subject.answer:
        yield from _of_subject(clause, predicate)
    said = clause.after_verb()
    if clause.verb in ("is", "was") and clause.subject.adverb == clause.subject.verb and said and not is_vague(clause.subject.shown):
        yield from _copular(clause, said, names)
    called = re.match(r"(?:called|known as|named|nicknamed|known to everyone as) (?P<answer>(?:the |an? )?[\"“'‘]?[A-Z].*)", said)
    if called and clause.verb in english.BE:
        answer = re.split(r" (?:in|by|after|because|for|on|who|which|when|and|but|since)\b", called["answer"])[0]
        yield f"What {clause.verb} {clause.subject.shown} called", answer.strip("\"“”‘’'"), 3.2


def in_passing(text: str, names: Names) -> Iterator[Asked]:
    """Names of things and offices of persons, wherever in the sentence ``text``."""
    tense = "was" if re.search(r"\b(?:was|were|had|did)\b", text) else "is"
    for found in _CALLED.finditer(text):
        what, more = found["what"].split(), (found["more"] or "").strip()
        if len(what) >= 2 and not set(what) & english.FUNCTION_WORDS - {"of"}:
            goes_on = found["answer"].startswith("the ") and more and more not in english.FUNCTION_WORDS and verbs.form(more) is None
            yield f"What {tense} the name of the {' '.join(what)}", found["answer"] + (f" {more}" if goes_on else ""), 2.6
    for found in _APPOSED.finditer(text):
        role = found["role"].split()
        plain = not any(w in english.BOUNDARY or (verbs.form(w) and not verbs.is_participle(w)) for w in role[1:])
        another = any(a in english.ROLES and b[0].isupper() for a, b in pairwise(role))
        if names.kind(found["name"]) == "person" and " " in found["name"] and plain and not another and 2 <= len(role) <= 9:
            yield f"Who {tense} {found['role']}", found["name"], 2.8


def says_nothing(subject: str) -> bool:
    """Whether nobody could know what is meant: "the cause", "the last time"."""
    words = _nouns(subject)
    return len(words) <= 2 and (not words or words[-1] in _PLAIN_WORDS or words[0] in _PLAIN_WORDS)


def is_vague(subject: str) -> bool:
    """Whether it is no good answer: "the roof", "the early years"."""
    words = _nouns(subject)
    bare = len(words) == 1 and words[0][0].islower() and words[0] not in english.ROLES
    return bare or says_nothing(subject) or words[-1] in english.UNITS_OF_TIME or words[-1] in _PLAIN_WORDS


def _nouns(subject: str) -> list[str]:
    return [w for w in re.findall(r"[\w-]+", subject) if w.lower() not in ("the", "a", "an")]


def _of_subject(clause: Clause, predicate: str) -> Iterator[Asked]:
    subject = clause.subject
    if clause.lead and clause.lead.split()[-1] not in predicate:
        predicate = f"{predicate} {clause.lead}"
    counted = _COUNTED.match(subject.shown)
    if counted:
        nouns = re.match(r"(?:[a-z-]+ ){0,3}?[a-z-]+", counted["what"])
        if nouns and english.is_plural(nouns[0].split()[-1]) and " and " not in subject.shown:
            yield f"How many {counted['what']} {predicate}", f"{subject.answer[: counted.end('number')]} {nouns[0]}", 3.0
        return
    if subject.kind == "person":
        yield f"Who {predicate}", subject.answer, 3.0
    called = _WITH_NAME.match(subject.shown)
    what = called["what"].split() if called else [""]
    if called and not english.is_plural(what[-1]) and not verbs.is_participle(what[-1]) and not english.PREPOSITIONS.intersection(what):
        yield f"Which {called['what']}{predicate}", called["name"], 3.1
    elif subject.kind == "thing" and not re.match(r"(?:all|each|every|no|most|some|any)\b", subject.shown):
        disagrees = subject.plural and re.search(r"\b(?:are|were|have|do)\b", predicate.partition(" ")[2])
        told = clause.verb in english.BE and _EXTREME.search(subject.shown) and not verbs.is_participle(predicate.split()[1])
        poor = disagrees or told or len(predicate.split()) < 4 or re.search(r"\b(?:his|her)\b", predicate)
        if not poor and not is_vague(subject.shown) and len(subject.shown.split()) < 10:
            yield f"What {_singular(predicate)}", subject.answer, 2.1 if subject.plural else 2.3


def _predicate(clause: Clause) -> str:
    """Verb and what follows, cut where another statement begins, or at a comma where it gets long. Empty if that leaves no good one."""
    following = clause.text[clause.tokens[clause.subject.verb].end :].strip()
    if clause.verb in english.BE and _COMPLEMENT.match(following):
        return ""  # "Who was a bridge contractor?" is asked the other way round, too
    if clause.verb in english.BE and english.is_plural(clause.word(clause.subject.verb + 1)):
        return ""
    start = clause.subject.adverb
    whole = clause.between(start, clause.end) if clause.lead else clause.text[clause.tokens[start].start :]
    whole = _ANOTHER.split(whole)[0]
    for found in _JOINED.finditer(whole):
        if found[1] not in english.AUXILIARIES and not verbs.is_finite_form(found[1]):
            whole = whole[: found.start()]
            break
    if series := _SERIES.search(whole):
        last = re.search(r"\w+$", whole[: series.start()])
        if not verbs.is_finite_form(series["next"]) and not (last and english.is_plural(last[0])):
            return ""
        whole = whole[: series.start()]
    if len(whole.split()) > _LONG:
        cuts = [whole[: m.start()] for m in re.finditer(r",| (?=(?:and|but|because|although|while|so that) )", whole)]
        whole = max((c for c in cuts if len(c.split()) <= _LONG), key=len, default="")
    return whole if len(whole.split()) >= 3 and not _UNFINISHED.search(whole) else ""


def _singular(predicate: str) -> str:
    word, _, rest = predicate.partition(" ")
    return f"{_SINGULAR.get(word, word)} {rest}"


def _copular(clause: Clause, said: str, names: Names) -> Iterator[Asked]:
    """What is X? Who is the Y?"""
    shown, first = clause.subject.shown, said.split()[0]
    begins = f"{clause.verb} {shown}"
    definite, extreme = shown.startswith("the "), bool(_EXTREME.search(shown))
    if re.fullmatch(_PROPER, said):
        if definite and names.kind(said) == "person":
            yield f"Who {begins}", said, 3.3
        elif definite and extreme:
            yield f"What {begins}", said, 2.9
    elif re.match(r"(?:a|an|the|one) \S", said) and clause.whole:
        wh = "Who" if clause.subject.kind in ("person", "role") else "What"
        yield f"{wh} {begins}", said, 2.9 if extreme or clause.subject.kind != "thing" else 2.5
    elif extreme and definite and clause.subject.kind == "thing" and clause.whole:
        adjective = verbs.is_participle(first) or first in english.PREPOSITIONS | english.ADVERBS or first.endswith("ly")
        if not adjective:
            yield f"What {begins}", said, 2.5
