"""Manifests, cards, checkpoints and configurations of any content: an LLoCOError, or success."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lloco_integrations.backends.lora import facts
from lloco_integrations.compressors.checkpoint import open_checkpoint
from lloco_integrations.errors import IncompatibleAdapter, LLoCOError, ModelNotFound
from lloco_integrations.models import load_model
from lloco_integrations.models.card import CARD, AdapterCard, check_card, read_card
from lloco_integrations.models.directory import MANIFEST, read_manifest
from tests.checkpoints import GOLDEN

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)
FEW = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
RAW = [b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"1" * 5000, b'"\\ud800"']


def changed(base: dict[str, Any], key: str, value: Any, drop: bool) -> bytes:
    """``base`` with one of its values, at any depth, replaced or left out."""
    made = json.loads(json.dumps(base))
    inner = made["spec"] if key in made.get("spec", {}) else made
    if drop:
        inner.pop(key, None)
    else:
        inner[key] = value
    return json.dumps(made).encode()


@pytest.mark.parametrize("content", RAW, ids=range(len(RAW)))
def test_files_that_are_no_json(tiny_model: str, tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(ModelNotFound):
        read_manifest(tmp_path)
    (tmp_path / CARD).write_bytes(content)
    with pytest.raises(IncompatibleAdapter):
        read_card(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelNotFound):
        open_checkpoint(tmp_path)
    (tmp_path / "adapter_config.json").write_bytes(content)
    with pytest.raises(IncompatibleAdapter):
        facts([str(tmp_path)])
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    for name in ("decoder/config.json", "encoder/config.json", "decoder/tokenizer.json", "projector.safetensors"):
        before = (model / name).read_bytes()
        (model / name).write_bytes(content)
        with pytest.raises(LLoCOError):
            load_model(model, device="cpu", dtype="float32")
        (model / name).write_bytes(before)


@FEW
@given(st.data(), JSON, st.booleans())
def test_any_manifest(tiny_model: str, tmp_path_factory: pytest.TempPathFactory, data: Any, value: Any, drop: bool) -> None:
    base = json.loads((Path(tiny_model) / MANIFEST).read_text())
    key = data.draw(st.sampled_from([*base, *base["spec"], "another"]))
    directory = tmp_path_factory.mktemp("m")
    (directory / MANIFEST).write_bytes(changed(base, key, value, drop))
    try:
        manifest = read_manifest(directory)
    except LLoCOError:
        return
    assert manifest.spec.ratios[0] > 0 and isinstance(manifest.spec.fingerprint[:16], str) and isinstance(manifest.source, str)


@FEW
@given(st.data(), JSON, st.booleans())
def test_any_card(tmp_path_factory: pytest.TempPathFactory, data: Any, value: Any, drop: bool) -> None:
    directory = tmp_path_factory.mktemp("c")
    AdapterCard("m", "f" * 64, "law", 1, 2, 3, "0.1", {"a": 1}, {}).write(directory)
    base = json.loads((directory / CARD).read_text())
    (directory / CARD).write_bytes(changed(base, data.draw(st.sampled_from([*base, "another"])), value, drop))
    try:
        check_card(str(directory), "m", "f" * 64)
        card = read_card(directory)
    except LLoCOError:
        return
    assert card is not None and isinstance(card.model, str)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data(), JSON, st.booleans())
def test_any_checkpoint(tmp_path_factory: pytest.TempPathFactory, data: Any, value: Any, drop: bool) -> None:
    directory = tmp_path_factory.mktemp("k") / "checkpoint"
    shutil.copytree(GOLDEN / "ckpt_mha", directory)
    base = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_bytes(changed(base, data.draw(st.sampled_from([*base, "segment_length", "auto_map"])), value, drop))
    try:
        load_model(directory, device="cpu", dtype="float32").compress_ids([[5, 6, 7]])
    except LLoCOError:
        return


@pytest.mark.parametrize("ratios", [[], [0], [4, 6], [8, 4], ["4"], None, 4, [True], [4, 4]])
def test_ratios_that_cannot_be(tiny_model: str, tmp_path: Path, ratios: Any) -> None:
    base = json.loads((Path(tiny_model) / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_bytes(changed(base, "ratios", ratios, False))
    with pytest.raises(ModelNotFound):
        read_manifest(tmp_path)
