"""The retrievers and document compressors that people use, with ours around them, inside them and behind them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_classic.retrievers import (
    ContextualCompressionRetriever,
    EnsembleRetriever,
    MergerRetriever,
    MultiQueryRetriever,
    MultiVectorRetriever,
    ParentDocumentRetriever,
    RePhraseQueryRetriever,
    TimeWeightedVectorStoreRetriever,
)
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline, EmbeddingsFilter, LLMChainFilter
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import BaseDocumentCompressor, BaseDocumentTransformer, Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.stores import InMemoryByteStore, InMemoryStore
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_text_splitters import CharacterTextSplitter

from lloco_integrations.langchain import ChatLLoCO, LLoCODocumentCompressor, LLoCOLLM, LLoCORetriever, original_text
from tests.langchain.parts import TEXTS, HashEmbeddings, documents, vector_store
from tests.langchain.scripted import marks, scripted

QUERY = "When is the lantern room of the lighthouse open?"
SPLITTER = CharacterTextSplitter(chunk_size=80, chunk_overlap=0, separator=". ")


class Words(BaseRetriever):
    """A keyword search without an index: most words in common first."""

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        asked = set(query.lower().split())
        return sorted(documents(), key=lambda d: -len(asked & set(d.page_content.lower().split())))[:2]


class Longest(BaseDocumentCompressor):
    """A reranker of somebody's own, which reads the text of documents."""

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks: Any = None) -> list[Document]:
        return sorted(documents, key=lambda d: -len(original_text(d)))[:2]


class Reversed(BaseDocumentTransformer):
    def transform_documents(self, documents: Sequence[Document], **kwargs: Any) -> list[Document]:
        return list(documents)[::-1]


def cosine(a: Any, b: Any) -> Any:
    from langchain_core.vectorstores.utils import _cosine_similarity

    return _cosine_similarity(a, b)


def dense(k: int = 2) -> BaseRetriever:
    return vector_store().as_retriever(search_kwargs={"k": k})


def parents() -> ParentDocumentRetriever:
    made = ParentDocumentRetriever(vectorstore=InMemoryVectorStore(HashEmbeddings()), docstore=InMemoryStore(), child_splitter=SPLITTER)
    made.add_documents(documents())
    return made


def vectors() -> MultiVectorRetriever:
    made = MultiVectorRetriever(vectorstore=InMemoryVectorStore(HashEmbeddings()), byte_store=InMemoryByteStore(), id_key="parent")
    made.docstore.mset([(str(d.id), d) for d in documents()])
    made.vectorstore.add_documents([Document(d.page_content[:60], metadata={"parent": d.id}) for d in documents()])
    return made


class Scored(InMemoryVectorStore):
    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda score: score


def recent() -> TimeWeightedVectorStoreRetriever:
    made = TimeWeightedVectorStoreRetriever(vectorstore=Scored(HashEmbeddings()), k=2)
    made.add_documents(documents())
    return made


def filtered() -> ContextualCompressionRetriever:
    keep = EmbeddingsFilter(embeddings=HashEmbeddings(), similarity_fn=cosine, k=2)
    return ContextualCompressionRetriever(base_compressor=keep, base_retriever=dense(4))


SOURCES: dict[str, Callable[[ChatLLoCO], Runnable[str, list[Document]]]] = {
    "similarity": lambda chat: dense(),
    "mmr": lambda chat: vector_store().as_retriever(search_type="mmr", search_kwargs={"k": 3}),
    "ensemble": lambda chat: EnsembleRetriever(retrievers=[Words(), dense()], weights=[0.4, 0.6]),
    "merger": lambda chat: MergerRetriever(retrievers=[Words(), dense()]),
    "multi query": lambda chat: MultiQueryRetriever.from_llm(dense(), chat),
    "rephrase": lambda chat: RePhraseQueryRetriever.from_llm(dense(), chat),
    "parents": lambda chat: parents(),
    "many vectors": lambda chat: vectors(),
    "time": lambda chat: recent(),
    "filtered": lambda chat: filtered(),
    "own": lambda chat: Words(),
    "function": lambda chat: RunnableLambda(lambda query: documents()[::-1]),
}
SYNC_ONLY = ("rephrase",)  # LangChain's own raises NotImplementedError when it is awaited


@pytest.mark.parametrize("name", SOURCES)
async def test_around_any_retriever_the_same_documents_come_in_the_same_order(name: str, named: dict[str, Any], chat: ChatLLoCO) -> None:
    source = SOURCES[name](chat)
    over = LLoCORetriever(**named, retriever=source, focus="none")
    with scripted(f"{QUERY}\nthe lantern room"):
        plain, made = source.invoke(QUERY), over.invoke(QUERY)
        awaited = made if name in SYNC_ONLY else await over.ainvoke(QUERY)
    assert [original_text(d) for d in made] == [d.page_content for d in plain]
    assert TEXTS[0] in map(original_text, made)
    assert [len(marks(d.page_content)) for d in made] == [1] * len(plain)
    assert [d.id for d in made] == [d.id for d in plain]
    assert [(d.page_content, original_text(d)) for d in awaited] == [(d.page_content, original_text(d)) for d in made]
    for old, new in zip(plain, made, strict=True):
        assert new.metadata["source"] == old.metadata["source"]


@pytest.mark.parametrize("name", ["parents", "many vectors"])
def test_a_passage_that_fits_brings_the_summary_of_its_whole_document(name: str, named: dict[str, Any], chat: ChatLLoCO) -> None:
    source = SOURCES[name](chat)
    passages = source.vectorstore.similarity_search(QUERY, k=1)  # type: ignore[attr-defined]
    best = LLoCORetriever(**named, retriever=source, k=1, focus="none").invoke(QUERY)[0]
    assert passages[0].page_content != original_text(best) == TEXTS[0]
    assert best.metadata["lloco_tokens"] == len(TEXTS[0]), "one token a character in the tiny model"


