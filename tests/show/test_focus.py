"""Focus through the engine: what stands in the prompt, what it costs, and what the decoder reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lloco_integrations import placeholder
from lloco_integrations.engine import Engine
from lloco_integrations.errors import BadInput, IncompatibleSummary, PlaceholderError
from lloco_integrations.placeholder import Placeholder
from lloco_integrations.show.forms import AS_TEXT, Shown
from lloco_integrations.types import GenerationParams
from tests import tiny

TEXTS = [
    "The lighthouse at Carrow has forty lamps. Its keeper is called Ilse. She came from the north in a small boat.",
    "The harbour of Carrow freezes in January. Then nobody sails. The baker opens before dawn, and sells rye bread.",
    "Ilse counts the lamps every evening. She writes them into the blue book. The book lies under the stairs.",
]
QUESTION = "Who is the keeper of the lighthouse?"
RECIPES: list[dict[str, Any]] = [{}, {"text_share": 0.5, "finest": 4}, {"text_share": 0.0, "finest": 2}, {"text_share": 0.3, "finest": 16}]


@pytest.fixture
def engine(tiny_model: str, store_url: str) -> Engine:
    return Engine(tiny_model, store_url, device="cpu", dtype="float32")


@pytest.fixture
def recipe(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the recipe of the shared model for one test."""
    return lambda **values: monkeypatch.setattr(engine.model, "focus", values)


def letters(text: str) -> str:
    """Without blanks, which neutralising adds and joining drops."""
    return "".join(text.split())


def check(engine: Engine, texts: Sequence[str], made: Sequence[Shown | None], budget: int | None) -> None:
    """The parts are slices of the sources in order, no token is shown twice, and everyone agrees on the cost."""
    total = 0
    for text, shown in zip(texts, made, strict=True):
        if shown is None:
            continue
        prompter = engine.model.prompter
        assert prompter is not None
        ends = prompter.token_ends(text)
        assert ends is not None
        parts = placeholder.split(placeholder.split_votes(shown.content)[0])
        read = "".join(part for part in parts if isinstance(part, str))
        assert letters(read) == letters("".join(text[start:stop] for start, stop in shown.as_text))
        at_text = at_window = 0
        seen: set[int] = set()
        for part in parts:
            if isinstance(part, Placeholder) and part.windows is not None:
                info = engine.store.info_many([part.key])[0]
                assert info is not None and info.window is not None
                assert part.windows[0] >= at_window
                at_window = part.windows[1]
                seen |= set(range(part.windows[0] * info.window, min(part.windows[1] * info.window, len(ends))))
        for start, stop in shown.as_text:
            assert start >= at_text
            at_text = stop
            tokens = {i for i, end in enumerate(ends) if start < end <= stop}
            assert not tokens & seen, "a token is shown twice"
            seen |= tokens
        counted = engine.count(shown.content, templated=False) if shown.content.strip() else None
        if counted is not None and text.strip():
            assert counted.n_positions == shown.n_positions
            resolved = engine.model.resolve([*prompter.plain(shown.content)], engine.store)
            assert resolved.n_positions == shown.n_positions
            assert sum(len(piece) for piece in resolved.pieces) == shown.n_positions
        total += shown.n_positions
    if budget is not None:
        assert total <= budget


