"""Passages of a document, found for a question and shown within a number of positions, as text and as vectors."""

from __future__ import annotations

import math

import pytest
import torch

from lloco_integrations import load_model
from lloco_integrations.evaluation.cases import Case
from lloco_integrations.evaluation.contexts import Shown
from lloco_integrations.evaluation.datasets import Document, Question
from lloco_integrations.evaluation.excerpts import Excerpts, choose
from lloco_integrations.evaluation.methods import Row
from lloco_integrations.evaluation.retrieval import cut
from lloco_integrations.models import LLoCOModel
from tests.evaluation.conftest import Words

SENTENCES = [
    f"The keeper of lamp {i} is called {name}, and he has kept it for years." for i, name in enumerate(["Ada", "Bo", "Cyd", "Dov"])
]
TEXT = " ".join(s + " Nothing else is known of him, whatever they say in the harbour of the town." for s in SENTENCES)


@pytest.fixture(scope="module")
def model(tiny_model: str) -> LLoCOModel:
    return load_model(tiny_model, device="cpu", dtype="float32")


def excerpts(model: LLoCOModel) -> Excerpts:
    return Excerpts(model, Document("d", "", TEXT), Words())


def asked(text: str, id_: str = "q") -> Question:
    return Question(id_, "d", text, ("Cyd",))


def test_texts_are_cut_where_sentences_end() -> None:
    found = cut(TEXT, len, 150)
    assert " ".join(found) == TEXT
    assert all(100 <= len(p) <= 150 and p.endswith(".") for p in found[:-1])
    assert cut("One.Two is here.\n\nThree", len, 12) == ["One.", "Two is here.", "Three"]
    assert cut("It cost 3.50, said Mr. Hale. He paid.", len, 30) == ["It cost 3.50, said Mr. Hale.", "He paid."]
    words = cut("word " * 100, len, 60)
    assert all(len(p) <= 60 for p in words) and " ".join(words) == ("word " * 100).strip()
    assert cut("x" * 40 + " y", len, 10) == ["x" * 40, "y"], "a word is never cut"
    assert cut("第一句。第二句！", len, 4) == ["第一句。", "第二句！"]


@pytest.mark.parametrize(
    ("order", "lengths", "gap", "budget", "expected"),
    [
        ([2, 0, 1], [10, 10, 10], 1, 21, [(0, 10), (2, 10)]),
        ([2, 0, 1], [10, 10, 10], 1, 15, [(0, 4), (2, 10)]),
        ([2, 0, 1], [10, 10, 10], 1, 11, [(2, 10)]),
        ([2, 0, 1], [10, 10, 10], 1, 3, [(2, 3)]),
        ([2, 0, 1], [10, 10, 10], 1, 99, [(0, 10), (1, 10), (2, 10)]),
        ([0], [0], 1, 0, []),
    ],
)
def test_the_best_that_fit_are_chosen(order: list[int], lengths: list[int], gap: int, budget: int, expected: list[tuple[int, int]]) -> None:
    assert choose(order, lengths, gap, budget) == expected


def test_raw_passages_fill_the_budget_in_the_order_of_the_document(model: LLoCOModel) -> None:
    found = excerpts(model)
    assert len(found.texts) > 3
    best = found.raw(asked("What is the keeper of lamp 2 called?"), 150)
    text = model.prompter.text_of(best.content)  # type: ignore[union-attr, arg-type]
    assert "Cyd" in text and "Ada" not in text
    assert best.positions == len(best.content) == 150
    whole = found.raw(asked("What is the keeper of lamp 2 called?"), 10_000)
    assert model.prompter.text_of(whole.content) == "\n\n".join(found.texts)  # type: ignore[union-attr, arg-type]
    assert whole.source_tokens == len(TEXT)
    assert whole.n_bytes == best.n_bytes == len(TEXT.encode()) + found.index_bytes, "any question may come, so all of it is kept"
    assert whole.find_seconds > 0 and whole.compress_seconds is None


