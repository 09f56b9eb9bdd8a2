"""Every public method of LlamaIndex's classes that has an async twin gives the same both ways. New twins must be added here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from lloco_integrations.llama_index import LLoCOCompress, LLoCOLLM, LLoCOPostprocessor, LLoCOPromptHelper, LLoCORetriever

NEEDS_TOOLS = {"predict_and_call", "structured_predict", "stream_structured_predict"}
"""Need sensible answers, not a random model's: see test_agents.py."""

MESSAGES = [ChatMessage(role="system", content="be brief"), ChatMessage(role="user", content="how many lamps?")]
CALLS: dict[type, dict[str, tuple[tuple[Any, ...], dict[str, Any]]]] = {
    LLoCOLLM: {
        "complete": (("how many lamps?",), {}),
        "stream_complete": (("how many lamps?",), {"max_tokens": 9}),
        "chat": ((MESSAGES,), {}),
        "stream_chat": ((MESSAGES,), {"max_tokens": 9}),
        "predict": ((PromptTemplate("how many {what}?"),), {"what": "lamps"}),
        "stream": ((PromptTemplate("how many {what}?"),), {"what": "lamps"}),
    },
    LLoCOPostprocessor: {"postprocess_nodes": (([NodeWithScore(node=TextNode(id_="n", text="forty lamps"), score=0.5)],), {})},
    LLoCORetriever: {"retrieve": (("lamps",), {})},
    LLoCOCompress: {"call": (([TextNode(id_="n", text="forty lamps")],), {})},
    LLoCOPromptHelper: {},
}


def twins(kind: type) -> set[str]:
    names = {name for name, _ in inspect.getmembers(kind, callable) if not name.startswith("_")}
    return {name for name in (names | {"call"}) if f"a{name}" in names}


@pytest.mark.parametrize("kind", CALLS, ids=lambda k: k.__name__)
def test_no_twin_is_forgotten(kind: type) -> None:
    assert twins(kind) - NEEDS_TOOLS == set(CALLS[kind])


async def gathered(outcome: Any) -> Any:
    """What came out, as plain data: streams as lists, models as dumps."""
    if inspect.isawaitable(outcome):
        outcome = await outcome
    if inspect.isasyncgen(outcome):
        outcome = [piece async for piece in outcome]
    elif inspect.isgenerator(outcome):
        outcome = list(outcome)
    if isinstance(outcome, list):
        return [await gathered(piece) for piece in outcome]
    return outcome.model_dump() if hasattr(outcome, "model_dump") else outcome


@pytest.fixture
def made(tiny_model: str, store_url: str, index: VectorStoreIndex, llm: LLoCOLLM) -> Callable[[type], Any]:
    names: Any = {"model": tiny_model, "store": store_url}
    return lambda kind: {
        LLoCOLLM: lambda: llm,
        LLoCOPostprocessor: lambda: LLoCOPostprocessor(**names, ratio=8),
        LLoCORetriever: lambda: LLoCORetriever(index.as_retriever(), **names, ratio=8),
        LLoCOCompress: lambda: LLoCOCompress(**names),
    }[kind]()


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, names in CALLS.items() for n in names], ids=lambda v: getattr(v, "__name__", v))
async def test_sync_and_async_give_the_same(kind: type, name: str, made: Callable[[type], Any]) -> None:
    it, (args, options) = made(kind), CALLS[kind][name]
    sync = it if name == "call" else getattr(it, name)
    one, two = await gathered(sync(*args, **options)), await gathered(getattr(it, f"a{name}")(*args, **options))
    assert one == two
    assert one


@pytest.mark.parametrize("options", [{}, {"streaming": True}, {"response_mode": "refine"}, {"response_mode": "tree_summarize"}], ids=str)
async def test_a_query_engine_gives_the_same(index: VectorStoreIndex, installed: LLoCOLLM, post: LLoCOPostprocessor, options: Any) -> None:
    engine = index.as_query_engine(node_postprocessors=[post], **options)
    one, two = engine.query(QueryBundle("lamps")), await engine.aquery(QueryBundle("lamps"))
    sources = [[n.model_dump() for n in response.source_nodes] for response in (one, two)]
    assert sources[0] == sources[1] != []
    asynchronous = await two.get_response() if hasattr(two, "async_response_gen") else two
    assert str(one) == str(asynchronous)
