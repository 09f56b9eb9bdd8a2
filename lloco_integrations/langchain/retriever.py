"""A retriever that hands on placeholders."""

from __future__ import annotations

from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, run_in_executor
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever
from pydantic import Field, ValidationError, model_validator

from lloco_integrations.errors import BadInput
from lloco_integrations.langchain.documents import CompressionFields


class LLoCORetriever(CompressionFields, BaseRetriever):
    """Retrieves with another retriever, or from a vector store, and puts placeholders in the place of the documents' texts.

    See CompressionFields and EngineFields for the other arguments, and ``original_text`` for the way back. ``invoke(query, k=3)`` asks for
    another number of documents; further arguments of ``invoke`` go to the retriever underneath.

    Attributes:
        retriever: any retriever, or a Runnable from a query to documents.
        vectorstore: a vector store, in place of ``retriever``.
        k: how many documents; None for what the retriever gives. A retriever that does not know ``k`` is cut to its first k.
        search_type: of a vector store: "similarity", "mmr" or "similarity_score_threshold".
        search_kwargs: further arguments of the vector store's search.
    """

    retriever: Any = None
    vectorstore: VectorStore | None = None
    k: int | None = Field(default=None, ge=1)
    search_type: str = "similarity"
    search_kwargs: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.retriever is None) == (self.vectorstore is None):
            raise BadInput("LLoCORetriever takes either retriever= or vectorstore=; give one of them")
        if self.retriever is not None and not isinstance(self.retriever, Runnable):
            raise BadInput(f"{type(self.retriever).__name__} is no retriever; give a LangChain retriever, or vectorstore=")
        if self.retriever is not None and (self.search_kwargs or self.search_type != "similarity"):
            raise BadInput("search_type and search_kwargs belong to a vector store; set them on the retriever, or give vectorstore=")
        self._source()
        return self

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None, **kwargs: Any
    ) -> list[Document]:
        source, wanted = self._source(), self._wanted(k)
        found = source.invoke(query, {"callbacks": run_manager.get_child()}, **self._arguments(source, wanted), **kwargs)
        return self.compress(found[:wanted], query)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None, **kwargs: Any
    ) -> list[Document]:
        source, wanted = self._source(), self._wanted(k)
        found = await source.ainvoke(query, {"callbacks": run_manager.get_child()}, **self._arguments(source, wanted), **kwargs)
        return await run_in_executor(None, self.compress, found[:wanted], query)

    def _own_embeddings(self) -> Embeddings | None:
        store = self.vectorstore if self.vectorstore is not None else getattr(self.retriever, "vectorstore", None)
        found = getattr(store, "embeddings", None)
        return found if isinstance(found, Embeddings) else None

    def _source(self) -> Runnable[str, list[Document]]:
        if self.vectorstore is None:
            retriever: Runnable[str, list[Document]] = self.retriever
            return retriever
        try:
            return self.vectorstore.as_retriever(search_type=self.search_type, search_kwargs=dict(self.search_kwargs))
        except ValidationError as error:
            raise BadInput(f"search_type {self.search_type!r} does not go with search_kwargs {self.search_kwargs}: {error}") from error

    def _wanted(self, k: int | None) -> int | None:
        if k is not None and k < 1:
            raise BadInput(f"k is {k}; ask for at least one document")
        return k if k is not None else self.k

    @staticmethod
    def _arguments(source: Runnable[str, list[Document]], k: int | None) -> dict[str, Any]:
        """Only a vector store's retriever is known to take ``k``."""
        return {"k": k} if k is not None and isinstance(source, VectorStoreRetriever) else {}
