"""Spending a budget of prompt positions: fine summaries, or the text itself, for the best texts, coarse ones for the tail."""

from __future__ import annotations

from collections.abc import Sequence

from lloco_integrations.errors import BadInput, NoRoom


def spend(budget: int, costs: Sequence[Sequence[int]], scores: Sequence[float | None]) -> list[int | None]:
    """Which of its forms each text takes, so that all together cost at most ``budget``; None for a text that is left out.

    Args:
        budget: positions.
        costs: for each text, what its forms cost, the finest form first.
        scores: of each text; the higher the better, None is the lowest, and equal ones go in order.

    Every text first takes its cheapest form, the best texts first, while there is room; then, best first, each takes the finest form
    that the rest of the budget pays for. Raises NoRoom for a budget in which not one text has room.
    """
    if budget < 1:
        raise BadInput(f"a budget of {budget} positions holds nothing; give at least 1")
    order = sorted(range(len(costs)), key=lambda i: (-_known(scores[i]), i))
    cheapest = [min(range(len(c)), key=lambda form, c=c: (c[form], form)) for c in costs]  # type: ignore[misc]
    chosen: list[int | None] = [None] * len(costs)
    rest = budget
    for i in order:
        if costs[i][cheapest[i]] <= rest:
            chosen[i] = cheapest[i]
            rest -= costs[i][cheapest[i]]
    if costs and all(form is None for form in chosen):
        least = min(c[form] for c, form in zip(costs, cheapest, strict=True))
        raise NoRoom(f"token_budget={budget} has no room for any of {len(costs)} texts: the smallest takes {least} positions; raise it")
    for i in order:
        form = chosen[i]
        if form is not None:
            paid = costs[i][form]
            chosen[i] = next(finer for finer, cost in enumerate(costs[i]) if cost - paid <= rest)
            rest -= costs[i][chosen[i] or 0] - paid
    return chosen


def _known(score: float | None) -> float:
    return float("-inf") if score is None else score
