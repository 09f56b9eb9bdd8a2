"""Graphs: the RAG tutorials' retrieve and generate, with checkpoints, streams, and agents as far as a model without tools can go."""

from __future__ import annotations

from operator import add
from typing import Annotated, Any, TypedDict

from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import create_retriever_tool, tool
from langgraph.checkpoint.memory import MemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from lloco_integrations.langchain import ChatLLoCO, LLoCORetriever, original_text
from tests.langchain.parts import TEXTS, engine_calls, joined
from tests.langchain.scripted import both_ways, flat, marks, scripted, shown

QUESTION = "When is the lantern room of the lighthouse open?"
SECOND = "Where does the harbour master keep the tide tables?"
PROMPT = ChatPromptTemplate.from_template("{context}\n\nQuestion: {question}")
TURN: Any = {"configurable": {"thread_id": "one"}}


class State(TypedDict, total=False):
    question: str
    context: list[Document]
    seen: Annotated[list[Document], add]
    answer: str


def rag(retriever: LLoCORetriever, chat: ChatLLoCO, **compiled: Any) -> Any:
    """LangChain's RAG tutorial, with our two classes in it."""

    def retrieve(state: State) -> State:
        found = retriever.invoke(state["question"])
        return {"context": found, "seen": found}

    def generate(state: State) -> State:
        prompt = PROMPT.invoke({"question": state["question"], "context": joined(state["context"])})
        return {"answer": str(chat.invoke(prompt).content)}

    return StateGraph(State).add_sequence([retrieve, generate]).add_edge(START, "retrieve").compile(**compiled)


def awaiting(retriever: LLoCORetriever, chat: ChatLLoCO, **compiled: Any) -> Any:
    async def retrieve(state: State) -> State:
        return {"context": await retriever.ainvoke(state["question"])}

    async def generate(state: State) -> State:
        prompt = await PROMPT.ainvoke({"question": state["question"], "context": joined(state["context"])})
        return {"answer": str((await chat.ainvoke(prompt)).content)}

    return StateGraph(State).add_sequence([retrieve, generate]).add_edge(START, "retrieve").compile(**compiled)


