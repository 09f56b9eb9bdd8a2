"""The decoder in this process through vLLM: what a batch job wants. The prompts are checked as for a server."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lloco_integrations.backends.base import Backend, one_each, unwanted
from lloco_integrations.backends.lora import facts
from lloco_integrations.backends.rows import PromptRows, check_room
from lloco_integrations.backends.runtime import Runtime
from lloco_integrations.backends.stopping import finished
from lloco_integrations.errors import IncompatibleAdapter, LLoCOError, MissingExtra
from lloco_integrations.fingerprint import adapter_identity
from lloco_integrations.locks import ForkLock
from lloco_integrations.types import Generation, GenerationChunk, GenerationParams, ResolvedPrompt

DEFAULT_RANK = 16
"""Of the adapters that the engine is made for; ``backend_options={"max_lora_rank": ...}`` gives another."""


class VLLMOfflineBackend(Backend):
    """``vllm.LLM``, started with the first prompt. One call at a time; a batch is one call, each prompt under its own adapter.

    Args:
        directory: the decoder, as Hugging Face saves it.
        runtime: its ``options`` go to ``vllm.LLM`` as they are.
        rows: makes prompts' tensors; the engine computes in their dtype.
        decode: an answer's ids -> its text.
        window: the decoder's own; the option ``max_model_len`` may be smaller.
        ends: ids that end an answer.
    """

    window: int = 0

    def __init__(
        self,
        directory: Path,
        runtime: Runtime,
        rows: PromptRows,
        decode: Callable[[list[int]], str],
        *,
        window: int = 1 << 30,
        ends: Sequence[int] = (),
    ) -> None:
        self.directory = directory
        self.rows = rows
        self.decode = decode
        self.options = dict(runtime.options)
        self.window = min(window, int(self.options.get("max_model_len", window)))
        self.ends = list(ends)
        self._lock = ForkLock(wait=False)
        self._engine: Any = None
        self._known: dict[str, int] = {}

    def generate(
        self,
        prompts: Sequence[ResolvedPrompt],
        params: GenerationParams,
        adapters: Sequence[str | None] | None = None,
        cancelled: threading.Event | None = None,
    ) -> list[Generation]:
        """As Backend's. What vLLM has begun it ends, also if it is cancelled meanwhile."""
        paths = one_each(adapters, len(prompts))
        for prompt in prompts:
            check_room(prompt, self.window)
        asked = [{"prompt_embeds": self.rows.of(prompt)} for prompt in prompts]
        with self._lock:
            if cancelled is not None and cancelled.is_set():
                raise unwanted()
            engine = self._started()
            loras = [None if path is None else self._request(path) for path in paths]
            how = [self._how(params, prompt) for prompt in prompts]
            try:
                made = engine.generate(asked, how, lora_request=loras, use_tqdm=False) if asked else []
            except Exception as error:
                raise LLoCOError(f"vLLM failed: {type(error).__name__}: {error}") from error
        return [
            finished(p, list(m.outputs[0].token_ids), m.outputs[0].finish_reason, self.decode, params.stop, path)
            for p, m, path in zip(prompts, made, paths, strict=True)
        ]

    def stream(self, prompt: ResolvedPrompt, params: GenerationParams, adapter: str | None = None) -> Iterator[GenerationChunk]:
        """The whole answer in one piece: this engine has no other way. A server streams."""
        check_room(prompt, self.window)
        return self._whole(prompt, params, adapter)

    def _whole(self, prompt: ResolvedPrompt, params: GenerationParams, adapter: str | None) -> Iterator[GenerationChunk]:
        (made,) = self.generate([prompt], params, [adapter])
        yield GenerationChunk(made.text, made)

    def _started(self) -> Any:
        if self._engine is None:
            options = {
                "dtype": str(self.rows.dtype).removeprefix("torch."),
                "enable_lora": True,
                "max_lora_rank": DEFAULT_RANK,
                "max_loras": self.max_adapters + 1,  # the spare slot: on CPUs the base's rows would else run under the last adapter
                **self.options,
            }
            try:
                self._engine = _vllm().LLM(model=str(self.directory), enable_prompt_embeds=True, **options)
            except Exception as error:
                raise LLoCOError(
                    f"vLLM cannot be started on {self.directory}: {type(error).__name__}: {error}; see its log above"
                ) from error
            atexit.register(self.close)  # before multiprocessing's own, which would wait for the engine's process for ever
        return self._engine

    def close(self) -> None:
        """End vLLM's processes. The next prompt starts them again."""
        with self._lock:
            engine, self._engine = self._engine, None
            if engine is not None:
                atexit.unregister(self.close)
                engine.llm_engine.engine_core.shutdown()

    def _request(self, path: str) -> Any:
        """How vLLM is told of an adapter: by a number of its own for each content."""
        found, most = facts([path]), int(self.options.get("max_lora_rank", DEFAULT_RANK))
        if found.rank > most:
            raise IncompatibleAdapter(
                f"the adapter at {path} has a rank over {most}, for which vLLM was started; give backend_options={{'max_lora_rank': {found.rank}}}"
            )
        identity = adapter_identity(path)
        number = self._known.setdefault(identity, len(self._known) + 1)
        request = import_module("vllm.lora.request").LoRARequest
        return request(f"a{number}", number, str(Path(path).expanduser().absolute()))

    def _how(self, params: GenerationParams, prompt: ResolvedPrompt) -> Any:
        return _vllm().SamplingParams(
            max_tokens=max(1, min(params.max_new_tokens, self.window - prompt.n_positions)),
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            repetition_penalty=params.repetition_penalty,
            stop=[s for s in params.stop if s],
            seed=params.seed,
        )


def _vllm() -> Any:
    try:
        found = import_module("vllm")
        if found.__file__ is None:
            raise ImportError("the folder 'vllm' here is no package; leave it, or call it otherwise")
        return found
    except ImportError as error:
        raise MissingExtra(
            f"backend='vllm-offline' needs vLLM in this environment ({error}); see docs/serving.md, or use backend='vllm' with a server"
        ) from error
