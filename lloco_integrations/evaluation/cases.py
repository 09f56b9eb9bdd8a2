"""What a scorecard asks: documents with their questions, out of files."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lloco_integrations.errors import BadInput
from lloco_integrations.evaluation.datasets import Document, Question, read_documents, read_questions


@dataclass(frozen=True)
class Case:
    """A document and what is asked about it."""

    document: Document
    questions: tuple[Question, ...]


def load_cases(docs: Sequence[Path], qa: Sequence[Path], *, limit: int | None = None, seed: int = 0) -> list[Case]:
    """Documents that have questions, of all pairs of files together, in the files' order; ``limit`` as ``choose`` has it.

    Questions about documents that are in none of the files are left out. Raises BadInput for malformed lines, for files that do not
    pair, for two different documents or any two questions of one id, and if no question is left.
    """
    if len(docs) != len(qa) or not docs:
        raise BadInput(f"{len(docs)} --docs and {len(qa)} --qa were given; give one --qa for each --docs, in the same order")
    documents: dict[str, Document] = {}
    questions: dict[str, Question] = {}
    for docs_file, qa_file in zip(docs, qa, strict=True):
        for document in read_documents(docs_file):
            if documents.setdefault(document.doc_id, document).text != document.text:
                raise BadInput(f"{docs_file}: two different documents have the doc_id {document.doc_id!r}; give each its own")
        for question in read_questions(qa_file):
            if question.id in questions:
                raise BadInput(f"{qa_file}: two questions have the id {question.id!r}; give each its own")
            questions[question.id] = _answered(question, qa_file)
    asked: dict[str, list[Question]] = {}
    for question in questions.values():
        if question.doc_id in documents:
            asked.setdefault(question.doc_id, []).append(question)
    if not questions:
        raise BadInput(f"{', '.join(map(str, qa))}: there is no question, neither with answers nor without; give some")
    if not asked:
        wanted, there = next(iter(questions.values())).doc_id, next(iter(documents), "none")
        raise BadInput(
            f"no question is about a document of these files: a question names the doc_id {wanted!r}, a document is {there!r}; "
            f"give the --docs that belong to the --qa"
        )
    cases = [Case(documents[doc_id], tuple(some)) for doc_id, some in asked.items()]
    return cases if limit is None else choose(cases, limit, seed)


def choose(cases: Sequence[Case], limit: int, seed: int) -> list[Case]:
    """``limit`` questions spread over the documents: one of each document in turn, documents and questions shuffled by ``seed``.

    Depends on nothing else, so that every method is asked the same. Raises BadInput for a limit below 1.
    """
    if limit < 1:
        raise BadInput(f"limit is {limit}; ask at least 1 question")
    rng = random.Random(seed)
    order = list(range(len(cases)))
    rng.shuffle(order)
    waiting = {i: rng.sample(cases[i].questions, len(cases[i].questions)) for i in order}
    taken: set[str] = set()
    while len(taken) < limit and any(waiting.values()):
        for i in order:
            if waiting[i] and len(taken) < limit:
                taken.add(waiting[i].pop().id)
    kept = [replace(case, questions=tuple(q for q in case.questions if q.id in taken)) for case in cases]
    return [case for case in kept if case.questions]


def _answered(question: Question, file: Path) -> Question:
    """A multiple choice question without ``answers`` is answered by its right choice."""
    if question.answer_index is None or not question.choices:
        return question
    if not 0 <= question.answer_index < len(question.choices):
        raise BadInput(
            f"{file}: question {question.id!r} has answer_index {question.answer_index} and {len(question.choices)} choices; count from 0"
        )
    return question if question.answers else replace(question, answers=(question.choices[question.answer_index],))
