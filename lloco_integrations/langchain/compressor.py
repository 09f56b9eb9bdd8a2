"""Compression of what another retriever found."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import run_in_executor

from lloco_integrations.langchain.documents import CompressionFields


class LLoCODocumentCompressor(CompressionFields, BaseDocumentCompressor):
    """Puts placeholders in the place of documents' texts, for ContextualCompressionRetriever and pipelines of compressors.

    See CompressionFields and EngineFields for the arguments, and ``original_text`` for the way back. An empty query, on all documents of a
    collection beforehand, is no question: each is compressed into the store.
    """

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None) -> list[Document]:
        """Copies of ``documents`` with placeholders; the documents handed in stay as they are."""
        return self.compress(documents, query)

    async def acompress_documents(self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None) -> list[Document]:
        """As ``compress_documents``, in a worker thread."""
        return await run_in_executor(None, self.compress, documents, query)
