"""What traces, streams of events and usage callbacks are told: everything, once, and true."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from langchain_classic.chains import create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_core.callbacks import UsageMetadataCallbackHandler, get_usage_metadata_callback
from langchain_core.outputs import LLMResult
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import Runnable
from langchain_core.tracers.context import collect_runs

from lloco_integrations.langchain import ChatLLoCO, LLoCOLLM, LLoCORetriever, original_text
from tests.langchain.parts import TEXTS, engine_calls
from tests.langchain.scripted import marks

QUESTION = "When is the lantern room of the lighthouse open?"


def chat_chain(retriever: LLoCORetriever, chat: ChatLLoCO) -> Runnable[Any, Any]:
    return create_retrieval_chain(retriever, create_stuff_documents_chain(chat, ChatPromptTemplate.from_template("{context}\n{input}")))


def llm_chain(retriever: LLoCORetriever, llm: LLoCOLLM) -> Runnable[Any, Any]:
    return create_retrieval_chain(retriever, create_stuff_documents_chain(llm, PromptTemplate.from_template("{context}\n{input}")))


async def test_each_event_of_a_chat_chain_comes_once_and_pairs_up(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    events: list[Any] = [e async for e in chat_chain(retriever, chat).astream_events({"input": QUESTION}, version="v2")]
    ours = Counter((e["event"], e["name"]) for e in events if e["name"] in ("ChatLLoCO", "LLoCORetriever", "VectorStoreRetriever"))
    streamed = ours.pop(("on_chat_model_stream", "ChatLLoCO"))
    assert streamed > 2
    assert ours == {
        (f"on_{what}_{when}", name): 1
        for what, name in (("chat_model", "ChatLLoCO"), ("retriever", "LLoCORetriever"), ("retriever", "VectorStoreRetriever"))
        for when in ("start", "end")
    }
    (started,) = [e for e in events if e["event"] == "on_chat_model_start"]
    (ended,) = [e for e in events if e["event"] == "on_chat_model_end"]
    (found,) = [e["data"]["output"] for e in events if e["event"] == "on_retriever_end" and e["name"] == "LLoCORetriever"]
    assert started["run_id"] == ended["run_id"]
    assert marks(started["data"]["input"]["messages"][0][0].content) == [d.page_content for d in found]
    assert original_text(found[0]) == TEXTS[0]
    pieces = [e["data"]["chunk"].text for e in events if e["event"] == "on_chat_model_stream"]
    assert "".join(pieces) == ended["data"]["output"].text
    assert ended["data"]["output"].usage_metadata["input_tokens"] == chat.get_num_tokens_from_messages(
        started["data"]["input"]["messages"][0]
    )


async def test_each_event_of_a_completion_chain_comes_once(retriever: LLoCORetriever, llm: LLoCOLLM) -> None:
    events: list[Any] = [e async for e in llm_chain(retriever, llm).astream_events({"input": QUESTION}, version="v2")]
    counted = Counter(e["event"] for e in events if e["name"] == "LLoCOLLM")
    assert counted.pop("on_llm_stream") > 2
    assert counted == {"on_llm_start": 1, "on_llm_end": 1}


async def test_events_can_be_filtered(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    tagged = chat_chain(retriever, chat.with_config(tags=["reader"]))  # type: ignore[arg-type]
    for only in ({"include_tags": ["reader"]}, {"include_types": ["chat_model"]}, {"include_names": ["ChatLLoCO"]}):
        events = [e async for e in tagged.astream_events({"input": QUESTION}, version="v2", **only)]
        assert {e["event"] for e in events} == {"on_chat_model_start", "on_chat_model_stream", "on_chat_model_end"}


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream", "batch", "abatch"])
async def test_usage_is_counted_once_in_every_way_of_asking(way: str, retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    chain = chat_chain(retriever, chat)
    by_hand = UsageMetadataCallbackHandler()
    with get_usage_metadata_callback() as usage, engine_calls("generate") as generated, engine_calls("stream") as streamed:
        asked = [{"input": QUESTION}] if "batch" in way else {"input": QUESTION}
        made = getattr(chain, way)(asked, config={"callbacks": [by_hand]})
        if way == "stream":
            list(made)
        elif way == "astream":
            [piece async for piece in made]
        elif way.startswith("a"):
            await made
    prompts = [*streamed, *(prompt for call in generated for prompt in call)]
    (prompt,) = prompts
    for handler in (usage, by_hand):
        (counted,) = handler.usage_metadata.values()
        assert counted["input_tokens"] == chat.engine.count(prompt).n_positions < chat.engine.count(prompt).source_tokens
        assert counted["total_tokens"] == counted["input_tokens"] + counted["output_tokens"]
        assert 0 < counted["output_tokens"] <= chat.max_tokens


def test_usage_of_several_models_is_kept_apart(chat: ChatLLoCO, named: dict[str, Any], tmp_path: Any) -> None:
    (tmp_path / "other").symlink_to(named["model"])
    other = ChatLLoCO(**{**named, "model": str(tmp_path / "other")}, max_tokens=2)
    with get_usage_metadata_callback() as usage:
        first = [chat.invoke("one"), chat.invoke("two")]
        second = other.invoke("three")
    assert set(usage.usage_metadata) == {chat.model, other.model}
    assert usage.usage_metadata[chat.model]["total_tokens"] == sum((a.usage_metadata or {})["total_tokens"] for a in first)
    assert usage.usage_metadata[other.model] == second.usage_metadata


def test_a_trace_is_a_tree_with_placeholders_and_no_vectors(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    with collect_runs() as traced:
        result = chat_chain(retriever, chat).invoke({"input": QUESTION})
    (root,) = traced.traced_runs
    runs = []
    queue = [root]
    while queue:
        run = queue.pop()
        runs.append(run)
        queue += run.child_runs
    kinds = Counter((run.run_type, run.name) for run in runs)
    assert kinds[("llm", "ChatLLoCO")] == kinds[("retriever", "LLoCORetriever")] == kinds[("retriever", "VectorStoreRetriever")] == 1
    assert all(run.end_time is not None and run.error is None for run in runs)
    assert len(str(root.model_dump() if hasattr(root, "model_dump") else root.dict())) < 100_000
    (model,) = [run for run in runs if run.run_type == "llm"]
    assert (model.extra or {})["metadata"]["ls_provider"] == "lloco"
    assert marks(str(model.inputs)) == [d.page_content for d in result["context"]]


def test_usage_of_a_completion_batch_is_summed_once(llm: LLoCOLLM) -> None:
    totals: list[int] = []

    class Watching(UsageMetadataCallbackHandler):
        def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
            usage = response.generations[0][0].generation_info or {}
            totals.append(usage["usage"]["total_tokens"])

    llm.batch(["one", "two"], {"callbacks": [Watching()]})
    assert totals == [
        sum(llm.generate([p]).llm_output["token_usage"][k] for k in ("prompt_tokens", "completion_tokens")) for p in ("one", "two")
    ]  # type: ignore[index]
