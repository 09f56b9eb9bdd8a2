"""The same LlamaIndex application over three vector stores, with LlamaIndex's own integrations."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("llama_index.core", reason="LlamaIndex is not installed")

from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters

from lloco_integrations import placeholder
from lloco_integrations.llama_index import LLoCOCompress, LLoCOLLM, LLoCOPostprocessor, LLoCORetriever
from tests.vector_stores.conftest import Record
from tests.vector_stores.corpus import AWKWARD, HARBOUR, LAMPS, ORCHARD, QUESTION, RELIT, SOURCES, Source, keys
from tests.vector_stores.databases import Database
from tests.vector_stores.llama_index_app import EMBEDDING, Ours, document, embedded, forget, ingest, opened, opened_async, reopened, texts

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:table_names.. is deprecated:DeprecationWarning"),
]


@pytest.fixture
def ours(tiny_model: str, store_url: str) -> Ours:
    named: dict[str, Any] = {"model": tiny_model, "store": store_url, "dtype": "float32"}
    return Ours(
        LLoCOLLM(**named, max_new_tokens=4),
        LLoCOPostprocessor(**named, focus="none"),
        LLoCOPostprocessor(**named, focus="none", on_miss="raise"),
    )


def test_a_reopened_store_is_answered_from_placeholders_whole_once_and_in_order(database: Database, ours: Ours, record: Record) -> None:
    ingest(database)
    engine = ours.asks(reopened(database))
    response = engine.query(QUESTION)
    found = texts(response.source_nodes)
    assert found[0] == LAMPS.text
    assert sorted(found) == sorted(s.text for s in SOURCES)
    assert len(record.prompts) == 1
    assert keys(record.prompts[0]) == ours.keys_of(found)
    assert not any(s.text in record.prompts[0] for s in SOURCES)
    assert "file: lamps.md" in record.prompts[0]
    assert record.answers[0].usage.prompt_tokens < record.answers[0].usage.source_tokens
    assert str(response) == (record.answers[0].text.strip() or "Empty Response")


def test_sources_keep_what_the_store_gave(database: Database, ours: Ours) -> None:
    ingest(database)
    index = reopened(database)
    plain = index.as_retriever(similarity_top_k=3).retrieve(QUESTION)
    compressed = LLoCORetriever(index.as_retriever(similarity_top_k=3), postprocessor=ours.post).retrieve(QUESTION)
    assert {p.node.metadata["file"]: p.node.metadata for p in plain} == {s.file: s.metadata for s in SOURCES}
    assert plain[0].score is not None
    for before, after in zip(plain, compressed, strict=True):
        assert after.score == before.score
        assert after.node.metadata == before.node.metadata
        assert after.node.node_id == before.node.node_id
        assert after.node.hash == before.node.hash
        assert after.node.relationships == before.node.relationships
        assert after.text == before.text
        assert placeholder.count(after.node.get_content(MetadataMode.LLM)) == 1


async def test_async_gives_the_same(database: Database, ours: Ours, record: Record) -> None:
    ingest(database)
    before = ours.asks(reopened(database)).query(QUESTION)
    index = VectorStoreIndex.from_vector_store(opened_async(database), embed_model=EMBEDDING)
    after, again = await asyncio.gather(*(ours.asks(index).aquery(QUESTION) for _ in range(2)))
    assert str(before) == str(after) == str(again)
    assert [(n.score, n.node_id, n.text) for n in before.source_nodes] == [(n.score, n.node_id, n.text) for n in after.source_nodes]
    assert record.prompts == [record.prompts[0]] * 3


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ([MetadataFilter(key="group", value="land")], {ORCHARD}),
        ([MetadataFilter(key="page", value=2, operator=FilterOperator.GTE)], {HARBOUR, ORCHARD}),
        ([MetadataFilter(key="group", value="sea"), MetadataFilter(key="file", value="harbour.md")], {HARBOUR}),
    ],
)
def test_only_what_passes_the_filter_is_compressed(
    database: Database, ours: Ours, record: Record, compressions: list[str], filters: list[MetadataFilter], wanted: set[Source]
) -> None:
    ingest(database)
    engine = ours.asks(reopened(database), top_k=len(wanted), filters=MetadataFilters(filters=filters))
    response = engine.query(QUESTION)
    assert sorted(texts(response.source_nodes)) == sorted(compressions) == sorted(s.text for s in wanted)
    assert keys(record.prompts[0]) == ours.keys_of(texts(response.source_nodes))


def test_the_group_that_comes_back_from_the_store_chooses_the_adapter(
    database: Database, ours: Ours, record: Record, adapters: dict[str, str]
) -> None:
    ingest(database)
    ours.llm.adapters = adapters
    engine = ours.asks(reopened(database), top_k=1)
    assert engine.query(ORCHARD.text).source_nodes[0].metadata["group"] == "land"
    assert engine.query(HARBOUR.text).source_nodes[0].metadata["group"] == "sea"
    assert [made.adapter for made in record.answers] == ["land", "sea"]


def test_what_is_deleted_is_gone_and_what_is_changed_is_new(database: Database, ours: Ours, record: Record) -> None:
    ingest(database)
    index = reopened(database)
    forget(index, HARBOUR)
    forget(index, LAMPS)
    index.insert(document(RELIT))
    engine = ours.asks(reopened(database), top_k=5)
    response = engine.query(QUESTION)
    assert texts(response.source_nodes) == [RELIT.text, ORCHARD.text]
    assert keys(record.prompts[0]) == ours.keys_of([RELIT.text, ORCHARD.text])


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_after_ingestion_with_compression_nothing_is_compressed_again(
    database: Database, ours: Ours, record: Record, compressions: list[str], asynchronous: bool
) -> None:
    compress = LLoCOCompress(ours.llm.model, store=ours.llm.store, dtype="float32")
    steps, docstore = [SentenceSplitter(chunk_size=256, chunk_overlap=0), compress, EMBEDDING], SimpleDocumentStore()
    documents = [document(s) for s in SOURCES]

    async def run(given: list[Document]) -> Sequence[Any]:
        store = opened_async(database) if asynchronous else opened(database)
        upserts = {"docstore": docstore, "docstore_strategy": DocstoreStrategy.UPSERTS}
        pipeline = IngestionPipeline(transformations=steps, vector_store=store, disable_cache=True, **upserts)
        return await pipeline.arun(documents=given) if asynchronous else pipeline.run(documents=given)

    assert [type(node) for node in await run(documents)] == [TextNode] * 3
    assert await run(documents) == []
    assert sorted(compressions) == sorted(s.text for s in SOURCES)
    changed = [document(RELIT), *documents[1:]]
    if database.name == "lancedb":
        with suppress(ValueError):  # an upsert deletes first: see ``forget``
            await run(changed)
        forget(reopened(database), LAMPS)
        docstore.delete_document(LAMPS.id, raise_error=False)
    await run(changed)
    assert compressions[3:] == [RELIT.text]
    response = ours.asks(reopened(database), top_k=5, strict=True).query(QUESTION)
    assert texts(response.source_nodes)[0] == RELIT.text
    assert sorted(texts(response.source_nodes)) == sorted([RELIT.text, HARBOUR.text, ORCHARD.text])
    assert len(compressions) == 4
    assert keys(record.prompts[0]) == ours.keys_of(texts(response.source_nodes))


def test_texts_come_back_to_the_character_and_what_they_smuggle_is_harmless(database: Database, ours: Ours, record: Record) -> None:
    ours.strict.engine.compress(AWKWARD)
    sources = [Source(f"{i}.md", text, i, "sea") for i, text in enumerate(AWKWARD)]
    nodes = [TextNode(id_=s.id, text=s.text, metadata={**s.metadata, "note": AWKWARD[-1]}) for s in sources]
    VectorStoreIndex(nodes, storage_context=StorageContext.from_defaults(vector_store=opened(database)), embed_model=EMBEDDING)
    response = ours.asks(reopened(database), top_k=9, strict=True).query("Quotes")
    assert sorted(texts(response.source_nodes)) == sorted(AWKWARD)
    assert all(n.metadata["note"] == AWKWARD[-1] for n in response.source_nodes)
    assert sorted(keys(record.prompts[0])) == sorted(ours.keys_of(AWKWARD))


def test_compressed_nodes_that_are_stored_come_back_as_their_text(database: Database, ours: Ours, record: Record) -> None:
    compressed = ours.post.postprocess_nodes([NodeWithScore(node=TextNode(id_=s.id, text=s.text, metadata=s.metadata)) for s in SOURCES])
    assert all(placeholder.count(n.node.get_content(MetadataMode.LLM)) == 1 for n in compressed)
    context = StorageContext.from_defaults(vector_store=opened(database))
    VectorStoreIndex([n.node for n in compressed], storage_context=context, embed_model=EMBEDDING)
    response = ours.asks(reopened(database)).query(QUESTION)
    assert response.source_nodes[0].text == LAMPS.text
    assert response.source_nodes[0].metadata == LAMPS.metadata
    assert keys(record.prompts[0]) == ours.keys_of(texts(response.source_nodes))
    assert {text: vector for vector, text, _ in database.rows()} == {s.text: pytest.approx(embedded(s)) for s in SOURCES}


def test_the_database_holds_texts_and_their_embeddings_only(database: Database, ours: Ours) -> None:
    ingest(database)
    ours.asks(reopened(database)).query(QUESTION)
    rows = database.rows()
    assert {text: vector for vector, text, _ in rows} == {s.text: pytest.approx(embedded(s)) for s in SOURCES}
    for _, text, everything in rows:
        assert text in everything
        assert "lloco" not in everything.lower()
