"""The standard suites of langchain-tests for stores, on the objects that a SummaryStore takes as its place, and a SummaryStore over each."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from langchain_classic.storage import LocalFileStore
from langchain_core.documents import Document
from langchain_core.stores import BaseStore, InMemoryByteStore
from langchain_tests.integration_tests import BaseStoreAsyncTests, BaseStoreSyncTests

from lloco_integrations import placeholder
from lloco_integrations.langchain import ChatLLoCO, LLoCODocumentCompressor, original_text
from lloco_integrations.models.model import LLoCOModel
from lloco_integrations.store import SummaryStore
from tests.langchain.parts import TEXTS, documents

Bytes = BaseStore[str, bytes]
Three = tuple[bytes, bytes, bytes]
BY_FOLDER = "LocalFileStore takes a prefix for a folder"


class TestInMemory(BaseStoreSyncTests[bytes]):
    @pytest.fixture
    def three_values(self) -> Three:
        return b"foo", b"", bytes(range(256))

    @pytest.fixture
    def kv_store(self) -> Bytes:
        return InMemoryByteStore()


class TestInMemoryAwaited(BaseStoreAsyncTests[bytes]):
    @pytest.fixture
    def three_values(self) -> Three:
        return b"foo", b"", bytes(range(256))

    @pytest.fixture
    async def kv_store(self) -> Bytes:
        return InMemoryByteStore()


class TestInFiles(BaseStoreSyncTests[bytes]):
    @pytest.fixture
    def three_values(self) -> Three:
        return b"foo", b"", bytes(range(256))

    @pytest.fixture
    def kv_store(self, tmp_path: Path) -> Bytes:
        return LocalFileStore(tmp_path / "store")

    @pytest.mark.xfail(strict=True, reason=BY_FOLDER)
    def test_yield_keys(self, kv_store: Bytes, three_values: Three) -> None:
        super().test_yield_keys(kv_store, three_values)


class TestInFilesAwaited(BaseStoreAsyncTests[bytes]):
    @pytest.fixture
    def three_values(self) -> Three:
        return b"foo", b"", bytes(range(256))

    @pytest.fixture
    async def kv_store(self, tmp_path: Path) -> Bytes:
        return LocalFileStore(tmp_path / "store")

    @pytest.mark.xfail(strict=True, reason=BY_FOLDER)
    async def test_yield_keys(self, kv_store: Bytes, three_values: Three) -> None:
        await super().test_yield_keys(kv_store, three_values)


@pytest.fixture(params=["memory", "files"])
def inner(request: pytest.FixtureRequest, tmp_path: Path) -> Bytes:
    return InMemoryByteStore() if request.param == "memory" else LocalFileStore(tmp_path / "store", update_atime=True)


def keys(made: list[Document]) -> list[str]:
    return [next(placeholder.find(d.page_content)).key for d in made]


def test_summaries_live_in_it_beside_other_things(inner: Bytes, named: dict[str, Any]) -> None:
    inner.mset([("mine", b"stays")])
    compressor = LLoCODocumentCompressor(**{**named, "store": inner})
    made = compressor.compress(documents())
    assert [original_text(d) for d in made] == list(TEXTS)
    store = SummaryStore.open(inner)
    for found, document in zip(store.get_many(keys(made)), made, strict=True):
        assert found is not None
        assert found.n_vectors == document.metadata["lloco_positions"]
    with mock.patch.object(LLoCOModel, "compress", side_effect=AssertionError("compressed again")):
        assert compressor.compress(documents()) == made
    assert store.delete_many(keys(made)[:1]) == 1
    assert inner.mget(["mine"]) == [b"stays"]


def test_a_store_over_it_lists_and_verifies_what_it_holds(inner: Bytes, named: dict[str, Any]) -> None:
    inner.mset([("mine", b"stays"), ("lloco-entry-of-somebody", b"stays")])
    made = LLoCODocumentCompressor(**{**named, "store": inner}).compress(documents())
    store = SummaryStore.open(inner)
    assert sorted(store.keys()) == sorted(keys(made))
    assert store.stats().entries == len(made)
    assert store.verify() == []


def test_a_chat_model_reads_from_it(inner: Bytes, named: dict[str, Any], chat: ChatLLoCO) -> None:
    """The answer is the one from any other store."""
    elsewhere = {**named, "store": inner}
    prompts = [LLoCODocumentCompressor(**n).compress(documents()[:1])[0].page_content for n in (named, elsewhere)]
    assert prompts[0] != prompts[1], "keys are of one store alone"
    assert ChatLLoCO(**elsewhere, max_tokens=12).invoke(prompts[1]).text == chat.invoke(prompts[0]).text
