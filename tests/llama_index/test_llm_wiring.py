"""How an LLoCOLLM is made, named, copied and saved."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from llama_index.core.schema import NodeWithScore, TextNode

from lloco_integrations.engine import Engine
from lloco_integrations.llama_index import LLoCOLLM, LLoCOPostprocessor
from lloco_integrations.store import SummaryStore

QUESTION = "How many lamps are there?"


def placeholder_of(post: LLoCOPostprocessor, text: str) -> str:
    return post.postprocess_nodes([NodeWithScore(node=TextNode(text=text))])[0].get_content("llm")


def test_metadata(llm: LLoCOLLM, tiny_model: str, store_url: str) -> None:
    assert llm.metadata.context_window == 4096
    assert llm.metadata.num_output == 6
    assert llm.metadata.is_chat_model
    assert llm.metadata.model_name == tiny_model
    assert LLoCOLLM(tiny_model, store=store_url, context_window=100).metadata.context_window == 100
    assert LLoCOLLM(tiny_model, store=store_url, context_window=100_000).metadata.context_window == 4096


def test_nothing_is_loaded_until_it_is_used() -> None:
    lazy = LLoCOLLM("no-such-model", store="nonsense://address", temperature=0.5)
    assert lazy.to_payload()["model_name"] == "no-such-model"
    assert LLoCOLLM.from_dict(lazy.to_dict()).to_dict() == lazy.to_dict()


def test_default_is_the_embedded_model_and_store() -> None:
    assert LLoCOLLM().engine == LLoCOPostprocessor().engine == Engine()


def test_serialisation(llm: LLoCOLLM, store_url: str) -> None:
    llm.temperature, llm.stop = 0.25, ["END"]
    data = json.loads(llm.to_json())
    assert data["class_name"] == "LLoCOLLM"
    for again in (LLoCOLLM.from_dict(data), pickle.loads(pickle.dumps(llm)), copy.deepcopy(llm), llm.model_copy()):
        assert again.to_dict() == llm.to_dict()
        assert again.engine == llm.engine
        assert again.complete(QUESTION, temperature=0).text == llm.complete(QUESTION, temperature=0).text


def test_a_store_object_is_used_and_not_serialised(tiny_model: str, store_url: str) -> None:
    class Bytes:
        def __init__(self) -> None:
            self.held: dict[str, bytes] = {}

        def mget(self, keys: Any) -> list[bytes | None]:
            return [self.held.get(k) for k in keys]

        def mset(self, pairs: Any) -> None:
            self.held.update(pairs)

        def mdelete(self, keys: Any) -> None:
            for key in keys:
                self.held.pop(key, None)

        def yield_keys(self, prefix: str | None = None) -> Any:
            yield from [k for k in self.held if k.startswith(prefix or "")]

    held = Bytes()
    llm, post = LLoCOLLM(tiny_model, store=held, max_new_tokens=2), LLoCOPostprocessor(tiny_model, store=held)
    mark = placeholder_of(post, "some text")
    assert llm.complete(mark).text == copy.deepcopy(llm).complete(mark).text
    assert llm.to_dict()["store"] is None
    opened = SummaryStore.open(store_url)
    assert LLoCOLLM(tiny_model, store=opened).to_dict()["store"] == opened.url
    assert pickle.loads(pickle.dumps(LLoCOLLM(tiny_model, store=opened))).engine.store.url == opened.url


def test_two_parts_of_one_name_share_model_and_store(tiny_model: str, store_url: str) -> None:
    a, b = LLoCOLLM(tiny_model, store=store_url).engine, LLoCOPostprocessor(tiny_model, store=store_url).engine
    assert a.model is b.model
    assert a.store is b.store


def test_misspelt_arguments_are_refused(tiny_model: str) -> None:
    with pytest.raises(TypeError, match="temprature"):
        LLoCOLLM(tiny_model, temprature=1)
    with pytest.raises(TypeError, match="ration"):
        LLoCOPostprocessor(tiny_model, ration=4)
