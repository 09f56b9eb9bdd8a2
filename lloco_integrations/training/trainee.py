"""What is trained: a compressor and the decoder's reading of it over one frozen base, and the loss on a batch."""

from __future__ import annotations

import copy
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax

from lloco_integrations.compressors.autocompressor import AutoCompressor
from lloco_integrations.compressors.mean_pool import SLOTS, MeanPoolEncoder, Projector, pad, pool, truncated
from lloco_integrations.errors import BadInput, IncompatibleAdapter
from lloco_integrations.placeholder import Placeholder
from lloco_integrations.training.contexts import Context
from lloco_integrations.training.data import Batch, context_index
from lloco_integrations.training.fused import Layout, answer_losses, fits, run
from lloco_integrations.training.packing import Packed, hidden_at_targets, pack, weighted_mean
from lloco_integrations.types import SummaryEmbeddings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LINEAR_LAYERS = "all-linear"
TEACHER = "teacher"
RARITY_TEMPERATURE = 12.0
"""Nats of surprise that make a token count e times as much in a mean. Of 4, 7 and 12, untrained, 12 was the best at 4x to 16x."""

EncoderTraining = Literal["lora", "full", "frozen"]


@dataclass(frozen=True)
class LoraSettings:
    """Rank and alpha of a LoRA, and the layers it is on: "all-linear", or the ends of their names."""

    rank: int = 16
    alpha: int = 32
    layers: str | tuple[str, ...] = LINEAR_LAYERS


class Trainee(nn.Module, ABC):
    """A compressor and a decoder with a LoRA. Only what is to be learnt requires gradients.

    ``teacher_weight``: share of the loss that is the divergence from the teacher, see ``learn_from``. ``plain``: pad rows and leave the
    passes to transformers and autograd, even where ``fused`` computes the same faster.
    """

    decoder: Any
    teacher_weight: float = 0.0
    plain: bool = False

    def train_decoder_alone(self) -> None:
        """Freeze all but the decoder's LoRA: for a rival that reads no vectors."""
        for name, parameter in self.named_parameters():
            if not name.startswith("decoder.") or "lora_" not in name:
                parameter.requires_grad_(False)

    @abstractmethod
    def context_vectors(self, contexts: Sequence[tuple[int, ...]], ratio: int) -> list[torch.Tensor]:
        """Rows for the decoder, one tensor ``(n_vectors, hidden)`` a context; gradients flow through them."""

    def learn_from(self, teacher: Path | str, weight: float) -> None:
        """Let the base with the LoRA in ``teacher``, which reads the documents' text, be imitated: of the loss, ``weight`` is the
        Kullback-Leibler divergence of the answers' distributions from the teacher's, the rest their cross-entropy.

        Raises BadInput for a weight outside 0 to 1, IncompatibleAdapter for a LoRA that does not fit.
        """
        if not 0 <= weight <= 1:
            raise BadInput(f"the teacher's share of the loss is {weight}; it must be from 0 to 1")
        load_lora(self.decoder, teacher, TEACHER)
        self.teacher_weight = weight

    def packed(self, batch: Batch) -> Packed:
        """The batch's decoder pass; only contexts that some row shows are encoded."""
        marks = [s for row in batch.rows for s in row.prefix if isinstance(s, Placeholder)]
        return pack(batch.rows, self.decoder.get_input_embeddings(), self.reading(batch, marks))

    def reading(self, batch: Batch, marks: Sequence[Placeholder]) -> Callable[[Placeholder], torch.Tensor]:
        """What stands for each of ``marks``: rows ``(n_vectors, hidden)``, through which gradients flow."""
        shown = sorted({context_index(mark.key) for mark in marks})
        made = self.context_vectors([batch.contexts[i] for i in shown], batch.ratio) if shown else []
        vectors = dict(zip(shown, made, strict=True))
        if any(mark.ratio is not None or mark.windows is not None for mark in marks):
            raise BadInput("these summaries have one ratio and no parts; draw prompts that show them whole")
        return lambda mark: vectors[context_index(mark.key)]

    def _hidden(self, packed: Packed) -> torch.Tensor:
        return hidden_at_targets(packed, self.decoder.get_base_model().base_model, plain=self.plain)

    @property
    def _head(self) -> nn.Module:
        head: nn.Module = self.decoder.get_base_model().get_output_embeddings()
        return head

    def logits(self, packed: Packed) -> torch.Tensor:
        """What the decoder expects at each target: ``(n_targets, vocabulary)``, float32."""
        logits: torch.Tensor = self._head(self._hidden(packed))
        return logits.float()

    def token_losses(self, packed: Packed) -> torch.Tensor:
        """Negative log-likelihood in nats of each target token, ``(n_targets,)`` float32."""
        if self.plain:
            return nn.functional.cross_entropy(self.logits(packed), packed.target, reduction="none")
        return answer_losses(self._hidden(packed), self._head, packed.target)

    def forward(self, batch: Batch) -> torch.Tensor:
        """The scalar loss of ``batch``: the weighted mean over its targets."""
        expected = self._teacher_says(batch) if self.teacher_weight else None
        packed = self.packed(batch)
        if expected is None:
            return weighted_mean(self.token_losses(packed), packed.weight)
        logits = self.logits(packed)
        losses = nn.functional.cross_entropy(logits, packed.target, reduction="none")
        divergence = kl_div(log_softmax(logits, -1), expected, reduction="none", log_target=True).sum(-1)
        return weighted_mean(torch.lerp(losses, divergence, self.teacher_weight), packed.weight)

    @torch.no_grad()
    def _teacher_says(self, batch: Batch) -> torch.Tensor:
        self.decoder.set_adapter(TEACHER)
        try:
            return log_softmax(self.logits(self.packed(batch.as_text())), -1)
        finally:
            self.decoder.set_adapter("default")
            for name, parameter in self.decoder.named_parameters():
                if f".{TEACHER}." in name:
                    parameter.requires_grad_(False)