@both_ways
async def test_retrieve_and_generate(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    with engine_calls("generate") as calls:
        result = rag(retriever, chat).invoke({"question": QUESTION})
    assert marks(*calls[0]) == shown(result["context"]) == shown(retriever.invoke(QUESTION))
    assert original_text(result["context"][0]) == TEXTS[0]
    for graph in (rag(retriever, chat), awaiting(retriever, chat)):
        awaited = await graph.ainvoke({"question": QUESTION})
        assert (awaited["answer"], awaited["context"]) == (result["answer"], result["context"])


@both_ways
async def test_every_mode_of_streaming(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    expected = rag(retriever, chat).invoke({"question": QUESTION})
    for graph in (rag(retriever, chat), awaiting(retriever, chat)):
        parts = [p async for p in graph.astream({"question": QUESTION}, stream_mode=["updates", "values", "messages"])]
        updates = [data for mode, data in parts if mode == "updates"]
        tokens = [data for mode, data in parts if mode == "messages"]
        assert [next(iter(u)) for u in updates] == ["retrieve", "generate"]
        assert updates[0]["retrieve"]["context"] == expected["context"]
        assert [data for mode, data in parts if mode == "values"][-1]["answer"] == expected["answer"]
        assert "".join(chunk.content for chunk, _ in tokens) == expected["answer"]
        assert len(tokens) > 2, "word by word, though the node only called invoke"
        assert {about["langgraph_node"] for _, about in tokens} == {"generate"}
    in_sync = list(rag(retriever, chat).stream({"question": QUESTION}, stream_mode="messages"))
    assert "".join(chunk.content for chunk, _ in in_sync) == expected["answer"]


@both_ways
async def test_documents_in_the_state_survive_a_checkpoint(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    """The run stops between the nodes; what generates afterwards was written and read again."""
    expected = rag(retriever, chat).invoke({"question": QUESTION})
    graph = rag(retriever, chat, checkpointer=MemorySaver(), interrupt_before=["generate"])
    graph.invoke({"question": QUESTION}, TURN)
    kept = graph.get_state(TURN).values["context"]
    assert kept == expected["context"]
    assert kept[0] is not graph.get_state(TURN).values["context"][0], "it was serialised"
    assert [original_text(d) for d in kept] == [original_text(d) for d in expected["context"]]
    with engine_calls("stream") as streamed, engine_calls("generate") as generated:
        result = await graph.ainvoke(None, TURN)
    assert marks(*streamed, *(prompt for call in generated for prompt in call)) == shown(kept)
    assert result["answer"] == expected["answer"]


@both_ways
def test_a_thread_remembers_over_turns_and_another_does_not(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    graph = rag(retriever, chat, checkpointer=MemorySaver())
    with scripted("On Tuesdays.", "In a green cupboard.", "On Tuesdays.") as asked:
        graph.invoke({"question": QUESTION}, TURN)
        graph.invoke({"question": SECOND}, TURN)
        other = graph.invoke({"question": QUESTION}, {"configurable": {"thread_id": "two"}})
    assert marks(*asked) == marks(*(joined(retriever.invoke(q)) for q in (QUESTION, SECOND, QUESTION)))
    assert [original_text(d) for d in graph.get_state(TURN).values["seen"]][::2] == [TEXTS[0], TEXTS[1]]
    assert len(other["seen"]) == 2
    answers = [s.values.get("answer") for s in graph.get_state_history(TURN)]
    assert answers[0] == "In a green cupboard."
    assert answers.count("On Tuesdays.") > 0, "time travel"


@both_ways
def test_what_a_checkpoint_holds_is_bytes_that_stand_for_the_same_prompt(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    found = retriever.invoke(QUESTION)
    kind, data = JsonPlusSerializer().dumps_typed({"context": found})
    assert len(data) < 2000, "no vectors in it"
    back = JsonPlusSerializer().loads_typed((kind, data))["context"]
    assert back == found
    assert chat.invoke(joined(back)).text == chat.invoke(joined(found)).text


def test_a_question_is_routed_by_the_model(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    """An agent in two steps without tools: the model says whether to search, the graph searches, the model answers."""

    class Talk(MessagesState):
        context: list[Document]

    def decide(state: Talk) -> dict[str, Any]:
        return {"messages": [chat.invoke([SystemMessage("Say SEARCH: and a query, or answer."), *state["messages"]])]}

    def retrieve(state: Talk) -> dict[str, Any]:
        return {"context": retriever.invoke(str(state["messages"][-1].content).removeprefix("SEARCH:"))}

    def generate(state: Talk) -> dict[str, Any]:
        return {"messages": [chat.invoke([SystemMessage(joined(state["context"])), *state["messages"][:-1]])]}

    builder = StateGraph(Talk).add_sequence([retrieve, generate]).add_node(decide).add_edge(START, "decide")
    builder.add_conditional_edges("decide", lambda s: "retrieve" if s["messages"][-1].content.startswith("SEARCH:") else END)
    graph = builder.compile(checkpointer=MemorySaver())
    with scripted("SEARCH: the lantern room of the lighthouse", "On Tuesdays.", "You are welcome.") as asked:
        first = graph.invoke({"messages": [HumanMessage(QUESTION)]}, TURN)
        second = graph.invoke({"messages": [HumanMessage("Thank you!")]}, TURN)
    assert [m.content for m in first["messages"]][2:] == ["On Tuesdays."]
    assert second["messages"][-1].content == "You are welcome."
    assert [len(marks(prompt)) for prompt in asked] == [0, 2, 0]
    assert original_text(first["context"][0]) == TEXTS[0]


@both_ways
def test_another_model_calls_the_tool_and_ours_reads_what_it_found(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    """The second half of LangChain's tutorial: the documents travel as a tool's artifact, ours answers from them."""

    class Caller(GenericFakeChatModel):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self

    @tool(response_format="content_and_artifact")
    def handbook(query: str) -> tuple[str, list[Document]]:
        """Looks something up."""
        found = retriever.invoke(query)
        return joined(found), found

    call = AIMessage("", tool_calls=[{"name": "handbook", "args": {"query": QUESTION}, "id": "1"}])
    caller = Caller(messages=iter([call])).bind_tools([handbook])

    def query_or_respond(state: MessagesState) -> dict[str, list[AnyMessage]]:
        return {"messages": [caller.invoke(state["messages"])]}

    def generate(state: MessagesState) -> dict[str, list[AnyMessage]]:
        found = [str(m.content) for m in state["messages"] if isinstance(m, ToolMessage)]
        spoken = [m for m in state["messages"] if m.type in ("human", "system") or (m.type == "ai" and not m.tool_calls)]
        return {"messages": [chat.invoke([SystemMessage("\n".join(found)), *spoken])]}

    builder = StateGraph(MessagesState).add_node(query_or_respond).add_node("tools", ToolNode([handbook])).add_node(generate)
    builder.set_entry_point("query_or_respond")
    builder.add_conditional_edges("query_or_respond", tools_condition).add_edge("tools", "generate")
    with scripted("On Tuesdays.") as asked:
        result = builder.compile(checkpointer=MemorySaver()).invoke({"messages": [HumanMessage(QUESTION)]}, TURN)
    assert result["messages"][-1].content == "On Tuesdays."
    assert marks(*asked) == marks(joined(retriever.invoke(QUESTION)))
    assert original_text(result["messages"][2].artifact[0]) == TEXTS[0]


@both_ways
async def test_a_retriever_as_a_tool_gives_placeholders(retriever: LLoCORetriever) -> None:
    made = create_retriever_tool(retriever, "handbook", "Looks something up.", response_format="content_and_artifact")
    call: Any = {"type": "tool_call", "name": "handbook", "id": "1", "args": {"query": QUESTION}}
    for message in (made.invoke(call), await made.ainvoke(call)):
        assert marks(message.content) == shown(retriever.invoke(QUESTION))
        assert original_text(message.artifact[0]) == TEXTS[0]
        assert "Tuesdays" not in flat(message.content)
