"""Between LlamaIndex's requests and responses and the engine's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
    TextBlock,
    ThinkingBlock,
)

from lloco_integrations.errors import BadInput, LLoCOError
from lloco_integrations.plain import heard
from lloco_integrations.types import Generation, GenerationParams, Message

_ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}
_KNOWN = ("max_tokens", "max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "stop", "seed", "adapter")


@contextmanager
def never_swallowed() -> Iterator[None]:
    """Whatever goes wrong inside becomes an LLoCOError: LlamaIndex takes ValueError and TypeError for an empty answer."""
    try:
        yield
    except LLoCOError:
        raise
    except Exception as error:
        raise LLoCOError(f"the language model failed: {type(error).__name__}: {error}") from error


def to_params(defaults: GenerationParams, options: Mapping[str, Any]) -> tuple[GenerationParams, str | None]:
    """How to decode, and the adapter asked for: ``defaults`` under the options of one call. None means the default.

    Raises BadInput for an option that there is not, or a value that it cannot have.
    """
    unknown = sorted(set(options) - set(_KNOWN))
    if unknown:
        raise BadInput(f"unknown options {', '.join(unknown)}; a call takes {', '.join(_KNOWN)}")
    given = {k: v for k, v in options.items() if v is not None}
    adapter = given.pop("adapter", None)
    if "max_tokens" in given:
        given.setdefault("max_new_tokens", given.pop("max_tokens"))
        given.pop("max_tokens", None)
    if "stop" in given:
        given["stop"] = (given["stop"],) if isinstance(given["stop"], str) else tuple(given["stop"])
    return replace(defaults, **given), adapter


def to_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """The core's messages. Roles other than system, assistant and tool speak as the user; no placeholder is read from what an assistant or a
    tool said.

    Raises BadInput for a message that is more than text.
    """
    return [_message(m) for m in messages]


def _message(message: ChatMessage) -> Message:
    texts = []
    for block in message.blocks:
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif not isinstance(block, CachePoint | ThinkingBlock):
            raise BadInput(f"a message holds a {type(block).__name__}; this model reads text only")
    role = _ROLES.get(message.role, "user")
    text = "\n".join(texts)
    return heard(Message(role, text))


def completion(text: str, delta: str | None, final: Generation | None, model: str) -> CompletionResponse:
    """A response, or one piece of a streamed one; ``final`` brings the token counts."""
    return CompletionResponse(text=text, delta=delta, **_account(final, model))


def chat_response(text: str, delta: str | None, final: Generation | None, model: str) -> ChatResponse:
    """As ``completion``, for a conversation."""
    return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=text), delta=delta, **_account(final, model))


def _account(final: Generation | None, model: str) -> dict[str, Any]:
    if final is None:
        return {}
    usage = final.usage.as_dict()
    raw = {"model": model, "finish_reason": final.finish_reason, "adapter": final.adapter, "groups": dict(final.groups), "usage": usage}
    return {"raw": raw, "additional_kwargs": dict(usage)}
