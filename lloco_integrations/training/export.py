"""Trained weights as they ship: two LoRAs in PEFT format, the projector, and the recipe that made them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lloco_integrations.training.objectives import Trainee


def export(trainee: Trainee, out: Path, recipe: dict[str, Any], base_name: str) -> Path:
    """Write ``encoder/``, ``decoder/``, ``projector.safetensors`` and ``recipe.json`` into ``out`` and return it.

    The LoRAs are bfloat16 or float32 as they were trained, the projector bfloat16 but for its few scalars.
    """
    out.mkdir(parents=True, exist_ok=True)
    for side, model in (("encoder", trainee.encoder.trunk), ("decoder", trainee.decoder)):
        adapter: Any = model
        adapter.peft_config["default"].base_model_name_or_path = base_name
        adapter.save_pretrained(out / side, save_embedding_layers=False)
        (out / side / "README.md").unlink(missing_ok=True)
    state = trainee.encoder.projector.state_dict()
    small = {k: (v.to(torch.bfloat16) if v.ndim > 1 else v.float()).contiguous() for k, v in state.items()}
    save_file(small, out / "projector.safetensors")
    (out / "recipe.json").write_text(json.dumps(recipe, indent=1, default=str) + "\n")
    return out


def copy_record(run: Path, out: Path) -> None:
    """Keep the loss curves of ``run`` beside the weights."""
    for name in ("train.csv", "eval.csv"):
        if (run / name).exists():
            shutil.copy(run / name, out / name)
