"""What each row of a scorecard shows of a document."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lloco_integrations.errors import NoRoom
from lloco_integrations.evaluation.cases import Case
from lloco_integrations.evaluation.methods import FOCUSED, RETRIEVING, Row

if TYPE_CHECKING:
    import torch

    from lloco_integrations.embedding import Embedder
    from lloco_integrations.evaluation.datasets import Question
    from lloco_integrations.evaluation.excerpts import Excerpts
    from lloco_integrations.evaluation.focusing import Focusing
    from lloco_integrations.models import LLoCOModel
    from lloco_integrations.placeholder import Placeholder
    from lloco_integrations.types import SummaryEmbeddings


NO_LIMIT = 1 << 62


@dataclass(frozen=True)
class Context:
    """What stands for a document: a text, token ids or vectors ``(n, hidden_size)``; its positions, those of the whole text, and the bytes
    that must be kept to show it. ``find_seconds``: what finding it for one question took, where it was. ``cut``: to fit the window.
    ``vectors``: what the placeholders in a text stand for; a text with such is composed to fit, and never cut."""

    content: str | list[int] | torch.Tensor
    positions: int
    source_tokens: int
    n_bytes: int
    compress_seconds: float | None = None
    find_seconds: float | None = None
    cut: bool = False
    vectors: Mapping[Placeholder, torch.Tensor] | None = None

    def within(self, room: int, model: LLoCOModel) -> Context:
        """Itself if it fits ``room`` positions, else the first ``room`` of them."""
        if self.positions <= room:
            return self
        if isinstance(self.content, str):
            return replace(of_ids(model, ids_of(model, self.content)[:room], self.source_tokens), cut=True)
        if isinstance(self.content, list):
            return replace(of_ids(model, self.content[:room], self.source_tokens), cut=True)
        rows = self.content[:room]
        return replace(self, content=rows, positions=len(rows), n_bytes=rows.numel() * rows.element_size(), cut=True)


def ids_of(model: LLoCOModel, text: str) -> list[int]:
    """Token ids of ``text`` as a prompt shows it; none for a blank one."""
    from lloco_integrations.placeholder import neutralise

    return model.text_ids(neutralise(text)) if text.strip() else []


def finest(model: LLoCOModel) -> int:
    """The ratio at which passages are compressed: 4, or the finest above it that the model gives, or the coarsest that it gives."""
    ratios = model.spec.ratios
    return min((r for r in ratios if r >= 4), default=max(ratios))


def of_text(model: LLoCOModel, text: str, source_tokens: int | None = None) -> Context:
    """A text as it is."""
    n = len(ids_of(model, text))
    return Context(text, n, n if source_tokens is None else source_tokens, len(text.encode()))


def of_ids(model: LLoCOModel, ids: list[int], source_tokens: int) -> Context:
    """The first tokens of a text."""
    assert model.prompter is not None
    return Context(ids, len(ids), source_tokens, len(model.prompter.text_of(ids).encode()))


class Shown:
    """Contexts of the rows. A document is compressed, and its passages are, once for all ratios, when a row first needs it.

    ``texts``: for each row of that kind, question id -> text. ``embedder`` finds passages; None is MiniLM, loaded when a row needs it.
    """

    def __init__(self, model: LLoCOModel, texts: Mapping[str, Mapping[str, str]] | None = None, embedder: Embedder | None = None) -> None:
        self.model = model
        self.texts = texts or {}
        self._embedder = embedder
        self._summaries: dict[str, tuple[SummaryEmbeddings, float]] = {}
        self._excerpts: dict[tuple[str, int], Excerpts] = {}
        self._focusing: Focusing | None = None

    def contexts(self, row: Row, case: Case, room: int = NO_LIMIT) -> list[tuple[Context, list[int]]]:
        """What ``row`` shows in at most ``room`` positions, and to which of the case's questions (their indices): one context for all, or
        one for each text, or for each question."""
        return [(context.within(room, self.model), some) for context, some in self._contexts(row, case, room)]

    def _contexts(self, row: Row, case: Case, room: int) -> list[tuple[Context, list[int]]]:
        everyone = list(range(len(case.questions)))
        text = case.document.text
        if row.kind == "texts":
            groups: dict[str, list[int]] = {}
            for i, question in enumerate(case.questions):
                groups.setdefault(self.texts[row.name][question.id], []).append(i)
            n = len(ids_of(self.model, text))
            return [(of_text(self.model, shown, n), some) for shown, some in groups.items()]
        if row.kind in RETRIEVING:
            budget = math.ceil(len(ids_of(self.model, text)) / (row.ratio or 1))
            found = self._found(case, budget if row.kind == "retrieve" else budget * finest(self.model))
            show = found.raw if row.kind == "retrieve" else found.summaries
            return [(show(question, budget, room), [i]) for i, question in enumerate(case.questions)]
        if row.kind in FOCUSED:
            return [(self._focused(row, case, question, room), [i]) for i, question in enumerate(case.questions)]
        if row.kind == "none":
            return [(Context("", 0, len(ids_of(self.model, text)), 0), everyone)]
        if row.kind == "truncate":
            ids = ids_of(self.model, text)
            return [(of_ids(self.model, ids[: math.ceil(len(ids) / (row.ratio or 1))], len(ids)), everyone)]
        if row.kind in ("lloco", "lloco+adapter"):
            return [(self._vectors(case, row.ratio), everyone)]
        return [(of_text(self.model, text), everyone)]

    def forget(self) -> None:
        """Drop what was kept of documents: vectors of many long ones take room."""
        self._summaries.clear()
        self._excerpts.clear()
        self._focusing = None

    def _summary(self, case: Case) -> tuple[SummaryEmbeddings, float]:
        """The summary of the document, and the seconds that compressing took."""
        key = case.document.doc_id
        if key not in self._summaries:
            began = time.perf_counter()
            (summary,) = self.model.compress([case.document.text])
            self._summaries[key] = (summary, time.perf_counter() - began)
        return self._summaries[key]

    def _vectors(self, case: Case, ratio: int | None) -> Context:
        summary, seconds = self._summary(case)
        rows = self.model.compressor.read(summary, ratio)
        return Context(rows, rows.shape[0], summary.n_tokens, rows.numel() * summary.vectors.element_size(), seconds)

    def _focused(self, row: Row, case: Case, question: Question, room: int) -> Context:
        """What ``question`` points to: as text alone, or as the model's recipe spends the positions. Where not even one sentence has room,
        slices of the summary alone; nothing where no vectors are shown."""
        from lloco_integrations.evaluation.focusing import Focusing
        from lloco_integrations.show.policy import FocusRecipe

        if self._focusing is None:
            self._focusing = Focusing(self.model, self._search())
        text = case.document.text
        n_tokens = len(ids_of(self.model, text))
        budget = math.ceil(n_tokens / (row.ratio or 1))
        recipe = FocusRecipe() if row.kind == "sentences" else FocusRecipe.of(self.model.focus)
        text_alone = self.model.spec.is_elastic and not recipe.finest
        for compressed in (False,) if row.kind == "sentences" else (False, True) if text_alone else (True,):
            summary, seconds = self._summary(case) if compressed else (None, None)
            with contextlib.suppress(NoRoom):
                made = self._focusing.context(text, question.question, min(budget, room), recipe, summary)
                return replace(made, source_tokens=n_tokens, compress_seconds=seconds, cut=budget > room)
        return Context("", 0, n_tokens, len(text.encode()))

    def _search(self) -> Embedder:
        from lloco_integrations import embedding

        if self._embedder is None:
            self._embedder = embedding.load()
        return self._embedder

    def _found(self, case: Case, tokens: int) -> Excerpts:
        """The index of a document whose passages are short enough that one of them fits in ``tokens``."""
        from lloco_integrations.evaluation.excerpts import FEWEST_TOKENS, PASSAGE_TOKENS, Excerpts

        most = min(PASSAGE_TOKENS, max(FEWEST_TOKENS, tokens))
        key = case.document.doc_id, most
        if key not in self._excerpts:
            self._excerpts[key] = Excerpts(self.model, case.document, self._search(), most)
        return self._excerpts[key]
