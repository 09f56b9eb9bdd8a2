"""The standard suite of langchain-tests for retrievers, unmodified: over a vector store and over another retriever.

It asks for as many documents as it wants to see. With a question in focus, those of which nothing is shown are left out, so there it is
given room for all.
"""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests

from lloco_integrations.langchain import LLoCORetriever
from tests.langchain.parts import vector_store


class TestOverVectorStore(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _name(self, named: dict[str, Any]) -> None:
        self.names = named

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return LLoCORetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {**self.names, "vectorstore": vector_store(), "focus": "none"}

    @property
    def retriever_query_example(self) -> str:
        return "When is the lantern room open?"


class TestOverRetriever(TestOverVectorStore):
    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {**self.names, "retriever": vector_store().as_retriever(), "focus": "none"}


class TestFocused(TestOverVectorStore):
    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {**self.names, "vectorstore": vector_store(), "token_budget": 4000}


class TestFocusedOverRetriever(TestOverVectorStore):
    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {**self.names, "retriever": vector_store().as_retriever(), "ratio": 1}
