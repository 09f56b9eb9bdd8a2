"""How well each span of retrieved texts fits a question: by words, by sentence embeddings, or by both.

Scores order the spans of one question; they are not compared between questions, so no threshold is ever set on them.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from lloco_integrations.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lloco_integrations.embedding import Embedder


@dataclass(frozen=True)
class Candidates:
    """What is ranked of one text: its sentences, and the pieces of them that may be shown, each with its sentence's index.

    Where a budget is small, a long sentence is shown in pieces. The words must then be in the piece, but what it is about is told by the
    whole sentence, so sentence embeddings are made once, whatever the budget.
    """

    sentences: tuple[str, ...]
    pieces: tuple[str, ...]
    owners: tuple[int, ...]


Texts = Sequence[Candidates]
"""Of each retrieved text, best text first."""

_WORD = re.compile(r"[^\W_]+")
_WIDE = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
_STEM = 5
"""Letters by which words are compared: "observatories" is found by "observatory", in most European languages, without a list of endings."""
_STOP = frozenset(
    """a an and are as at be been but by can could did do does for from had has have he her him his how i in into is it its of on or our she
    should so than that the their them then there these they this those to was we were what when where which who whom whose why will with
    would you your""".split()  # noqa: SIM905
)
_LARGE = 20_000
_QUESTION_WORDS = 400
"""Words of a question that are looked for; the last ones, since there the question itself stands."""


class Scorer(Protocol):
    """Scores spans."""

    def score(self, question: str, texts: Texts) -> Sequence[float]:
        """One number a piece, all pieces of all texts in order; the higher, the better."""


def words_of(text: str) -> list[str]:
    """The words of ``text`` as they are compared: lower case, stems; pairs of letters where a script has no blanks."""
    found: list[str] = []
    for word in _WORD.findall(text.lower()):
        wide = _WIDE.search(word)
        if wide:
            found += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
        elif word not in _STOP:
            found.append(word[:_STEM])
    return found


class ByWords:
    """BM25 over the pieces, rare words counting most (``bm25s``, Lucene's variant)."""

    def score(self, question: str, texts: Texts) -> Sequence[float]:
        asked = words_of(question)[-_QUESTION_WORDS:]
        index = _index(tuple(text.pieces for text in texts))
        if index is None or not asked:
            return [0.0] * sum(len(text.pieces) for text in texts)
        scores: Sequence[float] = index.get_scores(asked).tolist()
        return scores


@lru_cache(maxsize=16)
def _index(texts: tuple[tuple[str, ...], ...]) -> Any:
    """A bm25s index of the spans; None if there is no word in them."""
    import bm25s

    spans = [words_of(span) for text in texts for span in text]
    if not any(spans):
        return None
    index = bm25s.BM25(method="lucene")
    index.index(spans, show_progress=False)
    return index


class ByMeaning:
    """Cosine of sentence embeddings.

    Args:
        embedder: makes them; ``name`` tells its vectors from those of others.
        kept: what has been embedded before, looked up first.
    """

    def __init__(self, embedder: Embedder, kept: SpanVectors | None = None) -> None:
        self.embedder = embedder
        self.kept = kept or SpanVectors()

    def score(self, question: str, texts: Texts) -> Sequence[float]:
        asked = self.embedder.embed_question(question[-_LARGE:])
        found = self.kept.get(self.embedder, [text.sentences for text in texts], len(asked))
        scores: list[float] = []
        for text, vectors in zip(texts, found, strict=True):
            near = (vectors @ asked).tolist()
            scores += [near[owner] for owner in text.owners]
        return scores


class SpanVectors:
    """Sentence embeddings of texts that were asked about lately, in memory: at most ``most`` spans of them.

    ``stored``: asked for those that are not here; gives None for what it does not have.
    """

    def __init__(self, stored: Callable[[Embedder, tuple[str, ...]], NDArray[np.float32] | None] | None = None, most: int = 50_000) -> None:
        self.stored = stored
        self.most = most
        self._held: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, embedder: Embedder, texts: Sequence[tuple[str, ...]], width: int) -> list[NDArray[np.float32]]:
        """``(len(text), width)`` for each of ``texts``; those that are not held are embedded, all in one go."""
        import numpy as np

        keys = [_key(embedder.name, text) for text in texts]
        found: list[NDArray[np.float32] | None] = [self._find(embedder, key, text, width) for key, text in zip(keys, texts, strict=True)]
        missing = [i for i, vectors in enumerate(found) if vectors is None]
        if missing:
            made = embedder.embed([span for i in missing for span in texts[i]])
            if len(made) != sum(len(texts[i]) for i in missing) or made.shape[1] != width:
                raise BadInput(
                    f"the embedding model {embedder.name} gave vectors {made.shape} for {sum(len(texts[i]) for i in missing)} spans and a "
                    f"question of width {width}; use one model for both"
                )
            at = 0
            for i in missing:
                found[i] = np.asarray(made[at : at + len(texts[i])], dtype=np.float32)
                at += len(texts[i])
                self._hold(keys[i], found[i])
        return [vectors for vectors in found if vectors is not None]

    def _find(self, embedder: Embedder, key: bytes, text: tuple[str, ...], width: int) -> NDArray[np.float32] | None:
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                self._held.move_to_end(key)
                return held
        stored = self.stored(embedder, text) if self.stored is not None else None
        if stored is None or stored.shape != (len(text), width):  # of another model, or cut otherwise: made again
            return None
        self._hold(key, stored)
        return stored

    def _hold(self, key: bytes, vectors: NDArray[np.float32] | None) -> None:
        if vectors is None:
            return
        with self._lock:
            if key not in self._held:
                self._size += len(vectors)
            self._held[key] = vectors
            while self._size > self.most and len(self._held) > 1:
                self._size -= len(self._held.popitem(last=False)[1])


def _key(name: str, text: tuple[str, ...]) -> bytes:
    made = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16)
    for span in text:
        encoded = span.encode("utf-8", "surrogatepass")
        made.update(len(encoded).to_bytes(8, "big") + encoded)
    return made.digest()


class ByBoth:
    """Reciprocal rank fusion of several scorers: what each puts first counts, whatever its scale."""

    def __init__(self, *scorers: Scorer, k: int = 10) -> None:
        self.scorers = scorers
        self.k = k

    def score(self, question: str, texts: Texts) -> Sequence[float]:
        total = [0.0] * sum(len(text.pieces) for text in texts)
        for scorer in self.scorers:
            for i, rank in enumerate(ranks(scorer.score(question, texts))):
                total[i] += 1 / (self.k + rank)
        return total


def ranks(scores: Sequence[float]) -> list[int]:
    """The place of each score, 0 for the highest; equal scores share the place of the first of them."""
    places: dict[float, int] = {}
    for place, score in enumerate(sorted(scores, reverse=True)):
        places.setdefault(score, place)
    return [places[score] for score in scores]
