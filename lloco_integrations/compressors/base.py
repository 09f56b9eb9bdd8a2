"""What every compressor offers, and the batching all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterator, Sequence

import torch

from lloco_integrations.errors import BadInput
from lloco_integrations.types import CompressorSpec, SummaryEmbeddings

Progress = Callable[[int], None]
"""Called with the number of source tokens that have just been compressed."""


class Compressor(ABC):
    """Turns token ids into summary embeddings."""

    spec: CompressorSpec

    @abstractmethod
    def compress_ids(
        self,
        documents: Sequence[Sequence[int]],
        *,
        batch_size: int | None = None,
        segment_length: int | None = None,
        progress: Progress | None = None,
    ) -> list[SummaryEmbeddings]:
        """One SummaryEmbeddings a document, in order; vectors ``(n_vectors, hidden_size)`` on the CPU in the model's dtype.

        ``batch_size`` counts segments in one forward pass (default: as many as fit ``TOKENS_A_BATCH`` tokens); results do not
        depend on it. Raises BadInput on an empty document.
        """

    @abstractmethod
    def read(self, summary: SummaryEmbeddings, ratio: int | None = None) -> torch.Tensor:
        """The rows ``(n_vectors, hidden_size)`` to put into the decoder's ``inputs_embeds`` for ``summary``.

        Raises IncompatibleSummary for vectors of another compressor (naming both fingerprints) or a ratio it cannot give.
        """


TOKENS_A_BATCH = 8192


def require_ids(documents: Sequence[Sequence[int]], vocabulary: int) -> None:
    """Raise BadInput if one of ``documents`` holds no token, or one that is not below ``vocabulary``."""
    for i, ids in enumerate(documents):
        try:
            held = array("q", ids)
        except (TypeError, ValueError, OverflowError) as error:
            raise BadInput(
                f"document {i} of {len(documents)} is no list of token ids ({error}); give a list of integers for each"
            ) from error
        if not held:
            raise BadInput(f"document {i} of {len(documents)} has no tokens; leave empty texts out")
        if min(held) < 0 or max(held) >= vocabulary:
            raise BadInput(
                f"document {i} has tokens from {min(held)} to {max(held)}, the model's vocabulary has {vocabulary}; "
                f"use the model's own tokenizer"
            )


def buckets(lengths: Sequence[int], batch_size: int | None, tokens: int = TOKENS_A_BATCH) -> Iterator[list[int]]:
    """Indices of ``lengths`` in batches, longest first: ``batch_size`` rows, or what fits ``tokens`` after padding.

    Raises BadInput if ``batch_size`` is below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise BadInput(f"batch_size={batch_size} must be 1 or more; leave it out to choose it by length")
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    at = 0
    while at < len(order):
        rows = batch_size or max(1, tokens // max(1, lengths[order[at]]))
        yield order[at : at + rows]
        at += rows