def test_compressed_passages_fill_the_budget(model: LLoCOModel) -> None:
    found = excerpts(model)
    question = asked("What is the keeper of lamp 2 called?")
    context = found.summaries(question, 60)
    assert isinstance(context.content, torch.Tensor) and context.content.shape == (60, 32)
    assert context.positions == 60 and context.compress_seconds is not None and context.compress_seconds > 0
    best, second = found.order(question)[0][:2]
    rows = {i: model.compressor.read(model.compress([found.texts[i]])[0], 4) for i in (best, second)}
    rows[second] = rows[second][: 60 - 2 - len(rows[best])]
    assert model.prompter is not None
    gap = model.decoder.get_input_embeddings()(torch.tensor(model.prompter.text_ids("\n\n")))
    first, then = sorted((best, second))
    assert torch.allclose(context.content, torch.cat([rows[first], gap, rows[then]]), atol=1e-5)
    calls: list[int] = []
    compress, model.compress = model.compress, lambda texts: calls.append(len(texts))  # type: ignore[method-assign, assignment, func-returns-value]
    try:
        again = found.summaries(question, 30)
    finally:
        model.compress = compress  # type: ignore[method-assign]
    assert not calls and again.positions == 30 and again.n_bytes == context.n_bytes
    everything = found.summaries(question, 10_000)
    assert everything.positions == sum(math.ceil(len(t) / 4) for t in found.texts) + 2 * (len(found.texts) - 1)


def test_each_question_has_its_own_context(model: LLoCOModel) -> None:
    questions = (asked("Who keeps lamp 0, Ada?", "a"), asked("Who keeps lamp 3, Dov?", "b"))
    embedder = Words()
    texts: list[int] = []
    embed, embedder.embed = embedder.embed, lambda some: texts.append(len(some)) or embed(some)  # type: ignore[method-assign, func-returns-value]
    shown = Shown(model, embedder=embedder)
    case = Case(Document("d", "", TEXT), questions)
    for ratio in (4, 8):
        for kind in ("retrieve", "lloco+retrieve"):
            made = shown.contexts(Row(f"{kind}@{ratio}", kind, ratio), case)
            assert [who for _, who in made] == [[0], [1]]
            most = math.ceil(len(TEXT) / ratio)
            assert all(most - 2 <= c.positions <= most for c, _ in made), "what is left may not hold a blank line and a token"
    before = len(texts)
    shown.contexts(Row("retrieve@4", "retrieve", 4), case)
    assert len(texts) == before, "each index is made once, and each question embedded once for it"
    for kind in ("retrieve", "lloco+retrieve"):
        (context, _), _ = shown.contexts(Row(f"{kind}@4", kind, 4), case, room=50)
        assert context.positions == 50 and context.cut
        (context, _), _ = shown.contexts(Row(f"{kind}@32", kind, 32), case, room=50)
        most = math.ceil(len(TEXT) / 32)
        assert most - 2 <= context.positions <= most and not context.cut
    (plain, _), *_ = shown.contexts(Row("retrieve@4", "retrieve", 4), case)
    assert "Ada" in model.prompter.text_of(plain.content)  # type: ignore[union-attr, arg-type]


def test_a_model_without_a_fine_ratio_uses_the_finest_it_has(model: LLoCOModel) -> None:
    from dataclasses import replace

    before = model.compressor.spec
    try:
        model.compressor.spec = replace(before, ratios=(2, 8, 16))
        assert excerpts(model).ratio == 8
        model.compressor.spec = replace(before, ratios=(2,))
        assert excerpts(model).ratio == 2
    finally:
        model.compressor.spec = before


def test_passages_are_no_longer_than_the_room_for_them(model: LLoCOModel) -> None:
    """A passage that is cut may lose the answer: where there is little room, passages are shorter."""
    shown = Shown(model, embedder=Words())
    case = Case(Document("d", "", TEXT), (asked("Who keeps lamp 3, Dov?", "b"),))
    ratio = math.ceil(len(TEXT) / 80)
    [(context, _)] = shown.contexts(Row(f"retrieve@{ratio}", "retrieve", ratio), case)
    text = model.prompter.text_of(context.content)  # type: ignore[union-attr, arg-type]
    assert "Dov" in text and text.split("\n\n")[0] in TEXT
