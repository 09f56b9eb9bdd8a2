"""AutoCompressor checkpoints: every form they come in, what is wrong with a broken one, and where they are looked for."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lloco_integrations.compressors.autocompressor import AutoCompressor
from lloco_integrations.errors import ModelNotFound
from tests.checkpoints import GOLDEN, assert_same, edit_config, edit_weights, vectors


def to_bin(directory: Path, name: str = "pytorch_model.bin") -> None:
    torch.save(load_file(directory / "model.safetensors"), directory / name)
    (directory / "model.safetensors").unlink()


def to_shards(directory: Path, suffix: str) -> None:
    """Two shards and an index, as the hub has them for large models; ``embed_summary`` is in the second."""
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    stem, halves = ("model" if suffix == "safetensors" else "pytorch_model"), [{}, {}]
    for i, (name, weight) in enumerate(sorted(weights.items(), reverse=True)):
        halves[i * 2 // len(weights)][name] = weight
    names = [f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)]
    for name, half in zip(names, halves, strict=True):
        if suffix == "safetensors":
            save_file(half, directory / name, {"format": "pt"})
        else:
            torch.save(half, directory / name)
    where = {weight: name for name, half in zip(names, halves, strict=True) for weight in half}
    (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert where["embed_summary.weight"] == names[1]


@pytest.mark.parametrize("form", ["single", "shards", "bin", "bin shards", "unknown class"])
def test_every_form_of_checkpoint_loads_without_a_network(checkpoint: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = vectors(AutoCompressor.from_pretrained(GOLDEN / "ckpt_mha"))
    if form == "bin":
        to_bin(checkpoint)
    elif form == "unknown class":
        edit_config(checkpoint, architectures=["SomeoneElsesModel"])
    elif form != "single":
        to_shards(checkpoint, "bin" if "bin" in form else "safetensors")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a local directory must not touch the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    compressor = AutoCompressor.from_pretrained(str(checkpoint), dtype="auto", device="cpu")
    assert compressor.embed_summary.shape == (8, 64) and compressor.accumulate and not compressor.model.training
    assert_same(vectors(compressor), expected)


def test_safetensors_are_preferred_and_pickles_never_run(checkpoint: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.write_text, (checkpoint / "ran", "code"))

    torch.save({"embed_summary.weight": Evil()}, checkpoint / "pytorch_model.bin")
    AutoCompressor.from_pretrained(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"cannot read .*pytorch_model.bin"):
        AutoCompressor.from_pretrained(checkpoint)
    assert not (checkpoint / "ran").exists()


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), "has no config.json"),
    "config is no json": (lambda d: (d / "config.json").write_text("{"), "cannot read .*config.json"),
    "config is a list": (lambda d: (d / "config.json").write_text("[]"), "holds no JSON object"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "neither model.*safetensors nor pytorch_model.*bin"),
    "cut weights": (lambda d: (d / "model.safetensors").write_bytes(b"\0" * 20), "cannot read .*model.safetensors"),
    "another kind": (lambda d: edit_config(d, summary_length=None), "summary_length=None.*another kind of model"),
    "no accumulate": (lambda d: edit_config(d, accumulate_summary=None), "accumulate_summary=None"),
    "opt": (lambda d: edit_config(d, architectures=["OPTAutoCompressorModel"]), "OPTAutoCompressorModel"),
    "no summary tokens": (
        lambda d: edit_weights(d, lambda w: w.pop("embed_summary.weight")),
        "no tensor 'embed_summary.weight' in model.safetensors",
    ),
    "shape disagrees": (lambda d: edit_config(d, summary_length=9), r"\(8, 64\).*\(9, 64\)"),
    "a weight is missing": (
        lambda d: edit_weights(d, lambda w: w.pop("model.layers.1.mlp.up_proj.weight")),
        "lacks 1 weights of LlamaForCausalLM, such as 'model.layers.1.mlp.up_proj.weight'",
    ),
    "unknown model type": (lambda d: edit_config(d, model_type="martian"), "transformers cannot load"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_checkpoints_say_what_is_wrong(checkpoint: Path, case: str) -> None:
    damage, message = BROKEN[case]
    damage(checkpoint)
    with pytest.raises(ModelNotFound, match=message):
        AutoCompressor.from_pretrained(checkpoint)


@pytest.mark.parametrize("name", ["/no/such/dir", "./nothing", "~/nothing/at-all", "nothing", "a/b/c"])
def test_what_is_neither_directory_nor_hub_id(name: str) -> None:
    with pytest.raises(ModelNotFound, match=r"there is no directory"):
        AutoCompressor.from_pretrained(name)


def test_hub_ids_are_downloaded_and_pickles_only_if_needed(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
        assert name == "owner/model"
        asked.append(allow_patterns)
        return str(checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    AutoCompressor.from_pretrained("owner/model")
    assert len(asked) == 1 and "pytorch_model*.bin" not in asked[0]
    to_bin(checkpoint)
    AutoCompressor.from_pretrained("owner/model")
    assert asked[1:] == [asked[0], ["pytorch_model*.bin"]]


def test_hub_failures_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(ModelNotFound, match=r"'owner/model' .*no route.*check the name.*local directory"):
        AutoCompressor.from_pretrained("owner/model")
