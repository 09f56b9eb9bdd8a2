"""A plain statement -> questions about when, where, how many and by whom."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lloco_integrations.training.questions import english, verbs
from lloco_integrations.training.questions.clauses import Clause
from lloco_integrations.training.questions.draft import Asked
from lloco_integrations.training.questions.names import Names
from lloco_integrations.training.questions.wh import says_nothing

_ABOUT = r"(?:(?:about|nearly|almost|over|around|only|just|exactly|roughly|approximately|more than|less than|at least|up to|some) )?"
_DATED = re.compile(rf"\b(?P<preposition>in|on|since|until|by|from|during) (?P<date>{english.DATE})(?=$|[\s,;.])", re.IGNORECASE)
_COUNTED = re.compile(rf"{_ABOUT}(?P<number>{english.NUMBER}) (?P<what>(?:[a-z-]+ ){{0,3}}?[a-z-]+)\b")
_MEASURED = re.compile(
    rf"{_ABOUT}(?P<answer>{english.NUMBER} [a-z]+) (?P<how>long|tall|high|wide|deep|thick|old|across|in diameter|in length|in height)\b"
)
_HOW = {"across": "far across", "in diameter": "far across", "in length": "long", "in height": "high"}
_LASTED = re.compile(rf"(?<!\w)for (?P<answer>{english.NUMBER} (?P<unit>[a-z]+))\b")
_SHARE = re.compile(r"(?P<answer>\d[\d.]* ?(?:%|per cent|percent)|[a-z-]+ per ?cent) of (?P<whole>(?:the |its |all )?[a-z][a-z ]*)")
_BY = re.compile(r"\bby (?P<name>[A-Z][\w'’-]*(?: (?:[A-Z][\w'’-]*|and(?= [A-Z])))*)(?P<possessive>['’]s)?")
_AT = re.compile(r"(?:^|\s)(?P<at>in|at|near|from|on) (?P<place>(?:the )?[A-Z][\w'’-]*(?: (?:of )?[A-Z][\w'’-]*)*(?: [a-z]+)?)$")


def of_clause(clause: Clause, names: Names) -> Iterator[Asked]:
    """What the main clause says besides who does what."""
    inverted = clause.inverted()
    if inverted is None or not clause.whole or says_nothing(clause.subject.shown):
        return
    asks, base = inverted
    rest = clause.after_verb()
    if not rest and clause.word(clause.end) in ("and", "or"):
        return  # "designed and built a ..."
    yield from _when(clause, f"{asks} {base}", rest)
    yield from _how_many(clause, asks, base, rest)
    if clause.verb in english.AUXILIARIES:
        yield from _by_whom(names, asks, rest)
    if base != "have" and not english.is_number(clause.subject.shown.split()[0]):
        yield from _where(clause, names, f"{asks} {base}", rest)


def _when(clause: Clause, asks: str, rest: str) -> Iterator[Asked]:
    """By a date in the clause, or before it."""
    if lead := _DATED.fullmatch(clause.lead):
        if wh := _wh_of(lead):
            yield f"{wh} {asks} {rest}", lead["date"], 3.0
        return
    found = _DATED.search(rest)
    if found is None:
        return
    before, after = rest[: found.start()].strip(), rest[found.end() :].strip()
    between = before.split()[1:] if clause.verb in english.AUXILIARIES else before.split()
    # a date after another participle may be that one's: "a letter written in 1923"
    elsewhere = (
        any(_is_verbal(w) for w in between) or before.endswith(",") or re.match(r"(?:to|until|till) (?:the\b|\d|[A-Z])|(?:and|or)\b", after)
    )
    wh = _wh_of(found)
    if wh and not elsewhere and not re.search(english.DATE, after):
        yield f"{wh} {asks} {before} {after}", found["date"], 3.2


def _wh_of(found: re.Match[str]) -> str:
    preposition, kind = found["preposition"].lower(), english.kind_of_date(found["date"])
    if preposition in ("since", "until", "by", "from"):
        return "" if kind == "time" else f"{preposition.capitalize()} which {'year' if kind == 'year' else 'date'}"
    if preposition == "during":
        return "When"
    return {"year": "In which year", "day": "On which date", "time": "When"}[kind]


def _how_many(clause: Clause, asks: str, base: str, rest: str) -> Iterator[Asked]:
    """By a number right after the verb, or a while that it took."""
    if clause.verb in english.BE and (measured := _MEASURED.match(rest)):
        yield f"How {_HOW.get(measured['how'], measured['how'])} {asks} {rest[measured.end() :]}", measured["answer"], 3.2
    elif base and (shared := _SHARE.match(rest)):
        yield f"What percentage of {shared['whole']} {asks} {base}", shared["answer"], 3.2
    elif found := _COUNTED.match(rest):
        noun = _plural(found["what"])
        if noun is None or not base or re.fullmatch(r"(?:1[0-9]|20)\d\d", found["number"]):
            return
        answer = f"{found['number']} {noun}"
        after = rest[rest.index(answer) + len(answer) :]
        if re.match(rf"\s*(?:{'|'.join(english.AUXILIARIES)})\b", after):
            return
        after = "" if re.match(r"\W*(?:and|or)\b", after) else after
        wh = f"How many {noun}"
        if base in ("weigh", "cost"):
            wh = "How much"
        elif base in ("last", "take") and noun in english.UNITS_OF_TIME:
            wh = "How long"
        yield f"{wh} {asks} {base} {after}", answer, 3.2
    elif base and (lasted := _LASTED.search(rest)):
        before = rest[: lasted.start()]
        if lasted["unit"] in english.UNITS_OF_TIME and not any(map(_is_verbal, before.split())):
            yield f"For how long {asks} {base} {before} {rest[lasted.end() :]}", lasted["answer"], 2.9


def _plural(words: str) -> str | None:
    """The words up to the first plural noun."""
    out: list[str] = []
    for word in words.split():
        if word in english.PREPOSITIONS or word in english.BOUNDARY:
            return None
        out.append(word)
        if english.is_plural(word):
            return " ".join(out)
    return None


def _by_whom(names: Names, asks: str, rest: str) -> Iterator[Asked]:
    """Who did it, of a passive."""
    for found in _BY.finditer(rest):
        before = rest[: found.start()].split()
        own = before[2:] if before[:1] == ["been"] else before[1:]
        someone = names.kind(found["name"]) == "person" or found["name"].split()[-1].lower() in english.FIRMS
        if someone and not found["possessive"] and any(map(verbs.is_participle, before)) and not any(map(verbs.is_participle, own[1:])):
            yield f"By whom {asks} {rest[: found.start()]} {rest[found.end() :]}", found["name"], 3.2


def _where(clause: Clause, names: Names, asks: str, rest: str) -> Iterator[Asked]:
    """By the name of a place at the end of the clause."""
    found = _AT.search(rest)
    if not found:
        return
    place, before = found["place"], rest[: found.start()].strip()
    words = place.lower().split()
    strange = (place.split()[-1][0].islower() and words[-1] not in english.THINGS) or names.kind(place.removeprefix("the ")) == "person"
    between = before.split()[1:] if clause.verb in english.AUXILIARIES else before.split()
    farther = re.search(r"\b(?:in|at|near|on|from|to|into)(?: |$)", before) or any(map(_is_verbal, between))
    if strange or farther or english.MONTHS.intersection(words) or english.WEEKDAYS.intersection(words):
        return
    moves = re.search(r"\b(?:come|travel|arrive|bring|brought)\b", f"{asks} {before}")
    if found["at"] != "from" or moves:
        yield f"{'From where' if found['at'] == 'from' else 'Where'} {asks} {before}", place, 2.6 if len(before.split()) < 8 else 2.2


def _is_verbal(word: str) -> bool:
    return verbs.is_participle(word.strip(",")) or word.endswith("ing")
