"""A decoder that says what a test wants: the real model resolves each prompt and answers, then its words are replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from lloco_integrations.models import LLoCOModel
from lloco_integrations.types import Generation, GenerationChunk, GenerationParams

from .conftest import as_text


def script(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], str | None], piece: int = 7) -> list[str]:
    """Makes the model say ``answer(prompt)``; None leaves the model's own words. A stream comes
    in pieces of ``piece`` characters. Returns the prompts, as they come.

    Placeholders, window, adapters and token counts of the prompt are the real ones.
    """
    seen: list[str] = []
    generate: Callable[..., list[Generation]] = LLoCOModel.generate

    def said(model: LLoCOModel, prompt: Any, params: GenerationParams | None, store: Any, adapter: str | None) -> Generation:
        shown = as_text(prompt)
        seen.append(shown)
        short = replace(params or GenerationParams(), max_new_tokens=3)
        made = generate(model, [prompt], short, store=store, adapters=[adapter])[0]
        text = answer(shown)
        return made if text is None else replace(made, text=text, finish_reason="stop")

    def scripted_generate(self: LLoCOModel, prompts: Any, params: Any = None, *, store: Any = None, adapters: Any) -> list[Generation]:
        return [said(self, p, params, store, a) for p, a in zip(prompts, adapters, strict=True)]

    def scripted_stream(self: LLoCOModel, prompt: Any, params: Any = None, *, store: Any = None, adapter: Any) -> Iterator[GenerationChunk]:
        made = said(self, prompt, params, store, adapter)
        for at in range(0, len(made.text), piece):
            yield GenerationChunk(made.text[at : at + piece])
        yield GenerationChunk("", made)

    monkeypatch.setattr(LLoCOModel, "generate", scripted_generate)
    monkeypatch.setattr(LLoCOModel, "stream", scripted_stream)
    return seen
