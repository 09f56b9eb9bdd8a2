"""A corpus, an index over it with a deterministic embedding, and a record of every prompt that reaches the model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import llama_index.core
import pytest
from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import TextNode

from lloco_integrations.engine import Engine
from lloco_integrations.llama_index import LLoCOLLM, LLoCOPostprocessor, install
from lloco_integrations.types import Message

TEXTS = [
    "The lighthouse at Carrow has forty lamps and a keeper named Ilse.",
    "The harbour of Carrow freezes over in the second week of January.",
    "Ilse counts the lamps every evening and writes them in the blue book.",
]


SLICING = {"text_share": 0.4, "finest": 4}
"""A recipe that shows text and slices, also of short texts."""


class HashEmbedding(BaseEmbedding):
    """Counts of hashed words: deterministic, offline, and near texts share words."""

    def _embed(self, text: str) -> list[float]:
        vector = [0.0] * 32
        for word in text.lower().split():
            vector[hashlib.blake2b(word.encode()).digest()[0] % 32] += 1.0
        length = math.sqrt(sum(v * v for v in vector)) or 1.0
        return [v / length for v in vector]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embed(text)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embed(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._embed(query)


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """LlamaIndex's Settings as they were, afterwards."""
    before = dict(vars(Settings))
    tokenizer = llama_index.core.global_tokenizer
    Settings.embed_model = HashEmbedding()
    yield
    vars(Settings).update(before)
    llama_index.core.global_tokenizer = tokenizer


@pytest.fixture
def llm(tiny_model: str, store_url: str) -> LLoCOLLM:
    return LLoCOLLM(tiny_model, store=store_url, max_new_tokens=6)


@pytest.fixture(params=["none", "question"])
def post(request: pytest.FixtureRequest, tiny_model: str, store_url: str, monkeypatch: pytest.MonkeyPatch) -> LLoCOPostprocessor:
    """One summary a node, or text and slices of several nodes' summaries, none of them left out."""
    if request.param == "none":
        return LLoCOPostprocessor(tiny_model, store=store_url, focus="none")
    made = LLoCOPostprocessor(tiny_model, store=store_url, ratio=2)
    monkeypatch.setattr(made.engine.model, "focus", SLICING)
    return made


whole_summaries = pytest.mark.parametrize("post", ["none"], indirect=True)
"""For tests that are about summaries that stand for whole nodes."""


@pytest.fixture
def installed(llm: LLoCOLLM) -> LLoCOLLM:
    return install(Settings, llm)


@pytest.fixture
def nodes() -> list[TextNode]:
    return [TextNode(id_=f"n{i}", text=text, metadata={"page": i}) for i, text in enumerate(TEXTS)]


@pytest.fixture
def index(nodes: list[TextNode]) -> VectorStoreIndex:
    return VectorStoreIndex(nodes)


def as_text(prompt: str | Sequence[Message]) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(m.content for m in prompt)


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The text of every prompt that the engine answers, in order; the real engine answers."""
    seen: list[str] = []
    generate: Callable[..., Any] = Engine.generate
    stream: Callable[..., Any] = Engine.stream

    def recording_generate(self: Engine, given: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        seen.extend(as_text(p) for p in given)
        return generate(self, given, *args, **kwargs)

    def recording_stream(self: Engine, given: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(as_text(given))
        return stream(self, given, *args, **kwargs)

    monkeypatch.setattr(Engine, "generate", recording_generate)
    monkeypatch.setattr(Engine, "stream", recording_stream)
    return seen
