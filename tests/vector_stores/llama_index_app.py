"""How a LlamaIndex application opens, fills and empties its vector store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.schema import MetadataMode, NodeWithScore
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from lloco_integrations.llama_index import LLoCOLLM, LLoCOPostprocessor
from tests.llama_index.conftest import HashEmbedding
from tests.vector_stores.corpus import SOURCES, Source
from tests.vector_stores.databases import COLLECTION, Database, Qdrant

EMBEDDING = HashEmbedding()
_NEEDS = "llama-index-vector-stores-{0} is not installed"


def opened(database: Database) -> BasePydanticVectorStore:
    """LlamaIndex's own vector store on a fresh client."""
    if database.name == "chromadb":
        module = pytest.importorskip("llama_index.vector_stores.chroma", reason=_NEEDS.format("chroma"))
        return module.ChromaVectorStore(chroma_collection=database.connect().get_or_create_collection(COLLECTION))
    if database.name == "qdrant":
        module = pytest.importorskip("llama_index.vector_stores.qdrant", reason=_NEEDS.format("qdrant"))
        return module.QdrantVectorStore(COLLECTION, client=database.connect())
    module = pytest.importorskip("llama_index.vector_stores.lancedb", reason=_NEEDS.format("lancedb"))
    return module.LanceDBVectorStore(uri=str(database.path), table_name=COLLECTION)


def opened_async(database: Database) -> BasePydanticVectorStore:
    """Qdrant's integration has to be given an asynchronous client for asynchronous calls; the others answer them with what they have."""
    if isinstance(database, Qdrant):
        module = pytest.importorskip("llama_index.vector_stores.qdrant", reason=_NEEDS.format("qdrant"))
        return module.QdrantVectorStore(COLLECTION, aclient=database.connect_async())
    return opened(database)


def reopened(database: Database) -> VectorStoreIndex:
    return VectorStoreIndex.from_vector_store(opened(database), embed_model=EMBEDDING)


def document(source: Source) -> Document:
    return Document(text=source.text, doc_id=source.id, metadata=source.metadata)


def embedded(source: Source) -> list[float]:
    return EMBEDDING.get_text_embedding(document(source).get_content(MetadataMode.EMBED))


def ingest(database: Database, sources: Sequence[Source] = SOURCES) -> None:
    context = StorageContext.from_defaults(vector_store=opened(database))
    VectorStoreIndex.from_documents([document(s) for s in sources], storage_context=context, embed_model=EMBEDDING)


def forget(index: VectorStoreIndex, source: Source) -> None:
    """Deletes a document. LanceDB's integration quotes ids in a way that lancedb from 0.38 on takes for the name of a column."""
    try:
        index.delete_ref_doc(source.id)
    except ValueError as error:
        if "No field named" not in str(error):
            raise
        index.vector_store.table.delete(f"doc_id = '{source.id}'")


def texts(nodes: Sequence[NodeWithScore]) -> list[str]:
    return [n.node.get_content(MetadataMode.NONE) for n in nodes]


@dataclass
class Ours:
    """What LLoCO adds to the application. ``strict`` compresses nothing: what it is given must be in the store of summaries."""

    llm: LLoCOLLM
    post: LLoCOPostprocessor
    strict: LLoCOPostprocessor

    def asks(self, index: VectorStoreIndex, *, top_k: int = 3, strict: bool = False, **options: Any) -> BaseQueryEngine:
        post = self.strict if strict else self.post
        return index.as_query_engine(llm=self.llm, node_postprocessors=[post], similarity_top_k=top_k, **options)

    def keys_of(self, given: Sequence[str]) -> list[str]:
        """From the store itself."""
        engine = self.llm.engine
        return [engine.store.key(engine.model.fingerprint, text) for text in given]
