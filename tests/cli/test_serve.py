"""``lloco serve``: the command that it prints, and what it refuses. tests/vllm runs it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lloco_integrations.backends.lora import facts, fitting
from lloco_integrations.cli import app
from lloco_integrations.errors import IncompatibleAdapter
from tests.test_backend import save_adapter


def printed(*words: str) -> list[str]:
    run = CliRunner().invoke(app, ["serve", "--print", *words])
    assert run.exit_code == 0, run.output
    return shlex.split(run.stdout)


def test_a_model_without_adapters(tiny_model: str) -> None:
    words = printed("--model", tiny_model, "--port", "8123", "--max-model-len", "512", "--", "--max-num-seqs", "64")
    assert words[:2] == ["HF_HUB_OFFLINE=1", "VLLM_NO_USAGE_STATS=1"]
    assert all(word.startswith("MALLOC_") for word in words[2:4])
    assert words[4:7] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    assert words[words.index("--model") + 1] == f"{tiny_model}/decoder"
    assert "--enable-prompt-embeds" in words and "--enable-lora" not in words
    assert words[words.index("--host") + 1] == "127.0.0.1" and words[words.index("--port") + 1] == "8123"
    assert words[-2:] == ["--max-num-seqs", "64"]


def test_adapters_bring_the_flags_that_are_safe(tiny_model: str, tmp_path: Path) -> None:
    paths = {name: save_adapter(tmp_path / name, 1) for name in ("law", "tax")}
    words = printed("--model", tiny_model, *(w for name, path in paths.items() for w in ("--adapter", f"{name}={path}")))
    assert words[words.index("--max-loras") + 1] == "3"
    assert words[words.index("--max-lora-rank") + 1] == "8"
    at = words.index("--lora-target-modules")
    assert words[at + 1 : at + 3] == ["q_proj", "v_proj"] and words[at + 3].startswith("--")
    assert words[-2:] == [f"{name}={path}" for name, path in paths.items()]
    later = printed("--model", tiny_model, "--load-adapters")
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True" in later and later[later.index("--max-loras") + 1] == "9"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--adapter", "law"], "names no adapter; write NAME=DIRECTORY"),
        (["--adapter", "law=x", "--adapter", "law=y"], "names 'law' twice"),
        (["--adapter", "law=/nowhere"], "is not a LoRA in PEFT format"),
        (["--model", "nothing"], "neither a preset"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, tiny_model: str) -> None:
    run = CliRunner().invoke(app, ["serve", *([] if "--model" in words else ["--model", tiny_model]), *words])
    assert run.exit_code == 2
    assert message in run.stderr and run.stderr.count("\n") == 1


def test_no_vllm_here(tiny_model: str, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["serve", "--model", tiny_model, "--python", str(tmp_path / "python")])
    assert run.exit_code == 2 and "cannot be run" in run.stderr
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    run = CliRunner().invoke(app, ["serve", "--model", tiny_model, "--python", str(fake)])
    assert run.exit_code == 2 and "has no vLLM; install it into an environment of its own" in run.stderr


def test_adapters_that_can_kill_an_engine_are_refused(tmp_path: Path) -> None:
    path = save_adapter(tmp_path / "law", 1)
    config = json.loads((path / "adapter_config.json").read_text())
    for change, message in (
        ({"target_modules": ["q_proj", "embed_tokens"]}, "changes embed_tokens"),
        ({"modules_to_save": ["lm_head"]}, "changes lm_head"),
        ({"target_modules": ".*"}, "list of modules"),
        ({"r": 999}, "rank 999"),
    ):
        (path / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(IncompatibleAdapter, match=message):
            facts([str(path)])
    assert [fitting(n) for n in (1, 8, 9, 300)] == [8, 8, 16, 320]


def test_an_interpreter_is_named_in_full_and_not_resolved(tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "python").symlink_to(sys.executable)
    words = printed("--model", tiny_model, "--python", "./python")
    assert words[4] == f"{tmp_path}/python"


def test_a_folder_called_vllm_is_not_vllm(tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vllm").mkdir()
    run = CliRunner().invoke(app, ["serve", "--model", tiny_model])
    assert run.exit_code == 2 and "has no vLLM" in run.stderr
