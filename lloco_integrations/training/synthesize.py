"""Questions and answers for documents that have none: by rules or by an LLM, and only those worth learning from.

Every answer stands word for word in its document. The same documents, settings and seed give the same questions.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lloco_integrations.errors import BadInput, LLoCOError
from lloco_integrations.evaluation.datasets import Document, Question
from lloco_integrations.partial import Partial
from lloco_integrations.training.questions.check import GUESSABLE, KEPT, UNANSWERABLE
from lloco_integrations.training.questions.draft import Draft
from lloco_integrations.training.questions.llm import Ask, llm_drafts
from lloco_integrations.training.questions.local import local_drafts
from lloco_integrations.training.questions.sentences import heading

if TYPE_CHECKING:
    Filter = Callable[[str, Sequence[Draft]], list[str]]

DATASET = "synthesized"
Progress = Callable[[str, int, int], None]
"""Called with the document that is next, those done, and all of them."""


@dataclass(frozen=True)
class Counts:
    """Questions made, and what became of them; ``unusable`` are an LLM's that were no question with an answer from the text."""

    made: int = 0
    kept: int = 0
    unanswerable: int = 0
    guessable: int = 0
    unusable: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Summary:
    """``barren``: ids of the documents that got no question."""

    counts: Counts
    n_documents: int
    barren: tuple[str, ...] = field(default=())


def make_questions(
    document: Document, *, per_document: int = 20, seed: int = 0, ask: Ask | None = None, check: Filter | None = None
) -> tuple[list[Question], Counts]:
    """Questions about one document, in its order.

    Args:
        per_document: questions made, at most.
        ask: an LLM, prompt -> text; None makes questions by rules.
        check: text and drafts -> a verdict for each; see ``questions.check.Check``. None keeps all.

    Raises BadInput for ``per_document`` below 1, LLoCOError if the LLM fails.
    """
    _check_number(per_document)
    title, unusable = document.title or heading(document.text), 0
    if ask is None:
        drafts = local_drafts(document.text, title, per_document, random.Random(f"{seed}/{document.doc_id}"))
    else:
        drafts, unusable = llm_drafts(document.text, title, per_document, _named_failures(ask, document.doc_id))
    verdicts = check(document.text, drafts) if check is not None else [KEPT] * len(drafts)
    kept = [d for d, verdict in zip(drafts, verdicts, strict=True) if verdict == KEPT]
    questions = [Question(f"{document.doc_id}#{n}", document.doc_id, d.question, (d.answer,)) for n, d in enumerate(kept, 1)]
    return questions, Counts(len(drafts), len(kept), verdicts.count(UNANSWERABLE), verdicts.count(GUESSABLE), unusable)


def synthesize(
    documents: Sequence[Document],
    out: Path,
    *,
    per_document: int = 20,
    seed: int = 0,
    ask: Ask | None = None,
    llm: str | None = None,
    check: Filter | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Write questions about ``documents`` to ``out``, one JSON object a line; what is done is kept beside it until all are.

    ``llm`` names ``ask``: a run under another name does not go on with this one's results. See ``make_questions`` for the others.

    Raises BadInput, before anything is made, if ``out`` exists or cannot be written, or holds unfinished results of other settings;
    for no documents, or two of one id; and if no question is left at the end. LLoCOError if the LLM fails.
    """
    _check_number(per_document)
    check_out(out)
    _check_documents(documents)
    settings = {
        "documents": _hash([[d.doc_id, d.title, d.text] for d in documents]),
        "per_document": per_document,
        "seed": seed,
        "llm": llm if ask is None or llm is not None else "unnamed",
        "check": None if check is None else getattr(check, "identity", "unnamed"),
    }
    with Partial(out, settings, ("document",), "--out") as partial:
        for document in documents:
            if (document.doc_id,) not in partial.done:
                if progress is not None:
                    progress(document.doc_id, len(partial.done), len(documents))
                questions, counts = make_questions(document, per_document=per_document, seed=seed, ask=ask, check=check)
                partial.add(document.doc_id, result={"questions": [_row(q) for q in questions], "counts": asdict(counts)})
        if progress is not None:
            progress("", len(documents), len(documents))
        results = [partial.done[(d.doc_id,)] for d in documents]
        total = sum((Counts(**r["counts"]) for r in results), Counts())
        if total.kept:
            _write([row for r in results for row in r["questions"]], out)
        partial.delete()
    if not total.kept:
        why = (
            f"the check dropped all {total.made}; --no-check keeps them" if total.made else "give documents in whole sentences, in English"
        )
        raise BadInput(f"no question about any of the {len(documents)} documents: {why}")
    return Summary(total, len(documents), tuple(d.doc_id for d, r in zip(documents, results, strict=True) if not r["questions"]))


def check_out(out: Path) -> None:
    """Make the folder of ``out``. Raises BadInput if it cannot be made, or if ``out`` exists."""
    if os.path.lexists(out):
        raise BadInput(f"{out} exists already; delete it, or name another file with --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error}; name a file in a folder that you may write") from error


def _write(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """``rows`` to the file ``out`` in one step."""
    whole = out.with_name(f".{out.name}.whole")
    try:
        whole.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        os.replace(whole, out)
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error}; make room, and the same command goes on from there") from error


def _named_failures(ask: Ask, doc_id: str) -> Ask:
    """``ask``, with what it raises told as an error that names the document."""

    def asked(prompt: str) -> str:
        try:
            return ask(prompt)
        except Exception as error:
            raise LLoCOError(
                f"the LLM failed on document {doc_id!r} ({type(error).__name__}: {error}); what was done before it is kept, and the same "
                f"command goes on from there"
            ) from error

    return asked


def _row(question: Question) -> dict[str, Any]:
    return {
        "id": question.id,
        "dataset": DATASET,
        "doc_id": question.doc_id,
        "question": question.question,
        "answers": list(question.answers),
    }


def _check_number(per_document: int) -> None:
    if per_document < 1:
        raise BadInput(f"per_document is {per_document}; make at least 1 question a document")


def _check_documents(documents: Sequence[Document]) -> None:
    if not documents:
        raise BadInput("there are no documents to ask about; give some")
    seen: set[str] = set()
    for document in documents:
        if document.doc_id in seen:
            raise BadInput(f"two documents have the doc_id {document.doc_id!r}; give each its own")
        seen.add(document.doc_id)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
