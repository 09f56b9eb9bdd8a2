"""The paper's compressor: a causal LM that writes learned summary tokens, recurrently over the segments of a document.

Follows ``LlamaAutoCompressorModel`` of princeton-nlp/AutoCompressors, reproduced to 1e-4 (``tests/test_golden.py``).
For each segment the model is fed ``[summaries so far | segment | summary tokens]`` at positions 0, 1, 2, ...; the new
summary embeddings are its last hidden states, after the final norm, at the summary tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lloco_integrations.compressors.base import Compressor, Progress, buckets, require_ids
from lloco_integrations.compressors.checkpoint import Checkpoint, as_saved, open_checkpoint
from lloco_integrations.errors import BadInput, IncompatibleSummary, ModelNotFound
from lloco_integrations.fingerprint import fingerprint as make_fingerprint
from lloco_integrations.locks import ForkLock
from lloco_integrations.types import CompressorSpec, SummaryEmbeddings
from lloco_integrations.undisturbed import undisturbed

if TYPE_CHECKING:
    from peft import PeftModel

SEGMENT_LENGTH = 1536
MAX_SEGMENTS = 80


class AutoCompressor(Compressor):
    """Summary tokens read by the same causal LM that answers.

    Attributes:
        model: the causal LM, or a PeftModel around it.
        embed_summary: the summary tokens' embeddings ``(summary_length, hidden_size)``; may be a Parameter in training.
        lock: held while a batch is compressed, because adapters are off in that time: whoever chooses adapters or
            generates with the same model in another thread must hold it too.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        embed_summary: Tensor,
        *,
        accumulate: bool,
        fingerprint: str,
        segment_length: int = SEGMENT_LENGTH,
        max_segments: int = MAX_SEGMENTS,
    ) -> None:
        """Wrap ``model``, which is neither copied nor changed.

        Args:
            model: any Hugging Face causal LM; a PeftModel is compressed with while its adapters are off.
            embed_summary: ``(summary_length, hidden_size)``, floating point, any device and dtype.
            accumulate: whether new vectors are appended to those so far, or replace them.
            fingerprint: see ``lloco_integrations.fingerprint``; it must depend on ``segment_length``.
            segment_length: source tokens in one forward pass; an argument, because no checkpoint has it.
            max_segments: the reference's limit on the segments of one document.

        Raises:
            BadInput: if ``embed_summary`` does not fit the token embeddings, or a length is below 1.
        """
        width = int(_embedding(model).weight.shape[1])
        if embed_summary.ndim != 2 or embed_summary.shape[0] < 1 or embed_summary.shape[1] != width:
            raise BadInput(f"embed_summary has the shape {tuple(embed_summary.shape)}, the model needs (summary_length, {width})")
        if segment_length < 1 or max_segments < 1:
            raise BadInput(f"segment_length={segment_length} and max_segments={max_segments} must both be 1 or more")
        self.model = model
        self.embed_summary = embed_summary
        self.accumulate = accumulate
        self.max_segments = max_segments
        self.lock = ForkLock()
        ratio = max(1, segment_length // embed_summary.shape[0])
        self.spec = CompressorSpec(fingerprint, "autocompressor", width, segment_length, (ratio,), "prefix")

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | PathLike[str],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str = "auto",
        segment_length: int | None = None,
    ) -> AutoCompressor:
        """Load a checkpoint as the AutoCompressor authors save it, from a directory or a hub id.

        ``segment_length`` None is what config.json says, as ``lloco pretrain`` writes it there, else the paper's 1536.

        Raises ModelNotFound, naming what is missing, if the directory or id cannot be used.
        """
        checkpoint = open_checkpoint(path_or_id)
        spec = spec_of(checkpoint, segment_length)
        embed_summary = checkpoint.embed_summary()
        model = checkpoint.causal_lm(device=device, dtype=dtype)
        return cls(
            model,
            embed_summary.to(model.device, model.dtype),
            accumulate=checkpoint.accumulate,
            segment_length=spec.segment_length,
            fingerprint=spec.fingerprint,
        )

    def compress_ids(
        self,
        documents: Sequence[Sequence[int]],
        *,
        batch_size: int | None = None,
        segment_length: int | Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> list[SummaryEmbeddings]:
        """One SummaryEmbeddings a document, in order, made with adapters and dropout off.

        Args:
            documents: token ids, tokenised with ``add_special_tokens=False``: no BOS, no EOS.
            batch_size: rows in one forward pass; results do not depend on it (1e-4 in float32).
            segment_length: another length for this call, or the lengths of all segments in order. The fingerprint keeps
                naming the compressor's own length: pass it to the constructor instead if vectors are to be stored.
            progress: called with the source tokens of each forward pass.

        Returns:
            vectors ``(n_segments * summary_length, hidden_size)``, or ``(summary_length, hidden_size)`` without
            accumulation, on the CPU in the model's dtype.

        Raises:
            BadInput: on an empty document, a token outside the vocabulary, or more segments than the model can take.
            IncompatibleAdapter: if a loaded adapter cannot be switched off.
        """
        widths = [self._peak_width(plan) for plan in self._plan(documents, segment_length)]
        order = sorted(range(len(documents)), key=lambda i: -len(documents[i]))
        vectors: dict[int, Tensor] = {}
        for batch in buckets([widths[i] for i in order], batch_size):
            rows = [order[j] for j in batch]
            with self.lock, as_saved(self.model), undisturbed():
                made = self.summaries([documents[i] for i in rows], segment_length=segment_length, progress=progress)
            vectors.update(zip(rows, (tensor.cpu() for tensor in made), strict=True))
        name = self.spec.fingerprint
        # A clone made outside inference mode is a usual tensor again, which training may use.
        return [SummaryEmbeddings(vectors[i].clone(), len(ids), name) for i, ids in enumerate(documents)]

    def summaries(
        self,
        documents: Sequence[Sequence[int]],
        *,
        segment_length: int | Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> list[Tensor]:
        """The bare computation of ``compress_ids`` on one batch: differentiable, for training the compressor.

        Gradients reach the model's weights and ``embed_summary`` through all segments. Adapters and dropout are used
        as they are: wrap the call in ``as_saved(model)`` for vectors that a decoder may be given.

        Returns:
            One tensor a document, ``(n_vectors, hidden_size)``, on the model's device in its dtype.
        """
        plans = self._plan(documents, segment_length)
        embed = _embedding(self.model).weight
        ids = [torch.as_tensor(document, dtype=torch.long, device=embed.device) for document in documents]
        segments = [torch.split(row, plan) for row, plan in zip(ids, plans, strict=True)]
        done: dict[int, Tensor] = {}
        rows = list(range(len(documents)))
        so_far = embed.new_zeros((len(rows), 0, self.spec.hidden_size))
        for step in range(max(map(len, plans), default=0)):
            staying = [at for at, row in enumerate(rows) if len(plans[row]) > step]
            if len(staying) < len(rows):
                done.update({row: so_far[at] for at, row in enumerate(rows) if len(plans[row]) == step})
                rows, so_far = [rows[at] for at in staying], so_far[staying]
            new = self._step(so_far, [segments[row][step] for row in rows])
            so_far = torch.cat([so_far, new], dim=1) if self.accumulate else new
            if progress is not None:
                progress(sum(plans[row][step] for row in rows))
        done.update(zip(rows, so_far, strict=True))
        return [done[row] for row in range(len(documents))]

    def read(self, summary: SummaryEmbeddings, ratio: int | None = None) -> Tensor:
        """The vectors of ``summary``, ``(n_vectors, hidden_size)`` in their dtype, to stand in front of the prompt.

        Raises:
            IncompatibleSummary: for vectors of another compressor, or a ratio other than the fixed one.
        """
        return read_fixed(self.spec, summary, ratio).to(_embedding(self.model).weight.device)

    def _step(self, so_far: Tensor, segments: Sequence[Tensor]) -> Tensor:
        """New summary embeddings ``(rows, summary_length, hidden)`` from those so far and one segment a row.

        ``so_far`` is ``(rows, k, hidden)``, ``segments`` hold ids ``(n_row,)``. Each row is fed without gaps, padded on
        the right, with a mask of ones up to its end: so the positions that the model counts itself are 0, 1, 2, ... in
        every row. The mask is never left out: without one transformers takes restarting positions for packed sequences.
        """
        embed = _embedding(self.model)
        summary = self.embed_summary.to(embed.weight.device, embed.weight.dtype)
        tokens = [embed(segment[None])[0] for segment in segments]
        rows = [torch.cat([before, text, summary]) for before, text in zip(so_far, tokens, strict=True)]
        ends = torch.tensor([len(row) for row in rows], dtype=torch.long, device=summary.device)
        inputs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = (torch.arange(inputs.shape[1], dtype=torch.long, device=summary.device) < ends[:, None]).long()
        output = _trunk(self.model)(inputs_embeds=inputs, attention_mask=mask, use_cache=False)
        last = [row[:end][-len(summary) :] for row, end in zip(output.last_hidden_state, ends.tolist(), strict=True)]
        return torch.stack(last).to(summary)

    def _plan(self, documents: Sequence[Sequence[int]], segment_length: int | Sequence[int] | None) -> list[list[int]]:
        """The segment lengths of each document. Raises BadInput where the model cannot take them."""
        require_ids(documents, _embedding(self.model).weight.shape[0])
        wanted = self.spec.segment_length if segment_length is None else segment_length
        plans = []
        for i, ids in enumerate(documents):
            plans.append(_cut(len(ids), wanted))
            self._check_room(i, plans[-1])
        return plans

    def _check_room(self, document: int, plan: Sequence[int]) -> None:
        """Raise BadInput if the segments of ``plan`` are too many, or do not fit the positions of the model."""
        what = f"document {document} has {len(plan)} segments of up to {max(plan)} tokens"
        if len(plan) > self.max_segments:
            raise BadInput(f"{what}, the limit is {self.max_segments}; use longer segments, or split the document")
        width, limit = self._peak_width(plan), _positions(self.model.config)
        if limit is not None and width > limit:
            too_many = self.accumulate and max(plan) + self.embed_summary.shape[0] <= limit
            raise BadInput(
                f"{what}: with the summaries around them they need {width} positions, the limit is {limit}; "
                + ("use longer segments, or split the document" if too_many else "use shorter segments")
            )

    def _peak_width(self, plan: Sequence[int]) -> int:
        """The most positions that a forward pass needs."""
        length = self.embed_summary.shape[0]
        before = (i if self.accumulate else min(i, 1) for i in range(len(plan)))
        return max(length * (i + 1) + n for i, n in zip(before, plan, strict=True))


def spec_of(checkpoint: Checkpoint, segment_length: int | None = None) -> CompressorSpec:
    """What ``checkpoint`` says about its compressor; ``segment_length`` None is what config.json says, else the paper's."""
    length = segment_length or checkpoint.config.get("segment_length") or SEGMENT_LENGTH
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise ModelNotFound(f"config.json in {checkpoint.directory} has segment_length={str(length)[:40]!r}; a number above 0 is wanted")
    name = make_fingerprint(kind="autocompressor", segment_length=length, **checkpoint.parts())
    summary = checkpoint.embed_summary()
    return CompressorSpec(name, "autocompressor", summary.shape[1], length, (max(1, length // summary.shape[0]),), "prefix")


def read_fixed(spec: CompressorSpec, summary: SummaryEmbeddings, ratio: int | None = None) -> Tensor:
    """The vectors of ``summary`` as they are, once it is clear that they are this compressor's. Needs no model."""
    if summary.compressor != spec.fingerprint:
        raise IncompatibleSummary(
            f"these summary embeddings were made by compressor {summary.compressor}, but this model reads those of "
            f"{spec.fingerprint}; compress the text again with this model, or load the model that made them"
        )
    if ratio is not None and ratio != spec.ratios[0]:
        raise IncompatibleSummary(
            f"an autocompressor has a fixed ratio, here {spec.ratios[0]}, and cannot be brought to {ratio}; leave the ratio out"
        )
    return summary.vectors


def _embedding(model: Any) -> torch.nn.Embedding:
    return cast(torch.nn.Embedding, model.get_input_embeddings())


def _trunk(model: Any) -> torch.nn.Module:
    """The causal LM without its head: what gives ``last_hidden_state``, after the final norm."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return cast(torch.nn.Module, plain.base_model)


def _positions(config: Any) -> int | None:
    """Positions that the model can tell apart, None without a limit. Linear and dynamic rope scaling stretch them."""
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    return int(limit * rope["factor"]) if rope.get("rope_type") in ("linear", "dynamic") else limit


def _cut(n_tokens: int, lengths: int | Sequence[int]) -> list[int]:
    if isinstance(lengths, int):
        if lengths < 1:
            raise BadInput(f"segment_length={lengths} must be 1 or more")
        full, rest = divmod(n_tokens, lengths)
        return [lengths] * full + [rest] * (rest > 0)
    plan = list(lengths)
    if min(plan, default=0) < 1 or sum(plan) != n_tokens:
        raise BadInput(f"segment lengths {plan} must be 1 or more and add up to the document's {n_tokens} tokens")
    return plan
