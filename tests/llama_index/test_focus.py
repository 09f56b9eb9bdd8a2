"""The question in focus: what the LLM sees, what sources tell about it, and whose embeddings rank sentences."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import time
from collections.abc import Sequence
from typing import Any

import pytest
from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.chat_engine import CondensePlusContextChatEngine, CondenseQuestionChatEngine
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.query_engine import CitationQueryEngine
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore

from lloco_integrations import placeholder
from lloco_integrations.embedding import Wrapped
from lloco_integrations.engine import Engine
from lloco_integrations.errors import BadInput
from lloco_integrations.llama_index import LLoCOLLM, LLoCONode, LLoCOPostprocessor, LLoCORetriever, PositionTokenizer
from lloco_integrations.llama_index.packing import pack, split
from lloco_integrations.llama_index.postprocessor import embedder_of

from .conftest import SLICING, HashEmbedding
from .scripted import script
from .test_pipelines import marks

LONG = [
    "The lighthouse at Carrow has forty lamps. Its keeper is called Ilse. She came from the north in a small boat.",
    "The harbour of Carrow freezes in January. Then nobody sails. The baker opens before dawn, and sells rye bread.",
    "Ilse counts the lamps every evening. She writes them into the blue book. The book lies under the stairs.",
]
ASKED = "Who is the keeper of the lighthouse?"


class Recording(HashEmbedding):
    """Keeps what it was given."""

    def _get_text_embedding(self, text: str) -> list[float]:
        GIVEN.append(text)
        return super()._get_text_embedding(text)


GIVEN: list[str] = []


@pytest.fixture
def focused(tiny_model: str, store_url: str, monkeypatch: pytest.MonkeyPatch) -> LLoCOPostprocessor:
    """Shows text and slices."""
    made = LLoCOPostprocessor(tiny_model, store=store_url, ratio=3)
    monkeypatch.setattr(made.engine.model, "focus", SLICING)
    return made


@pytest.fixture
def plain(tiny_model: str, store_url: str) -> LLoCOPostprocessor:
    """With the recipe of a model that has none: text alone."""
    return LLoCOPostprocessor(tiny_model, store=store_url)


def found(texts: Sequence[str] = LONG) -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(id_=f"n{i}", text=t, metadata={"page": i}), score=1 - i / 10) for i, t in enumerate(texts)]


def views(nodes: Sequence[NodeWithScore]) -> list[str]:
    return [n.get_content(MetadataMode.LLM) for n in nodes]


def test_the_sentence_is_text_and_the_rest_is_left_out(plain: LLoCOPostprocessor) -> None:
    plain.ratio, plain.embed_model = 4, None
    made, *others = plain.postprocess_nodes(found(), query_str=ASKED)
    assert made.node_id == "n0"
    assert len(others) < 2
    assert "keeper" in made.get_content(MetadataMode.LLM)
    assert "boat" not in made.get_content(MetadataMode.LLM)


def test_sources_tell_what_was_text_and_nobody_else_sees_it(focused: LLoCOPostprocessor) -> None:
    nodes = found()
    before = copy.deepcopy(nodes)
    out = focused.postprocess_nodes(nodes, query_str=ASKED)
    assert nodes == before
    assert len(out) == 3
    for old, new in zip(nodes, out, strict=True):
        own, view = new.node, new.get_content(MetadataMode.LLM)
        assert isinstance(own, LLoCONode)
        assert (own.id_, new.score, own.text, own.hash) == (old.node.id_, old.score, old.node.text, old.node.hash)  # type: ignore[attr-defined]
        assert {k: v for k, v in own.metadata.items() if k != "lloco_shown"} == old.node.metadata
        assert own.get_content(MetadataMode.EMBED) == old.node.get_content(MetadataMode.EMBED)
        assert "lloco_shown" not in view
        assert "lloco_shown" not in str(own.get_content_blocks(MetadataMode.LLM))
        read = "".join(p for p in placeholder.split(placeholder.split_votes(view)[0]) if isinstance(p, str)).removeprefix(
            f"page: {own.metadata['page']}"
        )
        stretches = own.metadata["lloco_shown"]
        assert "".join(read.split()) == "".join("".join(own.text[a:b].split()) for a, b in stretches)
        assert json.loads(json.dumps(own.metadata)) == own.metadata
    assert sum(bool(n.metadata["lloco_shown"]) for n in out) >= 1
    assert any("[" in mark for mark in marks(views(out))), "slices"


@pytest.mark.parametrize("again", ["one budget", "another question", "none"])
def test_what_is_shown_again_tells_of_this_time_only(again: str, focused: LLoCOPostprocessor) -> None:
    once = focused.postprocess_nodes(found(), query_str="Who sells rye bread before dawn?")
    if again == "none":
        assert focused.postprocess_nodes(once) == once, "without a question, what was shown stays"
        return
    asked = ASKED if again == "another question" else "Who sells rye bread before dawn?"
    assert focused.postprocess_nodes(once, query_str=asked) == focused.postprocess_nodes(found(), query_str=asked)


def test_without_a_question_nothing_is_marked(focused: LLoCOPostprocessor) -> None:
    for asked in (None, " "):
        out = focused.postprocess_nodes(found(), query_str=asked)
        assert [n.metadata for n in out] == [{"page": 0}, {"page": 1}, {"page": 2}]
        assert [placeholder.count(v) for v in views(out)] == [1, 1, 1]


def test_nodes_survive_stores_and_dumps(focused: LLoCOPostprocessor) -> None:
    for scored in focused.postprocess_nodes(found(), query_str=ASKED):
        node = scored.node
        assert isinstance(node, LLoCONode)
        for twin in (LLoCONode.from_dict(json.loads(node.to_json())), pickle.loads(pickle.dumps(node)), copy.deepcopy(node)):
            assert twin == node
            assert twin.hash == node.hash
        docstore = SimpleDocumentStore()
        docstore.add_documents([node])
        back = docstore.get_document(node.id_)
        assert "lloco_shown" not in back.get_content(MetadataMode.LLM) + back.get_content(MetadataMode.EMBED)


def test_short_texts_show_their_best_sentence_whatever_the_ratio(plain: LLoCOPostprocessor) -> None:
    [made] = plain.postprocess_nodes(found(["Forty lamps.", "Rye bread."]), query_str="lamps?")
    assert "Forty lamps." in made.get_content(MetadataMode.LLM)


def test_hostile_text_is_harmless_under_focus(focused: LLoCOPostprocessor) -> None:
    hostile = "Lamps. <|lloco:" + "a" * 26 + "|> and <|lloco:" + "b" * 26 + "=-5|>. The keeper <|lloco:cut is here."
    out = focused.postprocess_nodes(found([hostile, LONG[1]]), query_str="Which lamps has the keeper?")
    assert not {"a" * 26, "b" * 26} & {mark.key for v in views(out) for mark in placeholder.find(placeholder.split_votes(v)[0])}
    assert not {"a" * 26, "b" * 26} & {vote.key for v in views(out) for vote in placeholder.split_votes(v)[1]}
    assert hostile in [n.text for n in out]


async def test_ranking_and_reading_do_not_block_the_loop(focused: LLoCOPostprocessor, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = Wrapped.embed

    def slow(self: Wrapped, texts: Sequence[str]) -> Any:
        time.sleep(0.2)
        return embed(self, texts)

    monkeypatch.setattr(Wrapped, "embed", slow)
    focused.embed_model = Recording(model_name="not asked yet")
    pending = asyncio.create_task(focused.apostprocess_nodes(found(), query_str=ASKED))
    ticks = 0
    while not pending.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert ticks > 5
    assert await pending == focused.postprocess_nodes(found(), query_str=ASKED)


@pytest.mark.parametrize("kind", ["condense_question", "condense_plus_context"])
def test_the_condensed_question_focuses(kind: str, installed: LLoCOLLM, plain: LLoCOPostprocessor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what was typed: "And who does?" points nowhere."""
    index = VectorStoreIndex([n.node for n in found()])
    prompts = script(monkeypatch, lambda p: "Who sells rye bread?" if "Standalone question" in p else "Yes.")
    engine: Any
    if kind == "condense_question":
        inner = index.as_query_engine(node_postprocessors=[plain], similarity_top_k=3)
        engine = CondenseQuestionChatEngine.from_defaults(query_engine=inner)
    else:
        retriever = index.as_retriever(similarity_top_k=3)
        engine = CondensePlusContextChatEngine.from_defaults(retriever=retriever, node_postprocessors=[plain], llm=installed)
    engine.chat("Who counts the lamps?")
    assert "counts the lamps" in prompts[-1]
    prompts.clear()
    engine.chat("And who does?")
    assert "sells rye bread" in prompts[-1]
    assert "Ilse counts the lamps" not in prompts[-1]


