"""The values that travel through the package. No torch at import time: tensors are named in annotations only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lloco_integrations.errors import BadInput, IncompatibleSummary

if TYPE_CHECKING:
    import torch


NO_ADAPTER = "none"
"""In place of an adapter's name: the decoder alone."""


@dataclass(frozen=True)
class CompressorSpec:
    """What a decoder must know about the compressor whose vectors it reads.

    Attributes:
        fingerprint: sha256 over everything that changes the vectors (DESIGN: weights, kind, lengths, tokenizer, format).
        kind: ``"autocompressor"`` or ``"mean_pool"``.
        hidden_size: width of a summary vector.
        segment_length: source tokens compressed in one forward pass.
        ratios: source tokens per vector that it can give, finest first; a single one for fixed-ratio compressors.
        placement: ``"inline"`` (vectors stand where the placeholder stood) or ``"prefix"`` (in front of the prompt).
    """

    fingerprint: str
    kind: str
    hidden_size: int
    segment_length: int
    ratios: tuple[int, ...]
    placement: str = "inline"

    @property
    def is_elastic(self) -> bool:
        """Whether any stretch of a summary stands for a stretch of the text, and can be made coarser."""
        return len(self.ratios) > 1


@dataclass(frozen=True)
class SummaryEmbeddings:
    """The compressed context of one text.

    Attributes:
        vectors: tensor ``(n_vectors, hidden_size)``, floating point.
        n_tokens: source tokens that were compressed.
        compressor: fingerprint of the compressor that made them.
        window: for elastic summaries, the source tokens averaged into each vector (the last one may hold fewer);
            None where the vectors cannot be merged.
        group: name of the adapter group (domain) the text belongs to, if any.
    """

    vectors: torch.Tensor
    n_tokens: int
    compressor: str
    window: int | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or not self.vectors.is_floating_point():
            raise BadInput(
                f"summary embeddings must be a floating point tensor (n_vectors, hidden_size), "
                f"not {tuple(self.vectors.shape)} {self.vectors.dtype}"
            )

    @property
    def n_vectors(self) -> int:
        return int(self.vectors.shape[0])

    @property
    def ratio(self) -> float:
        """Source tokens per vector."""
        return self.n_tokens / self.n_vectors

    def coarsen(self, ratio: int) -> SummaryEmbeddings:
        """The same text at ``ratio`` source tokens per vector: the token-weighted mean of neighbouring vectors.

        Returns vectors of shape ``(ceil(n_tokens / ratio), hidden_size)``, same dtype, computed in float32.
        Raises IncompatibleSummary if the summary is not elastic or ``ratio`` is not a multiple of its window.
        """
        if self.window is None:
            raise IncompatibleSummary(
                f"these summary embeddings have a fixed ratio of {self.ratio:.0f} and cannot be brought to {ratio}; "
                f"leave the ratio out, or use an elastic compressor (kind mean_pool)"
            )
        if ratio == self.window:
            return self
        if ratio < self.window or ratio % self.window:
            raise IncompatibleSummary(
                f"ratio {ratio} is not a multiple of the stored {self.window} tokens per vector; "
                f"use {self.window}, {2 * self.window}, {4 * self.window}, ..., or compress again at a finer ratio"
            )
        import torch

        per = ratio // self.window
        n = self.n_vectors
        counts = torch.full((n,), float(self.window), dtype=torch.float32, device=self.vectors.device)
        counts[-1] = self.n_tokens - self.window * (n - 1)
        index = torch.arange(n, dtype=torch.long, device=self.vectors.device) // per
        groups = int(index[-1]) + 1
        weighted = self.vectors.float() * counts[:, None]
        sums = weighted.new_zeros(groups, self.vectors.shape[1]).index_add_(0, index, weighted)
        totals = counts.new_zeros(groups).index_add_(0, index, counts)
        return replace(self, vectors=(sums / totals[:, None]).to(self.vectors.dtype), window=ratio)

    def slice(self, start: int, stop: int) -> SummaryEmbeddings:
        """The windows from ``start`` up to, not including, ``stop``: vectors ``(stop - start, hidden_size)``, a view.

        Raises IncompatibleSummary if the summary is not elastic, or has no such windows.
        """
        if self.window is None:
            raise IncompatibleSummary(
                f"these summary embeddings have a fixed ratio of {self.ratio:.0f} and no part of them stands for a part of the text; "
                f"use them whole, or an elastic compressor (kind mean_pool)"
            )
        if not 0 <= start < stop <= self.n_vectors:
            raise IncompatibleSummary(
                f"windows {start} to {stop} are not in a summary of {self.n_vectors} windows; give 0 <= start < stop <= {self.n_vectors}"
            )
        n_tokens = min(self.n_tokens, stop * self.window) - start * self.window
        return replace(self, vectors=self.vectors[start:stop], n_tokens=n_tokens)

    def part(self, windows: tuple[int, int] | None) -> SummaryEmbeddings:
        """The ``slice`` that ``windows`` names; None is all of it."""
        return self if windows is None else self.slice(*windows)