def test_an_ensemble_of_ours_and_another_hands_on_both_views_of_a_document(retriever: LLoCORetriever) -> None:
    """By default it tells documents apart by content: a placeholder and its text are two."""
    found = EnsembleRetriever(retrievers=[retriever, Words()]).invoke(QUERY)
    assert [original_text(d) for d in found].count(TEXTS[0]) == 2


async def test_an_ensemble_with_id_key_hands_on_one_view_of_a_document(retriever: LLoCORetriever) -> None:
    ensemble = EnsembleRetriever(retrievers=[retriever, Words()], id_key="source")
    found = ensemble.invoke(QUERY)
    originals = [original_text(d) for d in found]
    assert originals.count(TEXTS[0]) == 1
    assert len(set(originals)) == len(found)
    assert marks(found[0].page_content), "the first retriever's view is the one that stays"
    assert await ensemble.ainvoke(QUERY) == found


def test_an_ensemble_of_ours_alone_needs_no_key(named: dict[str, Any], retriever: LLoCORetriever) -> None:
    found = EnsembleRetriever(retrievers=[retriever, LLoCORetriever(**named, retriever=Words(), focus="none")]).invoke(QUERY)
    assert len({d.page_content for d in found}) == len(found)
    assert all(marks(d.page_content) for d in found)


def test_inside_a_multi_query_retriever_each_document_comes_once(retriever: LLoCORetriever, chat: ChatLLoCO) -> None:
    queries = ["the lantern room of the lighthouse", QUERY, "the harbour master's tide tables"]
    with scripted("\n".join(queries)):
        found = MultiQueryRetriever.from_llm(retriever, chat).invoke(QUERY)
    assert [d.page_content for d in found] == list(dict.fromkeys(d.page_content for q in queries for d in retriever.invoke(q)))


def test_a_merger_with_ours_inside_keeps_everything(retriever: LLoCORetriever) -> None:
    found = MergerRetriever(retrievers=[retriever, Words()]).invoke(QUERY)
    assert found[::2] == retriever.invoke(QUERY)
    assert [original_text(d) for d in found[1::2]] == [d.page_content for d in Words().invoke(QUERY)]


async def test_at_the_end_of_a_pipeline_the_steps_before_read_text(compressor: LLoCODocumentCompressor) -> None:
    community = pytest.importorskip("langchain_community.document_transformers")
    seen: list[str] = []

    class Spying(HashEmbeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            seen.extend(texts)
            return super().embed_documents(texts)

    steps = [
        community.EmbeddingsRedundantFilter(embeddings=Spying()),
        EmbeddingsFilter(embeddings=Spying(), similarity_fn=cosine, k=3),
        community.LongContextReorder(),
    ]
    twins = RunnableLambda(lambda query: [*documents(), *documents()])

    def over(*last: Any) -> ContextualCompressionRetriever:
        return ContextualCompressionRetriever(
            base_compressor=DocumentCompressorPipeline(transformers=[*steps, *last]), base_retriever=twins
        )

    plain, made = over().invoke(QUERY), over(compressor).invoke(QUERY)
    assert len(plain) == 3
    assert [original_text(d) for d in made] == [d.page_content for d in plain]
    assert [len(marks(d.page_content)) for d in made] == [1, 1, 1]
    assert set(seen) == set(TEXTS)
    assert [d.page_content for d in await over(compressor).ainvoke(QUERY)] == [d.page_content for d in made]


@pytest.mark.parametrize("order", ["before", "behind"])
def test_a_reranker_may_stand_before_or_behind(order: str, compressor: LLoCODocumentCompressor) -> None:
    """What only moves documents about may come later, too, if it reads them with ``original_text``."""
    steps = [Longest(), Reversed(), compressor] if order == "before" else [compressor, Longest(), Reversed()]
    pipeline = DocumentCompressorPipeline(transformers=steps)
    found = ContextualCompressionRetriever(base_compressor=pipeline, base_retriever=dense(4)).invoke(QUERY)
    assert [original_text(d) for d in found] == sorted(TEXTS, key=len)[-2:]
    assert all(marks(d.page_content) for d in found)


def test_a_filter_by_model_may_read_summaries(compressor: LLoCODocumentCompressor, llm: LLoCOLLM) -> None:
    """LLMChainFilter asks about each document: behind our compressor it asks with the placeholder, at the price of its vectors."""
    pipeline = DocumentCompressorPipeline(transformers=[compressor, LLMChainFilter.from_llm(llm)])
    with scripted("YES", "NO", "NO", "YES") as asked:
        kept = ContextualCompressionRetriever(base_compressor=pipeline, base_retriever=dense(4)).invoke(QUERY)
    assert [len(marks(prompt)) for prompt in asked] == [1] * 4
    assert [d.page_content for d in kept] == [marks(asked[0])[0], marks(asked[3])[0]]


def test_what_a_docstore_gives_back_is_untouched(named: dict[str, Any]) -> None:
    """A ParentDocumentRetriever over an in-memory docstore hands out its own objects."""
    source = parents()
    before = json.dumps([d.model_dump() for d in source.invoke(QUERY)])
    LLoCORetriever(**named, retriever=source, focus="none").invoke(QUERY)
    assert json.dumps([d.model_dump() for d in source.invoke(QUERY)]) == before
