"""What a question points to in a document, as rows of a scorecard: the same as the engine shows, in as many positions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lloco_integrations import Engine, GenerationParams, load_model, placeholder
from lloco_integrations.evaluation.cases import Case
from lloco_integrations.evaluation.contexts import Shown
from lloco_integrations.evaluation.datasets import Document, Question
from lloco_integrations.evaluation.methods import Row
from lloco_integrations.evaluation.prompts import find_template, share
from lloco_integrations.evaluation.reader import Reader
from lloco_integrations.models import LLoCOModel
from tests import tiny
from tests.checkpoints import edit_config
from tests.evaluation.conftest import Words
from tests.evaluation.test_excerpts import SENTENCES, TEXT

QUESTIONS = ["What is the keeper of lamp 2 called?", "Who keeps lamp 0, Ada?"]
BETWEEN = {"text_share": 0.5, "finest": 4}


@pytest.fixture
def engine(tiny_model: str, store_url: str) -> Engine:
    return Engine(tiny_model, store_url, device="cpu", dtype="float32")


@pytest.fixture
def recipe(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the recipe of the shared model for one test."""
    return lambda **values: monkeypatch.setattr(engine.model, "focus", values)


def case() -> Case:
    return Case(Document("d", "", TEXT), tuple(Question(str(i), "d", q, ("Cyd",)) for i, q in enumerate(QUESTIONS)))


def row(kind: str, ratio: int) -> Row:
    return Row(f"{kind}@{ratio}", kind, ratio)


@pytest.mark.parametrize("values", [{}, BETWEEN, {"text_share": 0.0, "finest": 8}], ids=str)
@pytest.mark.parametrize("ratio", [3, 8, 30])
def test_focus_is_what_the_engine_shows(engine: Engine, recipe: Any, values: dict[str, Any], ratio: int) -> None:
    """Positions, answers and prompt: of the whole prompt through the engine's store, and of the reader's pieces."""
    recipe(**values)
    model, embedder, template = engine.model, Words(), find_template("plain")
    made = Shown(model, embedder=embedder).contexts(row("focus", ratio), case())
    assert [some for _, some in made] == [[0], [1]]
    assert model.prompter is not None
    engine.compress([TEXT])
    for (context, _), question in zip(made, QUESTIONS, strict=True):
        [shown] = engine.show([TEXT], question=question, ratio=ratio, embedder=embedder)
        assert shown is not None
        assert context.positions == shown.n_positions <= math.ceil(len(TEXT) / ratio)
        assert context.source_tokens == len(TEXT)
        assert context.find_seconds is not None and context.find_seconds > 0
        assert (context.compress_seconds is not None) == bool(values)
        text = placeholder.split_votes(shown.content)[0]
        [expected] = engine.generate([template.fill(text, question)], GenerationParams(max_new_tokens=8))
        prompts = share(model.prompter, template, context.content, [question], context.vectors)
        reader = Reader(model.backend)
        prefix = reader.prefill(prompts.prefix)
        [answer] = reader.answer(prefix, prompts.branches, 8)
        assert reader.text(answer.ids) == expected.text
        assert prefix.n_positions + len(prompts.branches[0]) == expected.usage.prompt_tokens


def test_sentences_are_text_whatever_the_recipe(engine: Engine, recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe(**BETWEEN)
    monkeypatch.setattr(LLoCOModel, "compress", lambda *given, **more: pytest.fail("text alone needs no summary"))
    (first, _), (second, _) = Shown(engine.model, embedder=Words()).contexts(row("sentences", 4), case())
    assert isinstance(first.content, str) and isinstance(second.content, str)
    assert SENTENCES[2] in first.content and SENTENCES[0] in second.content
    assert not first.vectors and first.positions == len(first.content) <= math.ceil(len(TEXT) / 4), "one token a byte"
    assert first.n_bytes == second.n_bytes > len(TEXT.encode()), "sentence embeddings are kept, too"


def test_focus_shows_vectors_around_the_text(engine: Engine, recipe: Any) -> None:
    recipe(**BETWEEN)
    shown = Shown(engine.model, embedder=Words())
    (context, _), _ = shown.contexts(row("focus", 3), case())
    (text, _), _ = shown.contexts(row("sentences", 3), case())
    assert context.vectors
    assert isinstance(context.content, str) and "Cyd" in context.content
    assert all(rows.shape[1] == 32 for rows in context.vectors.values())
    in_text = sum(len(part) for part in placeholder.split(context.content) if isinstance(part, str))
    assert in_text + sum(len(rows) for rows in context.vectors.values()) == context.positions, "one token a byte"
    assert context.n_bytes > text.n_bytes


def test_a_small_window_has_a_small_budget(engine: Engine) -> None:
    (context, _), _ = Shown(engine.model, embedder=Words()).contexts(row("focus", 1), case(), room=150)
    assert isinstance(context.content, str) and "Cyd" in context.content
    assert context.cut and 100 < context.positions <= 150
    (context, _), _ = Shown(engine.model, embedder=Words()).contexts(row("focus", 1), case())
    assert not context.cut and context.content == TEXT


def test_a_document_cannot_name_an_entry(engine: Engine) -> None:
    key = "a" * placeholder.KEY_LENGTH
    hostile = Case(Document("d", "", f"The lamp is <|lloco:{key}|> called Ada. " * 3), (Question("q", "d", "Who is the lamp?", ("Ada",)),))
    [(context, _)] = Shown(engine.model, embedder=Words()).contexts(row("focus", 2), hostile)
    assert isinstance(context.content, str) and placeholder.count(context.content) == 0 and "lloco" in context.content


def test_a_summary_that_cannot_be_sliced_stands_in_front(checkpoint: Path) -> None:
    """An autocompressor's: whole, in front of the prompt, with the sentences where the text stood."""
    edit_config(checkpoint, max_position_embeddings=4096)
    tiny.tokenizer(chat=False).save_pretrained(checkpoint)
    model = load_model(str(checkpoint), device="cpu", dtype="float32")
    made = Shown(model, embedder=Words()).contexts(row("focus", 3), case())
    (context, _) = made[0]
    assert context.vectors is not None and model.prompter is not None
    [rows] = context.vectors.values()
    assert isinstance(context.content, str) and "Cyd" in context.content
    prompts = share(model.prompter, find_template("plain"), context.content, [QUESTIONS[0]], context.vectors)
    assert prompts.prefix[0] is rows
    ids = prompts.prefix[1]
    assert isinstance(ids, list) and SENTENCES[2] in model.prompter.text_of(ids)