@dataclass(frozen=True)
class GenerationParams:
    """How to decode. ``temperature`` 0 is greedy. ``max_new_tokens`` counts tokens, ``stop`` are strings.

    Raises BadInput for a value that cannot be.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str) or not all(isinstance(s, str) for s in self.stop):
            raise BadInput(f"stop is {self.stop!r}; give a list of strings")
        for name, value, whole, low, high, wanted in (
            ("max_tokens", self.max_new_tokens, True, 1, math.inf, "an integer from 1"),
            ("temperature", self.temperature, False, 0, 1e6, "0 (greedy) or a positive number"),
            ("top_p", self.top_p, False, 1e-9, 1, "a number over 0 and up to 1"),
            ("top_k", self.top_k, True, 0, math.inf, "0 (off) or a positive integer"),
            ("repetition_penalty", self.repetition_penalty, False, 1e-9, 1e6, "1 (off) or another positive number"),
        ):
            if not isinstance(value, int if whole else int | float) or not low <= value <= high:
                raise BadInput(f"{name} is {value!r}; give {wanted}")


@dataclass(frozen=True)
class Usage:
    """True positions: a placeholder costs its vectors. ``source_tokens``: what the raw text would have cost."""

    prompt_tokens: int
    completion_tokens: int
    source_tokens: int

    def as_dict(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "source_tokens": self.source_tokens,
        }


@dataclass(frozen=True)
class Generation:
    """One answer.

    Attributes:
        text: the answer.
        finish_reason: ``"stop"`` (end of sequence or a stop string) or ``"length"``.
        usage: what it cost.
        adapter: name of the adapter that answered; None is the decoder alone.
        groups: the share (0 to 1) of each group in what was weighed to choose the adapter; empty where no group was named.
    """

    text: str
    finish_reason: str
    usage: Usage
    adapter: str | None = None
    groups: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerationChunk:
    """A piece of a streamed answer; the last one carries the whole Generation in ``final``."""

    delta: str
    final: Generation | None = None


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; ``content`` may hold placeholders."""

    role: str
    content: str


@dataclass(frozen=True)
class ResolvedPrompt:
    """What a backend gets.

    Attributes:
        pieces: token ids or vectors ``(n, hidden_size)``, in order.
        n_positions: what the prompt costs in the window.
        source_tokens: what it would cost if all texts stood in it whole, as text.
        n_shared: so many pieces at the beginning may come again in a prompt that asks something else: those before the first slice of a
            summary, which stands there because of the question. None is all.
    """

    pieces: tuple[list[int] | torch.Tensor, ...]
    n_positions: int
    source_tokens: int
    n_shared: int | None = None


@dataclass(frozen=True)
class Count:
    """Positions of a prompt that is not resolved: as ResolvedPrompt counts them, without reading vectors."""

    n_positions: int
    source_tokens: int
