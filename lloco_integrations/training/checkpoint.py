"""Training checkpoints: one safetensors file, replaced in one step, so that an interrupted save leaves the last good one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from lloco_integrations.errors import TrainingError
from lloco_integrations.training.optimizer import MasterAdamW

_NAME = "state.safetensors"


def save_checkpoint(directory: Path, optimizer: MasterAdamW, step: int) -> None:
    """Write the state after ``step`` steps. Raises TrainingError if it cannot be written; what was there before stays."""
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f"{_NAME}.{os.getpid()}.part"
    try:
        state = {k: v.contiguous() for k, v in optimizer.state().items()}
        save_file(state, temporary, metadata={"step": str(step), "sha256": _digest(state)})
        os.replace(temporary, directory / _NAME)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise TrainingError(
            f"cannot write the checkpoint of step {step} to {directory}: {error}; make room and start again: "
            f"training goes on from the last good checkpoint there"
        ) from error


def load_checkpoint(directory: Path, optimizer: MasterAdamW) -> int:
    """Put the state in ``directory`` into ``optimizer`` and return its step; 0 if there is none."""
    path = directory / _NAME
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            step = int(metadata["step"])
        state = load_file(path)
        if metadata.get("sha256", _digest(state)) != _digest(state):
            raise TrainingError(f"the checkpoint in {directory} is damaged (its checksum does not match); delete it to start afresh")
        names = {k.removeprefix("weight/") for k in state if k.startswith("weight/")}
        if names != set(optimizer.master):
            raise TrainingError(
                f"the checkpoint in {directory} is of another model or recipe ({len(names)} trained tensors, this one has "
                f"{len(optimizer.master)}); train into an empty folder"
            )
        optimizer.load(state)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        if isinstance(error, TrainingError):
            raise
        raise TrainingError(f"cannot read the checkpoint in {directory}: {error}; delete it to start afresh") from error
    return step


def _digest(state: Mapping[str, torch.Tensor]) -> str:
    total = hashlib.sha256()
    for name in sorted(state):
        total.update(name.encode())
        total.update(state[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
