"""Fingerprints change with whatever changes the vectors, and with nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from lloco_integrations import fingerprint as fingerprints
from lloco_integrations.compressors.autocompressor import AutoCompressor
from lloco_integrations.compressors.checkpoint import open_checkpoint
from lloco_integrations.errors import BadInput
from tests.checkpoints import GOLDEN, edit_config, edit_weights


def of(directory: Path, **options: Any) -> str:
    return AutoCompressor.from_pretrained(directory, **options).spec.fingerprint


def test_fingerprint_ignores_what_does_not_change_vectors(checkpoint: Path) -> None:
    name = of(GOLDEN / "ckpt_mha")
    edit_config(checkpoint, torch_dtype="float16", use_cache=False, transformers_version="5.0.0", architectures=["X"])
    assert of(checkpoint, dtype=torch.bfloat16) == of(checkpoint, dtype="auto", device="cpu") == name


def test_fingerprint_changes_with_whatever_changes_vectors(checkpoint: Path) -> None:
    seen = [of(checkpoint), of(checkpoint, segment_length=32), of(GOLDEN / "ckpt_gqa")]
    edit_config(checkpoint, accumulate_summary=False)
    seen.append(of(checkpoint))
    edit_weights(checkpoint, lambda weights: weights["embed_summary.weight"].add_(1e-3))
    seen.append(of(checkpoint))
    edit_config(checkpoint, summary_length=4)
    edit_weights(checkpoint, lambda w: w.update({"embed_summary.weight": w["embed_summary.weight"][:4].clone()}))
    seen.append(of(checkpoint))
    for content in ("{}", "[]"):
        (checkpoint / "tokenizer.json").write_text(content)
        seen.append(fingerprints.fingerprint(files=fingerprints.file_hash([checkpoint / "tokenizer.json"])))
        seen.append(fingerprints.fingerprint(**_parts(checkpoint)))
    assert len(set(seen)) == len(seen) and all(len(name) == 64 for name in seen)


def _parts(directory: Path) -> dict[str, object]:
    return open_checkpoint(directory).parts()


def test_fingerprint_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    name = fingerprints.fingerprint(kind="x", length=3)
    assert name == fingerprints.fingerprint(length=3, kind="x") != fingerprints.fingerprint(kind="x", length=4)
    monkeypatch.setattr(fingerprints, "FORMAT_VERSION", 2)
    assert fingerprints.fingerprint(kind="x", length=3) != name
    for part in (object(), float("nan"), torch.zeros(1)):
        with pytest.raises(BadInput, match=r"plain JSON"):
            fingerprints.fingerprint(part=part)


def test_file_hash(tmp_path: Path) -> None:
    a, b = tmp_path / "one" / "a.bin", tmp_path / "two" / "b.bin"
    for path in (a, b):
        path.parent.mkdir()
        path.write_bytes(path.name.encode())
    both = fingerprints.file_hash([a, b])
    assert both == fingerprints.file_hash([str(b), str(a)]) != fingerprints.file_hash([a])
    # As in the hub's cache, where a link leads to a blob that is named by its sha256: the same hash.
    digest = hashlib.sha256(b.read_bytes()).hexdigest()
    blob, link = tmp_path / "blobs" / digest, tmp_path / "b.bin"
    blob.parent.mkdir()
    blob.write_bytes(b.read_bytes())
    link.symlink_to(blob)
    assert fingerprints.file_hash([a, link]) == both
    b.write_bytes(b"changed")
    assert fingerprints.file_hash([a, b]) != both
    with pytest.raises(BadInput, match=r"same name"):
        fingerprints.file_hash([b, link])
    with pytest.raises(BadInput, match=r"cannot read .*missing"):
        fingerprints.file_hash([tmp_path / "missing"])


def test_weights_hash() -> None:
    layer = torch.nn.Linear(3, 2).to(torch.bfloat16)
    name = fingerprints.weights_hash(layer)
    assert name == fingerprints.weights_hash(dict(reversed(layer.state_dict().items())))
    assert name == fingerprints.weights_hash(layer.float())
    assert name != fingerprints.weights_hash({"weight": layer.weight})
    assert name != fingerprints.weights_hash({"weight": layer.weight.reshape(3, 2), "bias": layer.bias})
    assert fingerprints.weights_hash({"n": torch.tensor(1)}) != fingerprints.weights_hash({"n": torch.tensor(2)})
    with torch.no_grad():
        layer.weight[0, 0] += 1
    assert name != fingerprints.weights_hash(layer)
