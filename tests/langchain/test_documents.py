"""Documents to placeholders and back: the retriever and the compressor do the same."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from pydantic import ValidationError

from lloco_integrations import placeholder
from lloco_integrations.engine import Engine
from lloco_integrations.errors import BadInput, IncompatibleSummary, PlaceholderError
from lloco_integrations.langchain import LLoCODocumentCompressor, LLoCORetriever, original_text
from tests.langchain.parts import SMUGGLED, TEXTS, HashEmbeddings, documents, engine_calls, vector_store

QUERY = "When is the lantern room of the lighthouse open?"


def test_the_content_is_a_placeholder_and_everything_else_is_kept(compressor: LLoCODocumentCompressor) -> None:
    before = documents()
    handed_in = copy.deepcopy(before)
    after = compressor.compress_documents(handed_in, "q")
    assert handed_in == before
    for old, new in zip(before, after, strict=True):
        assert placeholder.count(new.page_content) == 1
        assert str(next(placeholder.find(new.page_content))) == new.page_content
        assert new.id == old.id
        assert new.metadata["source"] == old.metadata["source"]
        assert new.metadata["tags"] == old.metadata["tags"]
        assert new.metadata["lloco_text"] == old.page_content == original_text(new)
        assert original_text(old) == old.page_content
        assert new.metadata["lloco_positions"] < new.metadata["lloco_tokens"] == len(old.page_content)
        assert json.loads(json.dumps(new.metadata)) == new.metadata


def test_compressing_twice_is_compressing_once(compressor: LLoCODocumentCompressor, named: dict[str, Any]) -> None:
    once = compressor.compress(documents())
    assert compressor.compress(once) == once
    mixed = LLoCODocumentCompressor(**named, token_budget=200)
    assert mixed.compress(once) == mixed.compress(documents()) == mixed.compress(mixed.compress(documents()))


def test_equal_texts_are_one_entry_and_nothing_is_compressed_twice(compressor: LLoCODocumentCompressor) -> None:
    twins = [Document(page_content=TEXTS[0], metadata={"n": n}) for n in (1, 2)]
    with engine_calls("_put") as stored:
        a, b = compressor.compress(twins)
        compressor.compress(twins)
    assert a.page_content == b.page_content
    assert a.metadata["n"] == 1
    assert b.metadata["n"] == 2
    assert [[text for text, *_ in items] for items in stored] == [[TEXTS[0]]]


def test_ratio(named: dict[str, Any]) -> None:
    fine, coarse = (LLoCODocumentCompressor(**named, ratio=ratio).compress(documents()[:1])[0] for ratio in (4, 16))
    assert coarse.page_content.endswith("@16|>")
    assert fine.metadata["lloco_positions"] > 3 * coarse.metadata["lloco_positions"]
    with pytest.raises(IncompatibleSummary, match="ratio 5"):
        LLoCODocumentCompressor(**named, focus="none", ratio=5).compress(documents())


def test_miss_policies(named: dict[str, Any]) -> None:
    texts = LLoCODocumentCompressor(**named, on_miss="text").compress(documents())
    assert [d.page_content for d in texts] == list(TEXTS) == [original_text(d) for d in texts]
    strict = LLoCODocumentCompressor(**named, on_miss="raise")
    with pytest.raises(PlaceholderError, match="4 of 4 texts have no summary"):
        strict.compress(documents())
    LLoCODocumentCompressor(**named).compress(documents()[:1])
    assert placeholder.count(strict.compress(documents()[:1])[0].page_content) == 1
    first, second = LLoCODocumentCompressor(**named, on_miss="text").compress(documents()[:2])
    assert placeholder.count(first.page_content) == 1
    assert second.page_content == TEXTS[1]
    with pytest.raises(ValidationError):
        LLoCODocumentCompressor(**named, on_miss="shrug")


@pytest.mark.parametrize("how", [{"on_miss": "text"}, {"token_budget": 1000}])
def test_what_looks_like_a_placeholder_in_a_document_is_made_harmless(named: dict[str, Any], how: dict[str, Any]) -> None:
    metadata = {"title": SMUGGLED, "nested": {"a": [SMUGGLED, 1]}, "pair": ("x", SMUGGLED)}
    (made,) = LLoCODocumentCompressor(**named, **how).compress([Document(page_content=SMUGGLED, metadata=metadata)])
    seen = f"{made.page_content} {made.metadata} {made.metadata['title']}"
    assert list(placeholder.find(seen)) == []
    assert "< |lloco:aaaa" in made.page_content
    assert "< |lloco" in made.metadata["nested"]["a"][0]
    assert original_text(made) == SMUGGLED
    assert metadata["title"] == SMUGGLED


def test_a_document_cannot_pass_for_a_compressed_one(compressor: LLoCODocumentCompressor) -> None:
    (victim,) = compressor.compress([Document(page_content="The secret of another reader.")])
    thief = Document(page_content=victim.page_content, metadata={"lloco_text": "harmless", "lloco_positions": 1})
    (made,) = compressor.compress([thief])
    assert made.page_content != victim.page_content
    (odd,) = compressor.compress([Document(page_content="text", metadata={"lloco_text": 7})])
    assert original_text(odd) == "text"


def test_blank_and_no_documents(compressor: LLoCODocumentCompressor) -> None:
    assert compressor.compress([]) == []
    (blank,) = compressor.compress([Document(page_content="  ")])
    assert (blank.page_content, blank.metadata["lloco_positions"]) == ("  ", 0)


def test_group_key_is_kept_in_the_store(named: dict[str, Any]) -> None:
    (made,) = LLoCODocumentCompressor(**named, group_key="domain").compress([Document(page_content="x y z", metadata={"domain": "sea"})])
    key = next(placeholder.find(made.page_content)).key
    info = Engine(named["model"], named["store"]).store.info_many([key])[0]
    assert info is not None
    assert info.group == "sea"


def test_an_unformatted_document_does_not_carry_its_text_into_the_prompt(compressor: LLoCODocumentCompressor) -> None:
    made = compressor.compress(documents())
    for printed in (str(made), str(made[0]), repr(made[0])):
        assert "lantern" not in printed
        assert placeholder.count(printed) >= 1
    again = pickle.loads(pickle.dumps(made))
    assert again == made
    assert "lantern" not in str(again)


def test_over_a_retriever(retriever: LLoCORetriever, plain_retriever: BaseRetriever) -> None:
    plain, made = plain_retriever.invoke(QUERY), retriever.invoke(QUERY)
    assert [original_text(d) for d in made] == [d.page_content for d in plain]
    assert [d.id for d in made] == [d.id for d in plain]
    assert original_text(made[0]) == TEXTS[0]


async def test_async_is_the_same(retriever: LLoCORetriever, compressor: LLoCODocumentCompressor) -> None:
    assert await retriever.ainvoke(QUERY) == retriever.invoke(QUERY)
    assert await compressor.acompress_documents(documents(), "q") == compressor.compress_documents(documents(), "q")


def test_k(named: dict[str, Any]) -> None:
    over = LLoCORetriever(
        **named, vectorstore=vector_store(), k=3, focus="none", search_kwargs={"filter": lambda d: d.metadata["source"] != "0.txt"}
    )
    assert TEXTS[0] not in [original_text(d) for d in over.invoke(QUERY)]
    assert len(over.invoke(QUERY)) == 3
    assert len(over.invoke(QUERY, k=1)) == 1
    function = LLoCORetriever(**named, retriever=RunnableLambda(lambda query: documents()), k=2, focus="none")
    assert [d.id for d in function.invoke(QUERY)] == ["d0", "d1"]
    assert len(function.invoke(QUERY, k=3)) == 3
    with pytest.raises(BadInput, match="at least one"):
        function.invoke(QUERY, k=0)


def test_arguments_that_do_not_go_together(named: dict[str, Any], plain_retriever: BaseRetriever) -> None:
    store = vector_store()
    for wrong in (
        {},
        {"retriever": plain_retriever, "vectorstore": store},
        {"retriever": "text"},
        {"retriever": plain_retriever, "search_kwargs": {"k": 3}},
        {"vectorstore": store, "search_type": "guess"},
        {"vectorstore": store, "rato": 4},
    ):
        with pytest.raises(BadInput):
            LLoCORetriever(**named, **wrong)


def test_contextual_compression_retriever(compressor: LLoCODocumentCompressor, retriever: LLoCORetriever, named: dict[str, Any]) -> None:
    over = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=vector_store().as_retriever(search_kwargs={"k": 2}))
    assert over.invoke(QUERY) == retriever.invoke(QUERY)
    twice = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=retriever)
    assert twice.invoke(QUERY) == retriever.invoke(QUERY)


def test_a_compressed_document_can_be_indexed_and_found_again(compressor: LLoCODocumentCompressor) -> None:
    """Its vector is then that of the placeholder; the text stays recoverable."""
    from langchain_core.vectorstores import InMemoryVectorStore

    store = InMemoryVectorStore(HashEmbeddings())
    store.add_documents(compressor.compress(documents()))
    assert {original_text(d) for d in store.similarity_search("x", k=4)} == set(TEXTS)


def test_pickling(retriever: LLoCORetriever, compressor: LLoCODocumentCompressor) -> None:
    expected = retriever.invoke(QUERY)
    assert pickle.loads(pickle.dumps(retriever)).invoke(QUERY) == expected
    assert pickle.loads(pickle.dumps(compressor)).compress(documents()) == compressor.compress(documents())
