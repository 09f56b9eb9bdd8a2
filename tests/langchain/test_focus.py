"""The question in focus: what documents carry, whose embeddings rank sentences, and that nothing blocks."""

from __future__ import annotations

import copy
import json
import pickle
import time
from collections.abc import Callable
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

from lloco_integrations import placeholder
from lloco_integrations.embedding import Wrapped
from lloco_integrations.errors import BadInput
from lloco_integrations.langchain import ChatLLoCO, LLoCODocumentCompressor, LLoCORetriever, original_text
from tests.langchain.parts import TEXTS, HashEmbeddings, documents, joined, vector_store
from tests.langchain.scripted import both_ways, marks, shown

QUERY = "When is the lantern room of the lighthouse open?"


class Recording(HashEmbeddings):
    def __init__(self, model: str) -> None:
        self.model = model
        self.given: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.given += texts
        return super().embed_documents(texts)


def filled(embeddings: HashEmbeddings) -> InMemoryVectorStore:
    store = InMemoryVectorStore(embeddings)
    store.add_documents(documents())
    return store


@pytest.mark.parametrize("retriever", ["question"], indirect=True)
def test_documents_carry_what_was_shown(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    plain = retriever.retriever.invoke(QUERY)
    found = retriever.invoke(QUERY)
    assert [d.id for d in found] == [d.id for d in plain]
    assert any("[" in mark for mark in shown(found)), "slices"
    assert any(d.metadata["lloco_shown"] for d in found)
    for old, new in zip(plain, found, strict=True):
        assert original_text(new) == old.page_content
        assert {k: v for k, v in new.metadata.items() if not k.startswith("lloco_")} == old.metadata
        parts = placeholder.split(placeholder.split_votes(new.page_content)[0])
        read = "".join(part for part in parts if isinstance(part, str))
        stretches = new.metadata["lloco_shown"]
        assert "".join(read.split()) == "".join("".join(original_text(new)[a:b].split()) for a, b in stretches)
        assert chat.get_num_tokens(new.page_content) == new.metadata["lloco_positions"] < new.metadata["lloco_tokens"]
        assert json.loads(json.dumps(new.metadata)) == new.metadata
    again = LLoCODocumentCompressor(
        **{n: getattr(retriever, n) for n in ("model", "store", "device", "dtype", "ratio")}, embeddings=HashEmbeddings()
    )
    assert [d.page_content for d in again.compress_documents(found, QUERY)] == [d.page_content for d in found], "shown anew, from the text"


@both_ways
def test_an_empty_query_leaves_no_trace_of_focus(retriever: LLoCORetriever) -> None:
    for asked in (None, "", " "):
        assert all("lloco_shown" not in d.metadata and len(marks(d.page_content)) == 1 for d in retriever.compress(documents(), asked))
    focused = retriever.compress(documents(), QUERY)
    assert all("lloco_shown" not in d.metadata for d in retriever.compress(focused, ""))


@pytest.mark.parametrize("over", ["vectorstore", "retriever"])
def test_a_retriever_ranks_with_the_embeddings_of_the_store_behind_it(over: str, named: dict[str, Any]) -> None:
    mine = Recording(over)
    store = filled(mine)
    mine.given.clear()
    source: dict[str, Any] = (
        {"vectorstore": store, "k": 2} if over == "vectorstore" else {"retriever": store.as_retriever(search_kwargs={"k": 2})}
    )
    LLoCORetriever(**named, **source).invoke(QUERY)
    assert [text.strip() for text in mine.given][:2] == [s if s.endswith(".") else f"{s}." for s in TEXTS[0].split(". ")]
    mine.given.clear()
    LLoCORetriever(**named, **source, embeddings=None).invoke(QUERY)
    LLoCORetriever(**named, **source, focus="none").invoke(QUERY)
    assert mine.given == [], "words alone, and no focus, ask nobody"


def test_embeddings_of_one_s_own_and_what_is_none(named: dict[str, Any]) -> None:
    mine = Recording("given")
    over = LLoCORetriever(**named, vectorstore=vector_store(), k=2, embeddings=mine)
    over.invoke(QUERY)
    assert mine.given
    assert LLoCORetriever(**named, retriever=RunnableLambda(lambda query: documents()))._own_embeddings() is None
    with pytest.raises(BadInput, match="embeddings is a str"):
        LLoCORetriever(**named, vectorstore=vector_store(), k=2, embeddings="all-MiniLM").invoke(QUERY)


def test_a_short_document_shows_something(named: dict[str, Any]) -> None:
    [made] = LLoCODocumentCompressor(**named).compress_documents([Document("On Tuesdays.")], "When?")
    assert placeholder.split_votes(made.page_content)[0] == "On Tuesdays."


@pytest.mark.parametrize("compressor", ["question"], indirect=True)
async def test_contextual_compression_focuses(compressor: LLoCODocumentCompressor) -> None:
    source = vector_store().as_retriever(search_kwargs={"k": 2})
    over = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=source)
    found = over.invoke(QUERY)
    assert found == compressor.compress_documents(source.invoke(QUERY), QUERY) == await over.ainvoke(QUERY)
    assert any("[" in mark for mark in shown(found))
    assert joined(found) != joined(over.invoke("Where are the tide tables?"))


@pytest.mark.parametrize("retriever", ["question"], indirect=True)
async def test_ranking_does_not_block_the_loop(
    retriever: LLoCORetriever, ticking: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = Wrapped.embed

    def slow(self: Wrapped, texts: Any) -> Any:
        time.sleep(0.2)
        return embed(self, texts)

    monkeypatch.setattr(Wrapped, "embed", slow)
    retriever.embeddings = Recording("slow")
    found, ticks = await ticking(retriever.ainvoke(QUERY))
    assert ticks > 20
    assert found == retriever.invoke(QUERY)


@pytest.mark.parametrize("given", [None, "auto", HashEmbeddings()], ids=["words", "auto", "own"])
def test_every_copy_ranks_alike(given: Any, named: dict[str, Any]) -> None:
    made = LLoCODocumentCompressor(**named, ratio=3, embeddings=given)
    expected = made.compress_documents(documents(), QUERY)
    for twin in (pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made), made.model_copy()):
        assert twin.compress_documents(documents(), QUERY) == expected
        assert (twin.ratio, twin.focus, type(twin.embeddings)) == (3, "question", type(given))
