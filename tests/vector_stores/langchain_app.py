"""How a LangChain application opens and fills its vector store, and what it asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnablePassthrough
from langchain_core.vectorstores import VectorStore

from lloco_integrations.langchain import ChatLLoCO
from tests.langchain.parts import HashEmbeddings, joined
from tests.vector_stores.corpus import SOURCES, Source
from tests.vector_stores.databases import COLLECTION, Database

EMBEDDING = HashEmbeddings()
OURS = {"lloco_text", "lloco_positions", "lloco_tokens"}
QDRANTS = {"_id", "_collection_name"}


def opened(database: Database) -> VectorStore:
    """LangChain's own vector store on a fresh client."""
    if database.name == "chromadb":
        module = pytest.importorskip("langchain_chroma", reason="langchain-chroma is not installed")
        return module.Chroma(COLLECTION, EMBEDDING, client=database.connect())
    if database.name == "qdrant":
        module = pytest.importorskip("langchain_qdrant", reason="langchain-qdrant is not installed")
        from qdrant_client.models import Distance, VectorParams

        client = database.connect()
        if not client.collection_exists(COLLECTION):
            client.create_collection(COLLECTION, VectorParams(size=64, distance=Distance.COSINE))
        return module.QdrantVectorStore(client, COLLECTION, EMBEDDING)
    module = pytest.importorskip("langchain_community.vectorstores", reason="langchain-community (for LanceDB) is not installed")
    return module.LanceDB(uri=str(database.path), table_name=COLLECTION, embedding=EMBEDDING, mode="append")


def where(database: Database, key: str, value: Any) -> dict[str, Any]:
    """What each of them calls a filter. LanceDB's integration would filter the k that it has found already."""
    if database.name == "chromadb":
        return {"filter": {key: value}}
    if database.name == "lancedb":
        return {"filter": f"metadata.{key} = {value!r}", "prefilter": True}
    from qdrant_client.models import FieldCondition, Filter, MatchValue

    return {"filter": Filter(must=[FieldCondition(key=f"metadata.{key}", match=MatchValue(value=value))])}


def document(source: Source) -> Document:
    return Document(id=source.id, page_content=source.text, metadata=source.metadata)


def ingest(database: Database, sources: Sequence[Source] = SOURCES) -> None:
    opened(database).add_documents([document(s) for s in sources])


def application(retriever: Runnable[str, list[Document]], chat: ChatLLoCO) -> Runnable[str, str]:
    prompt = ChatPromptTemplate.from_template("{context}\n\nQuestion: {question}\nAnswer:")
    return {"context": retriever | joined, "question": RunnablePassthrough()} | prompt | chat | StrOutputParser()


def without(metadata: dict[str, Any], *names: str) -> dict[str, Any]:
    return {k: v for k, v in metadata.items() if k not in (*names, *QDRANTS)}
