"""Agents with a query engine for a tool, and structured output: the model's words are scripted, everything else is real."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core import PromptTemplate, VectorStoreIndex
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, FunctionAgent, ReActAgent, ToolCallResult
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.program import FunctionCallingProgram, LLMTextCompletionProgram
from llama_index.core.tools import QueryEngineTool, RetrieverTool

from lloco_integrations import placeholder
from lloco_integrations.errors import LLoCOError
from lloco_integrations.llama_index import LLoCOLLM, LLoCOPostprocessor, LLoCORetriever

from .scripted import script
from .test_pipelines import expected, marks

ACT = 'Thought: I look it up.\nAction: {tool}\nAction Input: {{"input": "the lamps of Carrow"}}'
DONE = "Thought: I can answer.\nAnswer: Forty."


def thinks(prompt: str) -> str:
    """A model that calls the tool once, reads the observation and answers."""
    if "You are designed to help" not in prompt:
        return "There are forty."
    return DONE if "Observation:" in prompt.split("## Current Conversation")[-1] else ACT.format(tool="lamps")


@pytest.fixture
def tool(index: VectorStoreIndex, installed: LLoCOLLM, post: LLoCOPostprocessor) -> QueryEngineTool:
    engine = index.as_query_engine(node_postprocessors=[post])
    return QueryEngineTool.from_defaults(engine, name="lamps", description="Knows the lamps.")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("workflow", [False, True], ids=["agent", "workflow"])
async def test_a_react_agent_asks_a_query_engine_that_reads_summaries(
    workflow: bool,
    streaming: bool,
    tool: QueryEngineTool,
    index: VectorStoreIndex,
    installed: LLoCOLLM,
    post: LLoCOPostprocessor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts = script(monkeypatch, thinks)
    found, want = expected(index, post, "the lamps of Carrow", 2)
    agent = ReActAgent(name="keeper", description="d", tools=[tool], llm=installed, streaming=streaming)
    runner: Any = AgentWorkflow(agents=[agent], root_agent="keeper") if workflow else agent
    handler = runner.run("How many lamps are there?")
    events = [event async for event in handler.stream_events()]
    response = await handler
    assert str(response) == "Forty."
    assert [placeholder.count(p) for p in prompts] == [0, 2, 0]
    assert marks(prompts) == want
    assert "Observation: There are forty." in prompts[2]
    [call] = [e for e in events if isinstance(e, ToolCallResult)]
    assert str(call.tool_output) == "There are forty."
    assert [n.text for n in call.tool_output.raw_output.source_nodes] == [n.text for n in found]
    assert (
        "".join(e.delta for e in events if isinstance(e, AgentStream)) == ACT.format(tool="lamps").replace("{{", "{") + DONE
    ) == streaming


async def test_a_react_agent_remembers_its_turns(tool: QueryEngineTool, installed: LLoCOLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = script(monkeypatch, thinks)
    agent = ReActAgent(tools=[tool], llm=installed)
    memory = ChatMemoryBuffer.from_defaults(llm=installed)
    await agent.run("How many lamps?", memory=memory)
    prompts.clear()
    assert str(await agent.run("And who counts them?", memory=memory)) == "Forty."
    assert "How many lamps?" in prompts[0]
    assert "Answer: Forty." in prompts[0]
    assert [placeholder.count(p) for p in prompts[:1]] == [0]


async def test_an_agent_reads_the_placeholders_of_a_retriever_tool_itself(
    index: VectorStoreIndex, installed: LLoCOLLM, post: LLoCOPostprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = script(monkeypatch, thinks)
    retriever = LLoCORetriever(index.as_retriever(), postprocessor=post)
    agent = ReActAgent(tools=[RetrieverTool.from_defaults(retriever, name="lamps", description="d")], llm=installed)
    assert str(await agent.run("How many lamps?")) == "Forty."
    assert placeholder.count(prompts[0]) == 0
    assert marks(prompts) == expected(index, post, "input is the lamps of Carrow", 2)[1], "LlamaIndex asks with the argument's name"


async def test_a_function_agent_is_refused_before_the_model_is_asked(
    tool: QueryEngineTool, installed: LLoCOLLM, prompts: list[str]
) -> None:
    with pytest.raises(ValueError, match="must be a FunctionCallingLLM"):
        await FunctionAgent(tools=[tool], llm=installed).run("How many lamps?")
    assert prompts == []


def test_a_workflow_of_tools_alone_chooses_the_react_agent(tool: QueryEngineTool, installed: LLoCOLLM) -> None:
    workflow = AgentWorkflow.from_tools_or_functions([tool], llm=installed)
    assert [type(a) for a in workflow.agents.values()] == [ReActAgent]


async def test_errors_of_the_model_end_the_agent(tool: QueryEngineTool, installed: LLoCOLLM) -> None:
    installed.context_window = 64
    with pytest.raises(LLoCOError):
        await ReActAgent(tools=[tool], llm=installed).run("How many lamps? " * 400)


class Keeper(BaseModel):
    """Who keeps a lighthouse."""

    name: str
    lamps: int


JSON = '{"name": "Ilse", "lamps": 40}'
FENCED = f"Here it is:\n```json\n{JSON}\n```"
ILSE = Keeper(name="Ilse", lamps=40)
TEMPLATE = PromptTemplate("Who keeps {place}?")


@pytest.mark.parametrize("answer", [JSON, FENCED])
async def test_structured_predict(answer: str, llm: LLoCOLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = script(monkeypatch, lambda p: answer)
    assert llm.structured_predict(Keeper, TEMPLATE, place="Carrow") == ILSE
    assert await llm.astructured_predict(Keeper, TEMPLATE, place="Carrow") == ILSE
    assert all("Who keeps Carrow?" in p and '"lamps"' in p for p in prompts)


async def test_streamed_structured_predict_fills_the_object_piece_by_piece(llm: LLoCOLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, lambda p: JSON)
    parts: list[Any] = list(llm.stream_structured_predict(Keeper, TEMPLATE, place="Carrow"))
    assert parts[-1].model_dump() == ILSE.model_dump()
    assert len(parts) > 1
    aparts: list[Any] = [p async for p in await llm.astream_structured_predict(Keeper, TEMPLATE, place="Carrow")]
    assert [p.model_dump() for p in aparts] == [p.model_dump() for p in parts]


async def test_a_structured_llm(llm: LLoCOLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, lambda p: JSON)
    structured = llm.as_structured_llm(Keeper)
    turn = [ChatMessage(role="user", content="Who keeps Carrow?")]
    assert structured.complete("Who?").raw == (await structured.acomplete("Who?")).raw == ILSE
    assert structured.chat(turn).raw == (await structured.achat(turn)).raw == ILSE
    assert [r.raw.model_dump() for r in structured.stream_chat(turn)][-1] == ILSE.model_dump()
    assert [r.raw.model_dump() async for r in await structured.astream_chat(turn)][-1] == ILSE.model_dump()
    with pytest.raises(NotImplementedError):
        list(structured.stream_complete("Who?"))


@pytest.mark.parametrize("how", ["llm", "output_cls"])
@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize"])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_query_engine_with_structured_answers(
    asynchronous: bool,
    mode: str,
    how: str,
    index: VectorStoreIndex,
    installed: LLoCOLLM,
    post: LLoCOPostprocessor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts = script(monkeypatch, lambda p: JSON)
    options: dict[str, Any] = {"llm": installed.as_structured_llm(Keeper)} if how == "llm" else {"output_cls": Keeper}
    engine = index.as_query_engine(node_postprocessors=[post], response_mode=mode, **options)
    response = await engine.aquery("Who is Ilse?") if asynchronous else engine.query("Who is Ilse?")
    assert response.response == ILSE  # type: ignore[union-attr]
    assert marks(prompts) == expected(index, post, "Who is Ilse?", 2)[1]
    assert len(response.source_nodes) == 2


def test_what_is_no_json_is_loud(llm: LLoCOLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, lambda p: "I would rather not.")
    with pytest.raises(ValueError, match="Could not extract json"):
        llm.structured_predict(Keeper, TEMPLATE, place="Carrow")
    with pytest.raises(ValueError, match="Could not extract json"):
        LLMTextCompletionProgram.from_defaults(output_cls=Keeper, prompt=TEMPLATE, llm=llm)(place="Carrow")


def test_programs_that_call_functions_are_refused(llm: LLoCOLLM) -> None:
    with pytest.raises(ValueError, match="function calling"):
        FunctionCallingProgram.from_defaults(output_cls=Keeper, prompt=TEMPLATE, llm=llm)
