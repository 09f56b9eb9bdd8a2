"""LCEL compositions: branches, sources beside the answer, conversations, prompts of every make."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import pytest
from langchain_classic.chains import create_history_aware_retriever, create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.runnables import Runnable, RunnableBranch, RunnableLambda, RunnableParallel, RunnablePassthrough, chain
from langchain_core.runnables.history import RunnableWithMessageHistory

from lloco_integrations.errors import LLoCOError
from lloco_integrations.langchain import ChatLLoCO, LLoCODocumentCompressor, LLoCORetriever, original_text
from tests.langchain.parts import TEXTS, engine_calls, joined, vector_store
from tests.langchain.scripted import both_ways, flat, marks, scripted, shown

QUESTION = "When is the lantern room of the lighthouse open?"
FOLLOW_UP = "And where are the tide tables kept?"
STANDALONE = "Where does the harbour master keep the tide tables?"
PROMPT = ChatPromptTemplate.from_messages([("system", "{context}"), ("human", "{question}")])
TALK = ChatPromptTemplate.from_messages([("system", "{context}"), MessagesPlaceholder("chat_history", optional=True), ("human", "{input}")])

Composition = Callable[[LLoCORetriever, ChatLLoCO], Runnable[Any, Any]]


def answering(chat: ChatLLoCO) -> Runnable[Any, str]:
    return RunnablePassthrough.assign(context=lambda x: joined(x["context"])) | PROMPT | chat | StrOutputParser()


def assigned(retriever: LLoCORetriever, chat: ChatLLoCO) -> Runnable[Any, Any]:
    found = RunnablePassthrough.assign(context=itemgetter("question") | retriever)
    return found.assign(answer=answering(chat))


def parallel(retriever: LLoCORetriever, chat: ChatLLoCO) -> Runnable[Any, Any]:
    asked = RunnableParallel(context=itemgetter("question") | retriever, question=itemgetter("question"))
    return asked.assign(answer=answering(chat)).pick(["answer", "context"])


def branching(retriever: LLoCORetriever, chat: ChatLLoCO) -> Runnable[Any, Any]:
    aside = RunnableLambda(lambda x: {"answer": "", "context": []})
    return RunnableBranch((lambda x: x["question"].endswith("?"), assigned(retriever, chat)), aside)


def routed(retriever: LLoCORetriever, chat: ChatLLoCO) -> Runnable[Any, Any]:
    return RunnableLambda(lambda x: assigned(retriever, chat) if "lantern" in x["question"] else RunnableLambda(lambda _: None))


def decorated(retriever: LLoCORetriever, chat: ChatLLoCO) -> Runnable[Any, Any]:
    @chain
    def ask(inputs: dict[str, Any]) -> Any:
        context = retriever.invoke(inputs["question"])
        return {"context": context, "answer": answering(chat).invoke({**inputs, "context": context})}

    return ask


@pytest.mark.parametrize("compose", [assigned, parallel, branching, routed, decorated])
@both_ways
async def test_the_sources_come_back_beside_the_answer(compose: Composition, retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    composed, inputs = compose(retriever, chat), {"question": QUESTION}
    with engine_calls("generate") as calls:
        result = composed.invoke(inputs)
    assert result["answer"]
    assert original_text(result["context"][0]) == TEXTS[0]
    assert marks(*calls[0]) == shown(result["context"]) == marks(joined(retriever.invoke(QUESTION)))
    assert await composed.ainvoke(inputs) == composed.batch([inputs])[0] == result
    streamed: dict[str, Any] = {}
    async for piece in composed.astream(inputs):
        for key, value in piece.items():
            streamed[key] = streamed[key] + value if key in streamed else value
    assert {key: streamed[key] for key in ("answer", "context")} == {key: result[key] for key in ("answer", "context")}


def test_a_branch_without_retrieval_asks_nobody(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    with engine_calls("generate") as calls, engine_calls("compress") as compressed:
        assert branching(retriever, chat).invoke({"question": "Thank you."})["context"] == []
    assert calls == compressed == []


@both_ways
def test_two_retrievers_feed_one_prompt(named: dict[str, Any], retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    coarse = LLoCORetriever(**named, vectorstore=vector_store(), k=1, ratio=16, focus="none")
    prompt = ChatPromptTemplate.from_template("{fine}\n--\n{coarse}\n{question}")
    both = {"fine": retriever | joined, "coarse": coarse | joined, "question": RunnablePassthrough()} | prompt | chat
    with engine_calls("generate") as calls:
        both.invoke(QUESTION)
    assert marks(*calls[0]) == marks(joined(retriever.invoke(QUESTION)), joined(coarse.invoke(QUESTION)))
    assert marks(*calls[0])[-1].endswith("@16|>")


@pytest.mark.parametrize(
    ("template", "form"),
    [("{context}\n{question}", "f-string"), ("{{{context}}}\n{{question}}", "mustache"), ("{{&context}}\n{{question}}", "mustache")],
)
@both_ways
def test_templates_hand_placeholders_on(template: str, form: Any, retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    prompt = ChatPromptTemplate.from_template(template, template_format=form)
    asking = {"context": retriever | joined, "question": RunnablePassthrough()} | prompt | chat
    with scripted("On Tuesdays.") as asked:
        asking.invoke(QUESTION)
    assert marks(*asked) == marks(joined(retriever.invoke(QUESTION)))


@both_ways
def test_a_template_that_escapes_html_is_refused(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    """Mustache's two braces make ``&lt;|lloco:`` of a placeholder: without an error, the context would be lost in silence."""
    prompt = ChatPromptTemplate.from_template("{{context}}\n{{question}}", template_format="mustache")
    with pytest.raises(LLoCOError, match="broken placeholder"):
        ({"context": retriever | joined, "question": RunnablePassthrough()} | prompt | chat).invoke(QUESTION)