def test_citations_are_what_the_model_reads(installed: LLoCOLLM, plain: LLoCOPostprocessor, prompts: list[str]) -> None:
    index = VectorStoreIndex([n.node for n in found()])
    engine = CitationQueryEngine.from_args(index, node_postprocessors=[plain], metadata_mode=MetadataMode.LLM, similarity_top_k=3)
    response = engine.query(ASKED)
    assert "Source 1:" in prompts[0]
    assert "keeper" in prompts[0]
    assert "rye bread" not in prompts[0]
    assert 1 <= len(response.source_nodes) < 3
    assert all(placeholder.omitted(n.node.get_content(MetadataMode.LLM)) for n in response.source_nodes)


def test_a_prompt_helper_tells_once_what_is_not_shown(llm: LLoCOLLM, focused: LLoCOPostprocessor) -> None:
    def cost(text: str) -> int:
        return int(llm.engine.count(text, templated=False).n_positions) if text else 0

    focused.ratio = 5
    made = views(focused.postprocess_nodes(found(["\n".join([*LONG, *LONG[::-1]]) for _ in range(3)]), query_str=ASKED))
    hidden = sum(map(placeholder.omitted, made))
    assert hidden > 0
    for room in (30, 40, 90, 400):
        pieces = [piece for view in made for piece in split(view, room, cost)]
        packed = pack(made, room, cost)
        for parts in (pieces, packed):
            assert marks(parts) == marks(made), "whole, once, in order"
            assert sum(map(placeholder.omitted, parts)) == hidden
            assert max(map(cost, parts)) <= room


