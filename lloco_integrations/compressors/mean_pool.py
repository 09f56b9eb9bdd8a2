"""``mean_pool``: a bidirectional encoder whose token vectors are averaged over windows of tokens.

    mean(ratio) = mean over the window of (token embedding + scale * W[slot] h)
    vector      = centre + gain(ratio) * (mean(ratio) - centre)

h is the encoder's normed last hidden state, W one bias-free matrix for each of four slots (position modulo 4), zero at the
start, so that a new compressor begins with averaged token embeddings, which a decoder can already half read. Token embeddings
share a large common component, the centre: averaging keeps it and shrinks the rest by sqrt(ratio), so the gain (at the start
sqrt(ratio)) acts on the rest alone and vectors keep the size of token embeddings. What is stored is the mean at the finest
ratio; a coarser one is the token-weighted mean of neighbours; centre and gain are applied when it is read: one stored artefact
serves every ratio.

With salience, means are weighted by exp(u h), u learnt: names and numbers count for more than "the". The token vectors are then kept as
(weight * vector, weight * scale), one column more, which averages like any other; reading divides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lloco_integrations.compressors.base import Compressor, Progress, buckets, require_ids
from lloco_integrations.errors import IncompatibleSummary
from lloco_integrations.types import CompressorSpec, SummaryEmbeddings
from lloco_integrations.undisturbed import undisturbed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SLOTS = 4
"""Positions in a window that have a matrix of their own; they repeat in longer windows."""
RATIOS = (4, 8, 16, 32)
"""What a compressor gives unless its recipe says otherwise; the first is the finest, which is stored."""
_GAIN_RATIOS = (1, 2, 4, 8, 16, 32)
_OWN = torch.float32
"""A projector's dtype, whatever torch's default is at the moment."""
_MOST = 5.0
"""The natural logarithm of the greatest weight, and the negative one of the least."""


class Projector(nn.Module):
    """Token embeddings and hidden states -> token vectors -> what the decoder reads.

    ``scale`` is the root mean square of the base's token embeddings, ``centre`` the mean of them over running text.
    """

    def __init__(self, hidden_size: int, slots: int = SLOTS, *, salience: bool = False) -> None:
        super().__init__()
        self.n_slots = slots
        self.salience = nn.Parameter(torch.zeros(hidden_size, dtype=_OWN)) if salience else None
        self.centre = nn.Parameter(torch.zeros(hidden_size, dtype=_OWN))
        self.slots = nn.Parameter(torch.zeros(slots, hidden_size, hidden_size, dtype=_OWN))
        self.log_gain = nn.Parameter(torch.tensor([0.5 * math.log(r) for r in _GAIN_RATIOS], dtype=_OWN))
        self.scale: torch.Tensor
        self.register_buffer("scale", torch.ones((), dtype=_OWN))

    def forward(self, embeddings: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """``(batch, length, hidden)`` twice -> the same shape, with salience ``(batch, length, hidden + 1)`` float32; position 0 of each
        row is slot 0."""
        batch, length, width = hidden.shape
        short = -length % self.n_slots
        padded = nn.functional.pad(hidden, (0, 0, 0, short)).view(batch, -1, self.n_slots, width)
        moved = torch.einsum("bnsh,sho->bnso", padded, self.slots.to(hidden.dtype))
        vectors = embeddings + self.scale.to(hidden.dtype) * moved.reshape(batch, -1, width)[:, :length]
        if self.salience is None:
            return vectors
        weights = (hidden.float() @ self.salience.float()).clamp(-_MOST, _MOST).exp()[..., None]
        return torch.cat([weights * vectors.float(), weights * self.scale.float()], dim=-1)  # of like size, for int8's sake

    def read(self, means: torch.Tensor, ratio: int) -> torch.Tensor:
        """Means ``(..., hidden)`` of ``ratio`` tokens each, with salience ``(..., hidden + 1)`` -> rows ``(..., hidden)`` for the decoder,
        float32."""
        centre, means = self.centre.float(), means.float()
        if self.salience is not None:
            means = means[..., :-1] * self.scale.float() / means[..., -1:].clamp(min=1e-9)
        return centre + self.gain(ratio) * (means - centre)

    @classmethod
    def of_state(cls, state: Mapping[str, torch.Tensor]) -> Projector:
        """The projector whose ``state_dict`` this is."""
        slots, width, _ = state["slots"].shape
        projector = cls(width, slots, salience="salience" in state)
        projector.load_state_dict(dict(state))
        return projector

    def gain(self, ratio: int) -> torch.Tensor:
        """The scalar for vectors of ``ratio`` source tokens; interpolated between the learnt ones."""
        at = math.log2(ratio)
        low = min(int(at), len(_GAIN_RATIOS) - 1)
        high = min(low + 1, len(_GAIN_RATIOS) - 1)
        return torch.exp(torch.lerp(self.log_gain[low], self.log_gain[high], at - low if high > low else 0.0))


def pool(tokens: torch.Tensor, mask: torch.Tensor, ratio: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Means over windows of ``ratio`` tokens: ``(batch, length, hidden)``, bool ``(batch, length)`` -> ``(batch, windows, hidden)`` and
    the tokens counted in each ``(batch, windows)``. Windows of padding alone have count 0 and value 0. Computed in float32."""
    batch, length, width = tokens.shape
    short = -length % ratio
    weights = nn.functional.pad(mask.float(), (0, short)).view(batch, -1, ratio)
    values = nn.functional.pad(tokens.float(), (0, 0, 0, short)).view(batch, -1, ratio, width)
    counts = weights.sum(-1)
    return (values * weights[..., None]).sum(2) / counts.clamp(min=1.0)[..., None], counts


