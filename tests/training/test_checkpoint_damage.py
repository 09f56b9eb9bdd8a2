"""A training checkpoint with a flipped bit is found, not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lloco_integrations.errors import TrainingError
from lloco_integrations.training.checkpoint import load_checkpoint, save_checkpoint


class Optimizer:
    def __init__(self) -> None:
        self.master = {"a": torch.arange(8.0), "b": torch.zeros((), dtype=torch.int64)}

    def state(self) -> dict[str, torch.Tensor]:
        return {f"weight/{name}": tensor for name, tensor in self.master.items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        self.master = {name.removeprefix("weight/"): tensor for name, tensor in state.items()}


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    optimizer: Any = Optimizer()
    save_checkpoint(tmp_path, optimizer, 7)
    assert load_checkpoint(tmp_path, optimizer) == 7
    path = tmp_path / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 16
    path.write_bytes(data)
    with pytest.raises(TrainingError, match="damaged"):
        load_checkpoint(tmp_path, optimizer)


def test_one_of_an_earlier_version_has_no_checksum_and_is_read(tmp_path: Path) -> None:
    optimizer: Any = Optimizer()
    save_checkpoint(tmp_path, optimizer, 7)
    path = tmp_path / "state.safetensors"
    save_file(load_file(path), path, metadata={"step": "5"})
    assert load_checkpoint(tmp_path, optimizer) == 5
