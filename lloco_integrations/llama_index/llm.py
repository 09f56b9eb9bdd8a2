"""LLoCO's decoder as a LlamaIndex LLM."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import LLM

from lloco_integrations.backends.runtime import Runtime
from lloco_integrations.background import in_background
from lloco_integrations.engine import DEFAULT_MODEL
from lloco_integrations.errors import LLoCOError
from lloco_integrations.llama_index.calls import chat_response, completion, never_swallowed, to_messages, to_params
from lloco_integrations.llama_index.wiring import Wired
from lloco_integrations.secret import Key, key_or_none
from lloco_integrations.types import Generation, GenerationChunk, GenerationParams, Message

R = TypeVar("R")
Respond = Callable[[str, str | None, Generation | None, str], R]


class LLoCOLLM(Wired, LLM):
    """A language model that reads placeholders: each costs its few vectors in the prompt, and is answered from as text would be.

    ``LLoCOLLM()`` is the embedded default model with the default store, which it shares with ``LLoCOPostprocessor()``. The model
    is loaded on first use; equal names share the weights. A prompt without placeholders is an ordinary prompt. What it says is
    neutralised: frameworks put answers into later prompts, where nothing that it says may be read as a placeholder.

    Everything that goes wrong in a call is an LLoCOError, among them PromptTooLong and PlaceholderError. ``raw`` of a response
    (of the last one of a stream) holds model, finish_reason, adapter and usage: true positions, and ``source_tokens``, what
    the raw text would have cost. A call may set max_tokens (or max_new_tokens), temperature, top_p, top_k, repetition_penalty,
    stop, seed and adapter.

    Args:
        model: preset, model directory or hub id.
        store: see Wired.
        adapters: group name -> directory or hub id of a LoRA. A prompt is answered with that of the group which has most of its scores
            (the group comes from the nodes' metadata, see LLoCOPostprocessor), else with the one named "default", else with none.
            ``raw`` of a response tells the ``adapter``, and under ``groups`` each group's share.
        adapter: name of the adapter for all prompts, whatever their groups; "none" is the decoder alone.
        max_adapters: how many stay in memory; the least recently used goes first.
        prefix_cache_bytes: memory for what has been read of documents, so that a second question about them is answered sooner; None is
            512 MiB, 0 keeps nothing. A server has its own cache.
        device: "auto", or a torch device.
        dtype: "auto", "float32", "bfloat16" or "float16".
        max_new_tokens: of an answer; also the room that prompt helpers leave for it.
        context_window: positions that prompt helpers fill; None, and never more than, the model's.
        temperature: 0 is greedy.
        top_p: nucleus sampling.
        top_k: 0 is off.
        repetition_penalty: 1 is off.
        stop: strings that end an answer.
        seed: for sampling.
        backend: "transformers" in this process, "vllm" (a server), or "vllm-offline" (vLLM in this process); see docs/serving.md.
        base_url: of the server; None is http://localhost:8000.
        served_model: the base model's name on the server, if it has several.
        api_key: for the server; None is the environment's LLOCO_API_KEY.
        timeout: seconds that the server may be silent.
        max_retries: of requests that met no server, or a fault of its own.
        load_adapters: let the server load adapters that it does not have, from its own disk.
        backend_options: what ``vllm.LLM`` takes, for "vllm-offline".
        **kwargs: fields of LlamaIndex's LLM, such as ``system_prompt`` and ``callback_manager``.
    """

    adapters: dict[str, str] = Field(default_factory=dict, description="Group name to LoRA.")
    adapter: str | None = Field(default=None, description="Name of the adapter for all prompts; None chooses by group.")
    max_adapters: int = Field(default=8, ge=1, description="Adapters that stay in memory.")
    prefix_cache_bytes: int | None = Field(default=None, ge=0, description="Memory for what has been read of documents.")
    max_new_tokens: int = Field(default=256, ge=1, description="Most tokens of an answer.")
    context_window: int | None = Field(default=None, ge=1, description="Positions that prompt helpers fill.")
    temperature: float = Field(default=0.0, ge=0.0, description="0 is greedy.")
    top_p: float = Field(default=1.0, gt=0.0, le=1.0, description="Nucleus sampling.")
    top_k: int = Field(default=0, ge=0, description="0 is off.")
    repetition_penalty: float = Field(default=1.0, gt=0.0, description="1 is off.")
    stop: list[str] = Field(default_factory=list, description="Strings that end an answer.")
    seed: int | None = Field(default=None, description="For sampling.")
    served_model: str | None = Field(default=None, description="The base model's name on the server.")
    api_key: Key | None = Field(default=None, exclude=True, repr=False, description="For the server.")
    timeout: float | None = Field(default=None, gt=0, description="Seconds that the server may be silent.")
    max_retries: int | None = Field(default=None, ge=0, description="Of requests that met a fault of the server's.")
    load_adapters: bool = Field(default=False, description="Let the server load adapters that it does not have.")
    backend_options: dict[str, Any] = Field(default_factory=dict, description="For vllm.LLM.")

    _known: LLMMetadata | None = PrivateAttr(default=None)

    def __init__(
        self,
        model: Any = DEFAULT_MODEL,
        store: Any = None,
        adapters: dict[str, str] | None = None,
        device: str = "auto",
        dtype: str = "auto",
        max_new_tokens: int = 256,
        context_window: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        repetition_penalty: float = 1.0,
        stop: list[str] | str | None = None,
        seed: int | None = None,
        adapter: str | None = None,
        max_adapters: int = 8,
        prefix_cache_bytes: int | None = None,
        backend: str = "transformers",
        base_url: str | None = None,
        served_model: str | None = None,
        api_key: Any = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        load_adapters: bool = False,
        backend_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model=model,
            store=store,
            adapters=adapters or {},
            device=device,
            dtype=dtype,
            max_new_tokens=max_new_tokens,
            context_window=context_window,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            repetition_penalty=repetition_penalty,
            stop=[stop] if isinstance(stop, str) else stop or [],
            seed=seed,
            adapter=adapter,
            max_adapters=max_adapters,
            prefix_cache_bytes=prefix_cache_bytes,
            backend=backend,
            base_url=base_url,
            served_model=served_model,
            api_key=api_key,
            timeout=timeout,
            max_retries=max_retries,
            load_adapters=load_adapters,
            backend_options=backend_options or {},
            **kwargs,
        )

    @classmethod
    def class_name(cls) -> str:
        return "LLoCOLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """Loads the model on first use."""
        loaded = self.engine.model
        self._known = LLMMetadata(
            context_window=min(loaded.window, self.context_window or loaded.window),
            num_output=self.max_new_tokens,
            is_chat_model=loaded.prompter is not None and loaded.prompter.chat,
            model_name=self.model,
        )
        return self._known

    def to_payload(self) -> dict[str, Any]:
        """What callbacks and traces are told about this model. Never loads it."""
        known = self._known.model_dump() if self._known is not None else {}
        return {"class_name": self.class_name(), **known, "model_name": self.model, "num_output": self.max_new_tokens}

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return self._answer(self._text(prompt, formatted), kwargs, completion)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Generator[CompletionResponse, None, None]:
        return self._stream(self._text(prompt, formatted), kwargs, completion)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self._answer(lambda: to_messages(messages), kwargs, chat_response)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Generator[ChatResponse, None, None]:
        return self._stream(lambda: to_messages(messages), kwargs, chat_response)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return await self._aanswer(self._text(prompt, formatted), kwargs, completion)

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> AsyncGenerator[CompletionResponse, None]:
        return in_background(lambda: self._stream(self._text(prompt, formatted), kwargs, completion))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return await self._aanswer(lambda: to_messages(messages), kwargs, chat_response)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> AsyncGenerator[ChatResponse, None]:
        return in_background(lambda: self._stream(lambda: to_messages(messages), kwargs, chat_response))

    def _answer(self, prompt: Callable[[], str | list[Message]], options: dict[str, Any], respond: Respond[R]) -> R:
        with never_swallowed():
            params, adapter = to_params(self._params(), options)
            made = self.engine.generate([prompt()], params, [adapter or self.adapter])[0]
            return respond(made.text, None, made, self.model)

    async def _aanswer(self, prompt: Callable[[], str | list[Message]], options: dict[str, Any], respond: Respond[R]) -> R:
        """Streams underneath, so that a cancelled task does not leave the model busy."""
        async for chunk in in_background(lambda: self._chunks(prompt, options)):
            if chunk.final is not None:
                return respond(chunk.final.text, None, chunk.final, self.model)
        raise LLoCOError("the stream of an answer ended before the answer did; ask again")

    def _stream(self, prompt: Callable[[], str | list[Message]], options: dict[str, Any], respond: Respond[R]) -> Generator[R, None, None]:
        text = ""
        for chunk in self._chunks(prompt, options):
            text += chunk.delta
            yield respond(text, chunk.delta, chunk.final, self.model)

    def _chunks(self, prompt: Callable[[], str | list[Message]], options: dict[str, Any]) -> Iterator[GenerationChunk]:
        with never_swallowed():
            params, adapter = to_params(self._params(), options)
            yield from self.engine.stream(prompt(), params, adapter or self.adapter)

    def _text(self, prompt: str, formatted: bool) -> Callable[[], str]:
        """``prompt``, through the user's ``completion_to_prompt`` unless LlamaIndex has done that. The chat template comes later."""
        if formatted or self.completion_to_prompt is None:
            return lambda: prompt
        shape = self.completion_to_prompt
        return lambda: shape(prompt)

    def _runtime(self) -> Runtime:
        return Runtime.of(
            self.backend,
            self.backend_options,
            base_url=self.base_url,
            served_model=self.served_model,
            api_key=key_or_none(self.api_key),
            timeout=self.timeout,
            max_retries=self.max_retries,
            load_adapters=self.load_adapters,
        )

    def _params(self) -> GenerationParams:
        return GenerationParams(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            stop=tuple(self.stop),
            seed=self.seed,
        )
