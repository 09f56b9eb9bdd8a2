"""LangChain's caches: a hit asks nobody, and whatever changes an answer is another entry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.prompts import ChatPromptTemplate

from lloco_integrations.langchain import ChatLLoCO, LLoCODocumentCompressor, LLoCOLLM
from lloco_integrations.types import NO_ADAPTER
from tests.langchain.parts import documents, engine_calls, joined

BOTH = pytest.mark.parametrize("kind", [ChatLLoCO, LLoCOLLM])


def text(answer: Any) -> str:
    return answer if isinstance(answer, str) else str(answer.text)


@pytest.fixture(params=["memory", "sqlite"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], BaseCache]:
    """Opens the cache; a second time as after a restart, where it outlives one."""
    if request.param == "memory":
        one = InMemoryCache()
        return lambda: one
    caches = pytest.importorskip("langchain_community.cache", exc_type=ImportError)
    return lambda: caches.SQLiteCache(database_path=str(tmp_path / "cache.db"))


@pytest.fixture
def everywhere() -> Iterator[Callable[[BaseCache], None]]:
    yield set_llm_cache
    set_llm_cache(None)


async def ask(model: Any, how: str, prompt: str, **kwargs: Any) -> str:
    made = getattr(model, how)([prompt] if "batch" in how else prompt, **kwargs)
    answer = await made if how.startswith("a") else made
    return text(answer[0] if "batch" in how else answer)


@BOTH
async def test_two_adapters_are_two_entries_and_the_second_time_nobody_is_asked(
    kind: Any, fresh: Callable[[], BaseCache], named: dict[str, Any], adapters: dict[str, str], compressor: LLoCODocumentCompressor
) -> None:
    prompt = joined(compressor.compress(documents()[:2]))
    answers = {}
    for name in (None, "sea", "land", NO_ADAPTER):
        model = kind(**named, max_tokens=8, adapters=adapters, cache=fresh())
        answers[name] = text(model.invoke(prompt, adapter=name))
        with engine_calls("generate") as generated, engine_calls("stream") as streamed:
            for how in ("invoke", "ainvoke", "batch", "abatch"):
                assert await ask(kind(**named, max_tokens=8, adapters=adapters, cache=fresh()), how, prompt, adapter=name) == answers[name]
            given = kind(**named, max_tokens=8, adapters=adapters, adapter=name, cache=fresh())
            assert text(given.invoke(prompt)) == answers[name], "given to the model or to the call: the same entry"
        assert generated == streamed == []
    assert answers[None] == answers[NO_ADAPTER]
    assert len(set(answers.values())) == 3


@BOTH
def test_the_cache_of_the_process(kind: Any, named: dict[str, Any], everywhere: Callable[[BaseCache], None]) -> None:
    everywhere(InMemoryCache())
    with engine_calls("generate") as calls:
        first, second = (kind(**named, max_tokens=5).invoke("hello") for _ in "ab")
        kind(**named, max_tokens=5, cache=False).invoke("hello")
        kind(**named, max_tokens=6).invoke("hello")
    assert text(first) == text(second)
    assert len(calls) == 3


def test_a_hit_keeps_the_usage_and_costs_nothing(named: dict[str, Any], fresh: Callable[[], BaseCache]) -> None:
    answered = ChatLLoCO(**named, max_tokens=5, cache=fresh()).invoke("hello")
    hit = ChatLLoCO(**named, max_tokens=5, cache=fresh()).invoke("hello")
    assert (hit.text, hit.response_metadata) == (answered.text, answered.response_metadata)
    assert hit.usage_metadata is not None
    assert hit.usage_metadata["input_tokens"] == (answered.usage_metadata or {})["input_tokens"]


def test_a_batch_asks_only_what_is_new(named: dict[str, Any], fresh: Callable[[], BaseCache]) -> None:
    llm = LLoCOLLM(**named, max_tokens=5, cache=fresh())
    known = llm.invoke("two")
    with engine_calls("generate") as calls:
        answers = llm.batch(["one", "two", "three"])
    assert calls == [["one", "three"]]
    assert answers[1] == known
    assert answers == LLoCOLLM(**named, max_tokens=5).batch(["one", "two", "three"])


def test_another_ratio_or_document_is_another_prompt(named: dict[str, Any], fresh: Callable[[], BaseCache]) -> None:
    chain = ChatPromptTemplate.from_template("{context} What?") | ChatLLoCO(**named, max_tokens=5, cache=fresh())
    with engine_calls("generate") as calls:
        for ratio in (4, 16, 4):
            for document in documents()[:2]:
                (made,) = LLoCODocumentCompressor(**named, ratio=ratio).compress([document])
                chain.invoke({"context": made.page_content})
    assert len(calls) == 4


@BOTH
@pytest.mark.parametrize(
    "change", [{"temperature": 0.9, "seed": 1}, {"temperature": 0.9, "seed": 2}, {"top_k": 3}, {"repetition_penalty": 1.3}]
)
def test_decoding_is_in_the_key(kind: Any, change: dict[str, Any], named: dict[str, Any]) -> None:
    cache = InMemoryCache()
    kind(**named, max_tokens=5, cache=cache).invoke("hello")
    with engine_calls("generate") as calls:
        called = kind(**named, max_tokens=5, cache=cache).invoke("hello", **change)
        assert text(kind(**named, max_tokens=5, cache=cache, **change).invoke("hello")) == text(called)
    assert len(calls) == 1
