"""Budgets, whole documents, and groups, on the postprocessor and the retriever."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import Document, MetadataMode, NodeRelationship, NodeWithScore, RelatedNodeInfo, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore

from lloco_integrations.errors import BadInput
from lloco_integrations.llama_index import LLoCOCompress, LLoCOLLM, LLoCONode, LLoCOPostprocessor, LLoCORetriever
from tests.test_backend import save_adapter


def found(*scores: float | None, length: int = 320, **metadata: str) -> list[NodeWithScore]:
    texts = [TextNode(id_=f"n{i}", text=chr(97 + i) * length, metadata=metadata) for i in range(len(scores))]
    return [NodeWithScore(node=node, score=score) for node, score in zip(texts, scores, strict=True)]


def positions(nodes: list[NodeWithScore], llm: LLoCOLLM) -> list[int]:
    return [llm.engine.count(n.node.get_content(MetadataMode.LLM), templated=False).n_positions for n in nodes]


def test_a_budget_is_spent_by_score_and_keeps_order_and_sources(tiny_model: str, store_url: str, llm: LLoCOLLM) -> None:
    nodes = found(0.2, 0.9, 0.5)
    out = LLoCOPostprocessor(tiny_model, store=store_url, token_budget=350).postprocess_nodes(nodes)
    assert positions(out, llm) == [10, 320, 20]
    assert [n.node.text for n in out] == [n.node.text for n in nodes]  # type: ignore[attr-defined]
    assert [(n.node_id, n.score) for n in out] == [(n.node_id, n.score) for n in nodes]


def test_a_budget_counts_metadata_lines(tiny_model: str, store_url: str, llm: LLoCOLLM) -> None:
    post = LLoCOPostprocessor(tiny_model, store=store_url, token_budget=120)
    out = post.postprocess_nodes(found(0.9, 0.8, file="a-long-name.txt"))
    assert 90 < sum(positions(out, llm)) <= 120


def test_a_budget_leaves_out_the_tail_and_can_be_spent_again(
    tiny_model: str, store_url: str, llm: LLoCOLLM, caplog: pytest.LogCaptureFixture
) -> None:
    out = LLoCOPostprocessor(tiny_model, store=store_url, token_budget=25).postprocess_nodes(found(0.2, 0.9, None))
    assert [n.node_id for n in out] == ["n0", "n1"]
    assert "1 of 3 texts are left out" in caplog.text
    finer = LLoCOPostprocessor(tiny_model, store=store_url, token_budget=330).postprocess_nodes(out)
    assert positions(finer, llm) == [10, 320], "nodes that are compressed already are shown anew"
    with pytest.raises(BadInput, match="token_budget=5 has no room"):
        LLoCOPostprocessor(tiny_model, store=store_url, token_budget=5).postprocess_nodes(found(0.9))


def test_a_budget_goes_with_no_ratio() -> None:
    with pytest.raises(BadInput, match="token_budget decides"):
        LLoCOPostprocessor(token_budget=100, ratio=4)


def test_the_budget_survives_serialisation(tiny_model: str, store_url: str) -> None:
    post = LLoCOPostprocessor(tiny_model, store=store_url, token_budget=70)
    assert LLoCOPostprocessor.from_dict(post.to_dict()).token_budget == 70


DOCUMENTS = {name: Document(id_=name, text=f"{name} " * 60, metadata={"file": f"{name}.txt"}) for name in ("alpha", "beta", "gamma")}


def passages(*names: str | None) -> list[NodeWithScore]:
    out = []
    for i, name in enumerate(names):
        node = TextNode(id_=f"p{i}", text=f"{name} {i}", metadata={"file": f"{name}.txt"})
        if name is not None:
            node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=name)
        out.append(NodeWithScore(node=node, score=1 - i / 10))
    return out


def docstore() -> SimpleDocumentStore:
    store = SimpleDocumentStore()
    store.add_documents(list(DOCUMENTS.values()))
    return store


@pytest.mark.parametrize("documents", [DOCUMENTS, docstore(), DOCUMENTS.get, {n: d.text for n, d in DOCUMENTS.items()}], ids=str)
def test_passages_vote_for_documents_whose_summaries_are_handed_on(tiny_model: str, store_url: str, llm: LLoCOLLM, documents: Any) -> None:
    post = LLoCOPostprocessor(tiny_model, store=store_url, ratio=16, documents=documents, max_documents=2)
    before = docstore().docs if documents is DOCUMENTS else None
    out = post.postprocess_nodes(passages("alpha", "beta", "beta", "beta", "gamma"))
    assert [(n.node_id, n.score) for n in out] == [("beta", 0.9), ("alpha", 1.0)]
    assert [n.node.text for n in out] == [DOCUMENTS["beta"].text, DOCUMENTS["alpha"].text]  # type: ignore[attr-defined]
    assert out[0].node.metadata == {"file": "beta.txt"}
    assert [c.node_id for c in out[0].node.child_nodes or []] == ["p1", "p2", "p3"]
    assert all(isinstance(n.node, LLoCONode) and n.node.is_compressed for n in out)
    assert positions(out, llm)[0] < 60
    if before is not None:
        assert DOCUMENTS["beta"].relationships == {}, "the document itself is not touched"


def test_a_node_of_no_document_stands_for_itself_and_an_unknown_document_is_named(tiny_model: str, store_url: str) -> None:
    post = LLoCOPostprocessor(tiny_model, store=store_url, documents=DOCUMENTS)
    assert [n.node_id for n in post.postprocess_nodes(passages("alpha", None))] == ["alpha", "p1"]
    with pytest.raises(BadInput, match="documents= has no document 'omega', from which the passage 'p0' comes"):
        post.postprocess_nodes(passages("omega"))


async def test_whole_documents_and_budgets_through_a_retriever(index: VectorStoreIndex, tiny_model: str, store_url: str) -> None:
    retriever = LLoCORetriever(index.as_retriever(similarity_top_k=3), model=tiny_model, store=store_url, token_budget=40)
    nodes = retriever.retrieve("lamps")
    assert nodes == await retriever.aretrieve("lamps")
    assert 1 <= len(nodes) <= 3


@pytest.fixture
def judge(tiny_model: str, store_url: str, tmp_path: Any) -> LLoCOLLM:
    adapters = {name: str(save_adapter(tmp_path / name, seed)) for name, seed in (("law", 1), ("tax", 2))}
    return LLoCOLLM(tiny_model, store=store_url, max_new_tokens=4, adapters=adapters)


def grouped(*pairs: tuple[str | None, float]) -> list[NodeWithScore]:
    nodes = found(*(score for _, score in pairs))
    for node, (group, _) in zip(nodes, pairs, strict=True):
        node.node.metadata = {"group": group} if group else {}
        node.node.excluded_llm_metadata_keys = ["group"]
    return nodes


def ask(judge: LLoCOLLM, nodes: list[NodeWithScore]) -> Any:
    return judge.complete("\n".join(n.node.get_content(MetadataMode.LLM) for n in nodes)).raw


@pytest.mark.parametrize("shown", [{"ratio": 8}, {"on_miss": "compress"}, {"token_budget": 700}, {"token_budget": 960}])
def test_the_group_with_most_score_chooses_the_adapter_and_the_answer_says_so(
    judge: LLoCOLLM, tiny_model: str, store_url: str, shown: dict[str, int]
) -> None:
    post = LLoCOPostprocessor(tiny_model, store=store_url, **shown)  # type: ignore[arg-type]
    law = ask(judge, post.postprocess_nodes(grouped(("law", 0.9), ("tax", 0.5), ("tax", 0.2))))
    assert (law["adapter"], {g: round(s, 3) for g, s in law["groups"].items()}) == ("law", {"law": 0.562, "tax": 0.438})
    tax = ask(judge, post.postprocess_nodes(grouped(("law", 0.9), ("tax", 0.5), ("tax", 0.45))))
    assert tax["adapter"] == "tax"
    none = ask(judge, post.postprocess_nodes(grouped(("med", 0.9), ("tax", 0.5))))
    assert none["adapter"] is None, "the group that wins has no adapter"


def test_an_explicit_choice_overrides_the_groups(judge: LLoCOLLM, tiny_model: str, store_url: str) -> None:
    nodes = LLoCOPostprocessor(tiny_model, store=store_url).postprocess_nodes(grouped(("law", 0.9)))
    prompt = nodes[0].node.get_content(MetadataMode.LLM)
    fixed = judge.model_copy(update={"adapter": "tax"})
    answers = [
        judge.complete(prompt),
        judge.complete(prompt, adapter="tax"),
        fixed.complete(prompt),
        fixed.complete(prompt, adapter="none"),
    ]
    assert [a.raw["adapter"] for a in answers] == ["law", "tax", "tax", None]  # type: ignore[index]
    assert len({a.text for a in answers}) == 3


def test_groups_given_at_ingestion_or_at_retrieval_both_count(judge: LLoCOLLM, tiny_model: str, store_url: str) -> None:
    nodes = grouped(("tax", 0.9))
    LLoCOPostprocessor(tiny_model, store=store_url, group_key="nothing").postprocess_nodes(nodes)
    later = LLoCOPostprocessor(tiny_model, store=store_url).postprocess_nodes(nodes)
    assert ask(judge, later)["adapter"] == "tax"
    nodes[0].node.metadata = {"group": "law"}
    LLoCOCompress(tiny_model, store=store_url)([nodes[0].node])
    assert ask(judge, later)["adapter"] == "law"


def test_prompt_helpers_keep_votes_with_every_piece_of_a_long_text(judge: LLoCOLLM, tiny_model: str, store_url: str) -> None:
    from lloco_integrations.llama_index.packing import split

    [node] = LLoCOPostprocessor(tiny_model, store=store_url, token_budget=330).postprocess_nodes(grouped(("law", 0.9)))
    cost = lambda text: judge.engine.count(text, templated=False).n_positions if text else 0  # noqa: E731
    pieces = split(node.node.get_content(MetadataMode.LLM), 100, cost)
    assert len(pieces) == 4
    assert {judge.complete(piece).raw["adapter"] for piece in pieces} == {"law"}  # type: ignore[index]
    assert max(map(cost, pieces)) <= 100
