"""``lloco demo`` with the tiny model, and embeddings by words in place of MiniLM."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lloco_integrations.engine import Engine
from lloco_integrations.models import LLoCOModel, shared_model
from tests.cli.conftest import Call, WordCounts

FOCUSED = ["LlamaIndex, focus", "LangChain, focus", "LlamaIndex, all text"]

pytestmark = pytest.mark.needs("langchain_core", "langchain_classic", "llama_index.core")


@pytest.fixture
def demo(lloco: Call, tiny_model: str, store_url: str, monkeypatch: pytest.MonkeyPatch, embedder: WordCounts) -> Call:
    """``lloco demo`` with the tiny model into the store of this test."""
    from langchain_core.embeddings import Embeddings
    from llama_index.core.base.embeddings.base import BaseEmbedding

    class Llama(BaseEmbedding):
        def __init__(self, path: str) -> None:
            super().__init__(model_name="words")

        def _get_text_embedding(self, text: str) -> list[float]:
            vector: list[float] = embedder.embed([text])[0].tolist()
            return vector

        _get_query_embedding = _get_text_embedding

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

    class Lang(Embeddings):
        def __init__(self, model_name: str) -> None: ...

        def embed_query(self, text: str) -> list[float]:
            vector: list[float] = embedder.embed([text])[0].tolist()
            return vector

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [self.embed_query(text) for text in texts]

    monkeypatch.setattr("llama_index.embeddings.huggingface.HuggingFaceEmbedding", Llama)
    monkeypatch.setattr("langchain_huggingface.HuggingFaceEmbeddings", Lang)
    monkeypatch.setattr("lloco_integrations.embedding.model_directory", lambda: Path("/nowhere"))
    return lambda *words: lloco("demo", "--model", tiny_model, "--store", store_url, *words)


def positions(output: str, way: str) -> list[int]:
    return [int(n) for n in re.findall(rf"{way}: .*?(\d+) positions", output)]


def test_focus_beside_all_text(demo: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compressed where the recipe shows no vectors, and the last line says how many answers were right."""
    monkeypatch.setattr(LLoCOModel, "compress", lambda *given, **more: pytest.fail("nothing need be compressed"))
    result = demo("--top-k", 4, "--questions", 2)
    assert result.exit_code == 0, result.output
    for way in FOCUSED:
        assert len(positions(result.stdout, way)) == 3, "twice, and in the last line"
    focused, whole = (positions(result.stdout, way)[-1] for way in (FOCUSED[0], FOCUSED[2]))
    assert focused < whole / 2, "the template is a third of it: the tiny model has one token a byte"
    assert "8x, 2 questions, top 4 passages" in " ".join(result.stdout.split())
    last = " ".join(result.stdout.split("\n\n")[-1].split())
    assert re.fullmatch("; ".join(rf"{way}: \d of 2 right in \d+ positions" for way in FOCUSED) + r" \(right: F1 of 50 or more\)\.", last)


@pytest.mark.parametrize(("focus", "values"), [("none", {}), ("question", {"text_share": 0.5, "finest": 4})])
def test_documents_are_compressed_first_where_vectors_are_shown(
    demo: Call, library: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: str, focus: str, values: dict[str, Any]
) -> None:
    monkeypatch.setattr(shared_model(tiny_model), "focus", values)
    result = demo("--docs", library, "--ask", "When do owls hunt?", "--focus", focus, "--top-k", 2, "--ratio", 4)
    assert result.exit_code == 0, result.output
    assert "3 passages" in result.stdout and "summary vectors" in result.stdout
    what = "focus" if focus == "question" else "summaries"
    for way in (f"LlamaIndex, {what}", f"LangChain, {what}", "LlamaIndex, all text"):
        assert len(positions(result.stdout, way)) == 1
    assert "owls.txt" in result.stdout
    assert "right" not in result.stdout, "the right answer is not known"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--docs", "somewhere"), '--docs needs at least one --ask "question"'),
        (("--focus", "all"), "--focus is 'all'; use question or none"),
        (("--focus", "none", "--ratio", "30"), "ratio 30 is not one that"),
    ],
)
def test_bad_words(demo: Call, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "show", lambda *given, **more: pytest.fail("nothing is asked"))
    result = demo(*words)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


def test_right_answers_are_counted() -> None:
    from lloco_integrations.cli.demo import Tally, _in_words

    tallies = {"LlamaIndex, focus": Tally([100.0, 50.0, 49.9], 3.0, 222), "LlamaIndex, all text": Tally([0.0, 10.0, 80.0], 3.0, 1830)}
    assert _in_words(tallies) == (
        "LlamaIndex, focus: 2 of 3 right in 74 positions; LlamaIndex, all text: 1 of 3 right in 610 positions (right: F1 of 50 or more)."
    )
    assert _in_words({"LlamaIndex, focus": Tally([], 1.0, 10)}) == ""