class MeanPoolEncoder(nn.Module):
    """The trunk of a causal LM, run with a bidirectional (or causal) mask, and a Projector."""

    def __init__(self, trunk: PreTrainedModel, projector: Projector, *, bidirectional: bool = True) -> None:
        super().__init__()
        self.trunk = trunk
        self.projector = projector
        self.bidirectional = bidirectional

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Token vectors ``(batch, length, hidden)`` of right-padded ``ids (batch, length)``; ``mask`` bool, True for tokens."""
        vectors: torch.Tensor = self.projector(*self.states(ids, mask))
        return vectors

    def states(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the projector takes: token embeddings and normed last hidden states, both ``(batch, length, hidden)``."""
        attention: Any = mask.long()
        if self.bidirectional:
            dtype = self.trunk.dtype
            blocked = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
            attention = blocked[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
        positions = torch.arange(ids.shape[1], dtype=torch.long, device=ids.device).expand_as(ids)
        embeddings = self.trunk.get_input_embeddings()(ids)
        out = self.trunk(inputs_embeds=embeddings, attention_mask=attention, position_ids=positions, use_cache=False)
        return embeddings, out.last_hidden_state


class MeanPoolCompressor(Compressor):
    """Compresses with a MeanPoolEncoder; texts longer than a segment are cut into segments that are encoded alone."""

    def __init__(self, encoder: MeanPoolEncoder, spec: CompressorSpec) -> None:
        self.encoder = encoder.eval()
        self.spec = spec

    def compress_ids(
        self,
        documents: Sequence[Sequence[int]],
        *,
        batch_size: int | None = None,
        segment_length: int | None = None,
        progress: Progress | None = None,
    ) -> list[SummaryEmbeddings]:
        """See Compressor. ``segment_length`` is rounded down to a multiple of the coarsest ratio."""
        embeddings: Any = self.encoder.trunk.get_input_embeddings()
        require_ids(documents, embeddings.weight.shape[0])
        coarsest = self.spec.ratios[-1]
        length = max(coarsest, (segment_length or self.spec.segment_length) // coarsest * coarsest)
        segments = [(d, ids[at : at + length]) for d, ids in enumerate(documents) for at in range(0, len(ids), length)]
        vectors: dict[int, torch.Tensor] = {}
        for batch in buckets([len(ids) for _, ids in segments], batch_size):
            with undisturbed():
                vectors.update(zip(batch, self._encode([segments[i][1] for i in batch]), strict=True))
            if progress:
                progress(sum(len(segments[i][1]) for i in batch))
        grouped: list[list[torch.Tensor]] = [[] for _ in documents]
        for i, (d, _) in enumerate(segments):
            grouped[d].append(vectors[i])
        return [
            SummaryEmbeddings(torch.cat(rows), len(ids), self.spec.fingerprint, window=self.spec.ratios[0])
            for rows, ids in zip(grouped, documents, strict=True)
        ]

    def _encode(self, rows: list[Sequence[int]]) -> list[torch.Tensor]:
        ids, mask = pad(rows, self.encoder.trunk.device)
        means, counts = pool(self.encoder(ids, mask), mask, self.spec.ratios[0])
        dtype = self.encoder.trunk.dtype
        return [m[: int((c > 0).sum())].to(device="cpu", dtype=dtype) for m, c in zip(means, counts, strict=True)]

    def read(self, summary: SummaryEmbeddings, ratio: int | None = None) -> torch.Tensor:
        """See ``read_means``."""
        return read_means(self.encoder.projector, self.spec, summary, ratio)


def read_means(projector: Projector, spec: CompressorSpec, summary: SummaryEmbeddings, ratio: int | None = None) -> torch.Tensor:
    """See Compressor.read: coarsened to ``ratio`` (default: as stored), times that ratio's gain. Needs no encoder."""
    if summary.compressor != spec.fingerprint:
        raise IncompatibleSummary(
            f"these summary embeddings were made by compressor {summary.compressor[:16]}, and this model reads those of "
            f"{spec.fingerprint[:16]}; compress the documents again with this model, or load the model that made them"
        )
    coarse = summary.coarsen(ratio or spec.ratios[0])
    with undisturbed():
        rows = projector.read(coarse.vectors.to(projector.centre.device), coarse.window or spec.ratios[0])
    return rows.to(summary.vectors.dtype)


def pad(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ``ids`` and bool ``mask``, both ``(len(rows), longest)``."""
    longest = max(len(r) for r in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long, device="cpu")
    mask = torch.zeros(len(rows), longest, dtype=torch.bool, device="cpu")
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long, device="cpu")
        mask[i, : len(row)] = True
    return ids.to(device), mask.to(device)


def truncated(trunk: PreTrainedModel, layers: int) -> PreTrainedModel:
    """``trunk`` with its first ``layers`` blocks only, in place; its final norm is set to plain normalisation."""
    name = next(n for n in ("layers", "h", "blocks") if isinstance(getattr(trunk, n, None), nn.ModuleList))
    blocks = getattr(trunk, name)
    if layers < len(blocks):
        setattr(trunk, name, blocks[:layers])
        trunk.config.num_hidden_layers = layers
        for norm in ("norm", "ln_f", "final_layer_norm"):
            if hasattr(trunk, norm):
                nn.init.ones_(getattr(trunk, norm).weight)
    return trunk
