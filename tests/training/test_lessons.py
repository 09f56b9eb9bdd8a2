"""Which passage a question goes to, what is held out, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lloco_integrations.errors import BadInput, StoreError
from lloco_integrations.evaluation.datasets import Question
from lloco_integrations.models import LLoCOModel, load_model
from lloco_integrations.store import SummaryStore
from lloco_integrations.training.lessons import Passage, prepare, read


@pytest.fixture(scope="module")
def model(tiny_model: str) -> LLoCOModel:
    return load_model(tiny_model, dtype="float32")


DOCUMENTS = {
    f"d{i}": [Passage(f"The keeper of light {i} was Ann.", "T"), Passage(f"Light {i} is {i}0 metres high.", "T")] for i in range(12)
}
QUESTIONS = [
    Question(f"{d}-{n}", d, ask, (answer,))
    for i, d in enumerate(DOCUMENTS)
    for n, (ask, answer) in enumerate(
        (("Who was the keeper?", "ann"), ("How high is it?", f"{i}0 metres"), ("Is it few metres high?", "no"))
    )
]


def filled(model: LLoCOModel, group: str | None = None) -> SummaryStore:
    store = SummaryStore.open("memory://")
    texts = [p.text for passages in DOCUMENTS.values() for p in passages]
    store.put_many([(t, replace(s, group=group)) for t, s in zip(texts, model.compress(texts), strict=True)])
    return store


def test_questions_go_where_their_answer_is(model: LLoCOModel) -> None:
    lessons = prepare(model, filled(model), DOCUMENTS, QUESTIONS)
    assert model.prompter is not None
    alone = [c for c in (*lessons.train, *lessons.validation) if len(lessons.keys[c.ids]) == 1]
    found = {q.id: model.prompter.text_of(c.ids) for c in alone for q in c.questions}
    assert set(found) == {q.id for q in QUESTIONS}
    for i in range(12):
        assert found[f"d{i}-0"] == f"The keeper of light {i} was Ann."
        assert found[f"d{i}-1"] == f"Light {i} is {i}0 metres high."
        assert found[f"d{i}-2"] == f"Light {i} is {i}0 metres high.", "no answer word for word: the one with most words in common"
    whole = [c for c in lessons.train if len(lessons.keys[c.ids]) == 2]
    assert len(whole) == 10 and all(len(c.questions) == 3 for c in whole), "documents as a whole, too"
    assert lessons.n_questions == 30 and lessons.n_documents == 10
    store = filled(model)
    lessons = prepare(model, store, DOCUMENTS, QUESTIONS)
    [one] = [c for c in lessons.train if "of light 4 " in model.prompter.text_of(c.ids) and len(lessons.keys[c.ids]) == 2]
    parts = model.compress([p.text for p in DOCUMENTS["d4"]])
    expected = torch.cat([model.compressor.read(s, 8) for s in parts])
    torch.testing.assert_close(read(model, store, lessons.keys[one.ids], 8), expected)


def test_documents_are_held_out_where_there_are_enough(model: LLoCOModel) -> None:
    store = filled(model)
    lessons = prepare(model, store, DOCUMENTS, QUESTIONS, validation=0.2)
    parts = [{q.doc_id for c in part for q in c.questions} for part in (lessons.train, lessons.validation)]
    assert lessons.held_out == "documents" and len(parts[1]) == 2 and not parts[0] & parts[1]
    again = prepare(model, store, DOCUMENTS, QUESTIONS[::-1], validation=0.2)
    assert {q.doc_id for c in again.validation for q in c.questions} == parts[1], "whatever the order of the questions"
    few = [replace(q, id=f"{q.id}{n}", question=f"{q.question} {n}") for q in QUESTIONS[:9] for n in range(3)]
    lessons = prepare(model, store, DOCUMENTS, few, validation=0.2)
    assert lessons.held_out == "questions" and sum(len(c.questions) for c in lessons.validation) == 5


def test_something_is_always_left_to_learn_from(model: LLoCOModel) -> None:
    lessons = prepare(model, filled(model), DOCUMENTS, QUESTIONS, validation=0.99)
    assert lessons.n_documents == 1 and len({q.doc_id for c in lessons.validation for q in c.questions}) == 11


def bad(questions: list[Question], model: LLoCOModel, message: str, **options: object) -> None:
    with pytest.raises((BadInput, StoreError), match=message):
        prepare(model, options.pop("store", None) or filled(model), DOCUMENTS, questions, **options)  # type: ignore[arg-type]


def test_what_cannot_be_learnt_from_is_refused(model: LLoCOModel) -> None:
    first = QUESTIONS[0]
    bad([replace(first, answers=()), *QUESTIONS[1:]], model, "1 of 36 questions have no answer, the first is 'd0-0'")
    bad(
        [replace(first, doc_id="d77"), *QUESTIONS[1:]],
        model,
        r"1 of 36 questions are about 1 documents .* such as 'd77' \(compressed: 'd0', ",
    )
    bad(
        [*QUESTIONS, replace(first, id="x", answers=("Bob",))],
        model,
        "'d0-0' and 'x' ask the same of document 'd0' and contradict each other",
    )
    prepare(model, filled(model), DOCUMENTS, [*QUESTIONS, replace(first, id="x", answers=("Bob", "Ann"))])
    bad([*QUESTIONS, replace(first, question="When?")], model, "two questions have the id 'd0-0'")
    bad(QUESTIONS[:3], model, "3 questions are too few for an adapter.*give 20 or more.*lloco synthesize")
    bad(QUESTIONS, model, "the validation share is 1", validation=1)


def test_passages_must_be_stored_by_this_model_and_in_the_group(model: LLoCOModel) -> None:
    empty = SummaryStore.open("memory://")
    bad(QUESTIONS, model, "24 of 24 passages have no summary by .*the first is of document 'd0'", store=empty)
    bad(QUESTIONS, model, "not in group 'law': document 'd0' is in no group; run lloco compress with --group law", group="law")
    bad(QUESTIONS, model, "is in group 'sea'", group="law", store=filled(model, "sea"))
    assert prepare(model, filled(model, "law"), DOCUMENTS, QUESTIONS, group="law").train


def test_an_empty_list_of_questions(model: LLoCOModel, tmp_path: Path) -> None:
    bad([], model, "0 questions are too few")
