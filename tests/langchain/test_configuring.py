"""What is set when a chain runs: configurations, fields and alternatives, limits, fallbacks, and who hears of it."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField, Runnable, RunnableGenerator, RunnableLambda, RunnablePassthrough
from langchain_core.tracers.schemas import Run

from lloco_integrations import placeholder
from lloco_integrations.engine import Engine
from lloco_integrations.errors import BadInput, LLoCOError, PlaceholderError, PromptTooLong
from lloco_integrations.langchain import ChatLLoCO, LLoCOLLM, LLoCORetriever
from tests.langchain.parts import engine_calls, joined, vector_store

QUESTION = "When is the lantern room of the lighthouse open?"
PROMPT = ChatPromptTemplate.from_template("{context}\n{question}")
BOTH = pytest.mark.parametrize("kind", [ChatLLoCO, LLoCOLLM])


def text(answer: Any) -> str:
    return answer if isinstance(answer, str) else str(answer.text)


def asking(retriever: Any, model: Any) -> Runnable[str, Any]:
    return {"context": retriever | joined, "question": RunnablePassthrough()} | PROMPT | model


@BOTH
async def test_a_field_is_set_at_run_time(kind: Any, named: dict[str, Any], adapters: dict[str, str]) -> None:
    model = kind(**named, max_tokens=8, adapters=adapters)
    switched = model.configurable_fields(
        adapter=ConfigurableField(id="voice"), max_tokens=ConfigurableField(id="length"), temperature=ConfigurableField(id="heat")
    )
    assert text(switched.invoke("hello")) == text(model.invoke("hello"))
    for field, call in [({"voice": "sea"}, {"adapter": "sea"}), ({"voice": "land", "length": 3}, {"adapter": "land", "max_tokens": 3})]:
        expected = text(model.invoke("hello", **call))
        assert text(switched.with_config(configurable=field).invoke("hello")) == expected
        assert text(await switched.ainvoke("hello", {"configurable": field})) == expected
        assert "".join(text(piece) for piece in switched.stream("hello", {"configurable": field})) == expected
    hot = text(model.invoke("hello", temperature=1.5, seed=3))
    assert text(switched.bind(seed=3).invoke("hello", {"configurable": {"heat": 1.5}})) == hot != text(model.invoke("hello"))


def test_a_field_of_a_step_deep_in_a_chain(named: dict[str, Any], chat: ChatLLoCO) -> None:
    retriever = LLoCORetriever(**named, vectorstore=vector_store(), k=2, focus="none").configurable_fields(
        ratio=ConfigurableField(id="ratio"), k=ConfigurableField(id="k")
    )
    chain = asking(retriever, chat)
    with engine_calls("generate") as calls:
        for configurable in ({}, {"k": 1}, {"k": 3, "ratio": 16}):
            chain.invoke(QUESTION, {"configurable": configurable})
    found = [list(placeholder.find(prompt[0].content)) for (prompt,) in calls]
    assert [len(marks) for marks in found] == [2, 1, 3]
    assert {mark.ratio for mark in found[2]} == {16}


def test_an_alternative_model(chat: ChatLLoCO, llm: LLoCOLLM, retriever: LLoCORetriever) -> None:
    model = chat.configurable_alternatives(ConfigurableField(id="model"), default_key="lloco", text=llm, none=RunnableLambda(lambda _: "-"))
    chain = asking(retriever, model)
    default = chain.invoke(QUESTION)
    assert default.response_metadata["model_name"] == chat.model
    assert isinstance(chain.invoke(QUESTION, {"configurable": {"model": "text"}}), str)
    assert chain.invoke(QUESTION, {"configurable": {"model": "none"}}) == "-"


async def test_what_a_config_carries_arrives_at_every_step(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    seen: list[tuple[str, str, frozenset[str], str]] = []

    class Watching(BaseCallbackHandler):
        def on_chat_model_start(self, serialized: Any, messages: Any, *, tags: Any, metadata: Any, name: str = "", **kwargs: Any) -> None:
            seen.append(("model", name, frozenset(tags), metadata["customer"]))

        def on_retriever_start(self, serialized: Any, query: str, *, tags: Any, metadata: Any, name: str = "", **kwargs: Any) -> None:
            seen.append(("retriever", name, frozenset(tags), metadata["customer"]))

    chain = asking(retriever.with_config(run_name="handbook"), chat.with_config(run_name="reader", tags=["inner"]))
    configured = chain.with_config(tags=["outer"], metadata={"customer": "a"}, callbacks=[Watching()])
    configured.invoke(QUESTION)
    first = list(seen)
    seen.clear()
    await configured.ainvoke(QUESTION)
    for came in (first, seen):
        assert {(kind, name) for kind, name, *_ in came} >= {("model", "reader"), ("retriever", "handbook")}
        assert all(customer == "a" for *_, customer in came)
        ours = {name: tags for _, name, tags, _ in came}
        assert ours["reader"] >= {"outer", "inner"}
        assert "outer" in ours["handbook"]
        assert "inner" not in ours["handbook"]


@pytest.mark.parametrize("way", ["invoke", "stream"])
async def test_listeners_hear_of_start_and_end(way: str, retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    heard: list[tuple[str, Run]] = []
    chain = asking(retriever, chat).with_listeners(
        on_start=lambda run: heard.append(("start", run)),
        on_end=lambda run: heard.append(("end", run)),
        on_error=lambda run: heard.append(("error", run)),
    )
    run_id = uuid4()
    list(chain.stream(QUESTION, {"run_id": run_id})) if way == "stream" else chain.invoke(QUESTION, {"run_id": run_id})
    assert [name for name, _ in heard] == ["start", "end"]
    assert heard[0][1].id == run_id
    with pytest.raises(PromptTooLong):
        chain.invoke("x" * 9000)
    assert [name for name, _ in heard][2:] == ["start", "error"]


@BOTH
async def test_a_rate_limiter_is_waited_for(kind: Any, named: dict[str, Any]) -> None:
    if kind is LLoCOLLM:
        with pytest.raises(BadInput, match="rate_limiter"):
            kind(**named, rate_limiter=InMemoryRateLimiter())
        return
    limiter = InMemoryRateLimiter(requests_per_second=5, check_every_n_seconds=0.01, max_bucket_size=1)
    model = kind(**named, max_tokens=1, rate_limiter=limiter)
    model.invoke("warm")
    started = time.monotonic()
    model.invoke("a"), list(model.stream("b")), await model.ainvoke("c")
    assert time.monotonic() - started > 0.5


@BOTH
async def test_fallbacks_of_a_chain_take_the_text_instead(kind: Any, named: dict[str, Any], retriever: LLoCORetriever) -> None:
    """Where a summary is not in the store and must not be made now, the chain falls back to the plain retriever."""
    strict = LLoCORetriever(**named, vectorstore=vector_store(), k=1, on_miss="raise", focus="none")
    plain = vector_store().as_retriever(search_kwargs={"k": 1})
    model = kind(**named, max_tokens=4)
    chain = asking(strict, model).with_fallbacks([asking(plain, model)], exceptions_to_handle=(PlaceholderError,))
    expected = text(asking(plain, model).invoke(QUESTION))
    assert text(chain.invoke(QUESTION)) == text(await chain.ainvoke(QUESTION)) == text(chain.batch([QUESTION])[0]) == expected
    assert "".join(text(piece) for piece in chain.stream(QUESTION)) == expected


@BOTH
async def test_retries_ask_again_in_every_way(kind: Any, named: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    fails: list[str] = []

    def failing(name: str) -> Any:
        inner = getattr(Engine, name)

        def once(self: Engine, *args: Any, **kwargs: Any) -> Any:
            fails.append(name)
            if len(fails) % 2:
                raise LLoCOError("busy")
            return inner(self, *args, **kwargs)

        return once

    model = kind(**named, max_tokens=4)
    expected = text(model.invoke("hello"))
    for name in ("generate", "stream"):
        monkeypatch.setattr(Engine, name, failing(name))
    again = model.with_retry(retry_if_exception_type=(LLoCOError,), wait_exponential_jitter=False, stop_after_attempt=2)
    assert text(again.invoke("hello")) == text(await again.ainvoke("hello")) == expected
    assert text(again.batch(["hello"])[0]) == text((await again.abatch(["hello"]))[0]) == expected
    assert len(fails) == 8


async def test_text_is_transformed_while_it_comes(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    def upper(pieces: Any) -> Any:
        for piece in pieces:
            yield piece.text.upper()

    async def aupper(pieces: Any) -> Any:
        async for piece in pieces:
            yield piece.text.upper()

    chain = asking(retriever, chat) | RunnableGenerator(upper, aupper)
    pieces = list(chain.stream(QUESTION))
    assert len(pieces) > 2
    assert "".join(pieces) == chain.invoke(QUESTION) == asking(retriever, chat).invoke(QUESTION).text.upper()
    assert [piece async for piece in chain.astream(QUESTION)] == pieces
    assert list(chain.transform(iter([QUESTION]))) == pieces


async def test_batches_come_back_as_they_are_done(llm: LLoCOLLM, chat: ChatLLoCO) -> None:
    prompts = ["one", "two, a little longer", "three?"]
    for model in (llm, chat):
        alone = [text(model.invoke(p)) for p in prompts]
        assert [text(answer) for _, answer in sorted(model.batch_as_completed(prompts), key=lambda pair: pair[0])] == alone
        awaited = [pair async for pair in model.abatch_as_completed(prompts)]
        assert [text(answer) for _, answer in sorted(awaited, key=lambda pair: pair[0])] == alone


@BOTH
async def test_one_bad_prompt_of_a_batch_is_given_back_in_its_place(kind: Any, named: dict[str, Any]) -> None:
    model = kind(**named, max_tokens=3)
    prompts = ["hello", "x" * 9000]
    good = text(model.invoke("hello"))
    for answers in (model.batch(prompts, return_exceptions=True), await model.abatch(prompts, return_exceptions=True)):
        assert isinstance(answers[1], PromptTooLong)
        if kind is ChatLLoCO:
            assert text(answers[0]) == good
        else:
            assert isinstance(answers[0], PromptTooLong), "a batch of the completion model is one call, and fails as one"
