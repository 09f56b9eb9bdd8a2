"""Retrievers that people compose, and other postprocessors before and after ours."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.node_parser import HierarchicalNodeParser, SentenceWindowNodeParser, get_leaf_nodes
from llama_index.core.postprocessor import (
    LLMRerank,
    LongContextReorder,
    MetadataReplacementPostProcessor,
    PrevNextNodePostprocessor,
    SimilarityPostprocessor,
)
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import AutoMergingRetriever, QueryFusionRetriever, RecursiveRetriever
from llama_index.core.schema import IndexNode, MetadataMode, NodeRelationship, NodeWithScore, QueryBundle, RelatedNodeInfo, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import ExactMatchFilter, MetadataFilters

from lloco_integrations.llama_index import LLoCOLLM, LLoCOPostprocessor, LLoCORetriever

from .conftest import TEXTS, whole_summaries
from .scripted import script
from .test_pipelines import check_sources, marks

QUESTION = "the lamps of Carrow"


class LongestFirst(BaseNodePostprocessor):
    """A reranker that reads the text, as cross-encoders do."""

    mode: MetadataMode = MetadataMode.EMBED

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        ranked = sorted(nodes, key=lambda n: -len(n.node.get_content(self.mode)))
        return [NodeWithScore(node=n.node, score=float(len(n.node.get_content(self.mode)))) for n in ranked]


def neighbours(nodes: list[TextNode]) -> PrevNextNodePostprocessor:
    """Needs relationships, which it gives ``nodes``."""
    for a, b in pairwise(nodes):
        a.relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id=b.id_)
        b.relationships[NodeRelationship.PREVIOUS] = RelatedNodeInfo(node_id=a.id_)
    docstore = SimpleDocumentStore()
    docstore.add_documents(nodes)
    return PrevNextNodePostprocessor(docstore=docstore, mode="next")


OTHERS: dict[str, Callable[[list[TextNode]], BaseNodePostprocessor]] = {
    "similarity": lambda nodes: SimilarityPostprocessor(similarity_cutoff=0.35),
    "reorder": lambda nodes: LongContextReorder(),
    "reranker": lambda nodes: LongestFirst(),
    "neighbours": neighbours,
}


def seen_by_the_llm(post: LLoCOPostprocessor, nodes: list[NodeWithScore]) -> list[str]:
    return marks([n.get_content(MetadataMode.LLM) for n in post.postprocess_nodes(nodes, query_str=QUESTION)])


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("name", "place"), [(n, p) for n in OTHERS for p in ("before", "after") if (n, p) != ("neighbours", "after")])
async def test_other_postprocessors_do_before_and_after_what_they_do_alone(
    name: str, place: str, asynchronous: bool, nodes: list[TextNode], installed: LLoCOLLM, post: LLoCOPostprocessor, prompts: list[str]
) -> None:
    other = OTHERS[name](nodes)
    retriever = VectorStoreIndex(nodes).as_retriever(similarity_top_k=1 if name == "neighbours" else 3)
    plain = other.postprocess_nodes(retriever.retrieve(QUESTION), query_str=QUESTION)
    engine = RetrieverQueryEngine.from_args(retriever, node_postprocessors=[other, post] if place == "before" else [post, other])
    response = await engine.aquery(QUESTION) if asynchronous else engine.query(QUESTION)
    check_sources(response, plain)
    assert len(plain) == {"similarity": 2, "neighbours": 2}.get(name, 3)
    assert marks(prompts) == seen_by_the_llm(post, plain)
    assert not any(text in prompts[0] for text in TEXTS)


@whole_summaries
def test_what_is_added_after_ours_is_raw_text_unless_ours_comes_again(
    nodes: list[TextNode], installed: LLoCOLLM, post: LLoCOPostprocessor, prompts: list[str]
) -> None:
    other = neighbours(nodes)
    retriever = VectorStoreIndex(nodes).as_retriever(similarity_top_k=1)
    RetrieverQueryEngine.from_args(retriever, node_postprocessors=[post, other]).query(QUESTION)
    assert (len(marks(prompts)), sum(text in prompts[0] for text in TEXTS)) == (1, 1)
    prompts.clear()
    RetrieverQueryEngine.from_args(retriever, node_postprocessors=[post, other, post]).query(QUESTION)
    assert (len(marks(prompts)), sum(text in prompts[0] for text in TEXTS)) == (2, 0)


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_sentence_window_is_compressed_if_it_is_put_in_before_ours(
    place: str, installed: LLoCOLLM, post: LLoCOPostprocessor, prompts: list[str]
) -> None:
    nodes = SentenceWindowNodeParser.from_defaults(window_size=1).get_nodes_from_documents([Document(text=" ".join(TEXTS))])
    retriever = VectorStoreIndex(nodes).as_retriever(similarity_top_k=1)
    window = retriever.retrieve(QUESTION)[0].metadata["window"]
    replace = MetadataReplacementPostProcessor("window")
    chain = [replace, post] if place == "before" else [post, replace]
    response = RetrieverQueryEngine.from_args(retriever, node_postprocessors=chain).query(QUESTION)
    assert response.source_nodes[0].text == window
    if place == "before":
        assert marks(prompts) == seen_by_the_llm(post, [NodeWithScore(node=TextNode(text=window))])
        assert window not in prompts[0]
    else:
        assert marks(prompts) == []
        assert window in prompts[0]


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_reranker_that_asks_the_model_reads_texts_before_ours_and_summaries_after(
    place: str, index: VectorStoreIndex, installed: LLoCOLLM, post: LLoCOPostprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = script(monkeypatch, lambda p: "Doc: 3, Relevance: 9\nDoc: 1, Relevance: 7" if "Relevance" in p else None)
    rerank = LLMRerank(top_n=2)
    found = index.as_retriever(similarity_top_k=3).retrieve(QUESTION)
    chain = [rerank, post] if place == "before" else [post, rerank]
    response = index.as_query_engine(node_postprocessors=chain, similarity_top_k=3).query(QUESTION)
    assert [(n.id_, n.score) for n in response.source_nodes] == [(found[2].id_, 9.0), (found[0].id_, 7.0)]
    seen = {n.id_: marks([n.get_content(MetadataMode.LLM)]) for n in post.postprocess_nodes(found, query_str=QUESTION)}
    if place == "before":
        assert marks(prompts[1:]) == seen_by_the_llm(post, [found[2], found[0]])
        assert all(n.text in prompts[0] for n in found)
    else:
        assert marks(prompts[1:]) == [*seen[found[2].id_], *seen[found[0].id_]]
        assert marks(prompts[:1]) == seen_by_the_llm(post, found)


def test_metadata_filters(index: VectorStoreIndex, installed: LLoCOLLM, post: LLoCOPostprocessor, prompts: list[str]) -> None:
    filters = MetadataFilters(filters=[ExactMatchFilter(key="page", value=1)])
    response = index.as_query_engine(node_postprocessors=[post], filters=filters, similarity_top_k=3).query(QUESTION)
    assert [n.text for n in response.source_nodes] == [TEXTS[1]]
    assert len({mark.split("|")[1][:32] for mark in marks(prompts)}) == 1


def merging(**_: Any) -> BaseRetriever:
    """Finds leaves and hands on their parents."""
    documents = [Document(text=" ".join(TEXTS), id_="d0"), Document(text="Nothing of the kind. Not at all.", id_="d1")]
    nodes = HierarchicalNodeParser.from_defaults(chunk_sizes=[300, 80], chunk_overlap=0).get_nodes_from_documents(documents)
    storage = StorageContext.from_defaults()
    storage.docstore.add_documents(nodes)
    leaves = VectorStoreIndex(get_leaf_nodes(nodes), storage_context=storage).as_retriever(similarity_top_k=3)
    return AutoMergingRetriever(leaves, storage)  # type: ignore[arg-type]


def fusing(index: VectorStoreIndex) -> BaseRetriever:
    retrievers = [index.as_retriever(similarity_top_k=2), VectorStoreIndex([TextNode(text="Carrow has a light.")]).as_retriever()]
    return QueryFusionRetriever(retrievers, num_queries=1, similarity_top_k=3, mode="reciprocal_rerank", use_async=False)  # type: ignore[arg-type]


def recursive(index: VectorStoreIndex) -> BaseRetriever:
    root = VectorStoreIndex([IndexNode(text="lamps", index_id="lamps"), IndexNode(text="of Carrow", index_id="one")])
    dictionary = {"root": root.as_retriever(), "lamps": index.as_retriever(similarity_top_k=2)}
    return RecursiveRetriever("root", retriever_dict=dictionary, node_dict={"one": TextNode(text="One node alone.")})


def objects(index: VectorStoreIndex) -> BaseRetriever:
    """An index whose nodes stand for other retrievers."""
    return VectorStoreIndex(objects=[IndexNode(text="lamps", index_id="lamps", obj=index.as_retriever(similarity_top_k=2))]).as_retriever()


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("wrapped", [False, True], ids=["postprocessor", "retriever"])
@pytest.mark.parametrize(("make", "n"), [(merging, 2), (fusing, 3), (recursive, 3), (objects, 2)], ids=lambda v: getattr(v, "__name__", ""))
async def test_composed_retrievers(
    make: Any,
    n: int,
    wrapped: bool,
    asynchronous: bool,
    index: VectorStoreIndex,
    installed: LLoCOLLM,
    post: LLoCOPostprocessor,
    prompts: list[str],
) -> None:
    retriever = make(index=index)
    plain = retriever.retrieve(QUESTION)
    assert len(plain) == n
    assert make is not merging or " ".join(TEXTS) in [x.text for x in plain], "leaves became their parent"
    if wrapped:
        engine = RetrieverQueryEngine.from_args(LLoCORetriever(retriever, postprocessor=post))
    else:
        engine = RetrieverQueryEngine.from_args(retriever, node_postprocessors=[post])
    response = await engine.aquery(QUESTION) if asynchronous else engine.query(QUESTION)
    check_sources(response, plain)
    assert marks(prompts) == seen_by_the_llm(post, plain)
    assert not any(x.text in prompts[0] for x in plain)


def test_compressed_nodes_inside_a_fusion_stay_compressed(
    index: VectorStoreIndex, installed: LLoCOLLM, post: LLoCOPostprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = script(monkeypatch, lambda p: "keeper Ilse\nblue book" if "search queries" in p else None)
    inner = [LLoCORetriever(index.as_retriever(), postprocessor=post)]
    fused = QueryFusionRetriever(inner, num_queries=3, similarity_top_k=3, use_async=False)  # type: ignore[arg-type]
    response = RetrieverQueryEngine.from_args(fused).query(QUESTION)
    assert len(response.source_nodes) == len(marks(prompts)) == 3
    assert marks(prompts[:1]) == [], "the query generator reads the question alone"
