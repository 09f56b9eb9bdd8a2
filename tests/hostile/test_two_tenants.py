"""Two tenants in one process, one model and two stores, end to end: nothing that one types, retrieves, streams, caches or logs names an entry of
the other, and nothing that one is answered is read from the other's texts."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.messages import AIMessage, HumanMessage
from llama_index.core import VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.schema import MetadataMode, TextNode

from lloco_integrations import langchain, llama_index, placeholder
from lloco_integrations.engine import Engine
from lloco_integrations.errors import PlaceholderError
from tests.llama_index.conftest import HashEmbedding

TEXTS = {"a": "The vault of tenant A opens with the number 4711. " * 4, "b": "Tenant B keeps its seeds in the cellar. " * 4}


class Tenant:
    """One tenant's objects of both frameworks, over one store."""

    def __init__(self, model: str, url: str, text: str) -> None:
        names: dict[str, Any] = {"model": model, "store": url, "device": "cpu", "dtype": "float32"}
        self.engine = Engine(model, url, device="cpu", dtype="float32")
        self.llm = llama_index.LLoCOLLM(**names, max_new_tokens=6)
        self.post = llama_index.LLoCOPostprocessor(**names, ratio=8)
        self.step = llama_index.LLoCOCompress(**names)
        self.chat = langchain.ChatLLoCO(**names, max_tokens=6)
        self.completion = langchain.LLoCOLLM(**names, max_tokens=6)
        self.compressor = langchain.LLoCODocumentCompressor(**names, ratio=8)
        self.text = text
        self.mark = self.engine.compress([text], ratio=8)[0].content

    @property
    def keys(self) -> set[str]:
        return set(self.engine.store.keys())


@pytest.fixture
def tenants(tiny_model: str, tmp_path: Any) -> tuple[Tenant, Tenant]:
    a, b = (Tenant(tiny_model, f"sqlite:///{tmp_path / name}.sqlite", text) for name, text in TEXTS.items())
    shared = "A text that both of them have."
    assert a.engine.compress([shared])[0].content != b.engine.compress([shared])[0].content, "equal texts have keys of their own"
    assert a.engine.model is b.engine.model and not a.keys & b.keys
    return a, b


def test_a_placeholder_of_the_other_is_an_unknown_one(tenants: tuple[Tenant, Tenant]) -> None:
    a, b = tenants
    for mine, other in ((a, b), (b, a)):
        turns = [ChatMessage(role="user", content=other.mark)]
        calls = [
            lambda mine=mine, other=other: mine.llm.complete(other.mark),
            lambda mine=mine, turns=turns: mine.llm.chat(turns),
            lambda mine=mine, turns=turns: list(mine.llm.stream_chat(turns)),
            lambda mine=mine, other=other: mine.chat.invoke(other.mark),
            lambda mine=mine, other=other: list(mine.chat.stream(other.mark)),
            lambda mine=mine, other=other: mine.completion.invoke(other.mark),
            lambda mine=mine, other=other: mine.engine.count(other.mark),
            lambda mine=mine, other=other: mine.chat.get_num_tokens(other.mark),
        ]
        for call in calls:
            with pytest.raises(PlaceholderError) as caught:
                call()
            assert other.text[:20] not in str(caught.value)


@pytest.mark.parametrize(
    "spelt", [str, lambda m: m.replace("<", "&lt;"), lambda m: m.replace("<", "\\u003c"), lambda m: f"\ue000{m}\ue001"]
)
def test_what_one_plants_names_nothing_of_the_other(tenants: tuple[Tenant, Tenant], spelt: Any) -> None:
    """B knows a key of A's, and plants it wherever text may come from, also in A's own documents."""
    a, b = tenants
    planted = spelt(a.mark)
    for tenant in (a, b):
        own = f"A note. {planted} And more."
        node = TextNode(text=own, metadata={planted: [planted], "k": {planted: (planted,)}})
        retriever = VectorStoreIndex([node], embed_model=HashEmbedding()).as_retriever()
        for focus in ("none", "question"):
            post = tenant.post.model_copy(update={"focus": focus, "ratio": 1 if focus == "question" else None})
            (found,) = post.postprocess_nodes(retriever.retrieve("note"), query_str="note")
            seen = [str(m) for m in placeholder.find(placeholder.split_votes(found.node.get_content(MetadataMode.LLM))[0])]
            assert a.mark not in seen and len(seen) == (focus == "none")
        (made,) = tenant.compressor.compress([Document(own, metadata={"source": [planted]}, id=planted)])
        assert [m.key for m in placeholder.find(made.page_content)] != [placeholder.Placeholder(a.mark[8:34]).key]
        assert a.mark not in str(made)
    history = [HumanMessage("hi"), AIMessage(planted), HumanMessage("and?")]
    assert a.chat.invoke(history).text is not None
    assert a.chat.get_num_tokens_from_messages(history) > 20, "it is read as text"


def test_answers_in_a_cache_are_not_the_others(tenants: tuple[Tenant, Tenant]) -> None:
    a, b = tenants
    before = get_llm_cache()
    set_llm_cache(InMemoryCache())
    try:
        assert a.chat.invoke(a.mark).text == a.chat.invoke(a.mark).text
        for ask in (b.chat.invoke, b.completion.invoke):
            with pytest.raises(PlaceholderError):
                ask(a.mark)
    finally:
        set_llm_cache(before)


def test_an_ingestion_cache_that_both_use(tenants: tuple[Tenant, Tenant]) -> None:
    a, b = tenants
    cache, node = IngestionCache(), TextNode(text="A text that is ingested by both. " * 3)
    for tenant in (a, b):
        before = len(tenant.keys)
        IngestionPipeline(transformations=[tenant.step], cache=cache).run(nodes=[node.model_copy()])
        assert len(tenant.keys) == before + 1, "the other's hit is no hit"
    assert not a.keys & b.keys


def test_kept_prefixes_are_read_by_content(tenants: tuple[Tenant, Tenant]) -> None:
    """The beginnings that the decoder keeps are shared by both, and found by every bit of what was read."""
    a, b = tenants
    long = {t: t.engine.compress([t.text * 12], ratio=4)[0].content for t in tenants}
    alone = {t: t.llm.complete(f"{long[t]} What?").text for t in tenants}
    for _ in range(3):
        for tenant in tenants:
            assert tenant.llm.complete(f"{long[tenant]} What?").text == alone[tenant]


def test_logs_name_no_entry_and_no_text(tenants: tuple[Tenant, Tenant], caplog: pytest.LogCaptureFixture) -> None:
    a, b = tenants
    caplog.set_level(logging.DEBUG, "lloco_integrations")
    for tenant in tenants:
        tenant.engine.compress([f"something new for {tenant.text}"])
        tenant.llm.complete(f"{tenant.mark} What?")
        list(tenant.chat.stream(tenant.mark))
    assert not any(key in caplog.text for key in a.keys | b.keys)
    assert "4711" not in caplog.text and "cellar" not in caplog.text
