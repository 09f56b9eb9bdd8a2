"""What a group's adapter learns from: passages whose summaries are in a store, with the questions that each of them answers."""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lloco_integrations.errors import BadInput, StoreError
from lloco_integrations.secret import shown
from lloco_integrations.training.contexts import Context

if TYPE_CHECKING:
    import torch

    from lloco_integrations.evaluation.datasets import Question
    from lloco_integrations.models import LLoCOModel
    from lloco_integrations.store import SummaryStore

FEWEST_QUESTIONS = 20
"""With fewer, an adapter learns them by heart and nothing else."""
FEWEST_DOCUMENTS = 5
"""With fewer, questions are held out in place of documents."""
WHOLE_TOKENS = 4096
"""Documents up to this are learnt from as a whole, too: pipelines show passages, and sometimes all of them."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Passage:
    """A text as it was compressed, and the title of its document."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class Lessons:
    """``train`` and ``validation`` have no question in common, and no document where there are enough; ``train`` also has whole documents.
    ``keys``: tokens of a context -> the keys of its passages in the store; ``held_out``: what was split, "documents" or "questions"."""

    train: list[Context]
    validation: list[Context]
    keys: dict[Ids, tuple[str, ...]]
    held_out: str

    @property
    def n_questions(self) -> int:
        """Of the training part."""
        return len({q.id for c in self.train for q in c.questions})

    @property
    def n_documents(self) -> int:
        """Of the training part."""
        return len({q.doc_id for c in self.train for q in c.questions})


def prepare(
    model: LLoCOModel,
    store: SummaryStore,
    documents: Mapping[str, Sequence[Passage]],
    questions: Sequence[Question],
    *,
    group: str | None = None,
    validation: float = 0.15,
    seed: int = 0,
) -> Lessons:
    """Each question goes to the passage of its document that holds an answer word for word, else to the one that has most of its words.

    Args:
        documents: doc_id -> the passages of it that were compressed, in order.
        group: raise for passages that the store does not have in this group; None takes any.
        validation: share of the documents (of the questions, where there are few documents) that is held out, at least one.

    Raises BadInput for questions without answers, about unknown documents, twice with other answers, or too few; StoreError for
    passages without a summary by this model's compressor.
    """
    _check(questions, documents)
    by_document: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_document[question.doc_id].append(question)
    wanted = {d: documents[d] for d in by_document}
    _check_stored(model, store, wanted, group)
    held_out, splits = _split(by_document, validation, seed)
    keys: dict[Ids, tuple[str, ...]] = {}
    made: tuple[list[Context], list[Context]] = ([], [])
    for doc_id, passages in wanted.items():
        ids = [tuple(model.text_ids(p.text)) for p in passages]
        names = [store.key(model.fingerprint, p.text) for p in passages]
        keys |= {i: (name,) for i, name in zip(ids, names, strict=True)}
        homes = _homes(by_document[doc_id], passages)
        for part in (0, 1):
            asked: dict[int, list[Question]] = defaultdict(list)
            for question in by_document[doc_id]:
                if splits[question.id] == part:
                    asked[homes[question.id]].append(question)
            made[part].extend(Context(passages[n].title, ids[n], tuple(some)) for n, some in sorted(asked.items()))
            if part == 0 and asked and len(passages) > 1 and sum(map(len, ids)) <= WHOLE_TOKENS:
                whole = tuple(i for one in ids for i in one)
                keys[whole] = tuple(names)
                made[part].append(Context(passages[0].title, whole, tuple(q for _, some in sorted(asked.items()) for q in some)))
    return Lessons(made[0], made[1], keys, held_out)


def _check(questions: Sequence[Question], documents: Mapping[str, Sequence[Passage]]) -> None:
    if empty := [q for q in questions if not q.answers]:
        raise BadInput(
            f"{len(empty)} of {len(questions)} questions have no answer, the first is {empty[0].id!r}; give each an answer or leave it out "
            f"(that some contexts hold no answer is learnt from questions about other documents)"
        )
    if unknown := [q for q in questions if q.doc_id not in documents]:
        names = sorted({q.doc_id for q in unknown})
        known = ", ".join(map(repr, sorted(documents)[:3])) or "none"
        raise BadInput(
            f"{len(unknown)} of {len(questions)} questions are about {len(names)} documents that were not compressed, such as {names[0]!r} "
            f"(compressed: {known}{', ...' if len(documents) > 3 else ''}); compress them, or leave these questions out"
        )
    asked: dict[tuple[str, str], Question] = {}
    for question in questions:
        first = asked.setdefault((question.doc_id, " ".join(question.question.casefold().split())), question)
        ours, theirs = ({" ".join(a.casefold().split()) for a in q.answers} for q in (first, question))
        if not ours & theirs:
            raise BadInput(
                f"questions {first.id!r} and {question.id!r} ask the same of document {question.doc_id!r} and contradict each other: "
                f"{first.answers[0]!r} and {question.answers[0]!r}; keep one, or list both as answers of one question"
            )
    if len(ids := Counter(q.id for q in questions)) < len(questions):
        raise BadInput(f"two questions have the id {ids.most_common(1)[0][0]!r}; give each its own")
    if len(questions) < FEWEST_QUESTIONS:
        raise BadInput(
            f"{len(questions)} questions are too few for an adapter: it would learn them by heart; give {FEWEST_QUESTIONS} or more, some "
            f"hundreds are better (lloco synthesize writes some from the documents)"
        )


