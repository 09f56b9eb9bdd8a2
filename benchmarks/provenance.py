"""Where and with what a figure was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lloco_integrations import LLoCOModel


def provenance(packages: Sequence[str] = ("torch", "transformers", "peft", "lloco_integrations")) -> dict[str, object]:
    """The date, the machine, Python's version and those of ``packages``, for a report."""
    return {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
    }


def called(name: str) -> str:
    """What a report calls the model ``name``: of a directory, the last part of its path."""
    return Path(name).name if Path(name).is_dir() else name


def device_of(model: LLoCOModel) -> str:
    """The device, threads and dtype of a model."""
    import torch

    weights = next(model.decoder.parameters())
    where = torch.cuda.get_device_name(weights.device) if weights.device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{weights.device.type} ({where}), {str(weights.dtype).removeprefix('torch.')}"
