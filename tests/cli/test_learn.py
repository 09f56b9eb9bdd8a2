"""``lloco learn``: a folder to a store, an adapter and a verdict, in one command that can be run again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lloco_integrations.models.card import read_card
from tests.cli.conftest import Call
from tests.cli.test_finetune import qa, village  # noqa: F401

pytestmark = pytest.mark.needs("llama_index.core")


@pytest.fixture
def learn(lloco: Call, tiny_model: str, tmp_path: Path) -> Call:
    words = ("--out", tmp_path / "learnt", "--model", tiny_model, "--epochs", 2, "--no-check", "--limit", 6)
    return lambda folder, *more: lloco("learn", folder, *words, *more)


def test_a_folder_becomes_an_adapter(learn: Call, village: Path, qa: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    done = learn(village, "--qa", qa)
    assert done.exit_code == 0, done.output
    assert "F1 before" in done.stdout and "On held-out questions" in done.stdout
    assert "LLoCOLLM(**names, adapters={'village': " in done.stdout
    card = read_card(tmp_path / "learnt" / "adapter")
    assert card is not None and card.group == "village"
    lines = (tmp_path / "learnt" / "questions.jsonl").read_text().splitlines()
    assert len(lines) > 24, "your own questions and written ones"
    assert [json.loads(line)["id"] for line in lines[:2]] == ["0door", "0roof"]
    assert [line["name"] for line in json.loads((tmp_path / "learnt" / "scorecard.json").read_text())][:2] == ["the text", "4x"]
    monkeypatch.setattr("lloco_integrations.training.finetune.pretrain", None)
    monkeypatch.setattr("lloco_integrations.cli.synthesize.command", None)
    again = learn(village, "--qa", qa)
    assert again.exit_code == 0, again.output
    assert "nothing to compress" in again.stdout and "delete it to have them written anew" in again.stderr


def test_contradictions_among_your_own_questions_are_told(learn: Call, village: Path, qa: Path) -> None:  # noqa: F811
    first = json.loads(qa.read_text().splitlines()[0])
    with qa.open("a") as lines:
        lines.write(json.dumps({**first, "id": "again", "answers": ["black"]}) + "\n")
    refused = learn(village, "--qa", qa)
    assert refused.exit_code == 2 and "contradict each other" in refused.stderr, refused.output


def test_your_own_questions_alone(learn: Call, village: Path, qa: Path, tmp_path: Path) -> None:  # noqa: F811
    done = learn(village, "--qa", qa, "--no-synthesize")
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "learnt" / "synthesized.jsonl").exists()
    assert len((tmp_path / "learnt" / "questions.jsonl").read_text().splitlines()) == 24


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (lambda v: (v, "--no-synthesize"), "there is nothing to learn from: give questions with --qa"),
        (lambda v: (v / "east" / "1.txt",), "is no folder"),
        (lambda v: (v, "--out", v / "learnt"), "whose files are the documents; name a folder outside of it"),
        (lambda v: (v, "--no-synthesize", "--qa", v / "none.jsonl"), "cannot read"),
    ],
)
def test_bad_input(words: Callable[[Path], tuple[object, ...]], message: str, learn: Call, village: Path) -> None:  # noqa: F811
    refused = learn(*words(village))
    assert refused.exit_code == 2 and message in " ".join(refused.stderr.split()), refused.output


def test_two_groups_share_a_store(lloco: Call, tiny_model: str, village: Path, qa: Path, tmp_path: Path) -> None:  # noqa: F811
    from lloco_integrations import SummaryStore

    url = f"sqlite:///{tmp_path}/both.sqlite"
    for name in ("east", "west"):
        folder = tmp_path / name
        shutil.copytree(village, folder)
        for path in folder.rglob("*.txt"):
            path.write_text(f"{name.title()}. {path.read_text()}")
        own = tmp_path / f"{name}.jsonl"
        own.write_text(qa.read_text().replace('"east/', f'"{name}/east/'))
        words = ("--qa", own, "--no-synthesize", "--model", tiny_model, "--epochs", 1, "--limit", 2)
        done = lloco("learn", folder, "--out", tmp_path / f"learnt-{name}", "--store", url, *words)
        assert done.exit_code == 0, done.output
        assert "both.sqlite" in done.stdout and f"group='{name}')" in done.stdout
        assert not (tmp_path / f"learnt-{name}" / "store.sqlite").exists()
    store = SummaryStore.open(url)
    assert {info.group for info in store.info_many(list(store.keys())) if info} == {"east", "west"}
