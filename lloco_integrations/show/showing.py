"""Texts to what stands for them in a prompt: at one ratio, within a budget, or with the question in focus."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from lloco_integrations.errors import NoRoom
from lloco_integrations.show import spans as spanning
from lloco_integrations.show.budget import spend
from lloco_integrations.show.forms import AS_TEXT, Entry, Shown, TextIds, as_spans, as_summary, as_text
from lloco_integrations.show.policy import FocusRecipe, Spanned, focus
from lloco_integrations.show.scoring import Candidates, ranks
from lloco_integrations.show.spans import Span

if TYPE_CHECKING:
    from lloco_integrations.prompting import Prompter
    from lloco_integrations.show.scoring import Scorer

_FUSED = 10
"""The constant of reciprocal rank fusion between the place of a span and that of its text."""
_KEPT = 1 << 24
_SHORTEST = 24
"""A sentence is cut into pieces of half the budget, so that it is not all that is shown, but not below so many tokens."""


@dataclass(frozen=True)
class Spending:
    """A budget and how to spend it: ``token_budget`` positions, or one for ``ratio`` tokens of the texts, but enough to show something;
    ``extra`` as in Spanned."""

    token_budget: int | None
    ratio: int
    recipe: FocusRecipe
    scorer: Scorer
    extra: Sequence[int] | None = None


def uniform(entries: Sequence[Entry], ratio: int | None, weights: Sequence[int | None], text_ids: TextIds) -> list[Shown]:
    """Each text as its summary at ``ratio``; as text where there is no summary."""
    return [
        as_text(entry, weight, text_ids) if entry.info is None else as_summary(entry, ratio, weight)
        for entry, weight in zip(entries, weights, strict=True)
    ]


def by_budget(
    entries: Sequence[Entry],
    budget: int,
    scores: Sequence[float | None],
    extra: Sequence[int] | None,
    weights: Sequence[int | None],
    ratios: Sequence[int],
    text_ids: TextIds,
) -> list[Shown | None]:
    """Each text as text or at one ratio, see ``spend``; None for one that is left out."""
    forms: list[list[Shown]] = []
    for entry, weight in zip(entries, weights, strict=True):
        own = [as_text(entry, weight, text_ids)]
        if entry.info is not None:
            own += [as_summary(entry, ratio, weight) for ratio in (ratios if entry.info.window else (None,))]
        forms.append(own)
    more = extra or [0] * len(entries)
    costs = [[form.n_positions + n for form in own] for own, n in zip(forms, more, strict=True)]
    chosen = spend(budget, costs, scores)
    return [None if form is None else own[form] for form, own in zip(chosen, forms, strict=True)]


def focused(
    entries: Sequence[Entry],
    question: str,
    scores: Sequence[float | None],
    how: Spending,
    weights: Sequence[int | None],
    ratios: Sequence[int],
    prompter: Prompter,
) -> list[Shown | None]:
    """Each text as the spans that ``question`` points to and slices around them; None for one that is left out.

    ``scores``: of the texts. Raises NoRoom for a budget in which nothing has room.
    """
    shown: list[Shown | None] = [None] * len(entries)
    asked = []
    for i, entry in enumerate(entries):
        if entry.text.strip():
            asked.append(i)
        else:
            shown[i] = as_text(entry, weights[i], prompter.text_ids)
    if not asked:
        return shown
    cut = [cut_of(prompter, entries[i].text) for i in asked]
    n_tokens = sum(len(c.ends) for c in cut)
    budget = how.token_budget if how.token_budget is not None else max(1, -(-n_tokens // how.ratio))
    most = max(_SHORTEST, min(spanning.MOST_TOKENS, budget // 2))
    order = sorted(range(len(asked)), key=lambda j: (-_known(scores[asked[j]]), j))
    place = {j: rank for rank, j in enumerate(order)}
    texts, candidates = [], []
    for i, c in zip(asked, cut, strict=True):
        info, text = entries[i].info, entries[i].text
        pieces, owners = spanning.pieces(text, c.sentences, c.ends, most)
        sliced = info is not None and info.window is not None and c.exact and len(c.ends) == info.n_tokens
        whole = info.n_vectors if info is not None and info.window is None else 0
        texts.append(Spanned(pieces, tuple(ratios) if sliced else (), how.extra[i] if how.extra else 0, whole))
        strings = [tuple(text[s.start : s.stop] for s in spans) for spans in (c.sentences, pieces)]
        candidates.append(Candidates(strings[0], strings[1], tuple(owners)))
    ranked = ranks(how.scorer.score(question, candidates))
    of_text = [j for j, text in enumerate(texts) for _ in text.spans]
    fits = [1 / (_FUSED + rank) + 0.5 / (_FUSED + 3 * place[j]) for rank, j in zip(ranked, of_text, strict=True)]
    own = [entries[i] for i in asked]
    tokens, positions = _best_alone(own, texts, fits, prompter.text_ids)

    def fill(budget: int) -> list[Shown | None]:
        return _filled(own, texts, fits, budget, tokens, how.recipe, [weights[i] for i in asked], prompter.text_ids)

    try:
        made = fill(budget)
    except NoRoom:
        if how.token_budget is not None:
            raise
        made = fill(max(budget, tokens, positions))  # nobody asked for so few positions
    for i, one in zip(asked, made, strict=True):
        shown[i] = one
    return shown


def _filled(
    entries: Sequence[Entry],
    texts: Sequence[Spanned],
    fits: Sequence[float],
    budget: int,
    best: int,
    recipe: FocusRecipe,
    weights: Sequence[int | None],
    text_ids: TextIds,
) -> list[Shown | None]:
    """What stands for each text within ``budget`` positions; ``best`` is the cost of the best span alone. Raises NoRoom."""
    lowest = best if best <= budget else 1
    room = budget
    while True:
        made: list[Shown | None] = []
        for entry, text, chosen, weight in zip(entries, texts, focus(texts, fits, room, recipe), weights, strict=True):
            whole = bool(text.summary)
            made.append(as_spans(entry, text.spans, chosen, weight, text_ids, whole_summary=whole) if chosen else None)
        cost = sum(one.n_positions + text.extra for one, text in zip(made, texts, strict=True) if one is not None)
        if cost <= budget or room <= lowest:
            break
        room = max(lowest, room - (cost - budget))  # neutralised or cut text takes other tokens than it does in its place
    if cost > budget:
        raise NoRoom(f"a budget of {budget} positions has no room for any part of {len(texts)} texts: the least takes {cost}; raise it")
    return made


def _best_alone(entries: Sequence[Entry], texts: Sequence[Spanned], fits: Sequence[float], text_ids: TextIds) -> tuple[int, int]:
    """What the best span of all costs if nothing else is shown: in tokens of the source, as ``focus`` reckons, and in positions."""
    places = [(j, s) for j, text in enumerate(texts) for s in range(len(text.spans))]
    if not places:
        return 0, 0
    j, s = places[max(range(len(fits)), key=lambda at: (fits[at], -at))]
    text = texts[j]
    alone = as_spans(entries[j], text.spans, {s: AS_TEXT}, None, text_ids, whole_summary=bool(text.summary))
    return text.spans[s].n_tokens + text.extra + text.summary, alone.n_positions + text.extra


def _known(score: float | None) -> float:
    return float("-inf") if score is None else score


@dataclass(frozen=True)
class Cut:
    """The sentences of a text, and where its tokens end, in characters. ``exact``: not, from a tokenizer that does not tell."""

    sentences: tuple[Span, ...]
    ends: Sequence[int]
    exact: bool


_held: WeakKeyDictionary[Prompter, OrderedDict[str, Cut]] = WeakKeyDictionary()
_lock = threading.Lock()


def cut_of(prompter: Prompter, text: str) -> Cut:
    """``text`` cut into sentences; kept for the next question."""
    with _lock:
        held = _held.setdefault(prompter, OrderedDict())
        if text in held:
            held.move_to_end(text)
            return held[text]
    told = prompter.token_ends(text)
    ends = array("q", told if told is not None else _near(prompter, text))
    made = Cut(tuple(spanning.split(text, ends)), ends, told is not None)
    with _lock:
        held[text] = made
        while len(held) > 1 and sum(map(len, held)) > _KEPT:
            held.popitem(last=False)
    return made


def _near(prompter: Prompter, text: str) -> list[int]:
    """One end for each token of ``text``, evenly spread."""
    n = max(1, len(prompter.text_ids(text)))
    return [len(text) * (i + 1) // n for i in range(n)]
