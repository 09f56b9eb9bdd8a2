"""Batches, streams, coroutines, threads and callbacks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler

from lloco_integrations.engine import Engine
from lloco_integrations.errors import LLoCOError
from lloco_integrations.langchain import ChatLLoCO, LLoCODocumentCompressor, LLoCOLLM
from tests.langchain.parts import documents, engine_calls

PROMPTS = ["one", "two, a little longer", "three?"]


class Counter(BaseCallbackHandler):
    """How often each callback came."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.tokens = ""

    def on_chat_model_start(self, *args: Any, run_id: UUID, **kwargs: Any) -> None:
        self.seen.append("start")

    def on_llm_start(self, *args: Any, run_id: UUID, **kwargs: Any) -> None:
        self.seen.append("start")

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.tokens += token

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self.seen.append("end")

    def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
        self.seen.append("error")


async def test_a_batch_is_one_call_of_the_engine(llm: LLoCOLLM) -> None:
    alone = [llm.invoke(p) for p in PROMPTS]
    with engine_calls("generate") as calls:
        assert llm.batch(list(PROMPTS)) == alone
        assert await llm.abatch(list(PROMPTS)) == alone
    assert calls == [PROMPTS, PROMPTS]
    with engine_calls("generate") as calls:
        llm.batch(list(PROMPTS), config={"max_concurrency": 2})
    assert [len(c) for c in calls] == [2, 1]


async def test_all_ways_of_asking_give_the_same_answer(chat: ChatLLoCO, llm: LLoCOLLM, compressor: LLoCODocumentCompressor) -> None:
    prompt = f"{compressor.compress(documents()[:1])[0].page_content} What?"
    answer = chat.invoke(prompt)
    streamed = [c async for c in chat.astream(prompt)]
    whole = streamed[0]
    for chunk in streamed[1:]:
        whole += chunk
    in_sync = list(chat.stream(prompt))
    for other in (await chat.ainvoke(prompt), whole):
        assert other.text == answer.text
        assert other.usage_metadata == answer.usage_metadata
        assert other.response_metadata == answer.response_metadata
    assert [c.content for c in in_sync] == [c.content for c in streamed]
    assert len(streamed) > 2
    assert answer.text == llm.invoke(prompt) == await llm.ainvoke(prompt)
    assert list(llm.stream(prompt)) == [c async for c in llm.astream(prompt)]
    assert "".join(llm.stream(prompt)) == answer.text
    assert ChatLLoCO(**{**chat.model_dump(include=set(type(chat).model_fields)), "streaming": True}).invoke(prompt).text == answer.text


async def test_astream_events(chat: ChatLLoCO) -> None:
    events = [e async for e in chat.astream_events("hello", version="v2")]
    kinds = [e["event"] for e in events]
    assert kinds[0] == "on_chat_model_start"
    assert kinds[-1] == "on_chat_model_end"
    assert kinds.count("on_chat_model_stream") > 2
    assert "".join(e["data"]["chunk"].text for e in events if e["event"] == "on_chat_model_stream") == chat.invoke("hello").text


@pytest.mark.parametrize("kind", [ChatLLoCO, LLoCOLLM])
async def test_callbacks_come_once(kind: Any, named: dict[str, Any]) -> None:
    model = kind(**named, max_tokens=6)
    expected = model.invoke("hello")
    expected = expected if isinstance(expected, str) else expected.text

    async def invoke(config: Any) -> None:
        model.invoke("hello", config)

    async def stream(config: Any) -> None:
        list(model.stream("hello", config))

    async def astream(config: Any) -> None:
        async for _ in model.astream("hello", config):
            pass

    for ask in (invoke, stream, astream, partial(model.ainvoke, "hello")):
        counter = Counter()
        await ask({"callbacks": [counter]})
        assert counter.seen == ["start", "end"]
        assert counter.tokens == (expected if ask in (stream, astream) else "")
    counter = Counter()
    with pytest.raises(LLoCOError):
        model.invoke("x" * 9000, {"callbacks": [counter]})
    assert counter.seen == ["start", "error"]


def test_usage_callback_counts_true_positions(chat: ChatLLoCO) -> None:
    handler = UsageMetadataCallbackHandler()
    answers = [chat.invoke(p, {"callbacks": [handler]}) for p in PROMPTS]
    total = sum((a.usage_metadata or {})["total_tokens"] for a in answers)
    assert handler.usage_metadata[chat.model]["total_tokens"] == total


async def test_the_event_loop_keeps_ticking(
    chat: ChatLLoCO, llm: LLoCOLLM, compressor: LLoCODocumentCompressor, ticking: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything the engine does takes a moment longer here; the loop must come round meanwhile."""
    for name in ("generate", "stream", "compress"):
        inner = getattr(Engine, name)

        def slow(self: Engine, *args: Any, _inner: Any = inner, **kwargs: Any) -> Any:
            time.sleep(0.2)
            return _inner(self, *args, **kwargs)

        monkeypatch.setattr(Engine, name, slow)

    async def each(stream: Any) -> list[Any]:
        return [item async for item in stream]

    for awaitable in (
        chat.ainvoke("hello"),
        each(chat.astream("hello")),
        llm.ainvoke("hello"),
        llm.abatch(list(PROMPTS)),
        each(llm.astream("hello")),
        compressor.acompress_documents(documents(), "q"),
    ):
        _, ticks = await ticking(awaitable)
        assert ticks >= 5


async def test_a_cancelled_task_stops_the_generation(named: dict[str, Any]) -> None:
    chat = ChatLLoCO(**named, max_tokens=3000)
    chat.invoke("hello", max_tokens=1)
    assert chat.invoke("hello", max_tokens=300).response_metadata["finish_reason"] == "length", "it would end by itself"
    task = asyncio.create_task(chat.ainvoke("hello"))
    while not any(t.name == "lloco-generate" for t in threading.enumerate()):
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async for _ in chat.astream("hello"):
        break
    deadline = time.monotonic() + 20
    while any(t.name == "lloco-generate" for t in threading.enumerate()) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert not any(t.name == "lloco-generate" for t in threading.enumerate())


def test_threads_get_their_own_answers(chat: ChatLLoCO, compressor: LLoCODocumentCompressor, adapters: dict[str, str]) -> None:
    chat = chat.model_copy(update={"adapters": adapters})
    marks = [d.page_content for d in compressor.compress(documents())]
    asked = [(f"{m} {p}", a) for m in marks[:3] for p in PROMPTS[:2] for a in (None, "sea", "land")]
    alone = [chat.invoke(p, adapter=a).text for p, a in asked]
    assert len(set(alone)) > 6
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda pa: chat.invoke(pa[0], adapter=pa[1]).text, asked))
    assert together == alone


async def test_coroutines_get_their_own_answers(chat: ChatLLoCO, llm: LLoCOLLM) -> None:
    alone = [chat.invoke(p).text for p in PROMPTS]
    assert [a.text for a in await chat.abatch(list(PROMPTS))] == alone
    assert [a.text for a in chat.batch(list(PROMPTS))] == alone
    assert list(await asyncio.gather(*(llm.ainvoke(p) for p in PROMPTS))) == alone
