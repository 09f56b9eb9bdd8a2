"""The chat model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, ClassVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from lloco_integrations.background import in_background
from lloco_integrations.errors import BadInput, LLoCOError
from lloco_integrations.langchain.decoding import Call, DecoderFields, warn_about_tools
from lloco_integrations.langchain.messages import to_messages
from lloco_integrations.types import Generation, GenerationChunk


class NoTools(BadInput, NotImplementedError):
    """Something that needs a model that calls tools; NotImplementedError is what LangChain's own models raise."""


class Refused:
    """A method that refuses with a remedy, and that looks not overridden: LangChain asks the class whether there are tools at all."""

    def __init__(self, remedy: str) -> None:
        self.remedy = remedy

    def __set_name__(self, owner: type, name: str) -> None:
        self.owner, self.name = owner, name

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        if instance is None:
            inherited: Callable[..., Any] = getattr(super(self.owner, owner), self.name)
            return inherited

        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise NoTools(f"{owner.__name__} cannot call tools; {self.remedy}")

        return refuse


ASK_IN_THE_PROMPT = "ask for JSON in the prompt and parse the answer, with PydanticOutputParser or JsonOutputParser"


class ChatLLoCO(DecoderFields, BaseChatModel):
    """A chat model whose messages may hold placeholders of summary embeddings, mixed with text.

    ``ChatLLoCO()`` is the default preset on the default store; see DecoderFields and EngineFields for the arguments. Every answer has
    true positions in ``usage_metadata`` (a placeholder costs its vectors) and ``source_tokens`` in ``response_metadata``: what the prompt
    would have cost as raw text. Arguments of a call (``chat.invoke(..., adapter="finance")``, ``chat.bind(temperature=0.7)``) replace
    those of the model. Calls run one after the other: for many prompts at once, LLoCOLLM's ``batch`` is one forward pass.

    Raises LLoCOError and its children, among them PromptTooLong and PlaceholderError.
    """

    streaming: bool = False

    bind_tools: ClassVar[Any] = Refused(
        "make the retriever a step of the chain or graph, or let another model call the tools and this one answer from what they found"
    )
    with_structured_output: ClassVar[Any] = Refused(ASK_IN_THE_PROMPT)

    @property
    def _llm_type(self) -> str:
        return "lloco-chat"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(stop, kwargs)
        (made,) = call.engine.generate([to_messages(messages)], call.params, [call.adapter])
        return _result(made, call)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """Streams underneath, so that a cancelled task does not leave the model busy."""
        call, prompt = self._call(stop, kwargs), to_messages(messages)
        async for chunk in in_background(lambda: call.engine.stream(prompt, call.params, call.adapter)):
            if chunk.final is not None:
                return _result(chunk.final, call)
        raise LLoCOError("the stream of an answer ended before the answer did; ask again")

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self._call(stop, kwargs)
        for chunk in call.engine.stream(to_messages(messages), call.params, call.adapter):
            yield _chunk(chunk, call)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call, prompt = self._call(stop, kwargs), to_messages(messages)
        async for chunk in in_background(lambda: call.engine.stream(prompt, call.params, call.adapter)):
            yield _chunk(chunk, call)

    def get_num_tokens_from_messages(self, messages: Sequence[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """The positions that ``messages`` take as a prompt, chat template included: what ``usage_metadata`` will say."""
        warn_about_tools(tools)
        return self.engine.count(to_messages(messages)).n_positions

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop if stop is not None else self.stop, **kwargs)
        params["ls_provider"] = "lloco"
        return params


def _result(made: Generation, call: Call) -> ChatResult:
    message = AIMessage(content=made.text, usage_metadata=_usage(made), response_metadata=_about(made, call))
    return ChatResult(generations=[ChatGeneration(message=message)])


def _chunk(chunk: GenerationChunk, call: Call) -> ChatGenerationChunk:
    if chunk.final is None:
        return ChatGenerationChunk(message=AIMessageChunk(content=chunk.delta))
    message = AIMessageChunk(
        content=chunk.delta,
        usage_metadata=_usage(chunk.final),
        response_metadata=_about(chunk.final, call),
        chunk_position="last",
    )
    return ChatGenerationChunk(message=message)


def _usage(made: Generation) -> UsageMetadata:
    usage = made.usage
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )


def _about(made: Generation, call: Call) -> dict[str, Any]:
    return {
        "model_name": call.engine.model_name,
        "model_provider": "lloco",
        "finish_reason": made.finish_reason,
        "adapter": made.adapter,
        "groups": dict(made.groups),
        "source_tokens": made.usage.source_tokens,
    }