@both_ways
def test_a_stuffed_chain_lays_documents_out_as_it_is_told(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    stuffed = create_stuff_documents_chain(
        chat,
        ChatPromptTemplate.from_template("{passages}\n{question}"),
        document_prompt=PromptTemplate.from_template("<doc from='{source}'>{page_content}</doc>"),
        document_separator="\n***\n",
        document_variable_name="passages",
    )
    found = retriever.invoke(QUESTION)
    with scripted("On Tuesdays.") as asked:
        assert stuffed.invoke({"passages": found, "question": QUESTION}) == "On Tuesdays."
    assert flat(asked[0]) == "\n***\n".join(f"<doc from='{d.metadata['source']}'>{d.page_content}</doc>" for d in found) + f"\n{QUESTION}"


def talking(retriever: LLoCORetriever, chat: ChatLLoCO) -> Runnable[Any, Any]:
    rephrase = ChatPromptTemplate.from_messages([MessagesPlaceholder("chat_history"), ("human", "{input}"), ("system", "Rephrase.")])
    return create_retrieval_chain(create_history_aware_retriever(chat, retriever, rephrase), create_stuff_documents_chain(chat, TALK))


@both_ways
async def test_a_conversation_rephrases_the_question_and_then_retrieves(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    composed = talking(retriever, chat)
    first: dict[str, Any] = {"input": QUESTION}
    then = {"input": FOLLOW_UP, "chat_history": [HumanMessage(QUESTION), AIMessage("On Tuesdays.")]}
    for ask in (composed.ainvoke, RunnableLambda(composed.invoke).ainvoke):
        with scripted("On Tuesdays.", STANDALONE, "In a green cupboard.") as asked:
            assert (await ask(first))["answer"] == "On Tuesdays."
            result = await ask(then)
        assert result["answer"] == "In a green cupboard."
        assert original_text(result["context"][0]) == TEXTS[1]
        opening, rephrasing, answering_ = asked
        assert marks(opening) == shown(retriever.invoke(QUESTION))
        assert marks(rephrasing) == []
        assert marks(answering_) == shown(retriever.invoke(STANDALONE))
        assert [m.role for m in answering_] == ["system", "user", "assistant", "user"]  # type: ignore[union-attr]


@both_ways
def test_a_streamed_conversation_gives_the_documents_and_then_the_answer(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    with scripted("On Tuesdays."):
        pieces = list(talking(retriever, chat).stream({"input": QUESTION}))
    assert [next(iter(piece)) for piece in pieces] == ["input", "context", "answer", "answer"]
    assert "".join(piece.get("answer", "") for piece in pieces) == "On Tuesdays."


@pytest.mark.filterwarnings("ignore:The class `InMemoryChatMessageHistory` was deprecated")
@both_ways
async def test_message_history_keeps_the_turns_and_not_the_context(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    kept: dict[str, InMemoryChatMessageHistory] = {}
    remembering = RunnableWithMessageHistory(
        talking(retriever, chat),
        lambda session_id: kept.setdefault(session_id, InMemoryChatMessageHistory()),
        input_messages_key="input",
        history_messages_key="chat_history",
        output_messages_key="answer",
    )
    config: Any = {"configurable": {"session_id": "a"}}
    with scripted("On Tuesdays.", STANDALONE, "In a green cupboard.") as asked:
        remembering.invoke({"input": QUESTION}, config)
        assert (await remembering.ainvoke({"input": FOLLOW_UP}, config))["answer"] == "In a green cupboard."
    assert [m.content for m in kept["a"].messages] == [QUESTION, "On Tuesdays.", FOLLOW_UP, "In a green cupboard."]
    assert marks(*asked) == marks(joined(retriever.invoke(QUESTION)), joined(retriever.invoke(STANDALONE)))


def test_a_compressor_is_a_step_like_any_other(compressor: LLoCODocumentCompressor, chat: ChatLLoCO) -> None:
    """Documents that a chain is given, without a retriever: compressed on the way into the prompt."""
    step = RunnableLambda(lambda x: {**x, "context": compressor.compress_documents(x["context"], x["input"])})
    composed = step | create_stuff_documents_chain(chat, TALK)
    given = [Document("The keeper's cat is called Barnacle."), Document("Barnacle sleeps on the barometer.")]
    with scripted("Barnacle.") as asked:
        assert composed.invoke({"context": given, "input": "What is the cat called?"}) == "Barnacle."
    assert len(marks(*asked)) == 2
    assert "Barnacle" not in flat(asked[0])
