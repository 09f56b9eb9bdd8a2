"""Questions about a document by rules alone: no model, no network. Made for English; of other languages mostly blanks to fill in come out."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from lloco_integrations.training.questions import details, wh
from lloco_integrations.training.questions.clauses import Clause, analyse, coordinated
from lloco_integrations.training.questions.cloze import blanks
from lloco_integrations.training.questions.draft import Draft, folded, is_sound
from lloco_integrations.training.questions.names import Names, tokens_of
from lloco_integrations.training.questions.sentences import Sentence, sentences
from lloco_integrations.training.questions.subjects import HE, IT

_DANGLING = re.compile(
    r"\b(?:(?:of|in|for|to|with|at|on|by|from|kept|until|since|after|before|this) that|it|they|them|he|she|him|this|these|those|here|former|"
    r"latter|then|there|another|other|her(?= (?:and|in|at|to|on|for|by|when|with|as)\b|[?,]))\b",
    re.IGNORECASE,
)
_OWN = re.compile(r"\b(?:his|her|their|its)\b")
_VAGUE_FRAME = re.compile(
    r'Fill in the blank: "(?:(?:\S+ ){0,3}(?:it|he|she|they)|(?:\S+ )?(?:this|these|that|those|there|its|his|her|their))\b', re.IGNORECASE
)
_FEWEST_WORDS, _MOST_WORDS = 4, 28
_BEST_CLOZE = 1.9
"""Below every question with a wh-word."""


def local_drafts(text: str, title: str, n: int, rng: random.Random) -> list[Draft]:
    """Up to ``n`` questions spread over ``text``, in its order; a sentence gives two at most."""
    found = list(sentences(text))
    names = Names([s.text for s in found], title)
    counts = Counter(t.text for s in found for t in tokens_of(s.text))
    by_sentence: list[list[Draft]] = []
    answers: dict[str, set[str]] = {}
    for sentence, (he, it) in zip(found, _antecedents(found, names, title), strict=True):
        if sentence.usable:
            drafts = [d for d in _drafts(sentence, names, counts, he, it) if is_sound(d, text)]
            for draft in drafts:
                answers.setdefault(folded(draft.question), set()).add(folded(draft.answer))
            by_sentence.append([_scored(d, counts, rng) for d in drafts])
    return choose([[d for d in drafts if len(answers[folded(d.question)]) == 1] for drafts in by_sentence], n)


def choose(by_sentence: Sequence[Sequence[Draft]], n: int) -> list[Draft]:
    """``n`` of the drafts, in order: questions with a wh-word before blanks, a new sentence before a second one of the same."""
    ranked = [sorted(drafts, key=lambda d: -d.score) for drafts in by_sentence]
    chosen: dict[str, Draft] = {}
    for phase in range(3):
        pool = []
        for drafts in ranked:
            mine = [d for d in drafts if folded(d.question) in chosen]
            told = {folded(d.answer) for d in mine}
            rest = [d for d in drafts if folded(d.question) not in chosen and folded(d.answer) not in told]
            rest.sort(key=lambda d: any(answer in folded(d.question) for answer in told))  # another fact rather than the same backwards
            if phase == 0 or (phase == 1 and mine):
                rest = [d for d in rest if not d.is_cloze]
            if len(mine) < 2:
                pool += rest[:1]
        unique = {folded(d.question): d for d in pool}
        chosen |= {folded(d.question): d for d in spread(list(unique.values()), n - len(chosen))}
    return sorted(chosen.values(), key=lambda d: d.start)


def spread(drafts: Sequence[Draft], n: int) -> list[Draft]:
    """The best of each of ``n`` groups of neighbours."""
    if n >= len(drafts):
        return list(drafts)
    ordered = sorted(drafts, key=lambda d: d.start)
    cuts = [len(ordered) * i // n for i in range(n + 1)] if n > 0 else []
    return [max(ordered[a:b], key=lambda d: d.score) for a, b in pairwise(cuts)]


def _drafts(sentence: Sentence, names: Names, counts: Counter[str], he: str, it: str) -> list[Draft]:
    asked = list(wh.in_passing(sentence.text, names))
    clause = analyse(sentence.text, names, he, it)
    while clause is not None:
        asked += [*wh.of_clause(clause, names), *details.of_clause(clause, names)]
        clause = coordinated(clause)
    drafts = [Draft(_finished(question), answer.strip(), sentence.start, score) for question, answer, score in asked]
    drafts = [d for d in drafts if _FEWEST_WORDS <= len(d.question.split()) <= _MOST_WORDS and not _DANGLING.search(d.question)]
    return drafts + [Draft(question, answer, sentence.start, score) for question, answer, score in blanks(sentence.text, names, counts)]


def _finished(question: str) -> str:
    text = re.sub(r" ([,;:.)])", r"\1", " ".join(question.split()))
    return re.sub(r"[\s,;:.—–-]+$", "", re.sub(r",(?:\s*,)+", ",", text)) + "?"


def _scored(draft: Draft, counts: Counter[str], rng: random.Random) -> Draft:
    """With what is known of the whole document: rare answers are better, long questions and words that point elsewhere worse."""
    times = min(counts[t.text] for t in tokens_of(draft.answer))
    score = (
        draft.score
        + rng.random() * 0.3
        + (0.5 if times <= 1 else 0.0 if times < 4 else -0.5)
        + 0.2 * any(c.isdigit() or c.isupper() for c in draft.answer)
    )
    score -= 0.05 * max(0, len(draft.question.split()) - _MOST_WORDS + 10)
    if draft.is_cloze:
        score = min(score - 0.6 * bool(_VAGUE_FRAME.match(draft.question)), _BEST_CLOZE)
    else:
        score = max(score - 0.4 * bool(_OWN.search(draft.question)), _BEST_CLOZE + 0.1)
    return Draft(draft.question, draft.answer, draft.start, score)


def _antecedents(found: Sequence[Sentence], names: Names, title: str) -> list[tuple[str, str]]:
    """What "he" or "she" and "it" mean at the beginning of each sentence; empty where that is not certain."""
    out: list[tuple[str, str]] = []
    he = it = ""
    paragraph = -1
    for sentence in found:
        if sentence.paragraph != paragraph:
            he, it, paragraph = "", "", sentence.paragraph
        out.append((he, it))
        tokens = tokens_of(sentence.text)
        persons = {n for a, b in names.spans(tokens) if names.kind(n := sentence.text[tokens[a].start : tokens[b - 1].end]) == "person"}
        clause = analyse(sentence.text, names, he, it)
        if clause is not None and tokens[0].lower in HE + IT:
            he = "" if persons else he
        else:
            he, it = _meant(clause, persons, folded(title))
    return out


def _meant(clause: Clause | None, persons: set[str], title: str) -> tuple[str, str]:
    """What the pronouns at the beginning of the next sentence mean: the one person of this one, or what the document is about."""
    if clause is None:
        return "", ""
    subject = clause.subject
    if subject.kind == "person":
        return (subject.shown if persons <= {subject.shown} else ""), ""
    about = folded(subject.shown).removeprefix("the ")
    return "", subject.shown if subject.kind != "role" and not subject.plural and about and about in title else ""
