"""Checks of the example corpus and of its questions."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import FrozenInstanceError

import pytest

from lloco_integrations.examples import (
    SPLITS,
    ExampleDocument,
    ExampleQuestion,
    corpus_dir,
    load_documents,
    load_questions,
)


def words(text: str) -> list[str]:
    """The text's words in lower case, without punctuation."""
    return re.findall(r"[a-z0-9]+", text.lower())


def contains_phrase(phrase: str, text: str) -> bool:
    """Whether the phrase's words occur in the text, side by side."""
    return f" {' '.join(words(phrase))} " in f" {' '.join(words(text))} "


@pytest.fixture(scope="module")
def documents() -> list[ExampleDocument]:
    return load_documents()


@pytest.fixture(scope="module")
def questions() -> list[ExampleQuestion]:
    return load_questions()


@pytest.fixture(scope="module")
def texts(documents: list[ExampleDocument]) -> dict[str, str]:
    return {document.doc_id: document.text for document in documents}


def test_there_are_enough_documents_and_questions(documents, questions):
    assert len(documents) >= 26
    assert len(questions) >= 246
    assert len(documents) == len(list(corpus_dir().glob("*.md")))


def test_document_ids_and_titles_are_unique(documents):
    for document in documents:
        assert re.fullmatch(r"\d\d-[a-z0-9]+(-[a-z0-9]+)*", document.doc_id)
    assert len({document.doc_id for document in documents}) == len(documents)
    assert len({document.title for document in documents}) == len(documents)
    assert [document.doc_id for document in documents] == sorted(d.doc_id for d in documents)


def test_text_leaves_out_the_title_line(documents):
    for document in documents:
        assert document.title
        assert not document.text.startswith("# ")
        assert "\n# " not in document.text


def test_word_counts(documents):
    counts = {document.doc_id: len(document.text.split()) for document in documents}
    outside = {doc_id: count for doc_id, count in counts.items() if not 300 <= count <= 1500}
    assert not outside
    assert sum(count >= 1000 for count in counts.values()) >= 2


def test_paragraphs_are_of_a_length_to_retrieve(documents):
    for document in documents:
        for paragraph in document.text.split("\n\n"):
            if paragraph.startswith("#"):
                continue
            assert "\n" not in paragraph, (document.doc_id, paragraph[:40])
            assert 60 <= len(paragraph.split()) <= 130, (document.doc_id, paragraph[:40])


def test_no_paragraph_occurs_twice(documents):
    paragraphs = [paragraph for document in documents for paragraph in document.text.split("\n\n") if not paragraph.startswith("#")]
    assert len(set(paragraphs)) == len(paragraphs)


def test_questions_are_well_formed(questions, texts):
    for question in questions:
        assert question.doc_id in texts
        assert question.split in SPLITS
        assert question.question.endswith("?")
        assert question.question == question.question.strip()
        assert question.answers
        assert all(answer and answer == answer.strip() for answer in question.answers)
        assert len(set(question.answers)) == len(question.answers)
        assert 1 <= len(question.answers[0].split()) <= 5, question


def test_question_ids_and_wordings_are_unique(questions):
    assert len({question.id for question in questions}) == len(questions)
    wordings = Counter(" ".join(words(question.question)) for question in questions)
    assert [wording for wording, count in wordings.items() if count > 1] == []


def test_every_third_question_of_a_document_is_held_out(questions, texts):
    by_document = defaultdict(list)
    for question in questions:
        by_document[question.doc_id].append(question)
    assert set(by_document) == set(texts)
    for doc_id, group in by_document.items():
        splits = [question.split for question in group]
        assert len(splits) % 3 == 0, doc_id
        assert splits == ["train", "train", "heldout"] * (len(splits) // 3), doc_id
    assert 3 * len(load_questions("heldout")) == len(questions)


def test_first_answer_is_verbatim_in_its_document(questions, texts):
    missing = [
        (question.id, question.answers[0]) for question in questions if question.answers[0].lower() not in texts[question.doc_id].lower()
    ]
    assert missing == []


def test_no_question_gives_away_its_own_answer(questions):
    given_away = [question.id for question in questions if any(contains_phrase(answer, question.question) for answer in question.answers)]
    assert given_away == []


def test_no_train_question_gives_away_a_heldout_answer(questions):
    train = defaultdict(list)
    for question in questions:
        if question.split == "train":
            train[question.doc_id].append(question)
    given_away = [
        (heldout.id, other.id)
        for heldout in questions
        if heldout.split == "heldout"
        for other in train[heldout.doc_id]
        if contains_phrase(heldout.answers[0], other.question)
    ]
    assert given_away == []


def test_train_and_heldout_ask_for_different_answers_within_a_document(questions):
    train_answers = defaultdict(set)
    for question in questions:
        if question.split == "train":
            train_answers[question.doc_id].update(answer.lower() for answer in question.answers)
    shared = [
        question.id
        for question in questions
        if question.split == "heldout" and train_answers[question.doc_id] & {answer.lower() for answer in question.answers}
    ]
    assert shared == []


def test_load_questions_by_split(questions):
    train = load_questions("train")
    heldout = load_questions("heldout")
    assert {question.split for question in train} == {"train"}
    assert {question.split for question in heldout} == {"heldout"}
    assert len(train) + len(heldout) == len(questions)
    assert {q.id for q in train}.isdisjoint(q.id for q in heldout)


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'train', 'heldout'"):
        load_questions("test")


def test_documents_and_questions_are_frozen(documents, questions):
    with pytest.raises(FrozenInstanceError):
        documents[0].title = "other"
    with pytest.raises(FrozenInstanceError):
        questions[0].split = "train"
