"""A small example corpus: the handbook of the fictional Tarnhallow Observatory.

Tarnhallow, its hills, its village, its people and its instruments are invented. The
documents and the questions about them were written for this project and are under the
project's licence (Apache-2.0). They give the examples and the tests something to retrieve
and to answer that no model has seen before.

Each document is a Markdown file in ``corpus/`` whose first line is its title. The questions
are in ``questions.jsonl``, one JSON object a line; a third of them are held out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "SPLITS",
    "ExampleDocument",
    "ExampleQuestion",
    "corpus_dir",
    "load_documents",
    "load_questions",
]

SPLITS: tuple[str, ...] = ("train", "heldout")
"""The values that a question's ``split`` may have."""


@dataclass(frozen=True)
class ExampleDocument:
    """One document of the handbook.

    Attributes:
        doc_id: The file's name without its suffix, such as ``"02-stallworth-refractor"``.
        title: The title, taken from the file's first line.
        text: The Markdown text that follows the title line.
    """

    doc_id: str
    title: str
    text: str


@dataclass(frozen=True)
class ExampleQuestion:
    """One question about one document.

    Attributes:
        id: The question's identifier, such as ``"q001"``.
        doc_id: The document that holds the answer.
        question: The question itself, which can be understood without the document.
        answers: Accepted answers; the first occurs in the document's text, up to case.
        split: ``"train"`` or ``"heldout"``.
    """

    id: str
    doc_id: str
    question: str
    answers: tuple[str, ...]
    split: str


def corpus_dir() -> Path:
    """Return the folder that holds the documents' Markdown files."""
    return Path(__file__).resolve().parent / "corpus"


def load_documents() -> list[ExampleDocument]:
    """Return all documents, in the order of their file names."""
    documents = []
    for path in sorted(corpus_dir().glob("*.md")):
        first_line, _, rest = path.read_text(encoding="utf-8").partition("\n")
        if not first_line.startswith("# "):
            raise ValueError(f"{path.name}: the first line must be a '# ' title")
        documents.append(ExampleDocument(doc_id=path.stem, title=first_line[2:].strip(), text=rest.strip()))
    return documents


def load_questions(split: str | None = None) -> list[ExampleQuestion]:
    """Return the questions of one split, or all of them, in file order.

    Args:
        split: ``"train"``, ``"heldout"``, or ``None`` for both.

    Raises:
        ValueError: If ``split`` is none of these.
    """
    if split is not None and split not in SPLITS:
        allowed = ", ".join(repr(name) for name in SPLITS)
        raise ValueError(f"unknown split {split!r}: expected one of {allowed}, or None for all")
    path = corpus_dir().parent / "questions.jsonl"
    questions = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        row = json.loads(line)
        question = ExampleQuestion(
            id=row["id"],
            doc_id=row["doc_id"],
            question=row["question"],
            answers=tuple(row["answers"]),
            split=row["split"],
        )
        if split is None or question.split == split:
            questions.append(question)
    return questions
