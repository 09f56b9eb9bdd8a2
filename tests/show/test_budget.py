"""Spending a budget of positions."""

from __future__ import annotations

import random

import pytest

from lloco_integrations.errors import BadInput
from lloco_integrations.show.budget import spend


def forms(tokens: int) -> list[int]:
    """What a text of ``tokens`` costs: raw, 2x, 4x, ... 32x."""
    return [-(-tokens // ratio) for ratio in (1, 2, 4, 8, 16, 32)]


def test_the_best_texts_are_fine_and_the_tail_is_coarse() -> None:
    costs = [forms(320)] * 4
    assert spend(4 * 10, costs, [0.9, 0.8, 0.7, 0.6]) == [5, 5, 5, 5]
    assert spend(320 + 3 * 10, costs, [0.9, 0.8, 0.7, 0.6]) == [0, 5, 5, 5]
    assert spend(160 + 80 + 20, costs, [0.1, 0.8, None, 0.9]) == [5, 2, 5, 1]
    assert spend(4 * 320, costs, [1, 1, 1, 1]) == [0, 0, 0, 0]


def test_the_tail_is_left_out_when_even_the_coarsest_does_not_fit() -> None:
    costs = [forms(320), forms(3200), forms(320)]
    assert spend(25, costs, [0.9, 0.8, 0.7]) == [5, None, 5]
    assert spend(10, costs, [0.1, 0.8, 0.7]) == [None, None, 5]


def test_a_summary_that_costs_more_than_its_text_is_not_taken() -> None:
    assert spend(60, [[20, 50]], [1.0]) == [0]
    assert spend(30, [[20, 50]], [1.0]) == [0]


def test_budget_is_kept_used_and_never_spent_on_a_worse_text_first() -> None:
    dice = random.Random(0)
    for _ in range(300):
        costs = [forms(dice.randint(1, 900)) for _ in range(dice.randint(1, 12))]
        scores = [dice.choice([None, dice.random(), -dice.random()]) for _ in costs]
        budget = dice.randint(max(c[-1] for c in costs), 4000)
        chosen = spend(budget, costs, scores)
        spent = sum(c[form] for c, form in zip(costs, chosen, strict=True) if form is not None)
        assert spent <= budget
        order = sorted(range(len(costs)), key=lambda i: -(float("-inf") if scores[i] is None else scores[i]))  # type: ignore[operator]
        first = order[0]
        others = sum(costs[i][-1] for i in order[1:] if chosen[i] is not None)
        assert chosen[first] == next(form for form, cost in enumerate(costs[first]) if cost + others <= budget)
        for i, form in enumerate(chosen):
            if form:
                assert spent - costs[i][form] + costs[i][form - 1] > budget, "nothing affordable is left on the table"


def test_what_cannot_be_spent_is_refused() -> None:
    with pytest.raises(BadInput, match="token_budget=9 has no room for any of 2 texts: the smallest takes 10 positions"):
        spend(9, [forms(320), forms(640)], [1, 2])
    with pytest.raises(BadInput, match="budget of 0"):
        spend(0, [forms(320)], [1])
    assert spend(5, [], []) == []
