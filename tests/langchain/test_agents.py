"""Agents: those that need tool calling are refused with a remedy, those that talk in text work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_classic.agents import AgentExecutor, create_json_chat_agent, create_react_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.tools import BaseTool, create_retriever_tool
from langgraph.prebuilt import create_react_agent as create_langgraph_agent

from lloco_integrations.errors import BadInput
from lloco_integrations.langchain import ChatLLoCO, LLoCOLLM, LLoCORetriever, original_text
from tests.langchain.parts import TEXTS
from tests.langchain.scripted import both_ways, flat, marks, scripted, shown

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
QUESTION = "When is the lantern room of the lighthouse open?"
ASKING: Any = {"messages": [("user", QUESTION)]}


@pytest.fixture
def handbook(retriever: LLoCORetriever) -> BaseTool:
    return create_retriever_tool(retriever, "handbook", "Looks something up.")


@pytest.mark.parametrize("make", [create_agent, create_langgraph_agent])
@pytest.mark.filterwarnings("ignore:create_react_agent")
async def test_a_prebuilt_agent_with_tools_is_refused_with_a_remedy(make: Callable[..., Any], chat: ChatLLoCO, handbook: BaseTool) -> None:
    with pytest.raises(BadInput, match="ChatLLoCO cannot call tools; .*the retriever a step"):
        make(chat, [handbook]).invoke(ASKING)
    with pytest.raises(BadInput, match="cannot call tools"):
        await make(chat, [handbook]).ainvoke(ASKING)


@pytest.mark.parametrize("make", [create_agent, create_langgraph_agent])
async def test_a_prebuilt_agent_without_tools_works(make: Callable[..., Any], chat: ChatLLoCO) -> None:
    agent = make(chat, [])
    expected = chat.invoke(QUESTION).text
    assert agent.invoke(ASKING)["messages"][-1].content == expected
    assert (await agent.ainvoke(ASKING))["messages"][-1].content == expected


@pytest.mark.parametrize(
    ("kind", "call", "remedy"),
    [
        (ChatLLoCO, "bind_tools", "another model"),
        (ChatLLoCO, "with_structured_output", "JsonOutputParser"),
        (LLoCOLLM, "with_structured_output", "JsonOutputParser"),
    ],
)
def test_what_needs_tools_is_refused_in_both_manners(kind: Any, call: str, remedy: str) -> None:
    """Ours (BadInput, with a remedy) and LangChain's (NotImplementedError, which callers may handle)."""
    for error in (BadInput, NotImplementedError):
        with pytest.raises(error, match=f"{kind.__name__} cannot call tools; .*{remedy}"):
            getattr(kind(), call)([{"name": "f"}])


def test_langchain_sees_that_there_is_no_tool_calling() -> None:
    """The way its standard suite, among others, finds out; a child class that brings tool calling is seen, too."""

    class Child(ChatLLoCO):
        pass

    class Caller(ChatLLoCO):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self

    for kind in (ChatLLoCO, Child):
        assert kind.bind_tools is BaseChatModel.bind_tools
        assert kind.with_structured_output is BaseChatModel.with_structured_output
    assert Caller.bind_tools is not BaseChatModel.bind_tools


REACT = PromptTemplate.from_template(
    "Tools: {tools}\nUse the format Thought, Action (one of {tool_names}), Action Input, Observation; at last Final Answer.\n"
    "Question: {input}\n{agent_scratchpad}"
)
JSON = ChatPromptTemplate.from_messages(
    [("system", "Tools: {tools}, named {tool_names}. Answer with JSON."), ("human", "{input}"), MessagesPlaceholder("agent_scratchpad")]
)
SCRIPTS = {
    "react": (
        "Thought: look it up\nAction: handbook\nAction Input: the lantern room of the lighthouse",
        "Thought: I know\nFinal Answer: On Tuesdays.",
    ),
    "json": (
        '```json\n{"action": "handbook", "action_input": "the lantern room of the lighthouse"}\n```',
        '```json\n{"action": "Final Answer", "action_input": "On Tuesdays."}\n```',
    ),
}


@pytest.mark.parametrize(("kind", "style"), [(ChatLLoCO, "react"), (LLoCOLLM, "react"), (ChatLLoCO, "json")])
@both_ways
async def test_agents_that_talk_in_text_read_observations(
    kind: Any, style: str, named: dict[str, Any], retriever: LLoCORetriever, handbook: BaseTool
) -> None:
    model = kind(**named)
    agent = create_react_agent(model, [handbook], REACT) if style == "react" else create_json_chat_agent(model, [handbook], JSON)
    executor = AgentExecutor(agent=agent, tools=[handbook], return_intermediate_steps=True)
    expected = shown(retriever.invoke("the lantern room of the lighthouse"))
    for ask in (executor.invoke, executor.ainvoke):
        with scripted(*SCRIPTS[style]) as asked:
            made = ask({"input": QUESTION})
            result = made if isinstance(made, dict) else await made
        assert result["output"] == "On Tuesdays."
        assert [marks(prompt) for prompt in asked] == [[], expected]
        assert TEXTS[0] not in flat(asked[1])
        assert len(result["intermediate_steps"]) == 1


def test_a_turn_of_somebody_elses_agent_is_refused(chat: ChatLLoCO, retriever: LLoCORetriever) -> None:
    """A history with tool messages in it, as an agent leaves it behind."""
    history = [("user", QUESTION), {"role": "tool", "content": retriever.invoke(QUESTION)[0].page_content, "tool_call_id": "1"}]
    with pytest.raises(BadInput, match="type 'tool'"):
        chat.invoke(history)
    assert original_text(retriever.invoke(QUESTION)[0]) == TEXTS[0]
