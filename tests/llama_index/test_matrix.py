"""Response mode x window x nodes x metadata: every placeholder arrives whole, once and in order, or the mode refuses."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

from lloco_integrations import placeholder
from lloco_integrations.errors import PromptTooLong
from lloco_integrations.llama_index import LLoCOLLM, LLoCOPostprocessor, install
from tests import tiny

from .conftest import SLICING, HashEmbedding
from .test_pipelines import check_sources, marks

SPREADING = ["compact", "refine", "tree_summarize", "accumulate", "compact_accumulate"]
SILENT = ["no_text", "context_only"]
ONE_NODE_A_PROMPT = ["refine", "accumulate"]
WINDOWS = [1024, 4096, 8192]
COUNTS = [1, 10, 60]
FITS = {(1024, 1), (4096, 1), (4096, 10), (8192, 1), (8192, 10), (8192, 60)}
SIZES = [93, 92, 40, 24]  # vectors; LlamaIndex's prompts and padding leave a refining prompt 103 of 1024 positions
QUESTION = "lamps?"
N_NEW = 2


def every_cell(*modes: str) -> pytest.MarkDecorator:
    """All cells of ``modes``; those of 60 prompts are slow."""

    def cell(mode: str, window: int, n: int, metadata: bool) -> Any:
        slow = n == 60 and (mode in ONE_NODE_A_PROMPT or (mode, window) == ("compact", 1024))
        name = f"{mode}-{window}-{n}{'-metadata' if metadata else ''}"
        return pytest.param(mode, window, n, metadata, marks=[pytest.mark.slow] if slow else [], id=name)

    return pytest.mark.parametrize(("mode", "window", "n", "metadata"), [cell(*c) for c in product(modes, WINDOWS, COUNTS, (False, True))])


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save_mean_pool(tmp_path_factory.mktemp("models") / "wide", window=8192))


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all cells: each text is compressed once."""
    return f"sqlite:///{tmp_path_factory.mktemp('shelf') / 'store.sqlite'}"


@pytest.fixture(scope="session")
def indices() -> dict[tuple[int, bool], VectorStoreIndex]:
    def node(i: int, metadata: bool) -> TextNode:
        text = (f"{i:02} lamps, " * 40)[: 4 * SIZES[i % 4]]
        return TextNode(id_=f"m{i}", text=text, metadata={"page": i} if metadata else {})

    cases = [(n, m) for n in COUNTS for m in (False, True)]
    return {(n, m): VectorStoreIndex([node(i, m) for i in range(n)], embed_model=HashEmbedding()) for n, m in cases}


