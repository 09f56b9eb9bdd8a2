"""The same LangChain application over three vector stores, with LangChain's own integrations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

pytest.importorskip("langchain_core", reason="LangChain is not installed")

pytest.importorskip("langchain_classic", reason="langchain-classic is not installed")

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index

from lloco_integrations import placeholder
from lloco_integrations.langchain import ChatLLoCO, LLoCODocumentCompressor, LLoCORetriever, original_text
from tests.vector_stores.conftest import Record
from tests.vector_stores.corpus import AWKWARD, HARBOUR, LAMPS, ORCHARD, QUESTION, RELIT, SOURCES, Source, identify, keys
from tests.vector_stores.databases import Database
from tests.vector_stores.langchain_app import EMBEDDING, OURS, application, document, ingest, opened, where, without

pytestmark = pytest.mark.filterwarnings("ignore:.*langchain-community.*:DeprecationWarning")


def unit(vector: Sequence[float]) -> list[float]:
    length = math.hypot(*vector)
    return [x / length for x in vector]


@pytest.fixture
def named(tiny_model: str, store_url: str) -> dict[str, Any]:
    return {"model": tiny_model, "store": store_url, "device": "cpu", "dtype": "float32"}


@pytest.fixture
def chat(named: dict[str, Any]) -> ChatLLoCO:
    return ChatLLoCO(**named, max_tokens=4)


@pytest.fixture
def expected(named: dict[str, Any]) -> Callable[[Sequence[str]], list[str]]:
    """The keys of texts, from the store itself."""
    engine = ChatLLoCO(**named).engine
    return lambda given: [engine.store.key(engine.model.fingerprint, text) for text in given]


def test_a_reopened_store_is_answered_from_placeholders_whole_once_and_in_order(
    database: Database, named: dict[str, Any], chat: ChatLLoCO, record: Record, expected: Callable[..., list[str]]
) -> None:
    ingest(database)
    store = opened(database)
    plain = [d.page_content for d in store.similarity_search(QUESTION, k=3)]
    answer = application(LLoCORetriever(**named, focus="none", vectorstore=store, k=3), chat).invoke(QUESTION)
    assert plain[0] == LAMPS.text
    assert sorted(plain) == sorted(s.text for s in SOURCES)
    assert len(record.prompts) == 1
    assert keys(record.prompts[0]) == expected(plain)
    assert not any(s.text in record.prompts[0] for s in SOURCES)
    assert record.answers[0].usage.prompt_tokens < record.answers[0].usage.source_tokens
    assert answer == record.answers[0].text


def test_sources_keep_what_the_store_gave(database: Database, named: dict[str, Any]) -> None:
    """LanceDB's integration gives back no ids, and Qdrant's puts them into the metadata."""
    ingest(database)
    store = opened(database)
    plain = store.similarity_search(QUESTION, k=3)
    compressor = LLoCODocumentCompressor(**named, focus="none")
    wrapped = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=store.as_retriever(search_kwargs={"k": 3}))
    assert {d.metadata["file"]: without(d.metadata) for d in plain} == {s.file: s.metadata for s in SOURCES}
    assert {d.id or d.metadata.get("_id") for d in plain} == ({None} if database.name == "lancedb" else {s.id for s in SOURCES})
    for ours in (LLoCORetriever(**named, focus="none", vectorstore=store, k=3).invoke(QUESTION), wrapped.invoke(QUESTION)):
        assert [d.id for d in ours] == [d.id for d in plain]
        assert [original_text(d) for d in ours] == [d.page_content for d in plain]
        assert [{k: v for k, v in d.metadata.items() if k not in OURS} for d in ours] == [d.metadata for d in plain]
        assert [placeholder.count(d.page_content) for d in ours] == [1, 1, 1]


async def test_async_gives_the_same(database: Database, named: dict[str, Any], chat: ChatLLoCO, record: Record) -> None:
    ingest(database)
    retriever = LLoCORetriever(**named, focus="none", vectorstore=opened(database), k=3)
    assert await retriever.ainvoke(QUESTION) == retriever.invoke(QUESTION)
    chain = application(retriever, chat)
    before = chain.invoke(QUESTION)
    assert await chain.abatch([QUESTION, QUESTION]) == [before, before]
    assert record.prompts == [record.prompts[0]] * 3


@pytest.mark.parametrize(("key", "value", "wanted"), [("group", "sea", {LAMPS, HARBOUR}), ("page", 3, {ORCHARD})])
def test_only_what_passes_the_filter_is_compressed(
    database: Database, named: dict[str, Any], compressions: list[str], key: str, value: Any, wanted: set[Source]
) -> None:
    ingest(database)
    search = where(database, key, value)
    found = LLoCORetriever(**named, focus="none", vectorstore=opened(database), k=len(wanted), search_kwargs=search).invoke(QUESTION)
    assert {without(d.metadata, *OURS)["file"] for d in found} == {s.file for s in wanted}
    assert sorted(map(original_text, found)) == sorted(compressions) == sorted(s.text for s in wanted)


def test_search_by_marginal_relevance_is_compressed_too(database: Database, named: dict[str, Any]) -> None:
    ingest(database)
    found = LLoCORetriever(**named, focus="none", vectorstore=opened(database), k=2, search_type="mmr").invoke(QUESTION)
    assert LAMPS.text in map(original_text, found)
    assert [placeholder.count(d.page_content) for d in found] == [1, 1]


def test_the_group_that_comes_back_from_the_store_chooses_the_adapter(
    database: Database, named: dict[str, Any], record: Record, adapters: dict[str, str]
) -> None:
    ingest(database)
    retriever = LLoCORetriever(**named, focus="none", vectorstore=opened(database), k=1, group_key="group")
    chain = application(retriever, ChatLLoCO(**named, max_tokens=4, adapters=adapters))
    chain.invoke(ORCHARD.text)
    chain.invoke(HARBOUR.text)
    assert [made.adapter for made in record.answers] == ["land", "sea"]


def test_what_is_deleted_is_gone_and_what_is_changed_is_new(
    database: Database, named: dict[str, Any], chat: ChatLLoCO, record: Record, expected: Callable[..., list[str]]
) -> None:
    ingest(database)
    store = opened(database)
    store.delete([HARBOUR.id, LAMPS.id])
    store.add_documents([document(RELIT)])
    application(LLoCORetriever(**named, focus="none", vectorstore=opened(database), k=5), chat).invoke(QUESTION)
    assert keys(record.prompts[0]) == expected([RELIT.text, ORCHARD.text])


def test_langchains_indexing_compresses_what_is_new_and_nothing_else(
    database: Database,
    named: dict[str, Any],
    chat: ChatLLoCO,
    record: Record,
    expected: Callable[..., list[str]],
    compressions: list[str],
) -> None:
    records = InMemoryRecordManager("docs")
    records.create_schema()
    compressor = LLoCODocumentCompressor(**named, focus="none")

    def run(sources: Sequence[Source]) -> tuple[int, int, int]:
        documents = [Document(s.text, metadata=s.metadata) for s in sources]
        compressor.compress_documents(documents, "")  # fills the store, changes no document
        options: dict[str, Any] = {"cleanup": "incremental", "source_id_key": "file", "key_encoder": lambda d: identify(d.page_content)}
        done = index(documents, records, opened(database), **options)
        return done["num_added"], done["num_skipped"], done["num_deleted"]

    assert run(SOURCES) == (3, 0, 0)
    assert run(SOURCES) == (0, 3, 0)
    assert run([RELIT, HARBOUR, ORCHARD]) == (1, 2, 1)
    assert compressions == [LAMPS.text, HARBOUR.text, ORCHARD.text, RELIT.text]
    strict = LLoCORetriever(**named, focus="none", vectorstore=opened(database), k=5, on_miss="raise")
    assert sorted(map(original_text, strict.invoke(QUESTION))) == sorted([RELIT.text, HARBOUR.text, ORCHARD.text])
    application(strict, chat).invoke(QUESTION)
    assert len(compressions) == 4
    assert sorted(keys(record.prompts[0])) == sorted(expected([RELIT.text, HARBOUR.text, ORCHARD.text]))


def test_texts_come_back_to_the_character_and_what_they_smuggle_is_harmless(
    database: Database, named: dict[str, Any], chat: ChatLLoCO, record: Record, expected: Callable[..., list[str]]
) -> None:
    LLoCODocumentCompressor(**named, focus="none").compress_documents([Document(text) for text in AWKWARD], "")
    sources = [Source(f"{i}.md", text, i, "sea") for i, text in enumerate(AWKWARD)]
    opened(database).add_documents([Document(id=s.id, page_content=s.text, metadata={"note": AWKWARD[-1], **s.metadata}) for s in sources])
    strict = LLoCORetriever(**named, focus="none", vectorstore=opened(database), k=9, on_miss="raise")
    found = strict.invoke("Quotes")
    assert sorted(map(original_text, found)) == sorted(AWKWARD)
    assert not any(placeholder.count(d.metadata["note"]) for d in found)
    application(strict, chat).invoke("Quotes")
    assert sorted(keys(record.prompts[0])) == sorted(expected(AWKWARD))


def test_compressed_documents_that_are_stored_come_back_usable(
    database: Database, named: dict[str, Any], chat: ChatLLoCO, record: Record, expected: Callable[..., list[str]]
) -> None:
    """A retriever makes the same of them by the text in their metadata; but they are found by what their placeholders embed to."""
    compressed = LLoCODocumentCompressor(**named, focus="none").compress_documents([document(s) for s in SOURCES], "")
    opened(database).add_documents(compressed)
    retriever = LLoCORetriever(**named, focus="none", vectorstore=opened(database), k=3)
    found = retriever.invoke(QUESTION)
    assert {original_text(d): without(d.metadata, *OURS) for d in found} == {s.text: s.metadata for s in SOURCES}
    application(retriever, chat).invoke(QUESTION)
    assert sorted(keys(record.prompts[0])) == sorted(expected([s.text for s in SOURCES]))
    rows = {text: vector for vector, text, _ in database.rows()}
    assert sorted(rows) == sorted(c.page_content for c in compressed)
    assert all(unit(vector) == pytest.approx(unit(EMBEDDING.embed_query(text))) for text, vector in rows.items())


def test_the_database_holds_texts_and_their_embeddings_only(database: Database, named: dict[str, Any], chat: ChatLLoCO) -> None:
    ingest(database)
    application(LLoCORetriever(**named, focus="none", vectorstore=opened(database), k=3), chat).invoke(QUESTION)
    rows = database.rows()
    assert sorted(text for _, text, _ in rows) == sorted(s.text for s in SOURCES)
    for vector, text, everything in rows:
        assert text in everything
        assert "lloco" not in everything.lower()
        assert unit(vector) == pytest.approx(unit(EMBEDDING.embed_query(text)))  # some keep directions only
