"""Focus: the question decides which spans are shown as text, and the summary carries what is around them.

The budget is spent best span first. A share of it goes to text, up to the first span that has no room; what is left goes to slices of the
summary: each span first at its coarsest, best first, then finer, best first. How large the shares are is measured for the weights, and stands in
their ``recipe.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lloco_integrations.errors import BadInput, NoRoom
from lloco_integrations.show.budget import spend
from lloco_integrations.show.forms import AS_TEXT
from lloco_integrations.show.spans import Span


@dataclass(frozen=True)
class FocusRecipe:
    """What vectors earn beside text, for one set of weights.

    Attributes:
        text_share: of a budget, what goes to spans as text before any vector is shown; 1 is all.
        finest: the finest ratio at which slices are shown; 0 shows none.
        coarsest: the coarsest.
        ratio: source tokens for each position, where the application asks for nothing else.
    """

    text_share: float = 1.0
    finest: int = 0
    coarsest: int = 32
    ratio: int = 8

    def __post_init__(self) -> None:
        if not 0 <= self.text_share <= 1 or not 0 <= self.finest <= self.coarsest or self.ratio < 1:
            raise BadInput(f"{self} cannot be: text_share is from 0 to 1, finest 0 or a ratio up to coarsest, ratio 1 or more")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> FocusRecipe:
        """From the part ``focus`` of a model's ``recipe.json``; what is not there has the defaults."""
        unknown = sorted(set(given) - set(cls.__dataclass_fields__))
        if unknown:
            raise BadInput(f"recipe.json has focus.{unknown[0]}, which is not known; it takes {', '.join(cls.__dataclass_fields__)}")
        return cls(**given)


@dataclass(frozen=True)
class Spanned:
    """A text as the policy sees it.

    Attributes:
        spans: end to end.
        ratios: at which slices can be shown, finest first; empty where no slice can.
        extra: positions that the text costs besides, as soon as any of it is shown.
        summary: positions of its whole summary, where that cannot be sliced and is shown in front; 0 where not.
    """

    spans: Sequence[Span]
    ratios: Sequence[int] = ()
    extra: int = 0
    summary: int = 0


def focus(texts: Sequence[Spanned], scores: Sequence[float], budget: int, recipe: FocusRecipe) -> list[dict[int, int]]:
    """For each of ``texts``, span's index -> fidelity: AS_TEXT, or the ratio of its slice. What is not there is left out.

    ``scores``: of all spans of all texts, in order; higher is better, and of equals the first is. Costs count tokens of the source, so what
    is composed may cost a little more or less. Something is always shown: raises NoRoom where the budget holds nothing at all.
    """
    if budget < 1:
        raise BadInput(f"a budget of {budget} positions holds nothing; give at least 1")
    places = [(t, s) for t, text in enumerate(texts) for s in range(len(text.spans))]
    order = sorted(range(len(places)), key=lambda i: (-scores[i], i))
    chosen: list[dict[int, int]] = [{} for _ in texts]
    rest = budget
    for_text = budget * recipe.text_share
    for i in order if recipe.text_share else ():
        t, s = places[i]
        first = 0 if chosen[t] else texts[t].extra + texts[t].summary
        cost = texts[t].spans[s].n_tokens + first
        shown = any(chosen)
        if shown and (cost > rest or cost > for_text):
            break  # smaller ones further down would fill the room, and measurably mislead
        if cost <= rest:
            chosen[t][s] = AS_TEXT
            rest -= cost
            for_text -= cost
    _show_slices(texts, places, order, chosen, rest, recipe)
    if order and not any(chosen):
        t, s = places[order[0]]
        least = texts[t].spans[s].n_tokens + texts[t].extra + texts[t].summary
        raise NoRoom(
            f"a budget of {budget} positions has no room for any part of {len(texts)} texts: the best takes {least} positions; raise it"
        )
    return chosen


def _show_slices(
    texts: Sequence[Spanned],
    places: Sequence[tuple[int, int]],
    order: Sequence[int],
    chosen: list[dict[int, int]],
    rest: int,
    recipe: FocusRecipe,
) -> None:
    """Spends ``rest`` on slices of what is not shown as text; where no text is shown at all, at any ratio that has room."""
    nothing = not any(chosen)
    if rest < 1 or not (recipe.finest or nothing):
        return
    left: list[int] = []
    allowed: list[Sequence[int]] = []
    costs: list[list[int]] = []
    for i in order:
        t, s = places[i]
        ratios = texts[t].ratios if nothing else [r for r in texts[t].ratios if recipe.finest <= r <= recipe.coarsest]
        if s in chosen[t] or not ratios or (not chosen[t] and texts[t].extra):
            continue
        left.append(i)
        allowed.append(ratios)
        costs.append([-(-texts[t].spans[s].n_tokens // ratio) for ratio in ratios])
    if not left or min(map(min, costs)) > rest:
        return
    for i, ratios, form in zip(left, allowed, spend(rest, costs, [None] * len(left)), strict=True):
        if form is not None:
            t, s = places[i]
            chosen[t][s] = ratios[form]
