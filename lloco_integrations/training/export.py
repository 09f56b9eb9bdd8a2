"""Trained weights in and out: LoRAs in PEFT format, the projector, the recipe that made them; or a whole AutoCompressor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lloco_integrations.compressors.checkpoint import SUMMARY_WEIGHT
from lloco_integrations.errors import IncompatibleAdapter
from lloco_integrations.training.trainee import MeanPoolTrainee, SummaryTokenTrainee, Trainee, brief

ADAPTER = "adapter_model.safetensors"
CURVES = ("train.csv", "eval.csv", "curves.png")


def export(trainee: MeanPoolTrainee, out: Path, recipe: dict[str, Any], base_name: str) -> Path:
    """Write ``encoder/``, ``decoder/``, ``projector.safetensors`` and ``recipe.json`` into ``out`` and return it.

    The LoRAs are bfloat16 or float32 as they were trained, the projector bfloat16 but for its few scalars. An encoder whose weights
    were all trained is written whole.
    """
    out.mkdir(parents=True, exist_ok=True)
    export_adapter(trainee, out / "decoder", base_name)
    encoder: Any = trainee.encoder.trunk
    if hasattr(encoder, "peft_config"):
        _save_lora(encoder, out / "encoder", base_name)
    else:
        encoder.save_pretrained(out / "encoder")
    state = trainee.encoder.projector.state_dict()
    small = {k: (v.to(torch.bfloat16) if v.ndim > 1 else v.float()).contiguous() for k, v in state.items()}
    save_file(small, out / "projector.safetensors")
    (out / "recipe.json").write_text(json.dumps(recipe, indent=1, default=str) + "\n", encoding="utf-8")
    return out


def export_adapter(trainee: Trainee, out: Path, base_name: str) -> Path:
    """Write the decoder's LoRA alone into ``out``: what a rival is that reads text, or nothing."""
    _save_lora(trainee.decoder, out, base_name)
    return out


def export_autocompressor(trainee: SummaryTokenTrainee, out: Path, tokenizer: Any) -> Path:
    """Write the model with its LoRA merged in and the summary tokens into ``out``: a checkpoint as the AutoCompressor authors save it.

    The trainee is of no more use afterwards.
    """
    summary = trainee.embed_summary.detach()
    model: Any = trainee.decoder.merge_and_unload()
    model.config.summary_length = len(summary)
    model.config.accumulate_summary = trainee.compressor.accumulate
    model.config.segment_length = trainee.compressor.spec.segment_length
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    state = load_file(out / "model.safetensors")
    save_file({**state, SUMMARY_WEIGHT: summary.to("cpu").contiguous()}, out / "model.safetensors", metadata={"format": "pt"})
    return out


def start_from(trainee: Trainee, weights: Path) -> None:
    """Put the weights that ``export`` or ``export_adapter`` wrote into ``trainee``.

    Salience may be new, and the trainee's rank higher: what it reads is then the same, and there is more to learn. Raises
    IncompatibleAdapter if they are of another base or encoder, or of a higher rank.
    """
    whole = (weights / "decoder").is_dir()
    try:
        _put(trainee.decoder, weights / "decoder" / ADAPTER if whole else weights / ADAPTER)
        if whole and isinstance(trainee, MeanPoolTrainee):
            _put(trainee.encoder.trunk, weights / "encoder" / ADAPTER)
            projector = trainee.encoder.projector
            fresh = {} if projector.salience is None else {"salience": projector.salience.detach()}
            projector.load_state_dict({**fresh, **load_file(weights / "projector.safetensors")})
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise IncompatibleAdapter(
            f"cannot start from the weights in {weights}: {brief(error)}; they must be of the same base and encoder layers, "
            f"and of no higher rank"
        ) from error


def copy_record(run: Path, out: Path) -> None:
    """Keep the loss curves of ``run`` beside the weights."""
    for name in CURVES:
        if (run / name).exists():
            shutil.copy(run / name, out / name)


def _save_lora(model: Any, out: Path, base_name: str) -> None:
    model.peft_config["default"].base_model_name_or_path = base_name
    model.save_pretrained(out, save_embedding_layers=False, selected_adapters=["default"])
    (out / "README.md").unlink(missing_ok=True)


def _put(model: Any, path: Path) -> None:
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    fresh = get_peft_model_state_dict(model)
    kept = {key: _widened(key, tensor, fresh[key]) if key in fresh else tensor for key, tensor in load_file(path).items()}
    loaded: Any = set_peft_model_state_dict(model, kept)
    if loaded.unexpected_keys:
        raise KeyError(f"{path} has {loaded.unexpected_keys[0]!r}")
    if missing := [k for k in loaded.missing_keys if "lora_" in k and ".default." in k]:
        raise KeyError(f"{path} lacks {missing[0]!r}")


def _widened(key: str, tensor: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
    """``tensor`` with what a LoRA of higher rank has more: rows of A as they were drawn, columns of B, which are zero and so add nothing."""
    rank, width = (0, 1) if ".lora_A." in key else (1, 0)
    if tensor.ndim != 2 or tensor.shape[width] != fresh.shape[width] or tensor.shape[rank] >= fresh.shape[rank]:
        return tensor
    return torch.cat([tensor, fresh.narrow(rank, tensor.shape[rank], fresh.shape[rank] - tensor.shape[rank]).to(tensor)], rank)
