"""Answers that are given beforehand, for chains that need sensible ones; everything else, the store among it, is real."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from langchain_core.documents import Document

from lloco_integrations import placeholder
from lloco_integrations.engine import Engine
from lloco_integrations.types import Generation, GenerationChunk, Message, Usage

Prompt = str | Sequence[Message]


def flat(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(message.content for message in prompt)


def marks(*prompts: Prompt) -> list[str]:
    """The placeholders in ``prompts``, in order; raises on a broken one."""
    return [str(mark) for prompt in prompts for mark in placeholder.find(placeholder.split_votes(flat(prompt))[0])]


def shown(found: Sequence[Document]) -> list[str]:
    """The placeholders in the contents of ``found``, of which there are some."""
    made = marks(*(document.page_content for document in found))
    assert made
    return made


both_ways = pytest.mark.parametrize("retriever", ["none", "question"], indirect=True)
"""One summary a document; or text and slices of several."""


@contextmanager
def scripted(*answers: str) -> Iterator[list[Prompt]]:
    """The model gives ``answers`` one after the other, the last for ever; gives the prompts it was asked.

    A prompt whose placeholders the store does not hold raises, as ever.
    """
    asked: list[Prompt] = []
    one_by_one = threading.Lock()

    def answer(self: Engine, prompt: Prompt) -> Generation:
        cost = self.count(prompt)
        with one_by_one:
            asked.append(prompt)
            text = answers[min(len(asked), len(answers)) - 1]
        return Generation(text, "stop", Usage(cost.n_positions, len(text), cost.source_tokens))

    def generate(self: Engine, prompts: Sequence[Prompt], *args: Any, **kwargs: Any) -> list[Generation]:
        return [answer(self, prompt) for prompt in prompts]

    def stream(self: Engine, prompt: Prompt, *args: Any, **kwargs: Any) -> Iterator[GenerationChunk]:
        made = answer(self, prompt)
        middle = len(made.text) // 2
        yield GenerationChunk(made.text[:middle])
        yield GenerationChunk(made.text[middle:], made)

    with mock.patch.object(Engine, "generate", generate), mock.patch.object(Engine, "stream", stream):
        yield asked