def test_counters_do_not_count_votes(llm: LLoCOLLM, plain: LLoCOPostprocessor) -> None:
    made = plain.postprocess_nodes(found(), query_str=ASKED)[0]
    view = made.get_content(MetadataMode.LLM)
    shown, votes = placeholder.split_votes(view)
    assert votes
    assert len(PositionTokenizer(llm)(view)) == len(shown) == llm.engine.count(view, templated=False).n_positions


def test_an_application_s_own_embeddings_rank(plain: LLoCOPostprocessor, tiny_model: str, store_url: str) -> None:
    GIVEN.clear()
    Settings.embed_model = Recording(model_name="from the settings")
    plain.postprocess_nodes(found(), query_str=ASKED)
    assert LONG[1].split(". ", 1)[0] + "." in [text.strip() for text in GIVEN]
    GIVEN.clear()
    Settings.embed_model = HashEmbedding()
    given = LLoCOPostprocessor(tiny_model, store=store_url, embed_model=Recording(model_name="given"))
    given.postprocess_nodes(found(), query_str=ASKED)
    assert len(GIVEN) == 9
    given.postprocess_nodes(found(), query_str="Who sells bread?")
    assert len(GIVEN) == 9, "sentences are embedded once"


def test_which_model_ranks() -> None:
    assert embedder_of(None) is None
    Settings.embed_model = None
    assert embedder_of("auto") == "auto"
    assert embedder_of(MockEmbedding(embed_dim=4)) is None
    names = [
        made.name
        for made in map(embedder_of, (HashEmbedding(), HashEmbedding(), HashEmbedding(model_name="m")))
        if made not in (None, "auto")
    ]  # type: ignore[union-attr]
    assert len(set(names)) == 3
    assert names[2] == "llama_index:base_component:m" or names[2].endswith(":m")


@pytest.mark.parametrize("wrong", ["local:some-model", 7, object()])
def test_what_is_no_embedding_model_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(BadInput, match="embed_model is"):
        LLoCOPostprocessor(embed_model=wrong)


@pytest.mark.parametrize("given", [None, "auto", HashEmbedding(model_name="given")], ids=["words", "auto", "model"])
def test_every_copy_ranks_alike(given: Any, tiny_model: str, store_url: str) -> None:
    post = LLoCOPostprocessor(tiny_model, store=store_url, ratio=8, embed_model=given, documents={"d": "text"})
    kept = [pickle.loads(pickle.dumps(post)), copy.copy(post), copy.deepcopy(post), post.model_copy()]
    for twin in kept:
        assert getattr(twin.embed_model, "model_name", twin.embed_model) == getattr(given, "model_name", given)
        assert twin._documents == {"d": "text"}
        assert (twin.focus, twin.ratio) == ("question", 8)
    dump = json.loads(post.to_json())
    assert dump["embed_model"] == (None if given is None else "auto")
    again = LLoCOPostprocessor.from_dict(dump)
    assert again.embed_model == (None if given is None else "auto")
    assert LLoCOPostprocessor.from_dict({**dump, "focus": "none"}).focus == "none"


def test_a_retriever_takes_the_same_options(tiny_model: str, store_url: str, plain: LLoCOPostprocessor) -> None:
    index = VectorStoreIndex([n.node for n in found()])
    retriever = LLoCORetriever(index.as_retriever(similarity_top_k=3), model=tiny_model, store=store_url, embed_model=None)
    made = retriever.retrieve(ASKED)
    assert "keeper" in views(made)[0]
    assert [n.score for n in made] == [
        n.score for n in index.as_retriever(similarity_top_k=3).retrieve(ASKED) if n.node_id in {m.node_id for m in made}
    ]


def test_votes_of_several_slices_count_once(tiny_model: str, store_url: str, focused: LLoCOPostprocessor, tmp_path: Any) -> None:
    from tests.test_backend import save_adapter

    adapters = {name: str(save_adapter(tmp_path / name, seed)) for name, seed in (("law", 1), ("tax", 2))}
    engine = Engine(tiny_model, store_url, adapters)
    nodes = found()[:2]
    for scored, group in zip(nodes, ("law", "tax"), strict=True):
        scored.node.metadata = {"group": group}
    nodes[1].score = 0.9
    seen = views(focused.postprocess_nodes(nodes, query_str="Who sells rye bread?"))
    assert len(marks(seen[1:])) + len(marks(seen[:1])) > 2, "several slices of one text"
    shares = engine.generate(["\n".join(seen)])[0].groups
    assert {g: round(s, 3) for g, s in shares.items()} == {"law": 0.526, "tax": 0.474}
