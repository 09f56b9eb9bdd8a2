"""Symmetric int8: one float32 scale a vector, ``value = scale * q`` with q in -127..127."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def quantise(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``vectors (n, hidden)`` as int8 ``(n, hidden)`` and float32 scales ``(n,)``.

    Every element is off by at most half its row's scale, which is a 254th of the row's largest magnitude.
    """
    import torch

    values = vectors.float()
    scales = values.abs().amax(dim=1) / 127.0
    # A row of zeros, or of numbers so small that their scale underflows, is stored as zeros.
    safe = torch.where(scales > 0, scales, torch.ones_like(scales))
    q = torch.round(values / safe[:, None]).clamp_(-127, 127)
    q = torch.where(scales[:, None] > 0, q, torch.zeros_like(q))
    return q.to(torch.int8), scales


def dequantise(q: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The vectors ``(n, hidden)`` of ``dtype`` that ``quantise`` made ``q`` and ``scales`` of; finite if scales are."""
    import torch

    limit = torch.finfo(dtype).max
    return (q.float() * scales[:, None]).clamp_(-limit, limit).to(dtype)
