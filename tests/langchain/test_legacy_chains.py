"""The chains of langchain_classic: stuff, refine, map-reduce, map-rerank, with sources, in conversation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from langchain_classic.chains import ConversationalRetrievalChain, RetrievalQA, RetrievalQAWithSourcesChain
from langchain_classic.chains.question_answering import load_qa_chain
from langchain_classic.chains.summarize import load_summarize_chain
from langchain_core.callbacks import BaseCallbackHandler

from lloco_integrations.errors import PromptTooLong
from lloco_integrations.langchain import ChatLLoCO, LLoCOLLM, LLoCORetriever, original_text
from tests import tiny
from tests.langchain.parts import TEXTS, engine_calls, vector_store
from tests.langchain.scripted import flat, marks, scripted, shown

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
QUESTION = "When is the lantern room of the lighthouse open?"
HELPFUL = "On Tuesdays.\nScore: 80"
BOTH = pytest.mark.parametrize("kind", [ChatLLoCO, LLoCOLLM])


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """LangChain's default prompts are long, and a token is a character here."""
    return str(tiny.save_mean_pool(tmp_path_factory.mktemp("wide") / "tiny", window=16384))


@pytest.fixture
def names(wide: str, store_url: str) -> dict[str, Any]:
    return {"model": wide, "store": store_url, "device": "cpu", "dtype": "float32"}


@pytest.fixture
def four(request: pytest.FixtureRequest, names: dict[str, Any], focusing: Callable[..., Any]) -> LLoCORetriever:
    return focusing(getattr(request, "param", "none"), LLoCORetriever, **names, vectorstore=vector_store(), k=4)


def settings(chain_type: str) -> dict[str, Any]:
    """``token_max`` is 3000 unless told, where the prompts of map_reduce alone take more: a token is a character here."""
    return {"token_max": 15000} if chain_type == "map_reduce" else {}


def qa(chain_type: str) -> Callable[[Any, Any], Any]:
    return lambda model, retriever: RetrievalQA.from_chain_type(
        model, chain_type=chain_type, retriever=retriever, chain_type_kwargs=settings(chain_type)
    )


def documented(load: Any, chain_type: str) -> Callable[[Any, Any], Any]:
    """A chain that takes the documents themselves."""
    return lambda model, retriever: (
        retriever | (lambda found: {"input_documents": found, "question": QUESTION}) | load(model, chain_type, **settings(chain_type))
    )


def sourced(chain_type: str) -> Callable[[Any, Any], Any]:
    return lambda model, retriever: RetrievalQAWithSourcesChain.from_chain_type(
        model, chain_type=chain_type, retriever=retriever, chain_type_kwargs=settings(chain_type)
    )


def conversing(chain_type: str) -> Callable[[Any, Any], Any]:
    return lambda model, retriever: (
        (lambda question: {"question": question, "chat_history": []})
        | ConversationalRetrievalChain.from_llm(model, retriever, chain_type=chain_type, combine_docs_chain_kwargs=settings(chain_type))
    )


KINDS: dict[str, tuple[Callable[[str], Callable[[Any, Any], Any]], str]] = {
    "RetrievalQA": (qa, "stuff refine map_reduce map_rerank"),
    "load_qa_chain": (partial(documented, load_qa_chain), "stuff refine map_reduce map_rerank"),
    "load_summarize_chain": (partial(documented, load_summarize_chain), "stuff refine map_reduce"),
    "RetrievalQAWithSources": (sourced, "stuff refine map_reduce"),
    "ConversationalRetrieval": (conversing, "stuff refine map_reduce"),
}
N_PROMPTS = {"stuff": 1, "refine": 4, "map_reduce": 5, "map_rerank": 4}  # for four documents
CHAINS = [(kind, chain_type) for kind, (_, types) in KINDS.items() for chain_type in types.split()]


def made(chain: str, chain_type: str, model: Any, retriever: Any) -> Any:
    return KINDS[chain][0](chain_type)(model, retriever)


def said(result: dict[str, Any]) -> str:
    return next(str(result[key]) for key in ("result", "answer", "output_text") if key in result)


@BOTH
@pytest.mark.parametrize("four", ["none", "question"], indirect=True)
@pytest.mark.parametrize(("chain", "chain_type"), CHAINS)
async def test_every_placeholder_arrives_whole_and_once_and_in_order(
    chain: str, chain_type: str, kind: Any, names: dict[str, Any], four: LLoCORetriever
) -> None:
    ask = made(chain, chain_type, kind(**names), four)
    asking = {"question": QUESTION} if chain == "RetrievalQAWithSources" else QUESTION
    expected = shown(four.invoke(QUESTION))
    with scripted(HELPFUL) as asked:
        result = ask.invoke(asking)
    assert marks(*asked) == expected
    assert len(asked) == N_PROMPTS[chain_type]
    assert said(result).startswith("On Tuesdays.")
    assert not any(text in flat(prompt) for prompt in asked for text in TEXTS), "no text beside its summary"
    with scripted(HELPFUL) as asked:
        assert said(await ask.ainvoke(asking)) == said(result)
    assert sorted(marks(*asked)) == sorted(expected)


