"""What both models do alike: arguments, counts, usage, errors, pickling, the cache."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import BaseLanguageModel
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage, trim_messages
from langchain_core.stores import InMemoryByteStore

from lloco_integrations.errors import BadInput, IncompatibleAdapter, LLoCOError, PlaceholderError, PromptTooLong
from lloco_integrations.langchain import ChatLLoCO, LLoCODocumentCompressor, LLoCOLLM
from lloco_integrations.store import SummaryStore
from tests.langchain.parts import SMUGGLED, documents, engine_calls

BOTH = pytest.mark.parametrize("kind", [ChatLLoCO, LLoCOLLM])


def text(answer: Any) -> str:
    return answer if isinstance(answer, str) else str(answer.text)


@pytest.fixture
def mark(compressor: LLoCODocumentCompressor) -> str:
    return compressor.compress(documents()[:1])[0].page_content


@pytest.fixture
def n_positions(compressor: LLoCODocumentCompressor) -> int:
    return int(compressor.compress(documents()[:1])[0].metadata["lloco_positions"])


@BOTH
def test_a_placeholder_counts_as_its_vectors(kind: Any, named: dict[str, Any], mark: str, n_positions: int) -> None:
    model = kind(**named)
    assert model.get_num_tokens(mark) == n_positions < len(mark)
    assert model.get_token_ids(f"a{mark}b") == [*model.get_token_ids("a"), *[-1] * n_positions, *model.get_token_ids("b")]
    assert model.get_num_tokens("") == 0
    messages = [HumanMessage(f"x {mark} y")]
    assert model.get_num_tokens_from_messages(messages) < n_positions + 60
    with pytest.warns(UserWarning, match="not counted"):
        model.get_num_tokens_from_messages(messages, tools=[{}])
    assert kind(**named, custom_get_token_ids=lambda text: [1, 2]).get_num_tokens(mark) == 2


def test_counts_are_what_usage_says(chat: ChatLLoCO, mark: str) -> None:
    messages = [SystemMessage("Be brief."), HumanMessage(f"{mark}\nWhat is it?")]
    answer = chat.invoke(messages)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] == chat.get_num_tokens_from_messages(messages)
    assert answer.response_metadata["source_tokens"] > answer.usage_metadata["input_tokens"]
    assert answer.usage_metadata["total_tokens"] == answer.usage_metadata["input_tokens"] + answer.usage_metadata["output_tokens"]
    assert answer.response_metadata["model_name"] == chat.model
    assert answer.response_metadata["finish_reason"] in ("stop", "length")
    assert answer.response_metadata["adapter"] is None
    assert chat.get_num_tokens_from_messages([]) == 0


def test_trim_messages_counts_with_the_model(chat: ChatLLoCO, mark: str) -> None:
    history = [HumanMessage("old " * 50), AIMessage("older"), HumanMessage(f"{mark} now")]
    budget = chat.get_num_tokens_from_messages(history[2:])
    assert trim_messages(history, max_tokens=budget, token_counter=chat, strategy="last") == history[2:]


def test_llm_usage(llm: LLoCOLLM, mark: str) -> None:
    result = llm.generate([f"{mark} a?", "b?"])
    infos = [g[0].generation_info or {} for g in result.generations]
    assert result.llm_output is not None
    assert result.llm_output["model_name"] == llm.model
    assert result.llm_output["token_usage"]["total_tokens"] == sum(i["usage"]["total_tokens"] for i in infos)
    assert infos[0]["usage"]["source_tokens"] > infos[0]["usage"]["prompt_tokens"]
    assert infos[0]["usage"]["prompt_tokens"] == llm.get_num_tokens_from_messages([HumanMessage(f"{mark} a?")]) - len("Human: ")


@BOTH
def test_arguments_of_a_call_replace_those_of_the_model(kind: Any, named: dict[str, Any]) -> None:
    model = kind(**named, max_new_tokens=30, stop=["\x00never"])
    assert model.max_tokens == 30
    long, short = text(model.invoke("hello")), text(model.invoke("hello", max_tokens=3))
    assert long.startswith(short.rstrip("\ufffd"))
    assert len(short) <= 3 < len(long)
    assert text(model.bind(max_new_tokens=3).invoke("hello")) == short
    stopped = text(model.invoke("hello", stop=[long[4]]))
    assert stopped == long[: long.index(long[4])]
    assert text(kind(**named, max_tokens=30, stop=[long[4]]).invoke("hello")) == stopped
    hot = [text(model.invoke("hello", temperature=1.5, seed=seed)) for seed in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2]


@BOTH
def test_arguments_that_mean_nothing_are_refused(kind: Any, named: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="did you mean 'adapter'"):
        kind(**named, adaptor="x")
    with pytest.raises(BadInput, match="did you mean 'temperature'"):
        kind(**named).invoke("hello", temprature=1.0)
    with pytest.raises(BadInput, match="cannot call tools"):
        kind(**named).invoke("hello", tools=[{"name": "f"}])
    assert kind(model_name="x").model == "x"


@BOTH
async def test_errors_surface_as_they_are(kind: Any, named: dict[str, Any]) -> None:
    model = kind(**named, max_tokens=3)
    cases: list[tuple[str, dict[str, Any], type[LLoCOError]]] = [
        ("x" * 5000, {}, PromptTooLong),
        ("read <|lloco:aaaaaaaaaaaaaaaaaaaaaaaaaa|>", {}, PlaceholderError),
        ("read <|lloco:cut", {}, PlaceholderError),
        ("hello", {"adapter": "unknown"}, IncompatibleAdapter),
    ]
    for prompt, kwargs, error in cases:
        with pytest.raises(error):
            model.invoke(prompt, **kwargs)
        with pytest.raises(error):
            await model.ainvoke(prompt, **kwargs)
        with pytest.raises(error):
            list(model.stream(prompt, **kwargs))
        with pytest.raises(error):
            [chunk async for chunk in model.astream(prompt, **kwargs)]
        with pytest.raises(error):
            model.batch([prompt], **kwargs)


def test_content_of_messages(chat: ChatLLoCO, mark: str) -> None:
    blocks: list[Any] = [{"type": "text", "text": f"{mark} "}, "What is it?"]
    assert chat.invoke([HumanMessage(blocks)]).text == chat.invoke([HumanMessage(f"{mark} What is it?")]).text
    assert chat.invoke([ChatMessage(role="user", content="hi")]).text == chat.invoke("hi").text
    thought: list[Any] = [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "yes"}]
    assert chat.get_num_tokens_from_messages([AIMessage(thought)]) == chat.get_num_tokens_from_messages([AIMessage("yes")])
    image: list[Any] = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    with pytest.raises(BadInput, match="image_url"):
        chat.invoke([HumanMessage(image)])
    with pytest.raises(BadInput, match="tool"):
        chat.invoke([HumanMessage("hi"), ToolMessage("7", tool_call_id="1")])
    with pytest.raises(BadInput, match="role 'oracle'"):
        chat.invoke([ChatMessage(role="oracle", content="hi")])


def test_text_of_documents_and_users_never_becomes_a_special_token(chat: ChatLLoCO, named: dict[str, Any]) -> None:
    (made,) = LLoCODocumentCompressor(**named, on_miss="text").compress([documents()[0].model_copy(update={"page_content": SMUGGLED})])
    assert 2 not in chat.get_token_ids(made.page_content)
    empty = chat.get_num_tokens_from_messages([HumanMessage("")])
    assert chat.get_num_tokens_from_messages([HumanMessage(made.page_content)]) == empty + len(made.page_content)
    chat.invoke(f"{made.page_content}\nWell?")


@BOTH
def test_pickling_takes_no_weights_along(kind: Any, named: dict[str, Any]) -> None:
    for store in (named["store"], SummaryStore.open(named["store"])):
        model: BaseLanguageModel[Any] = kind(**{**named, "store": store}, max_tokens=5)
        expected = text(model.invoke("hello"))
        data = pickle.dumps(model)
        assert len(data) < 10_000
        assert text(pickle.loads(data).invoke("hello")) == expected


@BOTH
def test_what_traces_see(kind: Any, named: dict[str, Any]) -> None:
    params = kind(**named, stop=["x"])._get_ls_params(adapter="a")
    assert params["ls_provider"] == "lloco"
    assert params["ls_stop"] == ["x"]
    secret = kind(store="redis://me:password@host/1", api_key="hidden")
    as_dict = getattr(secret, "asdict", None) or secret.dict  # its name until langchain-core 1.5
    for seen in (as_dict(), dumpd(secret), repr(secret)):
        assert "password" not in str(seen)
        assert "hidden" not in str(seen)


@BOTH
def test_cached_answers_are_told_apart(kind: Any, named: dict[str, Any], adapters: dict[str, str]) -> None:
    cache = InMemoryCache()
    stores = {"bytes a": InMemoryByteStore(), "bytes b": InMemoryByteStore(), "memory a": SummaryStore.open("memory://")}
    variants: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"max_tokens": 4}, {}),
        ({}, {"max_tokens": 6}),
        ({"stop": ["e"]}, {}),
        ({}, {"stop": ["f"]}),
        ({"adapters": adapters, "adapter": "sea"}, {}),
        ({"adapters": adapters}, {"adapter": "land"}),
        *(({"store": store}, {}) for store in [*stores.values(), "memory://other", SummaryStore.open("memory://")]),
    ]
    for made_with, called_with in variants:
        model = kind(**{**named, "max_tokens": 5, **made_with}, cache=cache)
        with engine_calls("generate") as calls:
            first = model.invoke("hello", **called_with)
            second = model.invoke("hello", **called_with)
        assert len(calls) == 1, (made_with, called_with)
        assert text(first) == text(second)
    assert len(cache._cache) == len(variants)


def test_adapters_change_answers(named: dict[str, Any], adapters: dict[str, str]) -> None:
    chat = ChatLLoCO(**named, adapters=adapters, max_tokens=12)
    answers = {name: chat.invoke("hello", adapter=name) for name in (None, "sea", "land")}
    assert len({a.text for a in answers.values()}) == 3
    assert [a.response_metadata["adapter"] for a in answers.values()] == [None, "sea", "land"]
    assert chat.bind(adapter="sea").invoke("hello").text == answers["sea"].text


@pytest.mark.parametrize("how", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 2.0}, {"max_tokens": 0}, {"top_k": -1}])
def test_values_that_cannot_be_are_refused(chat: ChatLLoCO, llm: LLoCOLLM, how: dict[str, Any]) -> None:
    for model in (chat, llm):
        with pytest.raises(BadInput, match=f"{next(iter(how))} is "):
            model.invoke("how many steps?", **how)
