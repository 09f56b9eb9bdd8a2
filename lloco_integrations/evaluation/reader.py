"""Many questions about one context: the context is read once, the questions branch off its key-value cache.

Greedy decoding and log-likelihoods; both equal what the backend and ``LLoCOModel.loss`` give for the whole prompt (a test
compares them), only the context is not read again for each question.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lloco_integrations.backends import prefixes
from lloco_integrations.errors import BadInput, LLoCOError

if TYPE_CHECKING:
    import torch

    from lloco_integrations.backends.transformers import TransformersBackend


@dataclass(frozen=True)
class Prefix:
    """What was read before the questions: the cache (batch 1), its positions, and the seconds that reading took."""

    cache: Any
    n_positions: int
    seconds: float


@dataclass(frozen=True)
class Answered:
    """New token ids, the end token included, and the seconds of this answer: its share of the batch's."""

    ids: list[int]
    seconds: float


class Reader:
    """One decoder, with at most one adapter.

    Args:
        backend: whose model reads.
        adapter: directory of a LoRA; None is the decoder alone.
        batch_size: branches in one forward pass.
    """

    def __init__(self, backend: TransformersBackend, adapter: str | None = None, *, batch_size: int = 8) -> None:
        if batch_size < 1:
            raise BadInput(f"batch_size is {batch_size}; use 1 or more")
        self.backend = backend
        self.adapter = adapter
        self.batch_size = batch_size
        self._embedding: Any = backend.model.get_input_embeddings()

    @property
    def window(self) -> int:
        """Positions that prompt and answer share."""
        return self.backend.window

    @property
    def ends(self) -> list[int]:
        """Ids that end an answer."""
        return self.backend.ends

    def text(self, ids: Sequence[int]) -> str:
        """The text of an answer's ids, without special tokens."""
        if self.backend.tokenizer is None:
            return " ".join(map(str, ids))
        text: Any = self.backend.tokenizer.decode(list(ids), skip_special_tokens=True)
        return str(text)

    def prefill(self, pieces: Sequence[list[int] | torch.Tensor]) -> Prefix:
        """Read ``pieces``, token ids and vectors ``(n, hidden_size)`` in their order. Nothing to read is an empty prefix."""
        import torch
        from transformers import DynamicCache

        cache = DynamicCache(config=self.backend.model.config)
        began = self._now()
        rows = [self._embed(piece) if isinstance(piece, list) else piece.to(self._device, self._dtype) for piece in pieces if len(piece)]
        if not rows:
            return Prefix(cache, 0, 0.0)
        embeds = torch.cat(rows)[None]
        n = embeds.shape[1]
        mask = torch.ones(1, n, dtype=torch.long, device=self._device)
        self._forward(embeds, mask, torch.arange(n, device=self._device)[None], cache, 1)
        return Prefix(cache, n, self._now() - began)

    def answer(self, prefix: Prefix, branches: Sequence[Sequence[int]], max_new_tokens: int) -> list[Answered]:
        """The greedy continuation of ``prefix`` and each of ``branches`` (token ids, at least one), up to an end token."""
        done: dict[int, Answered] = {}
        for some, cache, embeds, mask, positions in self._batches(prefix, branches):
            began = self._now()
            made = self._decode(embeds, mask, positions, cache, max_new_tokens)
            seconds = (self._now() - began) / len(some)
            done.update((i, Answered(ids, seconds)) for i, ids in zip(some, made, strict=True))
        return [done[i] for i in range(len(branches))]

    def nll(self, prefix: Prefix, branches: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[float]:
        """Mean negative log-likelihood (nats a token) of each of ``targets`` after ``prefix`` and its branch."""
        from torch.nn.functional import cross_entropy

        if not all(targets):
            raise BadInput("a likelihood needs at least one token; leave empty answers out")
        found: dict[int, float] = {}
        whole = [[*branch, *target[:-1]] for branch, target in zip(branches, targets, strict=True)]
        for some, cache, embeds, mask, positions in self._batches(prefix, whole):
            logits = self._forward(embeds, mask, positions, cache, max(len(targets[i]) for i in some))
            for row, i in enumerate(some):
                target = targets[i]
                wanted = logits.new_tensor(list(target), dtype=logits.argmax(-1).dtype)
                found[i] = float(cross_entropy(logits[row, -len(target) :].float(), wanted))
        return [found[i] for i in range(len(whole))]

    def _batches(
        self, prefix: Prefix, branches: Sequence[Sequence[int]]
    ) -> Iterator[tuple[list[int], Any, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Indices of branches, longest first, a cache for them, and their left-padded embeds, mask (prefix included) and positions."""
        import torch

        if not all(len(branch) for branch in branches):
            raise BadInput("a branch has no tokens; leave at least the last one of the prompt out of the prefix")
        order = sorted(range(len(branches)), key=lambda i: -len(branches[i]))
        for at in range(0, len(order), self.batch_size):
            some = order[at : at + self.batch_size]
            longest = len(branches[some[0]])
            pads = torch.tensor([longest - len(branches[i]) for i in some], device=self._device)
            ids = [[0] * (longest - len(branches[i])) + list(branches[i]) for i in some]
            columns = torch.arange(longest, device=self._device)[None] - pads[:, None]
            shared = torch.ones(len(some), prefix.n_positions, dtype=torch.long, device=self._device)
            cache = copy.deepcopy(prefix.cache)
            cache.batch_repeat_interleave(len(some))
            yield (
                some,
                cache,
                self._embed(ids),
                torch.cat([shared, (columns >= 0).long()], dim=1),
                prefix.n_positions + columns.clamp(min=0),
            )

    def _decode(
        self, embeds: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any, max_new_tokens: int
    ) -> list[list[int]]:
        import torch

        made: list[list[int]] = [[] for _ in embeds]
        while True:
            tokens = self._forward(embeds, mask, positions, cache, 1)[:, -1].float().argmax(-1)
            for ids, token in zip(made, tokens.tolist(), strict=True):
                if not (ids and ids[-1] in self.ends) and len(ids) < max_new_tokens:
                    ids.append(token)
            if all(ids[-1] in self.ends or len(ids) >= max_new_tokens for ids in made):
                return made
            embeds = self._embed(tokens[:, None].tolist())
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            positions = positions[:, -1:] + 1

    def _forward(self, embeds: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any, keep: int) -> torch.Tensor:
        """The logits ``(batch, keep, vocabulary)`` of the last ``keep`` positions; ``cache`` grows."""
        import torch

        adapters = self.backend.adapters
        with self.backend.lock, torch.inference_mode():
            try:
                with adapters.chosen([self.adapter] * len(embeds), self.backend.max_adapters) as extra:
                    out = adapters.model(
                        inputs_embeds=embeds,
                        attention_mask=mask,
                        position_ids=positions,
                        use_cache=True,
                        logits_to_keep=keep,
                        **prefixes.argument(cache, self.backend.model),
                        **extra,
                    )
            except LLoCOError:
                raise
            except Exception as error:
                raise LLoCOError(f"reading failed: {type(error).__name__}: {error}") from error
        logits: torch.Tensor = out.logits
        return logits

    def _embed(self, ids: Any) -> torch.Tensor:
        """Token embeddings of ids, however nested."""
        import torch

        with torch.inference_mode():
            rows: torch.Tensor = self._embedding(torch.tensor(ids, dtype=torch.long, device=self._device))
        return rows

    @property
    def _device(self) -> torch.device:
        device: torch.device = self._embedding.weight.device
        return device

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = self._embedding.weight.dtype
        return dtype

    def _now(self) -> float:
        """Seconds, once the device has done what it was given."""
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)
        return time.perf_counter()