class Cell:
    """One application: what its retriever finds, what the LLM should see of it, and its query engines."""

    def __init__(self, model: str, store: str, index: VectorStoreIndex, window: int, n: int) -> None:
        self.llm = install(Settings, LLoCOLLM(model, store=store, context_window=window, max_new_tokens=N_NEW))
        self.window, self.n, self.index = window, n, index
        self.post = LLoCOPostprocessor(model, store=store, focus="none")
        self.found: list[NodeWithScore] = index.as_retriever(similarity_top_k=n).retrieve(QUESTION)
        self.views = [x.get_content(MetadataMode.LLM) for x in self.post.postprocess_nodes(self.found)]
        assert len(self.views) == len(set(self.views)) == n

    def focus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on with text and slices of every node."""
        self.post = self.post.model_copy(update={"focus": "question", "ratio": 3})
        monkeypatch.setattr(self.post.engine.model, "focus", SLICING)
        self.views = [x.get_content(MetadataMode.LLM) for x in self.post.postprocess_nodes(self.found, query_str=QUESTION)]
        assert len(self.views) == self.n

    def engine(self, mode: str, **options: Any) -> Any:
        return self.index.as_query_engine(similarity_top_k=self.n, node_postprocessors=[self.post], response_mode=mode, **options)

    def check_prompts(self, prompts: list[str]) -> None:
        """Once and in order, each beside its metadata, and each prompt with its answer fits the window."""
        assert marks(prompts) == marks(self.views)
        shown = [p.replace("\\n", "\n") for p in prompts]  # LlamaIndex's simple_summarize prints a list into its prompt
        assert all(any(view in prompt for prompt in shown) for view in self.views)
        assert not any(x.text in prompt for x in self.found for prompt in prompts)
        assert max(self.llm.engine.count(p).n_positions for p in prompts) + N_NEW <= self.window


@pytest.fixture
def cell(wide_model: str, shelf: str, indices: dict[tuple[int, bool], VectorStoreIndex], window: int, n: int, metadata: bool) -> Cell:
    return Cell(wide_model, shelf, indices[n, metadata], window, n)


@every_cell(*SPREADING)
def test_every_placeholder_arrives_whole_once_and_in_order(mode: str, cell: Cell, prompts: list[str]) -> None:
    response = cell.engine(mode).query(QUESTION)
    reading = [p for p in prompts if marks([p])]
    cell.check_prompts(reading)
    if mode in ONE_NODE_A_PROMPT:
        assert len(reading) == cell.n
    else:
        assert (len(reading) == 1) == ((cell.window, cell.n) in FITS)
        assert len(reading) < max(cell.n, 2)
    assert (len(prompts) > len(reading)) == (mode == "tree_summarize" and len(reading) > 1), "only a tree reads answers again"
    assert str(response) not in ("", "Empty Response")
    check_sources(response, cell.found)


FOCUSED = [(1024, 1), (1024, 10), (4096, 10), (4096, 60)]


@pytest.mark.parametrize(("window", "n", "metadata"), [(*cell, metadata) for cell in FOCUSED for metadata in (False, True)])
@pytest.mark.parametrize("mode", [*SPREADING, "simple_summarize"])
def test_slices_and_text_arrive_whole_once_and_in_order(mode: str, cell: Cell, prompts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if mode in ONE_NODE_A_PROMPT and cell.n == 60:
        pytest.skip("60 prompts")
    cell.focus(monkeypatch)
    sliced = [mark for mark in marks(cell.views) if "[" in mark]
    assert sliced
    try:
        response = cell.engine(mode).query(QUESTION)
    except PromptTooLong:
        assert mode == "simple_summarize"
        return
    reading = [p for p in prompts if marks([p]) or placeholder.split_votes(p)[1]]
    assert marks(reading) == marks(cell.views)
    assert sum(map(placeholder.omitted, reading)) == sum(map(placeholder.omitted, cell.views))
    assert max(cell.llm.engine.count(p).n_positions for p in prompts) + N_NEW <= cell.window
    if len(reading) == 1:
        shown = reading[0].replace("\\n", "\n")
        at = [shown.index(view) for view in cell.views]
        assert at == sorted(at)
    check_sources(response, cell.found)


@every_cell("simple_summarize")
def test_simple_summarize_answers_from_all_nodes_or_refuses(mode: str, cell: Cell, prompts: list[str]) -> None:
    if (cell.window, cell.n) in FITS:
        response = cell.engine(mode).query(QUESTION)
        assert len(prompts) == 1
        cell.check_prompts(prompts)
        check_sources(response, cell.found)
    else:
        with pytest.raises(PromptTooLong, match="would drop the rest"):
            cell.engine(mode).query(QUESTION)
        assert prompts == []


@every_cell(*SILENT)
def test_modes_without_a_model_keep_every_source(mode: str, cell: Cell, prompts: list[str]) -> None:
    response = cell.engine(mode).query(QUESTION)
    check_sources(response, cell.found)
    assert prompts == []
    if mode == "context_only":
        assert str(response) == "\n\n".join(cell.views)
    else:
        assert not response.response


@pytest.mark.parametrize(("window", "n", "metadata"), [(1024, 10, True)])
@pytest.mark.parametrize("how", ["aquery", "stream", "astream"])
@pytest.mark.parametrize("mode", SPREADING)
async def test_async_and_streamed_answers_pack_alike(mode: str, how: str, cell: Cell, prompts: list[str]) -> None:
    if how != "aquery" and "accumulate" in mode:
        with pytest.raises(ValueError, match="Unable to stream"):
            cell.engine(mode, streaming=True).query(QUESTION)
        return
    plain = str(cell.engine(mode).query(QUESTION))
    prompts.clear()
    if how == "aquery":
        text = str(await cell.engine(mode).aquery(QUESTION))
    elif how == "stream":
        text = "".join(cell.engine(mode, streaming=True).query(QUESTION).response_gen)
    else:
        response = await cell.engine(mode, streaming=True).aquery(QUESTION)
        text = "".join([piece async for piece in response.async_response_gen()])
    assert text == plain
    reading = [p for p in prompts if marks([p])]
    if how == "aquery":  # asked at once: these prompts arrive in any order
        reading.sort(key=lambda p: marks(cell.views).index(marks([p])[0]))
    cell.check_prompts(reading)
