"""How a budget is spent on spans."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lloco_integrations.errors import BadInput
from lloco_integrations.show.forms import AS_TEXT
from lloco_integrations.show.policy import FocusRecipe, Spanned, focus
from lloco_integrations.show.spans import Span

TEXT_ONLY = FocusRecipe()
HALF = FocusRecipe(text_share=0.5, finest=4)


def spanned(*lengths: int, ratios: tuple[int, ...] = (2, 4, 8, 16, 32), extra: int = 0, summary: int = 0) -> Spanned:
    at, spans = 0, []
    for n in lengths:
        spans.append(Span(at, at + n, at, at + n))
        at += n
    return Spanned(spans, ratios, extra, summary)


def test_the_best_spans_stand_as_text_while_there_is_room() -> None:
    texts = [spanned(10, 20, 10), spanned(10, 10)]
    assert focus(texts, [0.1, 0.9, 0.5, 0.8, 0.2], 32, TEXT_ONLY) == [{1: AS_TEXT}, {0: AS_TEXT}]
    assert focus(texts, [0.1, 0.8, 0.5, 0.9, 0.2], 29, TEXT_ONLY) == [{}, {0: AS_TEXT}], "what has no room is not replaced by scraps"
    assert focus(texts, [0.1, 0.9, 0.5, 0.8, 0.2], 60, TEXT_ONLY) == [{0: AS_TEXT, 1: AS_TEXT, 2: AS_TEXT}, {0: AS_TEXT, 1: AS_TEXT}]


def test_equal_scores_go_in_order_and_the_last_span_counts_like_the_others() -> None:
    assert focus([spanned(10, 10, 10)], [1.0, 1.0, 1.0], 10, TEXT_ONLY) == [{0: AS_TEXT}]
    assert focus([spanned(10, 10, 10)], [0.1, 0.2, 0.9], 10, TEXT_ONLY) == [{2: AS_TEXT}]


def test_a_share_goes_to_slices_coarse_first_and_then_finer_from_the_best() -> None:
    chosen = focus([spanned(16, 16, 16)], [0.2, 0.9, 0.5], 24, HALF)
    assert chosen[0][1] == AS_TEXT, "the best span is text even where it takes more than the share"
    assert chosen[0][2] in (4, 8)
    assert chosen[0][0] >= chosen[0][2]
    none = focus([spanned(16, 16, 16)], [0.2, 0.9, 0.5], 24, FocusRecipe(text_share=0.0, finest=2))
    assert AS_TEXT not in none[0].values()


def test_what_a_text_costs_besides_is_paid_once_and_only_if_it_is_shown() -> None:
    texts = [spanned(10, 10, extra=15), spanned(10, 10, extra=15)]
    assert focus(texts, [0.9, 0.8, 0.5, 0.1], 36, TEXT_ONLY) == [{0: AS_TEXT, 1: AS_TEXT}, {}]


def test_a_summary_that_cannot_be_sliced_is_paid_with_the_first_span() -> None:
    assert focus([spanned(10, 10, ratios=(), summary=5)], [0.9, 0.1], 15, TEXT_ONLY) == [{0: AS_TEXT}]


def test_where_no_sentence_has_room_the_best_stands_as_vectors() -> None:
    assert focus([spanned(40, 40)], [0.1, 0.9], 20, TEXT_ONLY)[0][1] <= 4
    with pytest.raises(BadInput, match="a budget of 20 positions has no room for any part of 1 texts: the best takes 40"):
        focus([spanned(40, 40, ratios=())], [0.1, 0.9], 20, TEXT_ONLY)
    with pytest.raises(BadInput, match="budget of 0"):
        focus([spanned(4)], [1.0], 0, TEXT_ONLY)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), min_size=1, max_size=4),
    st.integers(1, 200),
    st.floats(0, 1),
    st.sampled_from([0, 2, 4, 16]),
    st.randoms(use_true_random=False),
)
def test_the_cost_is_within_the_budget_and_something_is_shown(lengths, budget, share, finest, rng) -> None:  # type: ignore[no-untyped-def]
    texts = [spanned(*some, extra=rng.choice([0, 0, 3])) for some in lengths]
    scores = [rng.random() for some in lengths for _ in some]
    try:
        chosen = focus(texts, scores, budget, FocusRecipe(share, finest))
    except BadInput:
        assert budget < 45
        return
    cost = 0
    for text, shown in zip(texts, chosen, strict=True):
        cost += text.extra if shown else 0
        cost += sum(-(-text.spans[s].n_tokens // (f or 1)) for s, f in shown.items())
    assert 0 < cost <= budget


@pytest.mark.parametrize("wrong", [{"text_share": 1.5}, {"finest": -1}, {"ratio": 0}])
def test_a_recipe_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="cannot be"):
        FocusRecipe.of(wrong)
    with pytest.raises(BadInput, match=r"focus\.sharp, which is not known"):
        FocusRecipe.of({"sharp": 1})
