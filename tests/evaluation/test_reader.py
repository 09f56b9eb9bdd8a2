"""The branching reader says what the model says for whole prompts, in ids, texts and likelihoods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lloco_integrations import GenerationParams, SummaryStore, load_model
from lloco_integrations.errors import BadInput
from lloco_integrations.evaluation.prompts import find_template, overhead, share
from lloco_integrations.evaluation.reader import Reader
from lloco_integrations.models import LLoCOModel
from lloco_integrations.training.templates import TEMPLATES
from tests.evaluation.conftest import lora

TEXT = "The harbour of Vesk was built in 1911 by two brothers, who sold fish <|lloco and read almanacs aloud. " * 3
QUESTIONS = ["Who built it?", "When was the harbour of Vesk built, and by whom?", "Why?", "What was sold there?", "Who?"]
TARGETS = ["two brothers", "1911", "to sell fish and read", "x", "almanacs"]
KINDS = ["none", "raw", "summary"]


@pytest.fixture(scope="module")
def model(tiny_model: str) -> LLoCOModel:
    return load_model(tiny_model, device="cpu", dtype="float32")


def content_and_text(model: LLoCOModel, kind: str, store: SummaryStore) -> tuple[Any, str]:
    """What the reader shows, and what a pipeline puts into its prompt."""
    from lloco_integrations.placeholder import neutralise

    if kind == "summary":
        (summary,) = model.compress([TEXT])
        (key,) = store.put_many([(TEXT, summary)])
        return model.compressor.read(summary, 8), f"<|lloco:{key}@8|>"
    return (TEXT, neutralise(TEXT)) if kind == "raw" else ("", "")


@pytest.mark.parametrize("template", [t for t in TEMPLATES if t.shares_prefix], ids=lambda t: t.name)
@pytest.mark.parametrize("kind", KINDS)
def test_answers_equal_generate(model: LLoCOModel, kind: str, template: Any) -> None:
    with SummaryStore.open("memory://") as store:
        content, text = content_and_text(model, kind, store)
        made = model.generate([template.fill(text, q) for q in QUESTIONS], GenerationParams(max_new_tokens=10), store=store)
    assert model.prompter is not None
    prompts = share(model.prompter, template, content, QUESTIONS)
    reader = Reader(model.backend, batch_size=2)
    prefix = reader.prefill(prompts.prefix)
    answers = reader.answer(prefix, prompts.branches, 10)
    assert [reader.text(a.ids) for a in answers] == [m.text for m in made]
    assert [len(a.ids) for a in answers] == [m.usage.completion_tokens for m in made]
    assert [prefix.n_positions + len(b) for b in prompts.branches] == [m.usage.prompt_tokens for m in made]
    assert prefix.n_positions >= len(content)
    assert all(a.seconds > 0 for a in answers)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_equal_generate_with_an_adapter(tiny_model: str, kind: str, tmp_path: Path) -> None:
    model = load_model(tiny_model, device="cpu", dtype="float32")  # of its own: peft puts the adapter into the decoder
    adapter = str(lora(model.decoder, tmp_path / "a"))
    template = find_template("plain")
    with SummaryStore.open("memory://") as store:
        content, text = content_and_text(model, kind, store)
        filled = [template.fill(text, q) for q in QUESTIONS]
        plain = model.generate(filled, GenerationParams(max_new_tokens=10), store=store)
        made = model.generate(filled, GenerationParams(max_new_tokens=10), store=store, adapters=[adapter] * len(QUESTIONS))
    assert model.prompter is not None
    prompts = share(model.prompter, template, content, QUESTIONS)
    for reader, expected in ((Reader(model.backend, adapter), made), (Reader(model.backend), plain)):
        answers = reader.answer(reader.prefill(prompts.prefix), prompts.branches, 10)
        assert [reader.text(a.ids) for a in answers] == [m.text for m in expected]
    assert [m.text for m in made] != [m.text for m in plain]


@pytest.mark.parametrize("kind", KINDS)
def test_likelihoods_equal_the_loss(model: LLoCOModel, kind: str) -> None:
    assert model.prompter is not None
    ids, targets = model.prompter.text_ids, [[*model.prompter.text_ids(t), 2] for t in TARGETS]
    (summary,) = model.compress([TEXT])
    rows = model.compressor.read(summary, 4) if kind == "summary" else None
    shared = ids(TEXT) if kind == "raw" else ids("\n\n")
    branches = [ids(q) for q in QUESTIONS]
    reader = Reader(model.backend, batch_size=3)
    prefix = reader.prefill([shared] if rows is None else [rows, shared])
    found = reader.nll(prefix, branches, targets)
    for branch, target, nll in zip(branches, targets, found, strict=True):
        assert nll == pytest.approx(float(model.loss(rows, [*shared, *branch], target)), abs=2e-5)
    assert reader.nll(prefix, branches, targets) == found, "the prefix is not used up"


def test_an_answer_ends_at_the_end_token(model: LLoCOModel) -> None:
    assert model.prompter is not None
    prompts = share(model.prompter, find_template("plain"), TEXT, QUESTIONS)
    reader = Reader(model.backend)
    prefix = reader.prefill(prompts.prefix)
    free = [a.ids for a in reader.answer(prefix, prompts.branches, 8)]
    before = model.backend.ends
    try:
        model.backend.ends = [free[0][3]]
        ended = [a.ids for a in reader.answer(prefix, prompts.branches, 8)]
    finally:
        model.backend.ends = before
    for whole, cut in zip(free, ended, strict=True):
        assert cut == (whole[: whole.index(free[0][3]) + 1] if free[0][3] in whole else whole)
    assert len(ended[0]) <= 4


def test_the_prefix_ends_where_the_questions_begin(model: LLoCOModel) -> None:
    """Equal questions, or a single one, must not draw the question into what is read once."""
    assert model.prompter is not None
    for questions in (["Who built it?"], ["Who built it?"] * 2, QUESTIONS):
        prompts = share(model.prompter, find_template("plain"), TEXT, questions)
        (piece,) = prompts.prefix
        assert isinstance(piece, list)
        assert model.prompter.text_of(piece).endswith("Question: ")
        assert [model.prompter.text_of(b)[: len(q)] for b, q in zip(prompts.branches, questions, strict=True)] == questions
    ids = model.prompter.text_ids("some text")
    as_ids = share(model.prompter, find_template("plain"), ids, QUESTIONS)
    total = sum(len(p) for p in as_ids.prefix) + len(as_ids.branches[0])
    assert total == len(ids) + overhead(model.prompter, find_template("plain"), QUESTIONS[0])


def test_what_is_refused(model: LLoCOModel) -> None:
    with pytest.raises(BadInput, match="langchain_tutorial.*before it shows the context.*use one of plain"):
        find_template("langchain_tutorial")
    with pytest.raises(BadInput, match="no template 'other'; use one of plain"):
        find_template("other")
    with pytest.raises(BadInput, match="batch_size is 0"):
        Reader(model.backend, batch_size=0)
    reader = Reader(model.backend)
    prefix = reader.prefill([[5, 6]])
    with pytest.raises(BadInput, match="a branch has no tokens"):
        reader.answer(prefix, [[]], 4)
    with pytest.raises(BadInput, match="at least one token"):
        reader.nll(prefix, [[5]], [[]])
