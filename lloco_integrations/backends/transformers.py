"""The decoder in this process, through transformers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from lloco_integrations.backends import cpu, prefixes
from lloco_integrations.backends.adapters import Adapters
from lloco_integrations.backends.base import Backend, one_each, unwanted
from lloco_integrations.backends.prefixes import Prefix, Prefixes
from lloco_integrations.backends.rows import check_room
from lloco_integrations.backends.stopping import Finite, Pauses, StopStrings, Unfolding, cut_at_stop, text_of
from lloco_integrations.errors import BadInput, LLoCOError
from lloco_integrations.fingerprint import adapter_identity
from lloco_integrations.locks import ForkLock
from lloco_integrations.types import Generation, GenerationChunk, GenerationParams, ResolvedPrompt, Usage
from lloco_integrations.undisturbed import undisturbed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_GLANCE = 0.1
"""Seconds after which one that waits for the decoder looks whether it is still wanted."""


class TransformersBackend(Backend):
    """Batched generation with ``inputs_embeds``. One lock around choosing adapters and generating: switching is not thread-safe.

    What a prompt begins with, up to its last summary, is read by itself and kept (``prefixes``): another question about the same documents,
    under the same adapter, reads only what follows. Answers are the same whether it was kept or not.

    Args:
        model: causal LM in eval mode; on a CPU it is made faster, see ``cpu``.
        tokenizer: its tokenizer; None allows only ``max_new_tokens`` to end an answer and returns ids as text.
        lock: shared with a compressor that uses the same model.
        batch_size: prompts in one forward pass.
    """

    window: int = 0

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        lock: ForkLock | None = None,
        batch_size: int = 16,
    ) -> None:
        cpu.prepare(model)
        self.model = model
        self.tokenizer = tokenizer
        self.prefixes = Prefixes()
        self._weights = list(model.parameters())
        self._keeps_all = prefixes.keeps_all(model.config)
        self.adapters = Adapters(model)
        self.lock = lock or ForkLock()
        self.batch_size = batch_size
        self.window = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        ends = getattr(model.generation_config, "eos_token_id", None)
        self.ends: list[int] = ends if isinstance(ends, list) else [] if ends is None else [ends]

    def keep_prefixes(self, nbytes: int) -> None:
        """Hold at most ``nbytes`` of what prompts begin with, from now on; 0 reads every prompt whole. The default is 512 MiB."""
        if nbytes < 0:
            raise BadInput(f"prefix_cache_bytes is {nbytes}; give 0, which keeps nothing, or more")
        with self.lock:
            self.prefixes.bound(nbytes)

    def generate(
        self,
        prompts: Sequence[ResolvedPrompt],
        params: GenerationParams,
        adapters: Sequence[str | None] | None = None,
        cancelled: threading.Event | None = None,
    ) -> list[Generation]:
        paths = one_each(adapters, len(prompts))
        for prompt in prompts:
            check_room(prompt, self.window)
        order = sorted(range(len(prompts)), key=lambda i: -prompts[i].n_positions)
        done: dict[int, Generation] = {}
        for at in range(0, len(order), self.batch_size):
            batch = order[at : at + self.batch_size]
            stopping = StopStrings(self.tokenizer, params.stop, cancelled)
            made = self._run([prompts[i] for i in batch], params, [paths[i] for i in batch], stopping)
            if cancelled is not None and cancelled.is_set():
                raise unwanted()
            for i, ids in zip(batch, made, strict=True):
                done[i] = self._generation(prompts[i], ids, params, paths[i])
        return [done[i] for i in range(len(prompts))]

    def stream(self, prompt: ResolvedPrompt, params: GenerationParams, adapter: str | None = None) -> Iterator[GenerationChunk]:
        check_room(prompt, self.window)
        return self._streamed(prompt, params, adapter)

    def _streamed(self, prompt: ResolvedPrompt, params: GenerationParams, adapter: str | None) -> Iterator[GenerationChunk]:
        """Generates in a thread of its own, which is started with the first piece that is asked for."""
        chunks: queue.Queue[int | BaseException | None] = queue.Queue()
        cancelled = threading.Event()

        def work() -> None:
            try:
                stopping = StopStrings(self.tokenizer, params.stop, cancelled)
                self._run([prompt], params, [adapter], stopping, _Streamer(chunks.put))
                chunks.put(None)
            except BaseException as error:  # carried over: the consumer would wait for ever
                chunks.put(error)

        thread = threading.Thread(target=work, name="lloco-generate", daemon=True)
        answer = Unfolding(self._text, params.stop)
        try:
            thread.start()
            while (item := chunks.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                if more := answer.add([item]):
                    yield GenerationChunk(more)
            final = self._generation(prompt, answer.ids, params, adapter)
            yield GenerationChunk(final.text[len(answer.shown) :], final)
        finally:
            cancelled.set()
            if thread.ident is not None:
                thread.join()

    def _run(
        self,
        prompts: Sequence[ResolvedPrompt],
        params: GenerationParams,
        paths: Sequence[str | None],
        stopping: StopStrings,
        streamer: Any = None,
    ) -> list[list[int]]:
        """New token ids of each prompt, without padding."""
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        longest = max(p.n_positions for p in prompts)
        pad_id = self.ends[0] if self.ends else 0
        sampled = params.temperature > 0
        how: dict[str, Any] = {"do_sample": sampled}
        if sampled:
            how |= {"temperature": params.temperature, "top_p": params.top_p, "top_k": params.top_k}
        make_config: Any = GenerationConfig
        config = make_config(
            max_new_tokens=max(1, min(params.max_new_tokens, self.window - longest)),
            repetition_penalty=params.repetition_penalty,
            eos_token_id=self.ends or None,
            pad_token_id=pad_id,
            **how,
        )
        with self._turn(stopping) as mine, undisturbed():
            if not mine:
                return [[] for _ in prompts]
            try:
                with self.adapters.chosen(paths, self.max_adapters) as extra:
                    read = self._read(prompts, paths, extra)
                    embeds, mask = self._inputs(prompts, [prefix.n_positions if prefix else 0 for prefix in read])
                    with torch.random.fork_rng(enabled=sampled and params.seed is not None):
                        if sampled and params.seed is not None:
                            torch.manual_seed(params.seed)
                        out = self.adapters.model.generate(
                            inputs_embeds=embeds,
                            attention_mask=mask,
                            generation_config=config,
                            logits_processor=LogitsProcessorList([Finite()]),
                            stopping_criteria=StoppingCriteriaList([stopping, Pauses(self.lock.pause)]),
                            streamer=streamer,
                            **prefixes.argument(prefixes.batched(read, self.model.config), self.model),
                            **extra,
                        )
            except LLoCOError:
                raise
            except Exception as error:
                raise LLoCOError(f"generation failed: {type(error).__name__}: {error}") from error
        return [self._without_padding(row.tolist()) for row in out]

    @contextmanager
    def _turn(self, stopping: StopStrings) -> Iterator[bool]:
        """Inside, the lock is held; whether it is, for one that is cancelled stops waiting."""
        while not self.lock.acquire(timeout=_GLANCE):
            if stopping.cancelled:
                yield False
                return
        try:
            yield not stopping.cancelled
        finally:
            self.lock.release()

    def _read(self, prompts: Sequence[ResolvedPrompt], paths: Sequence[str | None], extra: dict[str, Any]) -> list[Prefix | None]:
        """What each prompt begins with, kept from before or read now, once for all prompts that share it. None where nothing is kept."""
        version = sum(0 if weight.is_inference() else weight._version for weight in self._weights)  # a decoder may be trained meanwhile
        read: dict[bytes, Prefix] = {}
        found: list[Prefix | None] = []
        for i, (prompt, path) in enumerate(zip(prompts, paths, strict=True)):
            n_pieces = prefixes.context(prompt) if self._keeps_all and self.prefixes.limit else 0
            if not n_pieces:
                found.append(None)
                continue
            pieces = prompt.pieces[:n_pieces]
            key = prefixes.key(pieces, path and adapter_identity(path), version)
            if key not in read:
                row = {name: values[i : i + 1] for name, values in extra.items()}
                read[key] = self.prefixes.get(key) or self._prefill(pieces, row)
                self.prefixes.put(key, read[key])
            found.append(read[key])
        return found

    def _prefill(self, pieces: Sequence[list[int] | torch.Tensor], extra: dict[str, Any]) -> Prefix:
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        extra = extra | prefixes.argument(cache, self.model)
        self.adapters.model(inputs_embeds=self._rows(pieces)[None], use_cache=True, logits_to_keep=1, **extra)
        return prefixes.taken(cache)

    def _inputs(self, prompts: Sequence[ResolvedPrompt], read: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """``inputs_embeds`` and a mask of ones over each prompt: what was ``read`` of it, then the rest, both padded on the left.

        transformers wants rows for what was read, too, and passes over them.
        """
        rests = [prompt.n_positions - n for prompt, n in zip(prompts, read, strict=True)]
        start, longest = max(read), max(read) + max(rests)
        weight = self._embeddings.weight
        embeds = weight.new_zeros(len(prompts), longest, weight.shape[1])
        mask = torch.zeros(len(prompts), longest, dtype=torch.long, device=weight.device)
        for i, (prompt, n, rest) in enumerate(zip(prompts, read, rests, strict=True)):
            embeds[i, longest - rest :] = self._rows(prompt.pieces)[n:]
            mask[i, start - n : start] = 1
            mask[i, longest - rest :] = 1
        return embeds, mask

    def _rows(self, pieces: Sequence[list[int] | torch.Tensor]) -> torch.Tensor:
        """``(n_positions, hidden_size)`` on the decoder's device, in its dtype."""
        weight = self._embeddings.weight
        return torch.cat(
            [
                self._embeddings(torch.tensor(piece, dtype=torch.long, device=weight.device))
                if isinstance(piece, list)
                else piece.to(weight.device, weight.dtype)
                for piece in pieces
            ]
        )

    @property
    def _embeddings(self) -> Any:
        return self.model.get_input_embeddings()

    def _without_padding(self, ids: list[int]) -> list[int]:
        for i, token in enumerate(ids):
            if token in self.ends:
                return ids[: i + 1]
        return ids

    def _generation(self, prompt: ResolvedPrompt, ids: list[int], params: GenerationParams, adapter: str | None) -> Generation:
        text, stopped = cut_at_stop(self._text(ids), params.stop)
        ended = stopped or bool(ids and ids[-1] in self.ends)
        usage = Usage(prompt.n_positions, len(ids), prompt.source_tokens)
        return Generation(text, "stop" if ended else "length", usage, adapter)

    def _text(self, ids: list[int]) -> str:
        return " ".join(map(str, ids)) if self.tokenizer is None else text_of(self.tokenizer, ids)


class _Streamer:
    """Passes the new tokens of a single prompt on; transformers calls it with whatever it has appended."""

    def __init__(self, put: Callable[[int], None]) -> None:
        self._put = put

    def put(self, value: torch.Tensor) -> None:
        for token in value.flatten().tolist():
            self._put(token)

    def end(self) -> None:
        """The end comes from the generating thread itself, after the last token."""
