"""Composed query engines: routers, sub-questions, transforms, citations; each asked in every way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from llama_index.core import SimpleKeywordTableIndex, SummaryIndex, VectorStoreIndex, get_response_synthesizer
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.indices.query.query_transform import HyDEQueryTransform, StepDecomposeQueryTransform
from llama_index.core.query_engine import (
    CitationQueryEngine,
    MultiStepQueryEngine,
    RouterQueryEngine,
    SubQuestionQueryEngine,
    TransformQueryEngine,
)
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.question_gen.types import BaseQuestionGenerator, SubQuestion
from llama_index.core.schema import MetadataMode, QueryBundle, TextNode
from llama_index.core.selectors import EmbeddingSingleSelector, LLMMultiSelector, LLMSingleSelector, PydanticSingleSelector
from llama_index.core.tools import QueryEngineTool, ToolMetadata

from lloco_integrations.errors import PlaceholderError
from lloco_integrations.llama_index import LLoCOLLM, LLoCOPostprocessor

from .conftest import TEXTS, whole_summaries
from .scripted import script
from .test_pipelines import HOSTILE, check_sources, expected, marks, seen

WAYS = ["query", "aquery", "stream", "astream"]
every_way = pytest.mark.parametrize("how", WAYS)
LAMPS, HARBOUR = "lamps of the keeper", "ships of the harbour"
HARBOURS = [
    "Ships leave at dawn. They come back in the evening, deep in the water.",
    "The harbour is deep. A wall of old stones shelters it.",
]


async def ask(engine: BaseQueryEngine, how: str, question: str) -> tuple[str, Any]:
    response = await engine.aquery(question) if how in ("aquery", "astream") else engine.query(question)
    if isinstance(response, StreamingResponse):
        return "".join(response.response_gen), response
    if isinstance(response, AsyncStreamingResponse):
        return "".join([piece async for piece in response.async_response_gen()]), response
    return str(response), response


@pytest.fixture
def harbours() -> VectorStoreIndex:
    return VectorStoreIndex([TextNode(id_=f"h{i}", text=t) for i, t in enumerate(HARBOURS)])


@pytest.fixture
def tools(
    index: VectorStoreIndex, harbours: VectorStoreIndex, installed: LLoCOLLM, post: LLoCOPostprocessor, how: str
) -> list[QueryEngineTool]:
    """An engine for lamps and one for harbours; both read summaries, and stream if the test does."""

    def tool(over: VectorStoreIndex, name: str, description: str) -> QueryEngineTool:
        engine = over.as_query_engine(node_postprocessors=[post], streaming="stream" in how)
        return QueryEngineTool.from_defaults(engine, name=name, description=description)

    return [tool(index, "lamps", LAMPS), tool(harbours, "harbours", HARBOUR)]


@every_way
async def test_a_router_with_embeddings(
    how: str, tools: list[QueryEngineTool], harbours: VectorStoreIndex, post: LLoCOPostprocessor, prompts: list[str]
) -> None:
    engine = RouterQueryEngine.from_defaults(tools, selector=EmbeddingSingleSelector.from_defaults())
    found, want = expected(harbours, post, HARBOUR, 2)
    text, response = await ask(engine, how, HARBOUR)
    assert text
    assert marks(prompts) == want
    check_sources(response, found)


@every_way
@pytest.mark.parametrize("selector", [LLMSingleSelector, None])
async def test_a_router_that_asks_the_model(
    selector: Any,
    how: str,
    tools: list[QueryEngineTool],
    harbours: VectorStoreIndex,
    post: LLoCOPostprocessor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts = script(monkeypatch, lambda p: '[{"choice": 2, "reason": "ships"}]' if "choices" in p else None)
    engine = RouterQueryEngine.from_defaults(tools, selector=selector and selector.from_defaults())
    found, want = expected(harbours, post, "When do they leave?", 2)
    _, response = await ask(engine, how, "When do they leave?")
    assert marks(prompts[:1]) == []
    assert marks(prompts[1:]) == want
    check_sources(response, found)


@pytest.mark.parametrize("how", ["query", "aquery"])
async def test_a_router_to_several_engines_joins_their_answers(
    how: str,
    tools: list[QueryEngineTool],
    harbours: VectorStoreIndex,
    index: VectorStoreIndex,
    post: LLoCOPostprocessor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = '[{"choice": 1, "reason": "a"}, {"choice": 2, "reason": "b"}]'
    prompts = script(monkeypatch, lambda p: both if "choices" in p else "Forty." if marks([p]) else "Both.")
    engine = RouterQueryEngine.from_defaults(tools, selector=LLMMultiSelector.from_defaults())
    want = [m for over in (index, harbours) for m in expected(over, post, "all of it", 2)[1]]
    text, response = await ask(engine, how, "all of it")
    assert sorted(marks(prompts)) == sorted(want)
    assert text == "Both."
    assert marks(prompts[-1:]) == []
    assert prompts[-1].count("Forty.") == 2
    assert len(response.source_nodes) == 4


def test_selectors_that_need_tool_calling_are_refused(installed: LLoCOLLM) -> None:
    with pytest.raises((ValueError, ImportError)):
        PydanticSingleSelector.from_defaults(llm=installed)


class Questions(BaseQuestionGenerator):
    """The same two sub-questions for whatever is asked."""

    asked = (SubQuestion(sub_question="Who is Ilse?", tool_name="lamps"), SubQuestion(sub_question="How deep?", tool_name="harbours"))

    def _get_prompts(self) -> dict[str, Any]:
        return {}

    def _update_prompts(self, prompts: dict[str, Any]) -> None: ...

    def generate(self, tools: Sequence[ToolMetadata], query: QueryBundle) -> list[SubQuestion]:
        return list(self.asked)

    async def agenerate(self, tools: Sequence[ToolMetadata], query: QueryBundle) -> list[SubQuestion]:
        return list(self.asked)


@every_way
@pytest.mark.parametrize("use_async", [False, True])
async def test_sub_questions(
    use_async: bool,
    how: str,
    tools: list[QueryEngineTool],
    index: VectorStoreIndex,
    harbours: VectorStoreIndex,
    post: LLoCOPostprocessor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts = script(monkeypatch, lambda p: ("The keeper." if "Ilse" in p else "Very.") if marks([p]) else "Ilse, and very.")
    synthesizer = get_response_synthesizer(streaming="stream" in how)
    engine = SubQuestionQueryEngine.from_defaults(
        [QueryEngineTool.from_defaults(t.query_engine, name=t.metadata.name, description="d") for t in tools],
        question_gen=Questions(), response_synthesizer=synthesizer, use_async=use_async, verbose=False,
    )  # fmt: skip
    want = expected(index, post, "Who is Ilse?", 2)[1] + expected(harbours, post, "How deep?", 2)[1]
    text, response = await ask(engine, how, "Who and how deep?")
    assert text == "Ilse, and very."
    assert sorted(marks(prompts)) == sorted(want)
    assert "Sub question: Who is Ilse?\nResponse: The keeper." in prompts[-1]
    assert "Sub question: How deep?\nResponse: Very." in prompts[-1]
    assert {n.text for n in response.source_nodes} > {TEXTS[0], HARBOURS[1]}


@pytest.mark.parametrize("how", ["query"])
async def test_the_model_can_write_the_sub_questions(how: str, tools: list[QueryEngineTool], monkeypatch: pytest.MonkeyPatch) -> None:
    written = '```json\n{"items": [{"sub_question": "Who is Ilse?", "tool_name": "lamps"}]}\n```'
    prompts = script(monkeypatch, lambda p: written if "sub-questions" in p or "sub questions" in p else None)
    generator = LLMQuestionGenerator.from_defaults()
    engine = SubQuestionQueryEngine.from_defaults(tools, question_gen=generator, verbose=False, use_async=False)
    await ask(engine, how, "Who?")
    assert len(prompts) == 3
    assert "Sub question: Who is Ilse?" in prompts[-1]
    with pytest.raises(ImportError, match="question-gen-openai"):
        SubQuestionQueryEngine.from_defaults(tools)


@every_way
async def test_hyde(
    how: str, index: VectorStoreIndex, installed: LLoCOLLM, post: LLoCOPostprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = script(monkeypatch, lambda p: TEXTS[1] if not marks([p]) else None)
    inner = index.as_query_engine(node_postprocessors=[post], similarity_top_k=1, streaming="stream" in how)
    engine = TransformQueryEngine(inner, HyDEQueryTransform(include_original=False))
    _, response = await ask(engine, how, "When is it cold?")
    assert [n.text for n in response.source_nodes] == [TEXTS[1]]
    found, _ = expected(index, post, TEXTS[1], 1)
    assert marks(prompts) == seen(post, found, "When is it cold?"), "found by the answer made up, shown for the question"
    assert "When is it cold?" in prompts[1]


@every_way
async def test_multi_step(
    how: str, index: VectorStoreIndex, installed: LLoCOLLM, post: LLoCOPostprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter(["Who is Ilse?", "the harbour of Carrow freezes"])

    def said(prompt: str) -> str:
        return "Read." if marks([prompt]) else next(steps) if "New question:" in prompt else "At last."

    prompts = script(monkeypatch, said)
    engine = MultiStepQueryEngine(
        index.as_query_engine(node_postprocessors=[post]),
        StepDecomposeQueryTransform(installed),
        get_response_synthesizer(streaming="stream" in how),
        num_steps=2,
    )
    text, response = await ask(engine, how, "Who, and when is it cold?")
    assert text == "At last."
    want = [m for q in ("Who is Ilse?", "the harbour of Carrow freezes") for m in expected(index, post, q, 2)[1]]
    assert marks(prompts) == want
    assert [q for q, _ in response.metadata["sub_qa"]] == ["Who is Ilse?", "the harbour of Carrow freezes"]


@every_way
async def test_citations_read_summaries_with_the_metadata_mode_of_the_llm(
    how: str, index: VectorStoreIndex, installed: LLoCOLLM, post: LLoCOPostprocessor, prompts: list[str]
) -> None:
    options: dict[str, Any] = {"node_postprocessors": [post], "streaming": "stream" in how, "citation_chunk_size": 60}
    _, want = expected(index, post, "lamps", 2)
    text, response = await ask(CitationQueryEngine.from_args(index, metadata_mode=MetadataMode.LLM, **options), how, "lamps")
    assert text
    assert marks(prompts) == want
    assert len(response.source_nodes) == 2
    prompts.clear()
    await ask(CitationQueryEngine.from_args(index, **options), how, "lamps")
    assert marks(prompts) == [], "without it, citations are of the text"
    assert "Source 2:" in prompts[0]


@pytest.mark.parametrize(("size", "whole"), [(48, True), (24, False)])
@whole_summaries
def test_citation_chunks_have_room_for_a_placeholder_or_are_refused(
    size: int, whole: bool, installed: LLoCOLLM, post: LLoCOPostprocessor, prompts: list[str]
) -> None:
    index = VectorStoreIndex([TextNode(text="lamps " * 60)])  # 90 vectors, 36 characters
    options: dict[str, Any] = {"citation_chunk_size": size, "citation_chunk_overlap": 0, "metadata_mode": MetadataMode.LLM}
    engine = CitationQueryEngine.from_args(index, node_postprocessors=[post], **options)
    if whole:
        engine.query("lamps")
        assert marks(prompts) == expected(index, post, "lamps", 1)[1]
    else:
        with pytest.raises(PlaceholderError, match="broken placeholder"):
            engine.query("lamps")


def test_citations_of_hostile_text_are_refused(installed: LLoCOLLM, post: LLoCOPostprocessor) -> None:
    engine = CitationQueryEngine.from_args(VectorStoreIndex([TextNode(text=HOSTILE)]), node_postprocessors=[post])
    with pytest.raises(PlaceholderError, match="broken placeholder"):
        engine.query("lamps")


@pytest.mark.parametrize("kind", [SummaryIndex, SimpleKeywordTableIndex])
def test_other_indices(kind: Any, nodes: list[TextNode], installed: LLoCOLLM, post: LLoCOPostprocessor, prompts: list[str]) -> None:
    response = kind(nodes).as_query_engine(node_postprocessors=[post]).query("keeper lamps evening")
    assert len(marks(prompts)) == len(response.source_nodes) >= 2
    assert {n.text for n in response.source_nodes} <= set(TEXTS)
    assert not any(text in prompts[0] for text in TEXTS)
