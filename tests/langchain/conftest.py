"""Fixtures of the LangChain room: everything on the tiny model, in float32, with short answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.retrievers import BaseRetriever

from lloco_integrations.langchain import ChatLLoCO, LLoCODocumentCompressor, LLoCOLLM, LLoCORetriever
from tests.langchain.parts import SLICING, vector_store


@pytest.fixture
def named(tiny_model: str, store_url: str) -> dict[str, Any]:
    """The arguments that name the model and the store of this test."""
    return {"model": tiny_model, "store": store_url, "device": "cpu", "dtype": "float32"}


@pytest.fixture
def chat(named: dict[str, Any]) -> ChatLLoCO:
    return ChatLLoCO(**named, max_tokens=12)


@pytest.fixture
def llm(named: dict[str, Any]) -> LLoCOLLM:
    return LLoCOLLM(**named, max_tokens=12)


@pytest.fixture
def focusing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``focusing("question", kind, **arguments)``: one that shows text and slices of all documents; with "none", one summary each."""

    def make(focus: str, kind: Any, **arguments: Any) -> Any:
        if focus == "none":
            return kind(**arguments, focus="none")
        made = kind(**arguments, ratio=2)
        monkeypatch.setattr(made.engine.model, "focus", SLICING)
        return made

    return make


@pytest.fixture
def compressor(request: pytest.FixtureRequest, named: dict[str, Any], focusing: Callable[..., Any]) -> LLoCODocumentCompressor:
    return focusing(getattr(request, "param", "none"), LLoCODocumentCompressor, **named)


@pytest.fixture
def plain_retriever() -> BaseRetriever:
    return vector_store().as_retriever(search_kwargs={"k": 2})


@pytest.fixture
def retriever(
    request: pytest.FixtureRequest, named: dict[str, Any], plain_retriever: BaseRetriever, focusing: Callable[..., Any]
) -> LLoCORetriever:
    return focusing(getattr(request, "param", "none"), LLoCORetriever, **named, retriever=plain_retriever)


@pytest.fixture(scope="session")
def adapters(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two adapters for the tiny model that change its answers, each in its own way."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    made = {}
    for seed, name in enumerate(("sea", "land"), start=5):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(Path(tiny_model) / "decoder")
        lora = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "o_proj"], init_lora_weights=False))
        for parameter_name, parameter in lora.named_parameters():
            if "lora_" in parameter_name:
                parameter.data *= 8
        made[name] = str(tmp_path_factory.mktemp("adapters") / name)
        lora.save_pretrained(made[name])
    return made


@pytest.fixture
def ticking() -> Callable[..., Any]:
    """Awaits something while counting how often the event loop comes round: ``result, ticks = await ticking(awaitable)``."""
    import asyncio

    async def watch(awaitable: Any) -> tuple[Any, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.002)
                ticks += 1

        task = asyncio.create_task(tick())
        try:
            return await awaitable, ticks
        finally:
            task.cancel()

    return watch
