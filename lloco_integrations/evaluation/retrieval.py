"""A small dense retriever for evaluation: paragraphs of documents, found with MiniLM sentence embeddings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from lloco_integrations import embedding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lloco_integrations.embedding import Embedder


_SENTENCE = re.compile(r"""[.!?]+["'”’)\]]*(?:\s+|(?=[A-Z][a-z\s]))|[。！？]+\s*|\n\s*\n\s*""")
_WORD = re.compile(r"\s+")


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


def cut(text: str, count: Callable[[str], int], most: int) -> list[str]:
    """``text`` in passages of up to ``most`` by ``count``, each as long as it can be, cut where sentences end; a sentence that is longer is
    cut between words, and a word never."""
    parts: list[str] = []
    for sentence in _split(text, _SENTENCE):
        parts += [sentence] if count(sentence.strip()) <= most else _split(sentence, _WORD)
    out: list[str] = []
    held = ""
    for part in parts:
        if held and count((held + part).strip()) > most:
            out.append(held)
            held = ""
        held += part
    return [passage.strip() for passage in (*out, held) if passage.strip()]


def _split(text: str, after: re.Pattern[str]) -> list[str]:
    """``text`` cut after each match; the parts put together are ``text``."""
    ends = [0, *(found.end() for found in after.finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(ends) if b > a]


@dataclass
class Passages:
    """Passages and their embeddings ``(n, 384)``, unit length."""

    passages: list[Passage]
    embedder: Embedder
    vectors: NDArray[np.float32]

    @classmethod
    def of_documents(cls, documents: Iterable[tuple[str, str]]) -> Passages:
        """The passages of ``(doc_id, text)`` pairs."""
        return cls.of([Passage(doc_id, p) for doc_id, text in documents for p in paragraphs(text)], embedding.load())

    @classmethod
    def of(cls, passages: list[Passage], embedder: Embedder) -> Passages:
        """``passages`` as they are."""
        return cls(passages, embedder, embedder.embed([p.text for p in passages]))

    def search(self, question: str, k: int) -> list[tuple[Passage, float]]:
        """The ``k`` passages nearest to ``question`` with their cosines, best first."""
        return [(self.passages[i], score) for i, score in self.rank(question)[:k]]

    def rank(self, question: str) -> list[tuple[int, float]]:
        """Indices of all passages with their cosines, the nearest to ``question`` first."""
        scores = self.vectors @ self.embedder.embed_question(question)
        return [(int(i), float(scores[i])) for i in (-scores).argsort(kind="stable")]
