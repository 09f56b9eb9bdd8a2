"""The text-completion model."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, ClassVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseLLM, LangSmithParams
from langchain_core.messages import BaseMessage
from langchain_core.outputs import Generation as LangChainGeneration
from langchain_core.outputs import GenerationChunk as LangChainChunk
from langchain_core.outputs import LLMResult
from langchain_core.prompt_values import ChatPromptValue
from langchain_core.runnables import run_in_executor

from lloco_integrations.background import in_background
from lloco_integrations.langchain.chat import ASK_IN_THE_PROMPT, Refused
from lloco_integrations.langchain.decoding import Call, DecoderFields, warn_about_tools
from lloco_integrations.types import Generation, GenerationChunk


class LLoCOLLM(DecoderFields, BaseLLM):
    """A completion model whose prompts may hold placeholders of summary embeddings, mixed with text.

    ``LLoCOLLM()`` is the default preset on the default store; see DecoderFields and EngineFields for the arguments. All prompts of a
    ``batch`` are answered together, also behind other steps of a chain. Usage is in each answer's ``generation_info`` and, summed,
    in ``llm_output``. A prompt is sent as one user turn where the model has a chat template.

    Raises LLoCOError and its children, among them PromptTooLong and PlaceholderError.
    """

    with_structured_output: ClassVar[Any] = Refused(ASK_IN_THE_PROMPT)

    @property
    def _llm_type(self) -> str:
        return "lloco"

    def generate(self, prompts: list[str], stop: list[str] | None = None, callbacks: Any = None, **kwargs: Any) -> LLMResult:
        """As BaseLLM's. Its cache does not see a call's arguments, so they are made those of a copy first."""
        bound, rest = self._bound(kwargs)
        return super(LLoCOLLM, bound).generate(prompts, stop, callbacks, **rest)

    async def agenerate(self, prompts: list[str], stop: list[str] | None = None, callbacks: Any = None, **kwargs: Any) -> LLMResult:
        """As ``generate``."""
        bound, rest = self._bound(kwargs)
        return await super(LLoCOLLM, bound).agenerate(prompts, stop, callbacks, **rest)

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        return self._together(prompts, self._call(stop, kwargs))

    def _together(self, prompts: list[str], call: Call, cancelled: threading.Event | None = None) -> LLMResult:
        made = call.engine.generate(prompts, call.params, [call.adapter] * len(prompts), cancelled=cancelled)
        total = {name: sum(m.usage.as_dict()[name] for m in made) for name in (made[0].usage.as_dict() if made else {})}
        return LLMResult(
            generations=[[LangChainGeneration(text=m.text, generation_info=_about(m, call))] for m in made],
            llm_output={"model_name": call.engine.model_name, "token_usage": total},
        )

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """As ``_generate``, in a worker thread; a cancelled task does not leave the model busy."""
        cancelled = threading.Event()
        try:
            return await run_in_executor(None, self._together, prompts, self._call(stop, kwargs), cancelled)
        finally:
            cancelled.set()

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[LangChainChunk]:
        call = self._call(stop, kwargs)
        for piece in call.engine.stream(prompt, call.params, call.adapter):
            chunk = _chunk(piece, call)
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[LangChainChunk]:
        call = self._call(stop, kwargs)
        async for piece in in_background(lambda: call.engine.stream(prompt, call.params, call.adapter)):
            chunk = _chunk(piece, call)
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def get_num_tokens_from_messages(self, messages: Sequence[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """The positions that ``messages`` take as a prompt: this model gets a conversation as one text."""
        warn_about_tools(tools)
        return self.engine.count(ChatPromptValue(messages=messages).to_string()).n_positions

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop if stop is not None else self.stop, **kwargs)
        params["ls_provider"] = "lloco"
        return params


def _chunk(piece: GenerationChunk, call: Call) -> LangChainChunk:
    return LangChainChunk(text=piece.delta, generation_info=_about(piece.final, call) if piece.final else None)


def _about(made: Generation, call: Call) -> dict[str, Any]:
    return {
        "model_name": call.engine.model_name,
        "finish_reason": made.finish_reason,
        "adapter": made.adapter,
        "groups": dict(made.groups),
        "usage": made.usage.as_dict(),
    }
