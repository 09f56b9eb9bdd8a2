"""A group's adapter in training: a LoRA on a decoder that stays as it is, reading summaries out of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from lloco_integrations.training.lessons import read
from lloco_integrations.training.trainee import LoraSettings, Trainee, with_lora

if TYPE_CHECKING:
    from lloco_integrations.models import LLoCOModel
    from lloco_integrations.store import SummaryStore


class AdapterTrainee(Trainee):
    """``keys``: tokens of a context -> the keys of its passages in ``store``. Summaries are read when a batch needs them and never changed.

    The model's decoder carries the LoRA until ``release``; do not answer with it meanwhile.
    """

    def __init__(self, model: LLoCOModel, store: SummaryStore, keys: Mapping[tuple[int, ...], tuple[str, ...]], lora: LoraSettings) -> None:
        super().__init__()
        self._model = [model]  # in a list: not a part of this module
        self._store = store
        self._keys = keys
        self.decoder = with_lora(model.decoder.requires_grad_(False), lora, "CAUSAL_LM")

    def context_vectors(self, contexts: Sequence[tuple[int, ...]], ratio: int) -> list[torch.Tensor]:
        """See Trainee and ``lessons.read``. Raises StoreError for a summary that is gone."""
        rows = [read(self._model[0], self._store, self._keys[ids], ratio) for ids in contexts]
        # a clone: what inference made cannot be trained on
        return [r.clone().to(self.decoder.device, self.decoder.dtype) for r in rows]

    def release(self) -> Any:
        """Take the LoRA off the model's decoder again and return the decoder."""
        return self.decoder.unload()
