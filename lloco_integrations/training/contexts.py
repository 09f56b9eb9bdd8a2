"""What there is to learn from: documents with questions, and plain texts in pieces."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lloco_integrations import placeholder
from lloco_integrations.errors import BadInput
from lloco_integrations.evaluation.datasets import Question, read_documents, read_questions

MOST_CHARACTERS = 400_000
"""Of one plain text, so that a novel does not take the place of a hundred articles."""


@dataclass(frozen=True)
class Context:
    """A text to be encoded once for all that is asked about it.

    ``ids`` are its tokens, ``follows`` those that come after it where it is a piece of a plain text.
    """

    title: str
    ids: tuple[int, ...]
    questions: tuple[Question, ...] = ()
    follows: tuple[int, ...] = ()


def load_contexts(
    pairs: Sequence[tuple[Path, Path]], text_ids: Callable[[str], list[int]], max_tokens: int, min_tokens: int = 24
) -> list[Context]:
    """Contexts of ``(docs file, qa file)`` pairs. A document of more than ``max_tokens`` tokens is cut into pieces, and each of its
    questions goes to the first piece that has one of its answers word for word; questions that none has are left out.

    Raises BadInput if no question of a file has an answer, or none is about a document of its documents file.
    """
    contexts = []
    for docs_path, qa_path in pairs:
        by_document: dict[str, list[Question]] = defaultdict(list)
        asked = read_questions(qa_path)
        for question in asked:
            if question.answers:
                by_document[question.doc_id].append(question)
        if not by_document:
            raise BadInput(f"none of the {len(asked)} questions of {qa_path} has an answer; training needs 'answers' that are not empty")
        documents = [d for d in read_documents(docs_path) if d.doc_id in by_document]
        if not documents:
            raise BadInput(f"no question of {qa_path} is about a document of {docs_path}; check that the doc_ids agree")
        for document in documents:
            questions = by_document[document.doc_id]
            text = placeholder.neutralise(document.text)
            for ids, some in _pieces(text, questions, text_ids, max_tokens):
                if len(ids) >= min_tokens and some:
                    contexts.append(Context(document.title, tuple(ids), tuple(some)))
    return contexts


def load_texts(
    paths: Sequence[Path], text_ids: Callable[[str], list[int]], piece_tokens: int, follow_tokens: int, most: int, seed: int = 0
) -> list[Context]:
    """Up to ``most`` pieces of ``piece_tokens`` tokens of the plain texts in ``paths`` (docs files), each with the ``follow_tokens``
    tokens after it. Documents are taken in a random order that depends on ``seed`` alone; a document gives at most a hundredth of
    the pieces, but at least 20."""
    rng = random.Random(f"{seed}/texts")
    documents = [d for path in paths for d in read_documents(path)]
    rng.shuffle(documents)
    pieces: list[Context] = []
    for document in documents:
        ids = text_ids(placeholder.neutralise(document.text[:MOST_CHARACTERS]))
        starts = range(0, len(ids) - piece_tokens - follow_tokens + 1, piece_tokens)
        for at in rng.sample(starts, min(len(starts), max(20, most // 100))):
            end = at + piece_tokens
            pieces.append(Context(document.title, tuple(ids[at:end]), follows=tuple(ids[end : end + follow_tokens])))
        if len(pieces) >= most:
            break
    return pieces[:most]


def _pieces(
    text: str, questions: Sequence[Question], text_ids: Callable[[str], list[int]], max_tokens: int
) -> list[tuple[list[int], list[Question]]]:
    """Token ids and questions of ``text``, whole if it fits, else of pieces that end where a sentence does."""
    whole = text_ids(text)
    if len(whole) <= max_tokens:
        return [(whole, list(questions))]
    texts = _cut(text, max(1, int(max_tokens * len(text) / len(whole) * 0.9)))
    folded = [t.casefold() for t in texts]
    asked: dict[int, list[Question]] = defaultdict(list)
    for question in questions:
        found = (i for i, t in enumerate(folded) if any(a.casefold() in t for a in question.answers))
        if (first := next(found, None)) is not None:
            asked[first].append(question)
    return [(text_ids(t)[:max_tokens], asked[i]) for i, t in enumerate(texts)]


def _cut(text: str, characters: int) -> list[str]:
    """``text`` in pieces of up to ``characters``, cut after a paragraph or a sentence where there is one in the second half."""
    out = []
    while len(text) > characters:
        half = characters // 2
        at = max(
            (text.rfind(mark, half, characters) + len(mark) for mark in ("\n\n", ". ", ".\n") if mark in text[half:characters]), default=0
        )
        at = at or characters
        out.append(text[:at].strip())
        text = text[at:]
    return [t for t in (*out, text.strip()) if t]
