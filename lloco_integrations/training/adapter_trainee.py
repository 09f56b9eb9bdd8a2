"""A group's adapter in training: a LoRA on a decoder that stays as it is, reading summaries out of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from lloco_integrations.errors import StoreError
from lloco_integrations.training.trainee import LoraSettings, Trainee, with_lora

if TYPE_CHECKING:
    from lloco_integrations.models import LLoCOModel
    from lloco_integrations.store import SummaryStore


class AdapterTrainee(Trainee):
    """``keys``: tokens of a passage -> its key in ``store``. Summaries are read when a batch needs them and never changed.

    The model's decoder carries the LoRA until ``release``; do not answer with it meanwhile.
    """

    def __init__(self, model: LLoCOModel, store: SummaryStore, keys: Mapping[tuple[int, ...], str], lora: LoraSettings) -> None:
        super().__init__()
        self._model = [model]  # in a list: not a part of this module
        self._store = store
        self._keys = keys
        self.decoder = with_lora(model.decoder.requires_grad_(False), lora, "CAUSAL_LM")

    def context_vectors(self, contexts: Sequence[tuple[int, ...]], ratio: int) -> list[torch.Tensor]:
        """See Trainee. A compressor of a fixed ratio gives its own. Raises StoreError for a summary that is gone."""
        compressor = self._model[0].compressor
        rows = []
        for ids, summary in zip(contexts, self._store.get_many([self._keys[c] for c in contexts]), strict=True):
            if summary is None:
                raise StoreError(
                    f"the summary of a passage of {len(ids)} tokens is no longer in {self._store.url}; compress the documents again, and "
                    f"the same command goes on"
                )
            read = compressor.read(summary, ratio if summary.window else None)
            rows.append(read.clone().to(self.decoder.device, self.decoder.dtype))  # a clone: what inference made cannot be trained on
        return rows

    def release(self) -> Any:
        """Take the LoRA off the model's decoder again and return the decoder."""
        return self.decoder.unload()
