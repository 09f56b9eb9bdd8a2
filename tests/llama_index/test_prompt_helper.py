from __future__ import annotations

import pickle
import random
import re

import llama_index.core
import pytest
from llama_index.core import Settings
from llama_index.core.indices.prompt_helper import PromptHelper
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.prompts.default_prompt_selectors import DEFAULT_TEXT_QA_PROMPT_SEL
from llama_index.core.schema import NodeWithScore, TextNode

from lloco_integrations import placeholder
from lloco_integrations.errors import LLoCOError, PlaceholderError, PromptTooLong
from lloco_integrations.llama_index import LLoCOLLM, LLoCOPostprocessor, LLoCOPromptHelper, PositionTokenizer, install
from lloco_integrations.llama_index.packing import pack, split

PROMPT = PromptTemplate("Context: {context_str}\nQ: {query_str}")
KEYS = ["abcdefghijklmnopqrstuvwxyz"[i:] + "a" * i for i in range(20)]


def cost(text: str) -> int:
    """A letter costs 1, a placeholder 7."""
    return sum(7 if isinstance(p, placeholder.Placeholder) else len(p) for p in placeholder.split(text))


def marks(texts: list[str]) -> list[str]:
    return [str(m) for text in texts for m in placeholder.find(text)]


def test_packing_loses_cuts_and_reorders_nothing() -> None:
    dice = random.Random(0)
    for _ in range(200):
        texts = [
            " ".join(
                placeholder.make(dice.choice(KEYS), 16) if dice.random() < 0.3 else "w" * dice.randint(1, 12)
                for _ in range(dice.randint(1, 9))
            )
            for _ in range(dice.randint(1, 6))
        ]
        room = dice.randint(7, 60)
        packed = pack(texts, room, cost)
        assert marks(packed) == marks(texts)
        assert all(cost(piece) <= room for piece in packed)
        assert re.sub(r"\s", "", "".join(packed)) == re.sub(r"\s", "", "".join(texts))
        for text in texts:
            if cost(text) <= room:
                assert any(text in piece for piece in packed)


def test_packing_edges() -> None:
    mark = placeholder.make(KEYS[0])
    assert pack([], 5, cost) == []
    assert split("é" * 3, 1, cost) == ["é"] * 3
    assert split("ab", 1, lambda text: 3 * len(text)) == ["a", "b"]
    with pytest.raises(PromptTooLong, match=r"7 positions.*room for 6"):
        pack([f"a {mark}"], 6, cost)
    with pytest.raises(PlaceholderError):
        pack(["x" * 50, mark[:-2]], 20, cost)


@pytest.fixture
def helper(llm: LLoCOLLM) -> LLoCOPromptHelper:
    return LLoCOPromptHelper(llm, context_window=400)


def compressed(post: LLoCOPostprocessor, *texts: str) -> list[str]:
    return [n.get_content("llm") for n in post.postprocess_nodes([NodeWithScore(node=TextNode(text=t)) for t in texts])]


def test_repack_fills_the_window_with_true_costs(helper: LLoCOPromptHelper, post: LLoCOPostprocessor, llm: LLoCOLLM) -> None:
    texts = compressed(post, *(f"{i:x} " * 100 for i in range(12)))  # 50 vectors each
    packed = helper.repack(PROMPT, texts, llm=llm)
    assert marks(packed) == texts
    assert [placeholder.count(p) for p in packed] == [6, 6]
    for piece in packed:
        positions = llm.engine.count(PROMPT.format(context_str=piece, query_str="")).n_positions
        assert 300 < positions <= 400 - llm.max_new_tokens


