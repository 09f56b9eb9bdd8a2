"""A base and the weights that ``lloco pretrain`` made over it -> a model directory, the LoRAs merged in."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from lloco_integrations.backends.adapter_files import read_adapter
from lloco_integrations.backends.adapters import attach
from lloco_integrations.compressors.mean_pool import MeanPoolEncoder, Projector, truncated
from lloco_integrations.errors import IncompatibleAdapter, ModelNotFound
from lloco_integrations.fingerprint import fingerprint
from lloco_integrations.models.directory import Manifest, save_directory
from lloco_integrations.models.fetch import identity_of
from lloco_integrations.types import CompressorSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def merge(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    weights: Path,
    directory: Path,
    *,
    name: str,
    source: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Write the model directory and return it; what was there before is replaced in one step. ``base`` is changed.

    Args:
        base: in float32, so that merging rounds once.
        weights: ``encoder/``, ``decoder/``, ``projector.safetensors`` and ``recipe.json``.
        name: what the model calls itself.
        source: what the directory is made from, for its fingerprint; None hashes the base and the weights.
        dtype: of the written encoder and decoder.

    Raises ModelNotFound for missing files, IncompatibleAdapter for weights of another base.
    """
    from transformers import AutoModel

    try:
        recipe = json.loads((weights / "recipe.json").read_text(encoding="utf-8"))
        state = load_file(weights / "projector.safetensors")
    except OSError as error:
        raise ModelNotFound(f"{weights} is no complete folder of trained weights: {error}; train again, or name another") from error
    made_from = source or _identity(base, weights)
    width = base.config.hidden_size
    if state["centre"].shape[0] != width:
        raise IncompatibleAdapter(
            f"the weights in {weights} are for a base of width {state['centre'].shape[0]}, this one's is {width}; "
            f"load them over {recipe.get('base', 'the base they were trained on')!r}"
        )
    if (weights / "encoder" / "adapter_config.json").exists():
        trunk: Any = truncated(copy.deepcopy(base.base_model), recipe["encoder_layers"])  # type: ignore[arg-type]
        trunk = _merged(trunk, weights / "encoder")
    else:
        trunk = AutoModel.from_pretrained(weights / "encoder", dtype=torch.float32, local_files_only=True, trust_remote_code=False)
    decoder: Any = _merged(base, weights / "decoder")
    projector = Projector.of_state(state)
    spec = CompressorSpec(
        fingerprint=fingerprint(source=made_from, kind="mean_pool", segment_length=recipe["segment_length"], ratios=recipe["ratios"]),
        kind="mean_pool",
        hidden_size=width,
        segment_length=recipe["segment_length"],
        ratios=tuple(recipe["ratios"]),
    )
    chat = tokenizer.chat_template is not None
    manifest = Manifest(
        spec,
        name,
        bidirectional=recipe["bidirectional"],
        chat=chat,
        source=made_from,
        base=str(recipe.get("base", "")),
        focus=recipe.get("focus", {}),
    )
    encoder = MeanPoolEncoder(trunk.to(dtype), projector.to(torch.float32), bidirectional=recipe["bidirectional"])
    save_directory(directory, manifest, encoder, decoder.to(dtype), tokenizer)
    return directory


def _merged(model: Any, adapter: Path) -> Any:
    """``model`` with the LoRA in the directory ``adapter`` added to its weights."""
    return attach(model, read_adapter(str(adapter), model), "merged").merge_and_unload()


def _identity(base: Any, weights: Path) -> str:
    whole = hashlib.sha256()
    for name, tensor in base.state_dict().items():
        whole.update(name.encode())
        whole.update(tensor.detach().float().cpu().numpy().tobytes())
    files = sorted(p for p in weights.rglob("*") if p.suffix == ".safetensors" or p.name == "recipe.json")
    return hashlib.sha256(json.dumps([whole.hexdigest(), *map(identity_of, files)]).encode()).hexdigest()
