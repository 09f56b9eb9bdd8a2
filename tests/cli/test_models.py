"""`lloco models`: the presets without fetching anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lloco_integrations.errors import ModelNotFound
from lloco_integrations.models import materialise
from lloco_integrations.models.presets import PRESETS, Preset
from tests.cli.conftest import Call


@pytest.fixture
def made(lloco_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default preset as if it had been materialised."""
    monkeypatch.setattr(materialise, "_source", lambda preset: "made from this")
    directory = lloco_home / "models" / "smollm2-135m"
    directory.mkdir(parents=True)
    (directory / "lloco.json").write_text(json.dumps({"source": "made from this", "spec": {"fingerprint": "f"}}))
    (directory / "weights").write_bytes(bytes(3000))
    return directory


def test_list(lloco: Call) -> None:
    result = lloco("models", "list")
    assert result.exit_code == 0, result.output
    for preset in PRESETS.values():
        assert preset.name in result.stdout
        assert preset.licence in result.stdout
    assert result.stdout.count(" no ") == len(PRESETS)


def test_list_shows_what_is_here(lloco: Call, made: Path) -> None:
    assert "3.1 kB" in lloco("models", "list").stdout


def test_path(lloco: Call, made: Path) -> None:
    assert lloco("models", "path").stdout == f"{made}\n"
    (made / "lloco.json").write_text(json.dumps({"source": "made from something older"}))
    result = lloco("models", "path", "smollm2-135m")
    assert result.exit_code == 2
    assert "lloco models pull smollm2-135m" in result.stderr


def test_pull(lloco: Call, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Preset] = []
    monkeypatch.setattr(materialise, "materialised", lambda preset: asked.append(preset) or made)
    result = lloco("models", "pull")
    assert result.exit_code == 0
    assert str(made) in result.stdout
    assert asked == [PRESETS["smollm2-135m"]]


def test_pull_that_fails(lloco: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(preset: Preset) -> Path:
        raise ModelNotFound("no connection\nat all")

    monkeypatch.setattr(materialise, "materialised", fails)
    result = lloco("models", "pull")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "error: no connection at all"


@pytest.mark.parametrize("command", ["pull", "path"])
def test_unknown_names(command: str, lloco: Call) -> None:
    result = lloco("models", command, "gpt-9")
    assert result.exit_code == 2
    assert "there is no preset 'gpt-9'; there are smollm2-135m" in result.stderr
