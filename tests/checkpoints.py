"""AutoCompressor checkpoints for the tests: edits of a copy, and what a compressor makes of four documents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lloco_integrations.compressors.autocompressor import AutoCompressor

GOLDEN = Path(__file__).parent / "golden"
DOCUMENTS = [[5] * 3, list(range(3, 60)), list(range(60, 20, -1)), [9, 8, 7, 6] * 4]


def vectors(compressor: AutoCompressor, **options: Any) -> list[Tensor]:
    return [summary.vectors for summary in compressor.compress_ids(DOCUMENTS, **options)]


def assert_same(got: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def edit_config(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_weights(directory: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(directory / "model.safetensors")
    edit(weights)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
