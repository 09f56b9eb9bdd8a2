"""A compressor and the decoder that reads it, as one thing."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from lloco_integrations.backends.base import Backend
from lloco_integrations.background import ended
from lloco_integrations.compressors.base import Compressor, Progress
from lloco_integrations.errors import BadInput, IncompatibleAdapter, LLoCOError, PlaceholderError
from lloco_integrations.models.card import check_card
from lloco_integrations.placeholder import Placeholder, unknown_key
from lloco_integrations.plain import listed
from lloco_integrations.prompting import Prompter, Segment, omitted
from lloco_integrations.types import (
    NO_ADAPTER,
    CompressorSpec,
    Generation,
    GenerationChunk,
    GenerationParams,
    Message,
    ResolvedPrompt,
    SummaryEmbeddings,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lloco_integrations.store import SummaryStore

Prompt = str | Sequence[Message] | Sequence[Segment | SummaryEmbeddings]


@dataclass
class LLoCOModel:
    """See ``load_model``. ``tokenizer`` and ``prompter`` are None for a checkpoint without a tokenizer: only ``_ids`` calls work then.
    ``adapters``: name -> directory or hub id of a LoRA. ``weights``: the decoder's, None where it runs elsewhere. ``focus``: how a budget is
    best spent with these weights, see ``show.policy.FocusRecipe``."""

    name: str
    compressor: Compressor
    weights: PreTrainedModel | None
    backend: Backend
    tokenizer: PreTrainedTokenizerBase | None
    prompter: Prompter | None
    adapters: Mapping[str, str] = field(default_factory=dict)
    focus: Mapping[str, Any] = field(default_factory=dict)

    @property
    def decoder(self) -> PreTrainedModel:
        """The decoder in this process. Raises LLoCOError where it runs elsewhere."""
        if self.weights is None:
            raise LLoCOError(f"the decoder of {self.name} runs elsewhere; load the model with backend='transformers' for this")
        return self.weights

    @property
    def spec(self) -> CompressorSpec:
        return self.compressor.spec

    @property
    def fingerprint(self) -> str:
        return self.spec.fingerprint

    @property
    def window(self) -> int:
        """Positions that prompt and answer share."""
        return self.backend.window

    def text_ids(self, text: str) -> list[int]:
        """Token ids of ordinary text, no special tokens. Raises BadInput for text without any."""
        if not text.strip():
            raise BadInput(f"the text {text[:20]!r} has nothing to compress; leave empty texts and blanks out")
        return self._prompter().text_ids(text)

    def compress(
        self, texts: Sequence[str], *, batch_size: int | None = None, progress: bool | Progress = False
    ) -> list[SummaryEmbeddings]:
        """One SummaryEmbeddings a text, in order. ``progress``: True for a bar, or a callable that gets source tokens done.

        Raises BadInput naming the text for one that is empty or blank.
        """
        documents = []
        texts = listed(texts, "texts", str)
        for i, text in enumerate(texts):
            try:
                documents.append(self.text_ids(text))
            except BadInput as error:
                raise BadInput(f"text {i} of {len(texts)}: {error}") from error
        return self.compress_ids(documents, batch_size=batch_size, progress=progress)

    def compress_ids(
        self,
        documents: Sequence[Sequence[int]],
        *,
        batch_size: int | None = None,
        segment_length: int | None = None,
        progress: bool | Progress = False,
    ) -> list[SummaryEmbeddings]:
        """As ``compress``, from token ids (no BOS, no EOS)."""
        documents = listed(documents, "documents")
        if progress is not True:
            return self.compressor.compress_ids(documents, batch_size=batch_size, segment_length=segment_length, progress=progress or None)
        from tqdm.auto import tqdm

        with tqdm(total=sum(map(len, documents)), unit="tok", desc="compressing") as bar:
            return self.compressor.compress_ids(
                documents, batch_size=batch_size, segment_length=segment_length, progress=lambda n: bar.update(n) and None
            )

    def resolve(self, prompt: Prompt, store: SummaryStore | None = None) -> ResolvedPrompt:
        """``prompt`` with its placeholders replaced by vectors: a text, a conversation, or segments (ids, placeholders, summaries).

        Raises PlaceholderError for a key that ``store`` does not hold, IncompatibleSummary for another compressor's summary.
        """
        segments: Sequence[Segment | SummaryEmbeddings]
        source = 0
        if isinstance(prompt, str) or all(isinstance(m, Message) for m in prompt):
            segments = self._prompter().segments(prompt)  # type: ignore[arg-type]
            source = omitted(prompt)  # type: ignore[arg-type]
        else:
            segments = prompt  # type: ignore[assignment]
        keys = list(dict.fromkeys(s.key for s in segments if isinstance(s, Placeholder)))
        found: dict[str, SummaryEmbeddings] = {}
        if keys:
            if store is None:
                raise PlaceholderError(f"the prompt has {len(keys)} placeholders and no store was given; pass store=")
            for key, summary in zip(keys, store.get_many(keys), strict=True):
                if summary is None:
                    raise PlaceholderError(unknown_key(store.url, key))
                found[key] = summary
        pieces: list[list[int] | torch.Tensor] = []
        positions = 0
        n_shared: int | None = None
        for segment in segments:
            if isinstance(segment, Placeholder):
                n_shared = len(pieces) if n_shared is None and segment.windows is not None else n_shared
                summary, ratio = found[segment.key].part(segment.windows), segment.ratio
            elif isinstance(segment, SummaryEmbeddings):
                summary, ratio = segment, None
            else:
                pieces.append(list(segment))
                positions += len(segment)
                source += len(segment)
                continue
            rows = self.compressor.read(summary, ratio)
            pieces.append(rows)
            positions += rows.shape[0]
            source += summary.n_tokens
        return ResolvedPrompt(tuple(pieces), positions, source, n_shared)

    def generate(
        self,
        prompts: Sequence[Prompt],
        params: GenerationParams | None = None,
        *,
        store: SummaryStore | None = None,
        adapters: Sequence[str | None] | None = None,
        cancelled: threading.Event | None = None,
    ) -> list[Generation]:
        """One Generation a prompt, in one batch. See ``resolve`` for prompts and Backend.generate for errors and ``cancelled``.

        ``adapters``: for each prompt a name of ``self.adapters``, a directory, or a hub id; None is the one named "default", if there
        is one, and "none" the decoder alone.
        """
        prompts = listed(prompts, "prompts")
        chosen = listed(adapters, "adapters", (str, type(None))) if adapters is not None else [None] * len(prompts)
        resolved = [self.resolve(p, store) for p in prompts]
        made = self.backend.generate(resolved, params or GenerationParams(), [self._adapter_path(a) for a in chosen], cancelled)
        return [replace(m, adapter=self._adapter_name(a)) for m, a in zip(made, chosen, strict=True)]

    def stream(
        self,
        prompt: Prompt,
        params: GenerationParams | None = None,
        *,
        store: SummaryStore | None = None,
        adapter: str | None = None,
    ) -> Iterator[GenerationChunk]:
        """The answer in pieces; the last chunk has ``final``. See ``generate`` for ``adapter``."""
        chunks = self.backend.stream(self.resolve(prompt, store), params or GenerationParams(), self._adapter_path(adapter))
        return _named(chunks, self._adapter_name(adapter))

    def loss(self, context_vectors: torch.Tensor | None, prompt_ids: Sequence[int], labels: Sequence[int]) -> torch.Tensor:
        """Mean negative log-likelihood (nats a token) of ``labels`` after ``[context_vectors | prompt_ids]``; differentiable.

        The decoder is alone, whatever adapter answered last. Not for several threads at once.

        ``context_vectors (n_vectors, hidden_size)`` as ``compressor.read`` gives them, or None.
        """
        if not labels or not prompt_ids:
            raise BadInput("loss needs at least one prompt id and one label")
        embedding: Any = self.decoder.get_input_embeddings()
        ids = torch.tensor([*prompt_ids, *labels], dtype=torch.long, device=embedding.weight.device)
        rows = embedding(ids)
        if context_vectors is not None:
            rows = torch.cat([context_vectors.to(rows.device, rows.dtype), rows])
        mask = torch.ones(1, rows.shape[0], dtype=torch.long, device=rows.device)
        adapters: Any = getattr(self.backend, "adapters", None)
        decoder, alone = (adapters.model, adapters.choose([None], self.backend.max_adapters)) if adapters else (self.decoder, {})
        logits = decoder(inputs_embeds=rows[None], attention_mask=mask, use_cache=False, **alone).logits[0]
        return cross_entropy(logits[-len(labels) - 1 : -1].float(), ids[-len(labels) :])

    def _adapter_name(self, given: str | None) -> str | None:
        if given is None:
            return "default" if "default" in self.adapters else None
        return None if given == NO_ADAPTER else given

    def _adapter_path(self, given: str | None) -> str | None:
        name = self._adapter_name(given)
        if name is None:
            return None
        path = self.adapters.get(name, name)
        if name in self.adapters or "/" in name or Path(name).is_dir() or self.weights is None:  # a server has names of its own
            check_card(path, self.name, self.fingerprint)
            return path
        known = ", ".join(sorted(self.adapters)) or "none"
        raise IncompatibleAdapter(f"no adapter is named {name!r} (known: {known}); pass adapters={{{name!r}: path}}")

    def _prompter(self) -> Prompter:
        if self.prompter is None:
            raise LLoCOError(f"{self.name} has no tokenizer, so only compress_ids and prompts of ids work; add its tokenizer files")
        return self.prompter


def _named(chunks: Iterator[GenerationChunk], adapter: str | None) -> Iterator[GenerationChunk]:
    """``chunks`` with the adapter's name in the last; closed with it."""
    with ended(chunks):
        for chunk in chunks:
            yield chunk if chunk.final is None else replace(chunk, final=replace(chunk.final, adapter=adapter))
