"""The chains that users compose."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_classic.chains import create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough

from lloco_integrations import placeholder
from lloco_integrations.engine import Engine
from lloco_integrations.errors import PlaceholderError, PromptTooLong
from lloco_integrations.langchain import ChatLLoCO, LLoCOLLM, LLoCORetriever, original_text
from tests.langchain.parts import TEXTS, engine_calls, joined

QUERY = "When is the lantern room of the lighthouse open?"
PROMPT = ChatPromptTemplate.from_messages([("system", "Answer from the context.\n\n{context}"), ("human", "{input}")])


def lcel(retriever: Any, prompt: Any, model: Any) -> Runnable[str, str]:
    return {"context": retriever | joined, "input": RunnablePassthrough()} | prompt | model | StrOutputParser()


async def test_lcel(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    chain = lcel(retriever, PROMPT, chat)
    with engine_calls("generate") as calls:
        answer = chain.invoke(QUERY)
    (((system, human),),) = calls
    assert placeholder.count(system.content) == 2
    assert (system.role, human.role, human.content) == ("system", "user", QUERY)
    assert "lantern" not in system.content
    assert await chain.ainvoke(QUERY) == answer
    assert "".join(chain.stream(QUERY)) == answer
    assert "".join([piece async for piece in chain.astream(QUERY)]) == answer


async def test_lcel_batches_through_the_llm(retriever: LLoCORetriever, llm: LLoCOLLM) -> None:
    chain = lcel(retriever, PromptTemplate.from_template("{context}\n\nQuestion: {input}\nAnswer:"), llm)
    queries = [QUERY, "What is in the green cupboard?", "Who carries the bread?"]
    alone = [chain.invoke(q) for q in queries]
    with engine_calls("generate") as calls:
        assert chain.batch(queries) == alone
        assert await chain.abatch(queries) == alone
    assert [len(c) for c in calls] == [3, 3]


def test_documents_that_nobody_formats(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    """``{"context": retriever} | prompt`` prints the documents: with their placeholders, without their text."""
    chain = {"context": retriever, "input": RunnablePassthrough()} | PROMPT | chat
    with engine_calls("generate") as calls:
        chain.invoke(QUERY)
    (((system, _),),) = calls
    assert placeholder.count(system.content) == 2
    assert "lantern" not in system.content


@pytest.mark.parametrize("kind", ["chat", "llm"])
async def test_retrieval_chain(kind: str, retriever: LLoCORetriever, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind)
    chain = create_retrieval_chain(retriever, create_stuff_documents_chain(model, PROMPT))
    result = chain.invoke({"input": QUERY})
    assert isinstance(result["answer"], str)
    assert [d.metadata["lloco_text"] for d in result["context"]] == [original_text(d) for d in result["context"]]
    assert result["context"][0].metadata["lloco_text"] == TEXTS[0]
    assert (await chain.ainvoke({"input": QUERY}))["answer"] == result["answer"]


def test_document_prompt_with_metadata(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    layout = PromptTemplate.from_template("[{source}] {page_content}")
    chain = create_stuff_documents_chain(chat, PROMPT, document_prompt=layout)
    with engine_calls("generate") as calls:
        chain.invoke({"input": QUERY, "context": retriever.invoke(QUERY)})
    (((system, _),),) = calls
    assert "[0.txt] <|lloco:" in system.content


async def test_streamed_events_of_a_chain(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    chain = create_retrieval_chain(retriever, create_stuff_documents_chain(chat, PROMPT))
    events = [e async for e in chain.astream_events({"input": QUERY}, version="v2")]
    kinds = [e["event"] for e in events]
    assert kinds.count("on_chat_model_start") == kinds.count("on_chat_model_end") == 1
    assert kinds.count("on_chat_model_stream") > 2
    found = [e for e in events if e["event"] == "on_retriever_end" and e["name"] == "LLoCORetriever"]
    assert [placeholder.count(d.page_content) for d in found[0]["data"]["output"]] == [1, 1]


def test_with_retry(chat: ChatLLoCO, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, calls = Engine.generate, []

    def flaky(self: Engine, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) < 3:
            raise PlaceholderError("not yet")
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(Engine, "generate", flaky)
    assert chat.with_retry(retry_if_exception_type=(PlaceholderError,), wait_exponential_jitter=False).invoke("hello").text
    assert len(calls) == 3


def test_with_fallbacks(chat: ChatLLoCO) -> None:
    other = RunnableLambda(lambda _: "too long")
    assert chat.with_fallbacks([other], exceptions_to_handle=(PromptTooLong,)).invoke("x" * 9000) == "too long"
    with pytest.raises(PlaceholderError):
        chat.with_fallbacks([other], exceptions_to_handle=(PromptTooLong,)).invoke("<|lloco:cut")
