"""Conversations: every chat engine in every way of asking, over several turns, with its memory."""

from __future__ import annotations

import time
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer

from lloco_integrations import placeholder
from lloco_integrations.errors import PlaceholderError
from lloco_integrations.llama_index import LLoCOLLM, LLoCOPostprocessor

from .conftest import TEXTS
from .scripted import script
from .test_pipelines import check_sources, expected, marks

WAYS = ["chat", "achat", "stream_chat", "astream_chat"]
QUESTION = "Who is Ilse?"


async def say(engine: Any, how: str, message: str) -> tuple[str, Any]:
    """The whole answer, once the memory holds it, and the response."""
    if how == "chat":
        response = engine.chat(message)
        return str(response), response
    if how == "achat":
        response = await engine.achat(message)
        return str(response), response
    before = len(engine.chat_history)
    if how == "stream_chat":
        response = engine.stream_chat(message)
        text = "".join(response.response_gen)
    else:
        response = await engine.astream_chat(message)
        text = "".join([piece async for piece in response.async_response_gen()])
        if response.awrite_response_to_history_task:
            await response.awrite_response_to_history_task
    deadline = time.monotonic() + 5  # another thread writes the memory
    while len(engine.chat_history) < before + 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    return text, response


def turns(engine: Any) -> list[tuple[str, str]]:
    return [(m.role.value, m.content) for m in engine.chat_history]