@pytest.mark.parametrize("chain_type", ["refine", "map_reduce"])
def test_the_model_itself_answers_at_every_step(chain_type: str, names: dict[str, Any], four: LLoCORetriever) -> None:
    """Nothing scripted: what the random model says goes into the next prompt as it is."""
    chat = ChatLLoCO(**names, max_tokens=6)
    with engine_calls("generate") as calls:
        result = made("RetrievalQA", chain_type, chat, four).invoke(QUESTION)
    assert isinstance(result["result"], str)
    assert marks(*(call[0] for call in calls)) == [d.page_content for d in four.invoke(QUESTION)]


def test_the_map_step_is_one_batch_of_the_llm(names: dict[str, Any], four: LLoCORetriever) -> None:
    with engine_calls("generate") as calls:
        made("RetrievalQA", "map_reduce", LLoCOLLM(**names, max_tokens=4), four).invoke(QUESTION)
    assert [len(call) for call in calls] == [4, 1]


@BOTH
def test_the_default_prompts_of_a_small_window_are_refused_by_name(kind: Any, named: dict[str, Any], retriever: LLoCORetriever) -> None:
    """RetrievalQAWithSources shows four long examples: 4,096 characters have no room for them. That is said, and not swallowed."""
    with pytest.raises(PromptTooLong, match="4096"):
        sourced("stuff")(kind(**named), retriever).invoke({"question": QUESTION})


@BOTH
def test_sources_come_back_with_their_text(kind: Any, names: dict[str, Any], four: LLoCORetriever) -> None:
    with scripted("On Tuesdays.\nSOURCES: 0.txt") as asked:
        result = RetrievalQAWithSourcesChain.from_chain_type(kind(**names), retriever=four, return_source_documents=True).invoke(
            {"question": QUESTION}
        )
        answered = RetrievalQA.from_chain_type(kind(**names), retriever=four, return_source_documents=True).invoke(QUESTION)
    assert (result["answer"].strip(), result["sources"]) == ("On Tuesdays.", "0.txt")
    assert f"Content: {marks(asked[0])[0]}\nSource: 0.txt" in flat(asked[0])
    for found in (result["source_documents"], answered["source_documents"]):
        assert sorted(map(original_text, found)) == sorted(TEXTS)


def test_a_follow_up_is_rephrased_before_it_is_looked_up(names: dict[str, Any]) -> None:
    retriever = LLoCORetriever(**names, vectorstore=vector_store(), k=1, focus="none")
    ask = ConversationalRetrievalChain.from_llm(ChatLLoCO(**names), retriever, return_source_documents=True, return_generated_question=True)
    with scripted("Where are the tide tables of the harbour master?", "In a green cupboard.") as asked:
        result = ask.invoke({"question": "And where are they?", "chat_history": [(QUESTION, "On Tuesdays.")]})
    assert result["answer"] == "In a green cupboard."
    assert [original_text(d) for d in result["source_documents"]] == [TEXTS[1]]
    assert [len(marks(prompt)) for prompt in asked] == [0, 1]
    assert "green cupboard" not in "".join(map(flat, asked))


def test_intermediate_steps_are_one_a_document(names: dict[str, Any], four: LLoCORetriever) -> None:
    for chain_type in ("refine", "map_reduce"):
        ask = load_qa_chain(LLoCOLLM(**names), chain_type, return_intermediate_steps=True, **settings(chain_type))
        with scripted("a", "b", "c", "d", "e"):
            result = ask.invoke({"input_documents": four.invoke(QUESTION), "question": QUESTION})
        assert result["intermediate_steps"] == ["a", "b", "c", "d"]


@BOTH
def test_callbacks_of_a_chain_come_once_a_step(kind: Any, names: dict[str, Any], four: LLoCORetriever) -> None:
    seen: list[str] = []

    class Watching(BaseCallbackHandler):
        def on_retriever_start(self, *args: Any, **kwargs: Any) -> None:
            seen.append("retriever")

        def on_chat_model_start(self, serialized: Any, messages: list[Any], **kwargs: Any) -> None:
            seen.extend("model" for _ in messages)

        def on_llm_start(self, serialized: Any, prompts: list[str], **kwargs: Any) -> None:
            seen.extend("model" for _ in prompts)

        def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
            seen.append("end")

    with scripted(HELPFUL):
        RetrievalQA.from_chain_type(kind(**names), chain_type="refine", retriever=four).invoke(QUESTION, {"callbacks": [Watching()]})
    assert seen.count("model") == seen.count("end") == 4
    assert seen[0] == "retriever"
    assert seen.count("retriever") == 2, "ours, and the one underneath"