class MeanPoolTrainee(Trainee):
    """``mean_pool``: a bidirectional encoder with a LoRA, the projector, and a decoder with another LoRA.

    ``encoder_training``: "lora", "full" for all its weights, or "frozen".
    """

    def __init__(
        self,
        base: PreTrainedModel,
        *,
        encoder_layers: int | None = None,
        bidirectional: bool = True,
        lora: LoraSettings | None = None,
        encoder_training: EncoderTraining = "lora",
        slots: int = SLOTS,
        salience: bool = False,
        segment_length: int = 512,
    ) -> None:
        super().__init__()
        base.requires_grad_(False)
        trunk: Any = copy.deepcopy(base.base_model)
        if encoder_layers is not None:
            trunk = truncated(trunk, encoder_layers)
        self.decoder = with_lora(base, lora or LoraSettings(), "CAUSAL_LM")
        if encoder_training == "lora":
            trunk = with_lora(trunk, lora or LoraSettings(), "FEATURE_EXTRACTION")
        elif encoder_training == "full":
            trunk.requires_grad_(True)
            trunk.get_input_embeddings().requires_grad_(False)
        embedding: Any = base.get_input_embeddings()
        weight = embedding.weight
        projector = Projector(weight.shape[1], slots, salience=salience)
        projector.scale.fill_(float(weight.float().pow(2).mean().sqrt()))
        with torch.no_grad():
            projector.centre.copy_(weight.float().mean(0))
        self.encoder = MeanPoolEncoder(trunk, projector, bidirectional=bidirectional)
        self.segment_length = segment_length

    @torch.no_grad()
    def centre_on(self, contexts: Sequence[Context]) -> None:
        """Start the projector's centre at the mean token embedding of running text (about 2,000 documents are enough)."""
        weight = self.decoder.get_input_embeddings().weight
        counts = self._counts(contexts)
        self.encoder.projector.centre.copy_((counts / counts.sum()) @ weight.float())

    @property
    def begins_salience(self) -> bool:
        """Whether it has a salience that was not learnt or fitted yet."""
        salience = self.encoder.projector.salience
        return salience is not None and not bool(salience.any())

    @torch.no_grad()
    def weigh_by_rarity(self, contexts: Sequence[Context], temperature: float = RARITY_TEMPERATURE) -> float:
        """Start salience where a token's weight is that of its surprise, ``(-log frequency) / temperature`` up to a constant: the least
        squares fit on the hidden states of some 120 of ``contexts``. Returns the share of the variance that the fit explains."""
        salience = self.encoder.projector.salience
        if salience is None:
            raise BadInput("this trainee has no salience; make it with salience=True")
        counts = self._counts(contexts) + 1
        rarity = -(counts / counts.sum()).log()
        states, wanted = [], []
        for context in contexts[:: max(1, len(contexts) // 120)]:
            ids, mask = pad([context.ids[: self.segment_length]], self.encoder.trunk.device)
            states.append(self.encoder.states(ids, mask)[1][0].float())
            wanted.append(rarity[ids[0]])
        x, y = torch.cat(states), torch.cat(wanted)
        y = y - y.mean()
        gram = x.T @ x
        ridge = 0.01 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        fit = torch.linalg.solve(gram + ridge, x.T @ y)
        salience.copy_(fit / temperature)
        return 1 - float((x @ fit - y).pow(2).mean() / y.pow(2).mean())

    def _counts(self, contexts: Sequence[Context]) -> torch.Tensor:
        """How often each token occurs in the first 2,000 of ``contexts``, ``(vocabulary,)`` float32."""
        weight = self.decoder.get_input_embeddings().weight
        ids = torch.tensor([i for c in contexts[:2000] for i in c.ids], device=weight.device)
        return torch.bincount(ids, minlength=weight.shape[0]).float()

    def context_vectors(self, contexts: Sequence[tuple[int, ...]], ratio: int) -> list[torch.Tensor]:
        """See Trainee: ``(ceil(n_tokens / ratio), hidden)`` each."""
        return [self.encoder.projector.read(means, ratio) for means in self.means(contexts, ratio)]

    def means(self, contexts: Sequence[tuple[int, ...]], ratio: int) -> list[torch.Tensor]:
        """What is stored of each context: means over windows of ``ratio`` tokens, ``(ceil(n_tokens / ratio), hidden)`` float32, one column
        more with salience."""
        segments = [
            (c, ids[at : at + self.segment_length]) for c, ids in enumerate(contexts) for at in range(0, len(ids), self.segment_length)
        ]
        ids, mask = pad([s for _, s in segments], self.encoder.trunk.device)
        made, _ = pool(self.encoder.projector(*self._states(ids, mask)), mask, ratio)
        parts: list[list[torch.Tensor]] = [[] for _ in contexts]
        for i, (c, segment) in enumerate(segments):
            parts[c].append(made[i, : -(-len(segment) // ratio)])
        return [torch.cat(p) for p in parts]

    def reading(self, batch: Batch, marks: Sequence[Placeholder]) -> Callable[[Placeholder], torch.Tensor]:
        """See Trainee. A placeholder with a ratio or a slice of its own counts in windows of the batch's ratio."""
        shown = sorted({context_index(mark.key) for mark in marks})
        made = self.means([batch.contexts[i] for i in shown], batch.ratio) if shown else []
        stored = {
            i: SummaryEmbeddings(means, len(batch.contexts[i]), "in training", window=batch.ratio)
            for i, means in zip(shown, made, strict=True)
        }

        def rows(mark: Placeholder) -> torch.Tensor:
            ratio = mark.ratio or batch.ratio
            part = stored[context_index(mark.key)].part(mark.windows).coarsen(ratio)
            return self.encoder.projector.read(part.vectors, ratio)

        return rows

    def _states(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See MeanPoolEncoder.states."""
        trunk: Any = self.encoder.trunk
        trunk = trunk.get_base_model() if hasattr(trunk, "get_base_model") else trunk
        if self.plain or not fits(trunk):
            return self.encoder.states(ids, mask)
        embeddings = trunk.get_input_embeddings()(ids)
        layout = Layout.of(mask.sum(1).tolist(), causal=not self.encoder.bidirectional)
        hidden = run(trunk, embeddings[mask], layout, layout.positions().to(ids.device))
        return embeddings, torch.zeros_like(embeddings).masked_scatter(mask[..., None], hidden)


class SummaryTokenTrainee(Trainee):
    """Summary tokens, AutoCompressor style: one model with one LoRA writes ``summary_length`` vectors a segment and reads them.

    In training, segments are of a random length between half and one and a half ``segment_length``, one for all documents of a
    batch, as in the AutoCompressors paper (arXiv 2305.14788, section 3.3); the batch's ratio is not used.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        *,
        summary_length: int = 16,
        segment_length: int = 128,
        accumulate: bool = True,
        lora: LoraSettings | None = None,
    ) -> None:
        super().__init__()
        base.requires_grad_(False)
        self.decoder = with_lora(base, lora or LoraSettings(), "CAUSAL_LM")
        embedding: Any = base.get_input_embeddings()
        end: Any = base.config.eos_token_id
        start = embedding.weight[end[0] if isinstance(end, list) else end].detach().float()
        noise = torch.randn(summary_length, len(start), dtype=torch.float32).to(start.device) * float(embedding.weight.float().std()) * 0.1
        self.embed_summary = nn.Parameter((start + noise).to(embedding.weight.dtype))
        self.compressor = AutoCompressor(
            self.decoder, self.embed_summary, accumulate=accumulate, fingerprint="in training", segment_length=segment_length
        )

    def context_vectors(self, contexts: Sequence[tuple[int, ...]], ratio: int) -> list[torch.Tensor]:
        """See Trainee: ``summary_length`` vectors for each segment of a context."""
        length = self.compressor.spec.segment_length
        if self.training:
            drawn = random.Random(str(contexts[0][:32]))
            length = drawn.randint(max(1, length // 2), length + length // 2)
        return self.compressor.summaries(contexts, segment_length=length)


def with_lora(model: Any, lora: LoraSettings, task: str) -> Any:
    """``model`` with a trainable LoRA named "default", in the model's dtype."""
    from peft import LoraConfig, get_peft_model

    layers = lora.layers if isinstance(lora.layers, str) else list(lora.layers)
    settings = LoraConfig(task_type=task, r=lora.rank, lora_alpha=lora.alpha, target_modules=layers)
    return get_peft_model(model, settings, autocast_adapter_dtype=False)


def load_lora(decoder: Any, path: Path | str, name: str) -> None:
    """Put the LoRA in the directory ``path`` beside the others of ``decoder``, frozen. Raises IncompatibleAdapter if it does not fit."""
    try:
        loaded = decoder.load_adapter(str(path), name, autocast_adapter_dtype=False)
    except Exception as error:
        raise IncompatibleAdapter(
            f"the LoRA in {path} cannot be put on this base: {brief(error)}; use one that was trained on it"
        ) from error
    if getattr(loaded, "unexpected_keys", None):
        raise IncompatibleAdapter(
            f"the LoRA in {path} is of another base: it has {loaded.unexpected_keys[0]!r}; use one that was trained on it"
        )
    for key, parameter in decoder.named_parameters():
        if f".{name}." in key:
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(decoder.dtype)


def brief(error: Exception) -> str:
    """The first lines of what an error says: torch lists every tensor that does not fit."""
    return " ".join(" ".join(str(error).splitlines()[:2]).split())
