"""The passages of one document that are nearest to a question, as many as a number of positions holds: raw, or compressed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lloco_integrations.evaluation.contexts import NO_LIMIT, Context, finest, ids_of
from lloco_integrations.evaluation.datasets import Document, Question
from lloco_integrations.evaluation.retrieval import Passage, Passages, cut

if TYPE_CHECKING:
    import torch

    from lloco_integrations.embedding import Embedder
    from lloco_integrations.models import LLoCOModel

PASSAGE_TOKENS = 150
"""At most: as in pipelines, small enough that several fit, and whole for an embedder that reads 256 tokens."""
FEWEST_TOKENS = 16
"""Passages are no shorter than this, however few positions there are: less is no sentence."""
_GAP = "\n\n"


def choose(order: Sequence[int], lengths: Sequence[int], gap: int, budget: int) -> list[tuple[int, int]]:
    """Passages (indices, best first, in ``order``) that fit ``budget`` positions with ``gap`` positions between them, the last one taken
    cut to what is left: pairs of index and positions taken, in the order of the document."""
    taken: list[tuple[int, int]] = []
    rest = budget
    for i in order:
        rest -= gap if taken else 0
        if rest < 1:
            break
        taken.append((i, min(lengths[i], rest)))
        rest -= taken[-1][1]
    return sorted(taken)


class Excerpts:
    """The index of one document, made once for all questions; passages are compressed once, when vectors are first wanted.

    ``texts``: the passages in the order of the document, of up to ``most`` tokens; ``source_tokens``: of the whole document; ``ratio``: what
    passages are compressed at.
    """

    def __init__(self, model: LLoCOModel, document: Document, embedder: Embedder, most: int = PASSAGE_TOKENS) -> None:
        self.model = model
        self.ratio = finest(model)
        self.texts = cut(document.text, lambda text: len(ids_of(model, text)), most)
        self.source_tokens = len(ids_of(model, document.text))
        self._index = Passages.of([Passage(document.doc_id, text) for text in self.texts], embedder)
        self._text_bytes = len(document.text.encode())
        self._orders: dict[str, tuple[list[int], float]] = {}
        self._blocks: tuple[list[list[int]], int] | None = None
        self._rows: tuple[list[torch.Tensor], float] | None = None

    @property
    def index_bytes(self) -> int:
        """Bytes of the embeddings that passages are found by."""
        return int(self._index.vectors.nbytes)

    def order(self, question: Question) -> tuple[list[int], float]:
        """Indices of the passages, the nearest to ``question`` first, and the seconds that this takes."""
        if question.id not in self._orders:
            began = time.perf_counter()
            ranked = [i for i, _ in self._index.rank(question.question)]
            self._orders[question.id] = (ranked, time.perf_counter() - began)
        return self._orders[question.id]

    def raw(self, question: Question, budget: int, room: int = NO_LIMIT) -> Context:
        """Token ids of the best passages, with blank lines between them: ``budget`` positions, or all passages; ``room`` at most."""
        order, seconds = self.order(question)
        blocks, gap = self._tokens()
        lengths = [len(block) - gap for block in blocks]
        shown: list[int] = []
        for i, n in choose(order, lengths, gap, min(budget, room)):
            shown += blocks[i][0 if shown else gap : gap + n]
        kept = self._text_bytes + self.index_bytes
        return Context(shown, len(shown), self.source_tokens, kept, None, seconds, self._cut(lengths, gap, budget, room))

    def summaries(self, question: Question, budget: int, room: int = NO_LIMIT) -> Context:
        """Vectors ``(n, hidden_size)`` of the best passages at ``ratio``, with blank lines between them; else as ``raw``."""
        import torch

        order, seconds = self.order(question)
        rows, compress_seconds = self._compressed()
        gap = self._gap().to(rows[0].device, rows[0].dtype)
        lengths = [len(r) for r in rows]
        shown: list[torch.Tensor] = []
        for i, n in choose(order, lengths, len(gap), min(budget, room)):
            shown += [*([gap] if shown else []), rows[i][:n]]
        content = torch.cat(shown)
        kept = sum(r.numel() * r.element_size() for r in rows) + self.index_bytes
        cut_to_fit = self._cut(lengths, len(gap), budget, room)
        return Context(content, len(content), self.source_tokens, kept, compress_seconds, seconds, cut_to_fit)

    @staticmethod
    def _cut(lengths: Sequence[int], gap: int, budget: int, room: int) -> bool:
        """Whether more would have been shown in a larger window."""
        return min(budget, sum(lengths) + gap * (len(lengths) - 1)) > room

    def _tokens(self) -> tuple[list[list[int]], int]:
        """The tokens of each passage where it stands after a blank line, and how many of them are the blank line's."""
        if self._blocks is None:
            blocks = [ids_of(self.model, _GAP + text) for text in self.texts]
            self._blocks = blocks, len(blocks[0]) - len(ids_of(self.model, self.texts[0]))
        return self._blocks

    def _compressed(self) -> tuple[list[torch.Tensor], float]:
        if self._rows is None:
            began = time.perf_counter()
            made = self.model.compress(self.texts)
            self._rows = [self.model.compressor.read(summary, self.ratio) for summary in made], time.perf_counter() - began
        return self._rows

    def _gap(self) -> torch.Tensor:
        """The embeddings of what pipelines put between two passages: one tensor then stands for all that is shown."""
        import torch

        assert self.model.prompter is not None
        embedding: Any = self.model.decoder.get_input_embeddings()
        with torch.inference_mode():
            rows: torch.Tensor = embedding(torch.tensor(self.model.prompter.text_ids(_GAP), device=embedding.weight.device))
        return rows