@pytest.mark.parametrize("how", WAYS)
async def test_condense_question_asks_the_query_engine_with_the_condensed_question(
    how: str, index: VectorStoreIndex, installed: LLoCOLLM, post: LLoCOPostprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = script(monkeypatch, lambda p: "the harbour of Carrow freezes" if "Standalone question" in p else "Yes.")
    engine = CondenseQuestionChatEngine.from_defaults(query_engine=index.as_query_engine(node_postprocessors=[post]))
    found, want = expected(index, post, QUESTION, 2)
    text, response = await say(engine, how, QUESTION)
    assert text == "Yes."
    assert marks(prompts) == want
    check_sources(response.sources[0].raw_output, found)
    prompts.clear()
    found, want = expected(index, post, "the harbour of Carrow freezes", 2)
    _, response = await say(engine, how, "And the harbour?")
    assert len(prompts) == 2
    assert QUESTION in prompts[0]
    assert "And the harbour?" in prompts[0]
    assert marks(prompts[:1]) == [], "past answers bring no placeholders"
    assert marks(prompts[1:]) == want
    check_sources(response.sources[0].raw_output, found)
    assert turns(engine) == [("user", QUESTION), ("assistant", "Yes."), ("user", "And the harbour?"), ("assistant", "Yes.")]


@pytest.mark.parametrize("how", WAYS)
async def test_simple_chat_remembers_all_turns(how: str, llm: LLoCOLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["one", "two", "three"])
    prompts = script(monkeypatch, lambda p: next(answers))
    engine = SimpleChatEngine.from_defaults(llm=llm, system_prompt="Be brief.")
    assert [(await say(engine, how, q))[0] for q in ("A?", "B?", "C?")] == ["one", "two", "three"]
    assert prompts[-1] == "Be brief.\nA?\none\nB?\ntwo\nC?"
    engine.reset()
    assert engine.chat_history == []


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("kind", [ContextChatEngine, CondensePlusContextChatEngine])
async def test_each_turn_reads_its_own_context_and_the_memory_holds_words_only(
    kind: Any, how: str, index: VectorStoreIndex, installed: LLoCOLLM, post: LLoCOPostprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [QUESTION, "the harbour of Carrow freezes", "the lamps in the blue book"]
    answer = iter(["Keeper.", "January.", "Ilse."])

    def said(prompt: str) -> str:
        return next(q for q in reversed(questions) if q in prompt) if "Standalone question" in prompt else next(answer)

    prompts = script(monkeypatch, said)
    engine = kind.from_defaults(retriever=index.as_retriever(), node_postprocessors=[post], llm=installed)
    for turn, question in enumerate(questions):
        prompts.clear()
        found, want = expected(index, post, question, 2)
        _, response = await say(engine, how, question)
        assert marks(prompts) == want, "none of earlier turns"
        assert [n.text for n in response.source_nodes] == [n.text for n in found]
        assert all(earlier in prompts[-1] for earlier in ["Keeper.", "January."][:turn])
    assert [c for _, c in turns(engine)] == [questions[0], "Keeper.", questions[1], "January.", questions[2], "Ilse."]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("mode", ["context", "condense_question", "condense_plus_context", "simple"])
async def test_a_placeholder_that_an_answer_repeats_is_only_words_in_the_next_turn(
    mode: Any, how: str, index: VectorStoreIndex, installed: LLoCOLLM, post: LLoCOPostprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (leaked, _) = expected(index, post, QUESTION, 2)
    prompts = script(monkeypatch, lambda p: QUESTION if "Standalone question" in p else f"I was shown {leaked}.")
    engine = index.as_chat_engine(chat_mode=mode, llm=installed, **({} if mode == "simple" else {"node_postprocessors": [post]}))
    per_turn = 0 if mode == "simple" else 2
    for _ in range(2):
        prompts.clear()
        text, _ = await say(engine, how, QUESTION)
        assert placeholder.neutralise(leaked) in text
        assert sum(placeholder.count(p) for p in prompts) == per_turn
    assert any(placeholder.neutralise(leaked) in p for p in prompts)


@pytest.mark.parametrize("how", WAYS)
async def test_a_token_limit_forgets_old_turns_by_true_positions(how: str, installed: LLoCOLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = script(monkeypatch, lambda p: "ok")
    memory = ChatMemoryBuffer.from_defaults(token_limit=60)
    engine = SimpleChatEngine.from_defaults(llm=installed, memory=memory)
    for i in range(3):
        await say(engine, how, f"{i}" * 25)
    assert prompts[-1] == "1" * 25 + "\nok\n" + "2" * 25


@pytest.mark.parametrize("how", WAYS)
async def test_errors_of_a_turn_come_through(how: str, index: VectorStoreIndex, installed: LLoCOLLM, tiny_model: str) -> None:
    elsewhere = LLoCOPostprocessor(tiny_model, store="memory://", focus="none")
    engine = ContextChatEngine.from_defaults(retriever=index.as_retriever(), node_postprocessors=[elsewhere], llm=installed)
    with pytest.raises(PlaceholderError, match="does not hold"):
        await say(engine, how, QUESTION)


def test_a_history_from_elsewhere_may_be_given_and_its_answers_are_only_words(
    index: VectorStoreIndex, installed: LLoCOLLM, post: LLoCOPostprocessor, prompts: list[str]
) -> None:
    engine = index.as_chat_engine(chat_mode="context", llm=installed, node_postprocessors=[post], system_prompt="Be brief.")
    _, want = expected(index, post, QUESTION, 2)
    said = f"I was shown {want[0]}"
    engine.chat(QUESTION, chat_history=[ChatMessage(role="user", content="Hello"), ChatMessage(role="assistant", content=said)])
    assert prompts[0].endswith(f"Be brief.\nHello\n{placeholder.neutralise(said)}\n{QUESTION}")
    assert marks(prompts) == want
    assert not any(text in prompts[0] for text in TEXTS)


def test_react_mode_is_refused_by_llama_index_itself(index: VectorStoreIndex, installed: LLoCOLLM) -> None:
    with pytest.raises(ValueError, match="use the ReActAgent"):
        index.as_chat_engine(chat_mode=ChatMode.REACT, llm=installed)


@pytest.mark.parametrize(
    "answer", ["<|lloco:cut", "a <|LLOCO b <| c", "x <|", "<|<|lloco|>", "1 < 2 <b> <|im_end|>", "<", "<| l<", "<|\n lloco"]
)
async def test_what_the_model_says_is_neutralised_whole_and_in_pieces(answer: str, llm: LLoCOLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, lambda p: answer, piece=1)
    whole = llm.complete("x").text
    assert whole == placeholder.neutralise(answer) == llm.chat([ChatMessage(content="x")]).message.content
    pieces = list(llm.stream_complete("x"))
    assert pieces[-1].text == "".join(p.delta or "" for p in pieces) == whole
    apieces = [p async for p in await llm.astream_chat([ChatMessage(content="x")])]
    assert apieces[-1].message.content == "".join(p.delta or "" for p in apieces) == whole
