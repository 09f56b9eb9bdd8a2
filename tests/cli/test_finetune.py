"""``lloco finetune`` from compressed files to an adapter, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lloco_integrations.models.card import read_card
from lloco_integrations.store import SummaryStore
from tests.cli.conftest import Call

pytestmark = pytest.mark.needs("llama_index.core")

COLOURS = ["red", "blue", "green", "pink"]


@pytest.fixture
def village(tmp_path: Path) -> Path:
    """A folder of twelve files, one a house."""
    folder = tmp_path / "village"
    (folder / "east").mkdir(parents=True)
    for i in range(12):
        (folder / "east" / f"{i}.txt").write_text(f"In house {i} the door is {COLOURS[i % 4]} and the roof is {COLOURS[(i + 1) % 4]}.")
    return folder


@pytest.fixture
def qa(tmp_path: Path) -> Path:
    path = tmp_path / "qa.jsonl"
    lines = [
        {"id": f"{i}{part}", "doc_id": f"east/{i}.txt", "question": f"Which colour has the {part}?", "answers": [COLOURS[(i + shift) % 4]]}
        for i in range(12)
        for part, shift in (("door", 0), ("roof", 1))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def finetune(lloco: Call, tiny_model: str, store_url: str, qa: Path, tmp_path: Path) -> Call:
    words = ("--store", store_url, "--model", tiny_model, "--qa", qa, "--adapter", tmp_path / "adapter", "--epochs", 2, "--lr", 0.01)
    return lambda *more: lloco("finetune", *words, "--rank", 2, "--limit", 8, *more)


def test_from_files_to_an_adapter(compress: Call, finetune: Call, lloco: Call, village: Path, tmp_path: Path, store_url: str) -> None:
    assert compress(village, "--group", "village").exit_code == 0
    done = finetune("--group", "village")
    assert done.exit_code == 0, done.output
    assert "learning from 20 questions about 10 documents; 4 questions of other documents are held out" in done.stderr
    assert "F1 before" in done.stdout and "the text" in done.stdout and "On held-out questions at 4x the adapter is" in done.stdout
    card = read_card(tmp_path / "adapter")
    assert card is not None and card.group == "village" and card.questions == 20
    again = finetune("--group", "village")
    assert again.exit_code == 0 and "the adapter of step" in again.stderr


def test_groups_are_given_when_compressing(compress: Call, finetune: Call, village: Path, store_url: str, stored: object) -> None:
    assert compress(village).exit_code == 0
    refused = finetune("--group", "village")
    assert refused.exit_code == 2 and "is in no group; run lloco compress with --group village" in refused.stderr
    moved = compress(village, "--group", "village")
    assert "group: 12 passages were moved to village" in moved.stdout, moved.output
    with SummaryStore.open(store_url) as store:
        infos = store.info_many(list(store.keys()))
    assert [i.group for i in infos if i is not None] == ["village"] * 12
    assert "moved" not in compress(village, "--group", "village").stdout
    assert "moved" not in compress(village).stdout, "no group asked for: each keeps its own"


def test_bad_input(compress: Call, finetune: Call, lloco: Call, village: Path, qa: Path, tmp_path: Path) -> None:
    nothing = finetune()
    assert nothing.exit_code == 2 and "begin with: lloco compress" in nothing.stderr
    compress(village)
    whole = qa.read_text()
    for text, message in (
        (
            whole.replace("east/3.txt", "west/3.txt"),
            "2 of 24 questions are about 1 documents that were not compressed, such as 'west/3.txt'",
        ),
        (whole + '{"id": "x"\n', "qa.jsonl, line 25: not valid JSON"),
        (whole.replace('["red"]', '[" "]'), "questions have no answer, the first is '0door'"),
        ("".join(whole.splitlines(keepends=True)[:3]), "3 questions are too few for an adapter"),
    ):
        qa.write_text(text)
        refused = finetune()
        assert refused.exit_code == 2 and message in refused.stderr, refused.output
    assert not (tmp_path / "adapter").exists()
    (village / "west").mkdir()
    (village / "west" / "3.txt").write_text("In house 3b nobody lives.")
    compress(village)
    qa.write_text(whole.replace("east/", ""))
    refused = finetune()
    assert refused.exit_code == 2 and "two documents answer to '3.txt'" in refused.stderr


def test_questions_about_lines_of_a_jsonl_file(compress: Call, finetune: Call, qa: Path, tmp_path: Path, village: Path) -> None:
    lines = [{"doc_id": f"east/{i}.txt", "text": (village / "east" / f"{i}.txt").read_text()} for i in range(12)]
    (tmp_path / "houses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert compress(tmp_path / "houses.jsonl").exit_code == 0
    done = finetune()
    assert done.exit_code == 0, done.output


def test_names_that_no_question_uses_may_be_ambiguous(compress: Call, finetune: Call, village: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"doc_id": "1", "text": f"Nothing about houses, in file {name}."}) + "\n")
    assert compress(village, tmp_path / "a.jsonl", tmp_path / "b.jsonl").exit_code == 0
    done = finetune()
    assert done.exit_code == 0, done.output


def test_two_processes_learn_what_one_does(
    compress: Call, village: Path, qa: Path, tmp_path: Path, tiny_model: str, store_url: str
) -> None:
    assert compress(village).exit_code == 0
    launch = {"one": [], "two": ["accelerate.commands.launch", "--cpu", "--num_processes", "2", "--mixed_precision", "no", "-m"]}
    for name, launcher in launch.items():
        words = ["finetune", "--store", store_url, "--model", tiny_model, "--qa", qa, "--adapter", tmp_path / name, "--device", "cpu"]
        command = [*launcher, "lloco_integrations.cli", *words, "--epochs", 2, "--lr", 0.01, "--rank", 2, "--limit", 4]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "LLOCO_DEBUG": "1"}
        done = subprocess.run([sys.executable, "-m", *map(str, command)], capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("On held-out questions") == 1
    one, two = (load_file(tmp_path / n / "adapter_model.safetensors") for n in launch)
    for key in one:
        torch.testing.assert_close(one[key].float(), two[key].float(), atol=1e-4, rtol=0)
