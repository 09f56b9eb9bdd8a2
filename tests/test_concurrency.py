"""Sixty-four questions at once, with two adapters and none, through both frameworks: each is answered as it is when asked alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import MetadataMode, TextNode

from lloco_integrations import langchain, llama_index
from tests.llama_index.conftest import HashEmbedding
from tests.test_backend import save_adapter

N = 64
GROUPS = ("law", "tax", None)
TEXTS = [f"Paragraph {i} of the {g or 'other'} code is about {'xyzuvw'[i % 6] * (5 + i)}." for i in range(16) for g in GROUPS]


@pytest.fixture
def names(tiny_model: str, store_url: str) -> dict[str, Any]:
    return {"model": tiny_model, "store": store_url, "device": "cpu", "dtype": "float32"}


@pytest.fixture
def adapters(tmp_path: Path) -> dict[str, str]:
    return {name: str(save_adapter(tmp_path / name, seed)) for name, seed in (("law", 1), ("tax", 2))}


Ask = tuple[Callable[[str], Any], Callable[[str], Awaitable[Any]]]


@pytest.fixture
def engine(names: dict[str, Any], adapters: dict[str, str]) -> Ask:
    """A LlamaIndex query engine: answer, adapter of every source's prompt, sources."""
    nodes = [TextNode(text=t, metadata={"group": GROUPS[i % 3]} if GROUPS[i % 3] else {}) for i, t in enumerate(TEXTS)]
    llm = llama_index.LLoCOLLM(**names, adapters=adapters, max_new_tokens=5, max_adapters=1)
    post = llama_index.LLoCOPostprocessor(**names, ratio=8)
    index = VectorStoreIndex(nodes, embed_model=HashEmbedding())
    retriever = index.as_retriever(similarity_top_k=2)

    def prompt(question: str, found: Any) -> str:
        return "\n\n".join([*(n.node.get_content(MetadataMode.LLM) for n in found), question])

    def ask(question: str) -> Any:
        found = post.postprocess_nodes(retriever.retrieve(question))
        made = llm.complete(prompt(question, found))
        return made.text, made.raw["adapter"], [n.node_id for n in found]  # type: ignore[index]

    async def aask(question: str) -> Any:
        found = await post.apostprocess_nodes(await retriever.aretrieve(question))
        made = await llm.acomplete(prompt(question, found))
        return made.text, made.raw["adapter"], [n.node_id for n in found]  # type: ignore[index]

    return ask, aask


@pytest.fixture
def chain(names: dict[str, Any], adapters: dict[str, str]) -> Ask:
    """A LangChain chain: answer, adapter, source."""
    compressor = langchain.LLoCODocumentCompressor(**names, ratio=8)
    chat = langchain.ChatLLoCO(**names, adapters=adapters, max_tokens=5, max_adapters=1)

    def retrieve(question: str) -> list[Document]:
        number = int(question.split()[1])
        group = GROUPS[number % 3]
        return [Document(TEXTS[number % len(TEXTS)], metadata={"group": group} if group else {})]

    def prompt(made: list[Document]) -> str:
        return made[0].page_content + "\n\nWhat is it about?"

    whole = RunnableLambda(retrieve) | RunnableLambda(compressor.compress) | prompt | chat
    plain = lambda m: (m.content, m.response_metadata["adapter"], m.usage_metadata)  # noqa: E731

    async def aask(question: str) -> Any:
        return plain(await whole.ainvoke(question))

    return lambda question: plain(whole.invoke(question)), aask


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["engine", "chain"])
async def test_every_answer_is_the_one_given_alone(kind: str, request: pytest.FixtureRequest) -> None:
    ask, aask = request.getfixturevalue(kind)
    questions = [f"Paragraph {i} of the {GROUPS[i % 3] or 'other'} code" for i in range(N)]
    alone = [ask(q) for q in questions]
    assert {adapter for _, adapter, _ in alone} == set(GROUPS)
    assert len({answer for answer, _, _ in alone}) > 5, "the answers must differ, or mixing them up would not show"
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, questions)) == alone
    assert await asyncio.gather(*map(aask, questions)) == alone
    with ThreadPoolExecutor(8) as pool:
        loop = asyncio.get_running_loop()
        threads = [loop.run_in_executor(pool, ask, q) for q in questions[: N // 2]]
        tasks = [aask(q) for q in questions[N // 2 :]]
        assert await asyncio.gather(*threads, *tasks) == alone, "threads and tasks side by side"
