"""Budgets, whole documents, and groups, on the document compressor and the retriever."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.stores import InMemoryStore

from lloco_integrations.errors import BadInput
from lloco_integrations.langchain import ChatLLoCO, LLoCODocumentCompressor, LLoCOLLM, LLoCORetriever, original_text
from tests.langchain.parts import joined


def found(*groups: str | None) -> list[Document]:
    return [Document(page_content=chr(97 + i) * 320, id=f"p{i}", metadata={"group": g} if g else {"n": i}) for i, g in enumerate(groups)]


def test_a_budget_is_spent_from_the_front(named: dict[str, Any], llm: LLoCOLLM) -> None:
    documents = found(None, None, None)
    made = LLoCODocumentCompressor(**named, token_budget=350).compress(documents)
    assert [m.metadata["lloco_positions"] for m in made] == [320, 20, 10]
    assert [original_text(m) for m in made] == [d.page_content for d in documents]
    assert llm.get_num_tokens("".join(m.page_content for m in made)) == 350
    again = LLoCODocumentCompressor(**named, token_budget=350).compress(made)
    assert [m.page_content for m in again] == [m.page_content for m in made]


def test_a_budget_leaves_out_the_tail(named: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    made = LLoCODocumentCompressor(**named, token_budget=25).compress(found(None, None, None))
    assert [m.id for m in made] == ["p0", "p1"]
    assert "1 of 3 texts are left out" in caplog.text
    with pytest.raises(BadInput, match="has no room for any"):
        LLoCODocumentCompressor(**named, token_budget=5).compress(found(None))


def test_a_budget_goes_with_no_ratio(named: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="token_budget decides"):
        LLoCODocumentCompressor(**named, token_budget=100, ratio=4)


WHOLE = {name: Document(page_content=f"{name} " * 60, metadata={"file": f"{name}.txt"}) for name in ("alpha", "beta", "gamma")}


def in_store() -> InMemoryStore:
    store = InMemoryStore()
    store.mset(list(WHOLE.items()))
    return store


def passages(*names: str | None) -> list[Document]:
    return [Document(page_content=f"{n} {i}", id=f"p{i}", metadata={"doc_id": n} if n else {}) for i, n in enumerate(names)]


@pytest.mark.parametrize("documents", [WHOLE, in_store(), WHOLE.get], ids=["mapping", "store", "function"])
def test_passages_vote_for_documents_whose_summaries_are_handed_on(named: dict[str, Any], documents: Any) -> None:
    compressor = LLoCODocumentCompressor(**named, ratio=16, documents=documents, max_documents=2)
    made = compressor.compress(passages("alpha", "beta", "beta", "beta", "gamma"))
    assert [original_text(m) for m in made] == [WHOLE["beta"].page_content, WHOLE["alpha"].page_content]
    assert [m.metadata["lloco_passages"] for m in made] == [["p1", "p2", "p3"], ["p0"]]
    assert made[0].metadata["file"] == "beta.txt"
    assert "lloco_passages" not in WHOLE["beta"].metadata
    assert made[0].metadata["lloco_positions"] == -(-len(WHOLE["beta"].page_content) // 16)


def test_a_passage_of_no_document_stands_for_itself_and_an_unknown_document_is_named(named: dict[str, Any]) -> None:
    compressor = LLoCODocumentCompressor(**named, documents=WHOLE)
    assert [original_text(m) for m in compressor.compress(passages("alpha", None))] == [WHOLE["alpha"].page_content, "None 1"]
    with pytest.raises(BadInput, match="documents= has no Document 'omega'"):
        compressor.compress(passages("omega"))


async def test_the_retriever_takes_the_same_arguments(named: dict[str, Any], plain_retriever: BaseRetriever) -> None:
    retriever = LLoCORetriever(**named, retriever=plain_retriever, token_budget=60)
    made = retriever.invoke("bread before dawn")
    assert sum(m.metadata["lloco_positions"] for m in made) <= 60
    assert made == await retriever.ainvoke("bread before dawn")


@pytest.mark.parametrize("shown", [{"ratio": 8}, {"on_miss": "compress"}, {"token_budget": 700}, {"token_budget": 960}])
def test_the_group_of_the_best_documents_chooses_the_adapter_and_the_answer_says_so(
    named: dict[str, Any], chat: ChatLLoCO, llm: LLoCOLLM, adapters: dict[str, str], shown: dict[str, int]
) -> None:
    chat, llm = (kind.model_copy(update={"adapters": adapters}) for kind in (chat, llm))
    compressor = LLoCODocumentCompressor(**named, **shown)
    for groups, expected in ((("sea", "land", "land"), "sea"), (("land", "sea", "sea"), "land"), (("air", "sea"), None)):
        prompt = joined(compressor.compress(found(*groups)))
        about = chat.invoke(prompt).response_metadata
        assert about["adapter"] == expected
        assert sum(about["groups"].values()) == pytest.approx(1)
        assert next(iter(about["groups"])) == groups[0]
        [[generation]] = llm.generate([prompt]).generations
        assert generation.generation_info["adapter"] == expected  # type: ignore[index]


def test_an_explicit_choice_overrides_the_groups(named: dict[str, Any], chat: ChatLLoCO, adapters: dict[str, str]) -> None:
    chat = chat.model_copy(update={"adapters": adapters})
    prompt = joined(LLoCODocumentCompressor(**named).compress(found("sea")))
    made = [chat.invoke(prompt), chat.invoke(prompt, adapter="land"), chat.invoke(prompt, adapter="none")]
    assert [m.response_metadata["adapter"] for m in made] == ["sea", "land", None]
    assert len({m.content for m in made}) == 3


def test_one_batch_with_mixed_adapters_is_one_forward_pass(
    named: dict[str, Any], llm: LLoCOLLM, adapters: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lloco_integrations.backends.transformers import TransformersBackend

    llm = llm.model_copy(update={"adapters": adapters})
    compressor = LLoCODocumentCompressor(**named)
    prompts = [joined(compressor.compress([d])) for d in found("sea", "land", None)]
    alone = [llm.invoke(p) for p in prompts]
    runs: list[int] = []
    inner: Any = TransformersBackend._run
    monkeypatch.setattr(TransformersBackend, "_run", lambda self, batch, *rest: runs.append(len(batch)) or inner(self, batch, *rest))
    assert llm.batch(prompts) == alone
    assert runs == [3]


def test_cache_keys_change_with_what_the_adapter_is(named: dict[str, Any], adapters: dict[str, str], tmp_path: Any) -> None:
    import shutil

    place = shutil.copytree(adapters["sea"], tmp_path / "adapter")
    chat = ChatLLoCO(**named, adapters={"sea": str(place)})
    same = ChatLLoCO(**named, adapters={"sea": adapters["sea"]})
    before = chat._get_llm_string()
    assert before == same._get_llm_string(), "the same adapter elsewhere is the same"
    shutil.rmtree(place)
    shutil.copytree(adapters["land"], place)
    assert chat._get_llm_string() != before, "another adapter in the same place is another"
