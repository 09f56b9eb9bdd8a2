"""Questions about a document by a large language model: any function from a prompt to its answer."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from lloco_integrations.errors import BadInput
from lloco_integrations.training.questions.draft import MOST_ANSWER_WORDS, Draft, folded, is_sound
from lloco_integrations.training.questions.sentences import passages

Ask = Callable[[str], str]

PROMPT = """Write {n} questions that the passage below answers, each with its answer.
- A question asks for one fact, has one right answer, and can be understood by somebody who does not see the passage: name what it is about.
- An answer is copied from the passage word for word, as short as possible, {most} words at most, and is not in its question.
- Write one line for each question, and nothing else, like this:
Q: the question? | A: the answer

{title}Passage:
{passage}
"""
_QUOTES = "\"'“”‘’`*"
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_LABEL = r"\W*\d*\W*{0}\s*\d*\s*[:.)]\s*"
_PAIR = re.compile(
    rf"^{_LABEL.format('(?:Q|Question)')}(?P<q>.+?)\s*(?:\||\n)\s*{_LABEL.format('(?:A|Answer)')}(?P<a>.+?)\s*$",
    re.MULTILINE | re.IGNORECASE,
)


def llm_drafts(text: str, title: str, n: int, ask: Ask) -> tuple[list[Draft], int]:
    """Up to ``n`` questions spread over ``text``, and how many of the LLM's could not be used. What ``ask`` raises comes through."""
    spans = [(a, b) for a, b in passages(text) if len(text[a:b].split()) >= 8]
    spans = [spans[i * len(spans) // min(n, len(spans))] for i in range(min(n, len(spans)))]
    found: dict[str, Draft] = {}
    ambiguous: set[str] = set()
    unusable = 0
    for i, (begin, end) in enumerate(spans):
        wanted = n * (i + 1) // len(spans) - n * i // len(spans)
        passage = text[begin:end]
        shown = {"n": wanted, "most": MOST_ANSWER_WORDS, "title": f"Document: {title}\n" if title else "", "passage": passage.strip()}
        taken = 0
        pairs = list(pairs_of(ask(PROMPT.format(**shown))))
        unusable += not pairs
        for question, answer in pairs:
            at = locate(answer, passage)
            draft = Draft(" ".join(question.split()), passage[slice(*at)], begin + at[0]) if at else None
            if draft is None or len(draft.question.split()) < 3 or not is_sound(draft, text):
                unusable += 1
                continue
            key = folded(draft.question)
            if key in found:
                if folded(found[key].answer) != folded(draft.answer):
                    ambiguous.add(key)
            elif taken < wanted:
                found[key] = draft
                taken += 1
    drafts = [d for key, d in found.items() if key not in ambiguous]
    return drafts, unusable + len(found) - len(drafts)


def pairs_of(output: str) -> Iterator[tuple[str, str]]:
    """The questions and answers in what a model wrote: lines ``Q: ... | A: ...``, or JSON, or what looks like either."""
    output = _THOUGHT.sub("", output)
    rows = list(_json_rows(output))
    if rows:
        for row in rows:
            lowered = {str(k).lower(): v for k, v in row.items()}
            question = lowered.get("question", lowered.get("q"))
            answer = lowered.get("answer", lowered.get("a", lowered.get("answers")))
            answer = answer[0] if isinstance(answer, list) and answer else answer
            if isinstance(question, str) and isinstance(answer, str | int | float):
                yield question, str(answer)
        return
    for found in _PAIR.finditer(output):
        yield found["q"].strip(" *_"), found["a"].strip(" *_")


def locate(answer: str, passage: str) -> tuple[int, int] | None:
    """Where ``answer`` stands in ``passage``, whatever its capitals, the quotes around it or the full stop after it."""
    bare = answer.strip().strip(_QUOTES).rstrip(".").strip(_QUOTES)
    for form in (answer, bare):
        words = r"[^\S\n]+".join(map(re.escape, form.split()))
        found = words and re.search(rf"(?<!\w){words}(?!\w)", passage, re.IGNORECASE)
        if found:
            return found.span()
    return None


def as_ask(llm: Any, name: str = "the LLM") -> Ask:
    """A function from prompt to text out of a LlamaIndex LLM, a LangChain model, a plain function, or a class or function without
    arguments that makes one of these. Raises BadInput for anything else."""
    if isinstance(llm, type) or (inspect.isroutine(llm) and _takes_nothing(llm)):
        try:
            llm = llm()
        except Exception as error:
            raise BadInput(f"{name} could not be called without arguments: {type(error).__name__}: {error}") from error
    for method, field in (("complete", "text"), ("invoke", "content")):
        call = getattr(llm, method, None)
        if callable(call):
            return lambda prompt: _text(call(prompt), field, name)
    if callable(llm) and not isinstance(llm, type):
        return lambda prompt: _text(llm(prompt), "text", name)
    raise BadInput(
        f"{name} is of type {type(llm).__name__}, which cannot be asked; give a LlamaIndex LLM, a LangChain model, a function from text to text, "
        f"or a function without arguments that returns one of these"
    )


def _takes_nothing(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _text(answer: Any, field: str, name: str) -> str:
    """The text of what a model gave: a string, an object that has it in ``field``, or a list of blocks, as LangChain's messages have."""
    value = answer if isinstance(answer, str) else getattr(answer, field, None)
    if isinstance(value, list):
        value = "".join(b if isinstance(b, str) else str(b.get("text", "")) for b in value if isinstance(b, str | dict))
    if not isinstance(value, str):
        raise BadInput(f"{name} gave an object of type {type(answer).__name__} in place of text")
    return value


def _json_rows(output: str) -> list[dict[str, Any]]:
    """Objects in ``output``: of a list, of a list inside an object, or one a line."""
    for opening, closing in ("[]", "{}"):
        begin, end = output.find(opening), output.rfind(closing)
        if 0 <= begin < end:
            try:
                value = json.loads(output[begin : end + 1])
            except ValueError:
                continue
            lists = [value] if isinstance(value, list) else [v for v in value.values() if isinstance(v, list)]
            rows = [row for some in lists for row in some if isinstance(row, dict)]
            if rows or isinstance(value, dict):
                return rows or [value]
    rows = []
    for line in output.splitlines():
        if line.strip().startswith("{"):
            try:
                row = json.loads(line.strip().rstrip(","))
            except ValueError:
                continue
            rows += [row] if isinstance(row, dict) else []
    return rows
