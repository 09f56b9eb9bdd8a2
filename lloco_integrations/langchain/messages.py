"""LangChain's messages as ours."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage

from lloco_integrations.errors import BadInput
from lloco_integrations.plain import heard
from lloco_integrations.types import Message

_ROLES = {"human": "user", "user": "user", "ai": "assistant", "assistant": "assistant", "system": "system", "developer": "system"}
_UNSPOKEN = ("reasoning", "reasoning_content", "thinking", "redacted_thinking")
"""Blocks that other models leave in their answers; no chat template repeats them."""


def to_messages(messages: Sequence[BaseMessage]) -> list[Message]:
    """Raises BadInput for a role or a content that this model cannot read."""
    return [heard(Message(_role(message), _text(message))) for message in messages]


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        role = _ROLES.get(message.role.lower())
        if role is not None:
            return role
        raise BadInput(f"the role {message.role!r} is unknown to this model; use system, human (user) or ai (assistant)")
    if isinstance(message, HumanMessage):
        return "user"
    if isinstance(message, SystemMessage):
        return "system"
    if isinstance(message, AIMessage):
        if message.tool_calls:
            raise BadInput("the conversation has tool calls, and this model cannot call tools; leave those messages out")
        return "assistant"
    raise BadInput(f"this model cannot read a message of type {message.type!r}; use system, human and ai messages")


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    parts = []
    for block in message.content:
        kind = "text" if isinstance(block, str) else block.get("type", "text" if "text" in block else None)
        if kind in _UNSPOKEN and isinstance(message, AIMessage):
            continue
        if kind != "text":
            raise BadInput(f"this model reads text only, and a {message.type} message holds a block of type {kind!r}; leave it out")
        parts.append(block if isinstance(block, str) else str(block.get("text") or ""))
    return "".join(parts)
