"""One call that makes LlamaIndex use an LLoCOLLM and count as it counts."""

from __future__ import annotations

from typing import Any

from lloco_integrations import placeholder
from lloco_integrations.errors import PlaceholderError
from lloco_integrations.llama_index.llm import LLoCOLLM
from lloco_integrations.llama_index.prompt_helper import LLoCOPromptHelper


class PositionTokenizer:
    """A tokenizer for LlamaIndex's counters and splitters: as many numbers as the text has true positions.

    Ordinary text gives its token ids; a placeholder of the LLM's store is as many zeros as it has vectors, and a vote is nothing. What
    only looks like a placeholder counts as text: while documents are split, nothing is wrong with that.
    """

    def __init__(self, llm: LLoCOLLM) -> None:
        self.llm = llm

    def __call__(self, text: str) -> list[int]:
        engine = self.llm.engine
        text = placeholder.split_votes(text)[0]
        if not placeholder.count(text):
            return engine.model.text_ids(text) if text.strip() else [0] * min(1, len(text))
        try:
            return [0] * engine.count(text, templated=False).n_positions
        except PlaceholderError:
            return engine.model.text_ids(text)


def install(settings: Any, llm: LLoCOLLM | None = None) -> LLoCOLLM:
    """Sets ``llm``, ``prompt_helper`` and ``tokenizer`` of LlamaIndex's ``Settings``, and returns the LLM. Loads the model.

    Without it, LlamaIndex packs prompts by another model's tokens: a placeholder is counted by its characters, and a small window
    can cut one (the LLM then raises PlaceholderError).
    """
    chosen = llm or LLoCOLLM()
    settings.llm = chosen
    settings.prompt_helper = LLoCOPromptHelper(chosen)
    settings.tokenizer = PositionTokenizer(chosen)
    settings._chat_prompt_helper = None  # made again of the new LLM when it is needed
    return chosen