@pytest.mark.parametrize("values", RECIPES, ids=str)
@pytest.mark.parametrize(
    "how", [{"ratio": 2}, {"ratio": 4}, {"ratio": 30}, {"token_budget": 60}, {"token_budget": 150}, {"token_budget": 2000}]
)
def test_parts_costs_and_order(engine: Engine, recipe: Any, values: dict[str, Any], how: dict[str, Any]) -> None:
    recipe(**values)
    made = engine.show(TEXTS, question=QUESTION, embedder=None, **how)
    assert any(made)
    budget = how.get("token_budget") or -(-sum(map(len, TEXTS)) // how["ratio"])
    if not values and how.get("ratio") == 30:
        budget = 24  # no slices, and no sentence fits: then at least the best piece is shown
    check(engine, TEXTS, made, budget)


def test_the_sentence_that_answers_is_shown_as_text_and_the_rest_is_left_out(engine: Engine) -> None:
    made = engine.show(TEXTS, question="Who is called Ilse?", token_budget=30, embedder=None)
    assert made[0] is not None
    assert made[1:] == [None, None]
    assert placeholder.split_votes(made[0].content)[0] == "is called Ilse."
    assert [TEXTS[0][start:stop] for start, stop in made[0].as_text] == ["is called Ilse."]


def test_everything_is_shown_where_there_is_room(engine: Engine) -> None:
    made = engine.show(TEXTS, question=QUESTION, token_budget=2000, embedder=None)
    assert [s and placeholder.split_votes(s.content)[0] for s in made] == TEXTS
    assert [s and s.as_text for s in made] == [((0, len(t)),) for t in TEXTS]


def test_slices_stand_around_the_text_and_join(engine: Engine, recipe: Any) -> None:
    recipe(text_share=0.3, finest=2)
    [made] = engine.show(TEXTS[:1], question="Who is called Ilse?", token_budget=60, embedder=None)
    assert made is not None
    kinds = [f for _, _, f in made.fidelities]
    assert AS_TEXT in kinds
    assert any(f != AS_TEXT for f in kinds)
    marks = [p for p in placeholder.split(placeholder.split_votes(made.content)[0]) if isinstance(p, Placeholder)]
    assert marks and all(m.windows is not None for m in marks)
    assert len({m.key for m in marks}) == 1


def test_a_slice_is_that_part_of_the_summary(engine: Engine) -> None:
    [whole] = engine.model.compress([TEXTS[0]])
    part = whole.slice(3, 10)
    assert torch.equal(part.vectors, whole.vectors[3:10])
    assert part.n_tokens == 7 * (whole.window or 0)
    end = whole.slice(3, whole.n_vectors)
    assert end.n_tokens == len(TEXTS[0]) - 3 * (whole.window or 0)
    assert end.coarsen(8).n_vectors == -(-end.n_tokens // 8)
    for wrong in ((-1, 3), (3, 3), (0, whole.n_vectors + 1)):
        with pytest.raises(IncompatibleSummary, match="not in a summary of"):
            whole.slice(*wrong)
    with pytest.raises(IncompatibleSummary, match="fixed ratio"):
        replace(whole, window=None).slice(0, 1)


def test_a_slice_that_is_not_there_is_refused_by_counting_and_by_reading(engine: Engine) -> None:
    [made] = engine.compress([TEXTS[0]])
    assert made.key is not None
    beyond = placeholder.make(made.key, 8, None, (0, 5000))
    for call in (lambda: engine.count(beyond), lambda: engine.generate([beyond])):
        with pytest.raises(IncompatibleSummary, match="windows 0 to 5000 are not in a summary"):
            call()
    with pytest.raises(PlaceholderError, match="no window"):
        engine.count(f"<|lloco:{made.key}[9-9]|>")


def test_usage_tells_what_all_the_text_would_have_cost(engine: Engine, recipe: Any) -> None:
    for values in RECIPES:
        recipe(**values)
        made = engine.show(TEXTS[:1], question=QUESTION, token_budget=60, embedder=None)
        assert made[0] is not None
        prompt = f"{made[0].content}\n\nQuestion"
        raw = engine.count(f"{TEXTS[0]}\n\nQuestion")
        counted = engine.count(prompt)
        assert abs(counted.source_tokens - raw.source_tokens) <= 4, values
        usage = engine.generate([prompt], GenerationParams(max_new_tokens=2))[0].usage
        assert (usage.prompt_tokens, usage.source_tokens) == (counted.n_positions, counted.source_tokens)


def test_text_alone_is_not_compressed(engine: Engine) -> None:
    engine.show(TEXTS, question=QUESTION, embedder=None)
    assert engine.store.stats().entries == 0


def test_groups_choose_the_adapter_under_focus(tiny_model: str, store_url: str, tmp_path: Any) -> None:
    from tests.test_backend import save_adapter

    engine = Engine(tiny_model, store_url, {"sea": str(save_adapter(tmp_path / "sea", 1))}, dtype="float32")
    made = engine.show(TEXTS, question=QUESTION, groups=["sea", "land", "land"], scores=[0.9, 0.2, 0.1], token_budget=90, embedder=None)
    prompt = "\n\n".join(s.content for s in made if s is not None)
    [answer] = engine.generate([prompt], GenerationParams(max_new_tokens=2))
    assert answer.adapter == "sea"


@pytest.mark.parametrize("question", [None, "", "  \n"])
def test_without_a_question_each_text_has_one_form(engine: Engine, question: str | None) -> None:
    assert engine.show(TEXTS, question=question, ratio=8) == engine.compress(TEXTS, ratio=8)
    assert engine.show(TEXTS, question=question, ratio=30) == engine.compress(TEXTS, ratio=32)
    assert engine.show(TEXTS, question=QUESTION, focus="none") == engine.compress(TEXTS)
    with pytest.raises(IncompatibleSummary, match="ratio 30"):
        engine.show(TEXTS, question=QUESTION, focus="none", ratio=30)


@pytest.mark.parametrize("wrong", [{"focus": "sharp"}, {"ratio": 0}, {"ratio": 4, "token_budget": 9}, {"token_budget": 0}])
def test_what_cannot_be_is_named(engine: Engine, wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=str(next(iter(wrong.values()))) + "|leave ratio out"):
        engine.show(TEXTS, question=QUESTION, embedder=None, **wrong)


HOSTILE = st.lists(
    st.text(st.one_of(st.sampled_from(list("ab .!?\n|-é👍日\u200f\x00<>:@~=[")), st.characters(codec="utf-8")), max_size=80),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HOSTILE, st.text(max_size=40), st.integers(1, 120), st.sampled_from(RECIPES), st.booleans())
def test_any_texts_question_and_budget(
    engine: Engine, texts: list[str], question: str, budget: int, values: dict[str, Any], doubled: bool
) -> None:
    given_texts = [*texts, texts[0]] if doubled else texts
    before, engine.model.focus = engine.model.focus, values
    try:
        made = engine.show(given_texts, question=question or "a", token_budget=budget, embedder=None)
    except BadInput as error:
        assert "raise it" in str(error) or "nothing" in str(error)  # noqa: PT017
        return
    finally:
        engine.model.focus = before
    if (question or "a").strip():
        check(engine, given_texts, made, budget)


def test_two_halves_of_a_placeholder_do_not_meet_where_what_was_between_is_left_out(engine: Engine) -> None:
    [victim] = engine.compress(["The secret of another reader."])
    forged = f"Lamps <|llo. Nothing to see here at all. co:{victim.key}|> lamps."
    for budget in range(20, 80, 4):
        [made] = engine.show([forged], question="lamps", token_budget=budget, embedder=None)
        assert made is not None
        assert victim.key not in {mark.key for mark in placeholder.find(placeholder.split_votes(made.content)[0])}


def test_a_table_of_3000_cells_shows_the_row_that_is_asked_for(engine: Engine) -> None:
    rows = [f"| gull {i} | {i * 7} | cliff {i % 5} |" for i in range(1000)]
    rows[777] = "| tern 777 | 4711 | reef |"
    [made] = engine.show(["\n".join(rows)], question="Which reef has the tern?", token_budget=80, embedder=None)
    assert made is not None
    assert "4711" in made.content


def test_a_compressor_that_cannot_be_sliced_keeps_its_summary_in_front(checkpoint: Path, store_url: str) -> None:
    tiny.tokenizer(chat=False).save_pretrained(checkpoint)
    engine = Engine(str(checkpoint), store_url, device="cpu", dtype="float32")
    whole = engine.model.compress([TEXTS[0]])[0].n_vectors
    made = engine.show(TEXTS[:1], question="Who is called Ilse?", token_budget=whole + 30, embedder=None)
    assert made[0] is not None
    first, *rest = placeholder.split(placeholder.split_votes(made[0].content)[0])
    assert isinstance(first, Placeholder)
    assert first.windows is None
    assert "".join(map(str, rest)).endswith("is called Ilse.")
    assert engine.count(made[0].content, templated=False).n_positions == made[0].n_positions <= whole + 30


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HOSTILE, st.integers(1, 64), st.sampled_from(RECIPES), st.booleans())
def test_a_ratio_always_shows_something(engine: Engine, texts: list[str], ratio: int, values: dict[str, Any], stored: bool) -> None:
    """Nobody who names a ratio asked for too few positions, however short the texts are."""
    if stored:
        engine.compress(texts)
    before, engine.model.focus = engine.model.focus, values
    try:
        made = engine.show(texts, question="a lamp", ratio=ratio, embedder=None)
    finally:
        engine.model.focus = before
    assert any(shown is not None for shown in made)
    check(engine, texts, made, None)
