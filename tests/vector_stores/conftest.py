"""One database a test, a record of prompts and answers, and no way out of this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

from lloco_integrations.engine import Engine
from lloco_integrations.types import Generation
from tests import tiny
from tests.vector_stores.databases import DATABASES, Database

os.environ["ANONYMIZED_TELEMETRY"] = "False"  # Chroma
os.environ["LANGSMITH_TRACING"] = "false"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects or looks up a name fails."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"a test wanted to reach the network: {args}")

    def connect(self: socket.socket, address: Any, *, inner: Callable[..., Any] = socket.socket.connect) -> Any:
        return inner(self, address) if self.family == socket.AF_UNIX else refuse(address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    made = DATABASES[request.param](tmp_path / request.param)
    yield made
    made.close()


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A LoRA of the tiny model for each group."""
    made = {group: str(tmp_path_factory.mktemp("adapters") / group) for group in ("sea", "land")}
    for path in made.values():
        get_peft_model(tiny.decoder(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).save_pretrained(path)
    return made


class Record:
    """What the engine was asked, as text, and what it answered."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.answers: list[Generation] = []

    def asked(self, prompt: Any) -> None:
        self.prompts.append(prompt if isinstance(prompt, str) else "\n".join(m.content for m in prompt))


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Record:
    """Of every prompt; the real engine answers."""
    kept, generate, stream = Record(), Engine.generate, Engine.stream

    def recording_generate(self: Engine, prompts: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        for prompt in prompts:
            kept.asked(prompt)
        made = generate(self, prompts, *args, **kwargs)
        kept.answers += made
        return made

    def recording_stream(self: Engine, prompt: Any, *args: Any, **kwargs: Any) -> Any:
        kept.asked(prompt)
        for chunk in stream(self, prompt, *args, **kwargs):
            if chunk.final is not None:
                kept.answers.append(chunk.final)
            yield chunk

    monkeypatch.setattr(Engine, "generate", recording_generate)
    monkeypatch.setattr(Engine, "stream", recording_stream)
    return kept


@pytest.fixture
def compressions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that goes through the compressor."""
    from lloco_integrations.models import LLoCOModel

    seen: list[str] = []
    inner = LLoCOModel.compress

    def spy(self: LLoCOModel, texts: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        seen.extend(texts)
        return inner(self, texts, *args, **kwargs)

    monkeypatch.setattr(LLoCOModel, "compress", spy)
    return seen
