"""The command line in this process, a library of a few files, and search without the real embedder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from lloco_integrations import embedding
from lloco_integrations.cli import app
from lloco_integrations.engine import Engine
from lloco_integrations.store import SummaryStore

Call = Callable[..., Result]


class WordCounts:
    """Texts that share words are near each other."""

    name = "word counts"

    def __init__(self) -> None:
        self.embedded: list[str] = []

    def embed(self, texts: Sequence[str]) -> Any:
        self.embedded += texts
        rows = np.full((len(texts), 256), 1e-6, dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                row[hashlib.sha256(word.encode()).digest()[0]] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def embed_question(self, question: str) -> Any:
        return self.embed([question])[0]


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, lloco_home: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("LLOCO_DEBUG", raising=False)


@pytest.fixture
def lloco() -> Call:
    """Calls ``lloco`` with these words."""

    def call(*words: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words])

    return call


@pytest.fixture
def compress(lloco: Call, tiny_model: str, store_url: str) -> Call:
    """``lloco compress`` with the tiny model into the store of this test."""
    return lambda *words: lloco("compress", *words, "--store", store_url, "--model", tiny_model, "--chunk-size", 64, "--chunk-overlap", 8)


@pytest.fixture
def ask(lloco: Call, tiny_model: str, store_url: str, embedder: WordCounts) -> Call:
    return lambda *words: lloco("ask", *words, "--store", store_url, "--model", tiny_model, "--max-new-tokens", 5)


@pytest.fixture
def embedder(monkeypatch: pytest.MonkeyPatch) -> WordCounts:
    made = WordCounts()
    monkeypatch.setattr(embedding, "load", lambda device="auto": made)
    return made


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Three short files, each one passage."""
    folder = tmp_path / "library"
    (folder / "deep").mkdir(parents=True)
    (folder / "owls.txt").write_text("Owls hunt at night. Their wings make no sound.\n")
    (folder / "bread.md").write_text("# Bread\n\nBread rises because yeast makes gas.\n")
    (folder / "deep" / "tides.txt").write_text("The moon pulls the sea, and so there are tides.\n")
    return folder


@pytest.fixture
def stored(store_url: str) -> Callable[[], set[str]]:
    """The keys in the store of this test."""

    def keys() -> set[str]:
        with SummaryStore.open(store_url, create=False) as store:
            assert store.verify() == []
            return set(store.keys())

    return keys


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From this call on, nobody may load or use a model."""

    def forbidden(self: Engine) -> None:
        raise AssertionError("the model was used")

    return lambda: monkeypatch.setattr(Engine, "model", property(forbidden))
