"""Every public method of LangChain's classes that has an async twin gives the same both ways. New twins must be added here."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import HumanMessage
from langchain_core.prompt_values import StringPromptValue

from lloco_integrations.langchain import ChatLLoCO, LLoCODocumentCompressor, LLoCOLLM, LLoCORetriever
from tests.langchain.parts import documents

PROMPT, OTHER = "how many steps?", "who bakes the bread?"
VALUES = [StringPromptValue(text=PROMPT), StringPromptValue(text=OTHER)]
TEXT_MODEL = {
    "invoke": (PROMPT,),
    "batch": ([PROMPT, OTHER],),
    "batch_as_completed": ([PROMPT, OTHER],),
    "stream": (PROMPT,),
    "transform": ([PROMPT],),
    "generate_prompt": (VALUES,),
}
CALLS: dict[type, dict[str, tuple[Any, ...]]] = {
    ChatLLoCO: {**TEXT_MODEL, "generate": ([[HumanMessage(PROMPT)], [HumanMessage(OTHER)]],)},
    LLoCOLLM: {**TEXT_MODEL, "generate": ([PROMPT, OTHER],)},
    LLoCORetriever: {name: TEXT_MODEL[name] for name in ("invoke", "batch", "batch_as_completed", "stream", "transform")},
    LLoCODocumentCompressor: {"compress_documents": (documents(), PROMPT)},
}
EVENTS = {"stream_events"}
"""A run's ids and times differ from call to call: see test_chains.py and test_running.py."""


def twins(kind: type) -> set[str]:
    names = {name for name, _ in inspect.getmembers(kind, callable) if not name.startswith("_")}
    return {name for name in names if f"a{name}" in names} - EVENTS


@pytest.mark.parametrize("kind", CALLS, ids=lambda k: k.__name__)
def test_no_twin_is_forgotten(kind: type) -> None:
    assert twins(kind) == set(CALLS[kind])


async def gathered(outcome: Any) -> Any:
    if inspect.isawaitable(outcome):
        outcome = await outcome
    if hasattr(outcome, "__aiter__"):
        outcome = [piece async for piece in outcome]
    elif inspect.isgenerator(outcome):
        outcome = list(outcome)
    return [without_ids(piece) for piece in outcome] if isinstance(outcome, list) else without_ids(outcome)


def without_ids(value: Any) -> Any:
    """Plain data without the names of runs, which differ from call to call."""
    value = value.model_dump() if hasattr(value, "model_dump") else value
    if isinstance(value, dict):
        return {k: without_ids(v) for k, v in value.items() if k not in ("id", "run", "run_id")}
    return [without_ids(v) for v in value] if isinstance(value, list | tuple) else value


async def several(items: list[Any]) -> Any:
    for item in items:
        yield item


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, names in CALLS.items() for n in names], ids=lambda v: getattr(v, "__name__", v))
async def test_sync_and_async_give_the_same(
    kind: type, name: str, chat: ChatLLoCO, llm: LLoCOLLM, retriever: LLoCORetriever, compressor: LLoCODocumentCompressor
) -> None:
    it: Any = next(thing for thing in (chat, llm, retriever, compressor) if type(thing) is kind)
    args: Any = CALLS[kind][name]
    one = await gathered(getattr(it, name)(*([iter(args[0])] if name == "transform" else args)))
    two = await gathered(getattr(it, f"a{name}")(*([several(args[0])] if name == "transform" else args)))
    if name == "batch_as_completed":
        one, two = sorted(one, key=lambda pair: pair[0]), sorted(two, key=lambda pair: pair[0])
    if isinstance(it, BaseLanguageModel) and name in ("stream", "transform"):
        assert len(one) > 1
    assert one == two
    assert one
