"""Structured answers without tool calling: LangChain's parsers behind the model, on answers that are given beforehand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_classic.output_parsers import OutputFixingParser, RetryOutputParser
from langchain_core.exceptions import OutputParserException
from langchain_core.output_parsers import CommaSeparatedListOutputParser, JsonOutputParser, PydanticOutputParser, XMLOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableParallel, RunnablePassthrough
from pydantic import BaseModel

from lloco_integrations.langchain import ChatLLoCO, LLoCOLLM, LLoCORetriever
from tests.langchain.parts import joined
from tests.langchain.scripted import flat, marks, scripted

QUESTION = "When is the lantern room of the lighthouse open?"
ANSWER = '{"days": ["Tuesday"], "steps": 91}'
BOTH = pytest.mark.parametrize("kind", [ChatLLoCO, LLoCOLLM])


class Opening(BaseModel):
    days: list[str]
    steps: int


def parsing(retriever: LLoCORetriever, model: Any, parser: Any) -> Runnable[str, Any]:
    prompt = ChatPromptTemplate.from_template("{context}\n{question}\n{form}").partial(form=parser.get_format_instructions())
    return {"context": retriever | joined, "question": RunnablePassthrough()} | prompt | model | parser


@BOTH
@pytest.mark.parametrize(
    ("parser", "answer", "expected"),
    [
        (PydanticOutputParser(pydantic_object=Opening), f"```json\n{ANSWER}\n```", Opening(days=["Tuesday"], steps=91)),
        (JsonOutputParser(pydantic_object=Opening), ANSWER, json.loads(ANSWER)),
        (CommaSeparatedListOutputParser(), "Tuesday, Friday", ["Tuesday", "Friday"]),
    ],
)
async def test_a_parser_behind_the_model(
    kind: Any, parser: Any, answer: str, expected: Any, named: dict[str, Any], retriever: LLoCORetriever
) -> None:
    chain = parsing(retriever, kind(**named), parser)
    with scripted(answer) as asked:
        assert chain.invoke(QUESTION) == expected
        assert await chain.ainvoke(QUESTION) == expected
    for prompt in asked:
        assert marks(prompt) == [d.page_content for d in retriever.invoke(QUESTION)]
        assert parser.get_format_instructions() in flat(prompt)


@BOTH
async def test_json_is_parsed_while_it_comes(kind: Any, named: dict[str, Any], retriever: LLoCORetriever) -> None:
    chain = parsing(retriever, kind(**named), JsonOutputParser())
    with scripted(ANSWER):
        pieces = list(chain.stream(QUESTION))
        awaited = [piece async for piece in chain.astream(QUESTION)]
    assert len(pieces) > 1
    assert pieces[-1] == awaited[-1] == json.loads(ANSWER)


@BOTH
def test_a_wrong_answer_is_mended_by_the_model(kind: Any, named: dict[str, Any], retriever: LLoCORetriever) -> None:
    model = kind(**named)
    inner = PydanticOutputParser(pydantic_object=Opening)
    with scripted("on Tuesdays", ANSWER) as asked:
        assert parsing(retriever, model, OutputFixingParser.from_llm(model, inner)).invoke(QUESTION).steps == 91
    assert [len(marks(prompt)) for prompt in asked] == [2, 0]
    with scripted("on Tuesdays"), pytest.raises(OutputParserException):
        parsing(retriever, model, inner).invoke(QUESTION)


def test_asking_again_shows_the_context_again(llm: LLoCOLLM, retriever: LLoCORetriever) -> None:
    """RetryOutputParser puts the whole prompt into another: placeholders arrive in both."""
    inner = PydanticOutputParser(pydantic_object=Opening)
    prompt = ChatPromptTemplate.from_template("{context}\n{question}")
    retry = RetryOutputParser.from_llm(llm, inner)
    ask = {"context": retriever | joined, "question": RunnablePassthrough()} | prompt
    both = RunnableParallel(completion=ask | llm, prompt_value=ask) | (lambda x: retry.parse_with_prompt(**x))
    with scripted("on Tuesdays", ANSWER) as asked:
        assert both.invoke(QUESTION).days == ["Tuesday"]
    assert [marks(prompt) for prompt in asked] == [[d.page_content for d in retriever.invoke(QUESTION)]] * 2


def test_xml(chat: ChatLLoCO, retriever: LLoCORetriever) -> None:
    pytest.importorskip("defusedxml")
    with scripted("<opening><day>Tuesday</day></opening>"):
        assert parsing(retriever, chat, XMLOutputParser()).invoke(QUESTION) == {"opening": [{"day": "Tuesday"}]}