def _check_stored(model: LLoCOModel, store: SummaryStore, documents: Mapping[str, Sequence[Passage]], group: str | None) -> None:
    """Raise for passages that were never compressed, or by another model, or that are of another group."""
    pairs = [(doc_id, p.text) for doc_id, passages in documents.items() for p in passages]
    infos = store.info_many([store.key(model.fingerprint, text) for _, text in pairs])
    missing = [pair for pair, info in zip(pairs, infos, strict=True) if info is None]
    if missing:
        raise StoreError(
            f"{len(missing)} of {len(pairs)} passages have no summary by {model.name} in {shown(store.url)}, the first is of document "
            f"{missing[0][0]!r}; compress the documents with this model: summaries are read here, never made"
        )
    if group is None:
        return
    others = [(doc_id, info.group) for (doc_id, _), info in zip(pairs, infos, strict=True) if info is not None and info.group != group]
    if others:
        there = "no group" if others[0][1] is None else f"group {others[0][1]!r}"
        raise BadInput(
            f"{len(others)} of {len(pairs)} passages are not in group {group!r}: document {others[0][0]!r} is in {there}; "
            f"run lloco compress with --group {group} on them, or leave --group out"
        )


def _split(by_document: Mapping[str, Sequence[Question]], share: float, seed: int) -> tuple[str, dict[str, int]]:
    """What is split, and for each question's id 0 (training) or 1 (validation)."""
    if not 0 < share < 1:
        raise BadInput(f"the validation share is {share}; it must be between 0 and 1, such as 0.15")
    rng = random.Random(f"{seed}/validation")
    if len(by_document) >= FEWEST_DOCUMENTS:
        names = sorted(by_document)
        chosen = set(rng.sample(names, _held(share, len(names))))
        return "documents", {q.id: int(d in chosen) for d, some in by_document.items() for q in some}
    ids = sorted(q.id for some in by_document.values() for q in some)
    held = set(rng.sample(ids, _held(share, len(ids))))
    return "questions", {i: int(i in held) for i in ids}


def _held(share: float, n: int) -> int:
    """How many of ``n`` are held out: at least one, and not all."""
    return min(n - 1, max(1, round(share * n)))


def _homes(questions: Sequence[Question], passages: Sequence[Passage]) -> dict[str, int]:
    """Question id -> index of the passage that it goes to."""
    folded = [p.text.casefold() for p in passages]
    words = [set(_words(t)) for t in folded]
    spread = Counter(w for some in words for w in some)

    def overlap(wanted: set[str], n: int) -> float:
        return sum(math.log(1 + len(passages) / spread[w]) for w in wanted & words[n])

    homes = {}
    for question in questions:
        asked = set(_words(question.question))
        holding = [n for n, t in enumerate(folded) if any(a.casefold() in t for a in question.answers)]
        wanted = asked if holding else asked | set(_words(" ".join(question.answers)))
        homes[question.id] = max(holding or range(len(passages)), key=lambda n: (overlap(wanted, n), -n))
    return homes


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def read(model: LLoCOModel, store: SummaryStore, keys: Sequence[str], ratio: int) -> torch.Tensor:
    """The rows ``(n_vectors, hidden_size)`` of the summaries under ``keys``, one after the other; a compressor of a fixed ratio gives its own.

    Raises StoreError for a summary that is gone.
    """
    import torch

    rows = []
    for summary in store.get_many(keys):
        if summary is None:
            raise StoreError(
                f"the summary of a passage is no longer in {shown(store.url)}; compress the documents again, and the same command goes on"
            )
        rows.append(model.compressor.read(summary, ratio if summary.window else None))
    return torch.cat(rows)


def asked_of(context: Context, most: int) -> Context:
    """``context`` with at most ``most`` of its questions, evenly spread."""
    step = max(1, -(-len(context.questions) // most))
    return replace(context, questions=context.questions[::step])