def test_every_kind_of_template_is_counted(helper: LLoCOPromptHelper, llm: LLoCOLLM) -> None:
    chat = ChatPromptTemplate.from_messages([("system", "s" * 30), ("user", "{context_str} {query_str}")])
    room = {
        name: helper._get_available_chunk_size(template, llm=llm)
        for name, template in {"plain": PROMPT, "chat": chat, "long": PromptTemplate("x" * 50 + "{a}")}.items()
    }
    for name, template in {"plain": "Context: \nQ: ", "long": "x" * 50}.items():
        assert room[name] == 400 - llm.engine.count(template).n_positions - 6 - 5
    assert room["chat"] < room["plain"]
    assert helper._get_available_chunk_size(PROMPT, 2, padding=0, llm=llm) == (room["plain"] + 5) // 2
    wide = LLoCOPromptHelper(llm)
    assert wide._get_available_chunk_size(DEFAULT_TEXT_QA_PROMPT_SEL, llm=llm) > 2000
    llm.system_prompt = "y" * 40
    assert helper._get_available_chunk_size(PROMPT, llm=llm) == room["plain"] - 40
    assert LLoCOPromptHelper(llm, chunk_size_limit=9)._get_available_chunk_size(PROMPT) == 9


def test_no_room_is_an_lloco_error(helper: LLoCOPromptHelper, llm: LLoCOLLM) -> None:
    with pytest.raises(PromptTooLong, match="window's 400"):
        helper.repack(PROMPT.partial_format(query_str="q" * 400), ["text"], llm=llm)
    with pytest.raises(LLoCOError):
        helper.repack(PROMPT, ["x" * 900, "<|lloco:cut"], llm=llm)


def test_truncate_never_drops(helper: LLoCOPromptHelper, post: LLoCOPostprocessor, llm: LLoCOLLM) -> None:
    texts = compressed(post, "a " * 100, "b " * 100)
    assert helper.truncate(PROMPT, texts, llm=llm) == texts
    with pytest.raises(PromptTooLong, match="room for"):
        helper.truncate(PROMPT, compressed(post, *(f"{i} " * 100 for i in range(9))), llm=llm)
    with pytest.raises(PromptTooLong):
        helper.truncate(PROMPT, ["x" * 900], llm=llm)
    assert helper.truncate(PROMPT, []) == []


def test_the_splitter_it_gives_cuts_no_placeholder(helper: LLoCOPromptHelper, post: LLoCOPostprocessor) -> None:
    texts = compressed(post, *(f"{i} " * 100 for i in range(9)))
    pieces = helper.get_text_splitter_given_prompt(PROMPT, 2).split_text("\n\n".join(texts) + " word" * 100)
    assert marks(pieces) == texts
    assert len(pieces) > 3


def test_serialisation(helper: LLoCOPromptHelper, llm: LLoCOLLM) -> None:
    for again in (LLoCOPromptHelper.from_dict(helper.to_dict()), pickle.loads(pickle.dumps(helper))):
        assert again.to_dict() == helper.to_dict()
        assert again.llm is not None
        assert again.llm.engine == llm.engine


def test_install(llm: LLoCOLLM, post: LLoCOPostprocessor) -> None:
    assert install(Settings, llm) is llm
    assert Settings.llm is llm
    assert isinstance(Settings.prompt_helper, LLoCOPromptHelper)
    assert Settings.prompt_helper.context_window == Settings.context_window == 4096
    assert Settings.num_output == 6
    assert Settings.chat_prompt_helper.context_window == 4096
    tokenizer = llama_index.core.global_tokenizer
    assert isinstance(tokenizer, PositionTokenizer)
    assert tokenizer("abc") == llm.engine.model.text_ids("abc")
    assert len(tokenizer(compressed(post, "a " * 100)[0] + "xyz")) == 53
    for harmless in ("", " ", "<|lloco:cut", placeholder.make(KEYS[0]), "é"):
        assert len(tokenizer(harmless)) >= len(harmless.strip()[:1])


def test_the_plain_prompt_helper_is_replaced_for_a_reason(post: LLoCOPostprocessor, llm: LLoCOLLM) -> None:
    texts = compressed(post, *(f"{i} " * 100 for i in range(9)))
    plain = PromptHelper(context_window=60, num_output=6, tokenizer=lambda text: list(text.encode()))
    with pytest.raises(PlaceholderError):
        marks(plain.repack(PROMPT, texts))
