"""What is trained: encoder LoRA, projector and decoder LoRA over one frozen base, and its loss on a batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lloco_integrations.compressors.mean_pool import MeanPoolEncoder, Projector, pad, pool, truncated
from lloco_integrations.placeholder import Placeholder
from lloco_integrations.training.data import Batch, Context, context_index
from lloco_integrations.training.packing import Packed, pack, token_losses, weighted_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LINEAR_LAYERS = "all-linear"


@dataclass(frozen=True)
class LoraSettings:
    """``rank`` 0 leaves that side frozen."""

    rank: int = 16
    alpha: int = 32


class Trainee(nn.Module):
    """A compressor and the decoder that learns to read it. Only LoRA weights and the projector require gradients."""

    def __init__(
        self,
        base: PreTrainedModel,
        *,
        encoder_layers: int | None = None,
        bidirectional: bool = True,
        lora: LoraSettings | None = None,
        segment_length: int = 512,
    ) -> None:
        from peft import LoraConfig, get_peft_model

        super().__init__()
        lora = lora or LoraSettings()
        base.requires_grad_(False)
        trunk: Any = copy.deepcopy(base.base_model)
        if encoder_layers is not None:
            trunk = truncated(trunk, encoder_layers)
        settings: dict[str, Any] = {"r": lora.rank, "lora_alpha": lora.alpha, "target_modules": LINEAR_LAYERS}
        self.decoder: Any = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings), autocast_adapter_dtype=False)
        peft_trunk: Any = get_peft_model(trunk, LoraConfig(task_type="FEATURE_EXTRACTION", **settings), autocast_adapter_dtype=False)
        embedding: Any = base.get_input_embeddings()
        weight = embedding.weight
        projector = Projector(weight.shape[1])
        projector.scale.fill_(float(weight.float().pow(2).mean().sqrt()))
        with torch.no_grad():
            projector.centre.copy_(weight.float().mean(0))
        self.encoder = MeanPoolEncoder(peft_trunk, projector, bidirectional=bidirectional)
        self.segment_length = segment_length

    @torch.no_grad()
    def centre_on(self, contexts: Sequence[Context]) -> None:
        """Start the projector's centre at the mean token embedding of running text (about 2,000 documents are enough)."""
        weight = self.decoder.get_input_embeddings().weight
        ids = torch.tensor([i for c in contexts[:2000] for i in c.ids], device=weight.device)
        counts = torch.bincount(ids, minlength=weight.shape[0]).float()
        self.encoder.projector.centre.copy_((counts / counts.sum()) @ weight.float())

    def context_vectors(self, contexts: tuple[tuple[int, ...], ...], ratio: int) -> list[torch.Tensor]:
        """Rows for the decoder, one tensor ``(ceil(n_tokens / ratio), hidden)`` a context."""
        segments = [
            (c, ids[at : at + self.segment_length]) for c, ids in enumerate(contexts) for at in range(0, len(ids), self.segment_length)
        ]
        ids, mask = pad([s for _, s in segments], self.encoder.trunk.device)
        means, counts = pool(self.encoder(ids, mask), mask, ratio)
        rows = self.encoder.projector.read(means, ratio)
        parts: list[list[torch.Tensor]] = [[] for _ in contexts]
        for i, (c, _) in enumerate(segments):
            parts[c].append(rows[i, : int((counts[i] > 0).sum())])
        return [torch.cat(p) for p in parts]

    def packed(self, batch: Batch) -> Packed:
        """The batch's decoder pass; only contexts that some row shows are encoded."""
        shown = sorted({context_index(s.key) for row in batch.rows for s in row.prefix if isinstance(s, Placeholder)})
        made = self.context_vectors(tuple(batch.contexts[i] for i in shown), batch.ratio) if shown else []
        vectors = dict(zip(shown, made, strict=True))
        embeddings = self.decoder.get_input_embeddings()
        return pack(batch.rows, embeddings, lambda p: vectors[context_index(p.key)])

    def token_losses(self, packed: Packed) -> torch.Tensor:
        model = self.decoder.get_base_model()
        return token_losses(packed, model.base_model, model.get_output_embeddings())

    def forward(self, batch: Batch) -> torch.Tensor:
        """The scalar loss of ``batch``."""
        packed = self.packed(batch)
        return weighted_mean(self.token_losses(packed), packed.weight)
