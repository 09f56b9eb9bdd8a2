"""A small dense retriever for evaluation: paragraphs of documents, found with MiniLM sentence embeddings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lloco_integrations import embedding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lloco_integrations.embedding import Embedder


@dataclass(frozen=True)
class Passage:
    doc_id: str
    text: str


def paragraphs(text: str, most_words: int = 150) -> list[str]:
    """Paragraphs of ``text``, headings joined to what follows, neighbours joined while they stay under ``most_words`` words."""
    out: list[str] = []
    for block in (b.strip() for b in text.split("\n\n")):
        if not block:
            continue
        heading = out and out[-1].startswith("#") and "\n" not in out[-1]
        if heading or (out and len(out[-1].split()) + len(block.split()) <= most_words and not block.startswith("#")):
            out[-1] += f"\n\n{block}"
        else:
            out.append(block)
    return out


@dataclass
class Passages:
    """Passages and their embeddings ``(n, 384)``, unit length."""

    passages: list[Passage]
    embedder: Embedder
    vectors: NDArray[np.float32]

    @classmethod
    def of_documents(cls, documents: Iterable[tuple[str, str]]) -> Passages:
        """The passages of ``(doc_id, text)`` pairs."""
        found = [Passage(doc_id, p) for doc_id, text in documents for p in paragraphs(text)]
        embedder = embedding.load()
        return cls(found, embedder, embedder.embed([p.text for p in found]))

    def search(self, question: str, k: int) -> list[tuple[Passage, float]]:
        """The ``k`` passages nearest to ``question`` with their cosines, best first."""
        scores = self.vectors @ self.embedder.embed([question])[0]
        return [(self.passages[int(i)], float(scores[i])) for i in (-scores).argsort()[:k]]
