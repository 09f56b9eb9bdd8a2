"""What callbacks and LlamaIndex's instrumentation see: each call once, from its start to its end, with true counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import llama_index.core.instrumentation as instrumentation
import pytest
from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler, TokenCountingHandler
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent, LLMChatStartEvent, LLMCompletionEndEvent, LLMCompletionStartEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms import ChatMessage
from llama_index.core.query_engine import RetrieverQueryEngine

from lloco_integrations import placeholder
from lloco_integrations.engine import Engine
from lloco_integrations.errors import LLoCOError
from lloco_integrations.llama_index import LLoCOLLM, LLoCOPostprocessor, LLoCORetriever
from lloco_integrations.llama_index.calls import to_messages

from .test_pipelines import expected, marks

WAYS = ["complete", "stream_complete", "acomplete", "astream_complete", "chat", "stream_chat", "achat", "astream_chat"]
QUESTION = "How many lamps?"


class Record(BaseEventHandler):
    """Keeps every event."""

    events: list[BaseEvent]

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        self.events.append(event)

    def names(self) -> list[str]:
        return [type(e).__name__ for e in self.events]


@pytest.fixture
def record() -> Iterator[Record]:
    root = instrumentation.get_dispatcher()
    before = list(root.event_handlers)
    handler = Record(events=[])
    root.add_event_handler(handler)
    yield handler
    root.event_handlers = before


@pytest.fixture
def debug(llm: LLoCOLLM) -> LlamaDebugHandler:
    handler = LlamaDebugHandler(print_trace_on_end=False)
    llm.callback_manager = CallbackManager([handler])
    return handler


async def call(llm: LLoCOLLM, how: str, prompt: str = QUESTION) -> Any:
    """The last response of ``how``."""
    given: Any = prompt if "complete" in how else [ChatMessage(role="user", content=prompt)]
    made = getattr(llm, how)(given)
    if how.startswith("a"):
        made = await made
    if how.startswith("astream"):
        return [r async for r in made][-1]
    return list(made)[-1] if how.startswith("stream") else made


@pytest.mark.parametrize("how", WAYS)
async def test_each_call_is_one_start_and_one_end(how: str, llm: LLoCOLLM, debug: LlamaDebugHandler, record: Record) -> None:
    response = await call(llm, how)
    kind = "LLMChat" if "chat" in how else "LLMCompletion"
    counts = Counter(name for name in record.names() if name.startswith("LLM"))
    assert (counts.pop(f"{kind}InProgressEvent", 0) > 0) == ("stream" in how)
    assert counts == {f"{kind}StartEvent": 1, f"{kind}EndEvent": 1}
    [(start, end)] = debug.get_event_pairs(CBEventType.LLM)
    assert start.id_ == end.id_
    [ended] = [e for e in record.events if isinstance(e, LLMChatEndEvent | LLMCompletionEndEvent)]
    assert ended.response == response
    [started] = [e for e in record.events if isinstance(e, LLMChatStartEvent | LLMCompletionStartEvent)]
    assert QUESTION in str(started)
    assert started.model_dict["model_name"] == llm.model


@pytest.mark.parametrize("how", WAYS)
async def test_tokens_are_counted_once_and_as_positions(how: str, llm: LLoCOLLM, post: LLoCOPostprocessor, index: VectorStoreIndex) -> None:
    _, [mark, _] = expected(index, post, QUESTION, 2)
    counter = TokenCountingHandler(tokenizer=lambda text: [0] * 10_000)
    llm.callback_manager = CallbackManager([counter])
    response = await call(llm, how, mark + QUESTION)
    [seen] = counter.llm_token_counts
    assert seen.prompt_token_count == llm.engine.count(mark + QUESTION).n_positions == response.raw["usage"]["prompt_tokens"]
    assert seen.completion_token_count == response.raw["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize("how", WAYS)
async def test_a_failed_call_ends_its_events_too(
    how: str, llm: LLoCOLLM, debug: LlamaDebugHandler, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise TypeError("from underneath")

    monkeypatch.setattr(Engine, "generate", broken)
    monkeypatch.setattr(Engine, "stream", broken)
    with pytest.raises(LLoCOError, match="from underneath"):
        await call(llm, how)
    assert [n for n in record.names() if n in ("ExceptionEvent", "SpanDropEvent")] == [
        "ExceptionEvent" if "stream" in how else "SpanDropEvent"
    ]
    assert len(debug.get_event_pairs(CBEventType.LLM)) == 1


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
async def test_the_events_of_a_query(
    streaming: bool, asynchronous: bool, index: VectorStoreIndex, installed: LLoCOLLM, post: LLoCOPostprocessor, record: Record
) -> None:
    debug, counter = LlamaDebugHandler(print_trace_on_end=False), TokenCountingHandler()
    Settings.callback_manager = installed.callback_manager = CallbackManager([debug, counter])
    engine = VectorStoreIndex(list(index.docstore.docs.values())).as_query_engine(node_postprocessors=[post], streaming=streaming)  # type: ignore[arg-type]
    record.events.clear()
    debug.flush_event_logs()
    counter.reset_counts()
    response: Any = await engine.aquery(QUESTION) if asynchronous else engine.query(QUESTION)
    if streaming and asynchronous:
        _ = [piece async for piece in response.async_response_gen()]
    elif streaming:
        _ = list(response.response_gen)
    names = Counter(record.names())
    for name in ("Query", "Retrieval", "Synthesize", "LLMChat"):
        assert (names[f"{name}StartEvent"], names[f"{name}EndEvent"]) == (1, 1), name
    for event in (CBEventType.QUERY, CBEventType.RETRIEVE, CBEventType.SYNTHESIZE, CBEventType.LLM):
        assert len(debug.get_event_pairs(event)) == 1
    [seen] = counter.llm_token_counts
    [started] = [e for e in record.events if isinstance(e, LLMChatStartEvent)]
    shown = "\n".join(m.content or "" for m in started.messages)
    assert placeholder.count(shown) == 2
    assert seen.prompt_token_count == installed.engine.count(to_messages(started.messages)).n_positions


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_events_of_our_postprocessor_and_retriever(
    asynchronous: bool, index: VectorStoreIndex, post: LLoCOPostprocessor, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = LLoCORetriever(index.as_retriever(), postprocessor=post)
    spans = SimpleSpanHandler()
    monkeypatch.setattr(instrumentation.get_dispatcher(), "span_handlers", [spans])
    found = await retriever.aretrieve(QUESTION) if asynchronous else retriever.retrieve(QUESTION)
    names = Counter(record.names())
    assert (names["RetrievalStartEvent"], names["RetrievalEndEvent"]) == (2, 2), "the base retriever's and ours"
    ends: list[Any] = [e for e in record.events if type(e).__name__ == "RetrievalEndEvent"]
    assert marks([n.get_content("llm") for n in ends[0].nodes]) == []  # type: ignore[arg-type]
    assert ends[1].nodes == found
    ours = [s.id_ for s in spans.completed_spans if s.id_.startswith("LLoCOPostprocessor.")]
    assert len(ours) == 1


def test_the_debug_handler_pairs_our_retriever(index: VectorStoreIndex, installed: LLoCOLLM, post: LLoCOPostprocessor) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    retriever = LLoCORetriever(index.as_retriever(), postprocessor=post, callback_manager=CallbackManager([debug]))
    RetrieverQueryEngine.from_args(retriever, callback_manager=CallbackManager([debug])).query(QUESTION)
    assert len(debug.get_event_pairs(CBEventType.RETRIEVE)) == len(debug.get_event_pairs(CBEventType.QUERY)) == 1
