"""What an adapter's files say, believed only as far as it has been checked: before anything of it is loaded.

PEFT's configuration can do much more than describe a LoRA: some of its values rewrite weights of the base while they are loaded, repeat
its layers, or allocate whatever they name. So the configuration is made anew here, of the few values that a LoRA has, and of the tensors
themselves: which modules they change, and at which rank.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lloco_integrations.errors import IncompatibleAdapter

LARGEST = 65504.0
"""The largest number of float16: nothing that was learnt comes near it, and products of greater ones are infinite."""
_PREFIX = "base_model.model."
_LORA = re.compile(
    r"(?P<module>.+)\.(?:lora_(?P<half>[AB])\.weight|lora_embedding_(?P<table>[AB])|lora_(?P<more>magnitude_vector|B\.bias))"
)
_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_PUT_THERE = re.compile(r"\.(?:lora_\w+|base_layer|original_module|modules_to_save)(?:\.|$)")
"""In the names of modules that an adapter brought along."""
_PLAIN_NAME = re.compile(r"\^?[A-Za-z0-9_.]+")
_KNOWN = {"lora_alpha", "r", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias", "fan_in_fan_out", "modules_to_save"}
_TOLD_BY_TENSORS = {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
_WITHOUT_EFFECT = {"auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "task_type", "peft_version", "peft_type"}
_WITHOUT_EFFECT |= {"lora_dropout", "megatron_core", "qalora_group_size", "runtime_config", "loftq_config"}
_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""How an adapter may have been initialised: without a change to the base."""
_KINDS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class AdapterFiles:
    """A LoRA that fits a decoder.

    Attributes:
        config: arguments of peft's LoraConfig, none of them taken over unchecked.
        tensors: under their names in the file; finite, on the CPU.
        modules: names of the modules that get a LoRA.
        saved: names of the modules that are replaced as a whole.
        alone: why it cannot share a batch with other adapters; empty if it can.
    """

    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    modules: frozenset[str]
    saved: frozenset[str] = frozenset()
    alone: str = ""

    def clashes(self, other: AdapterFiles) -> bool:
        """Whether both cannot be on one model: one replaces what the other puts a LoRA on."""
        return any(
            f"{name}.".startswith(f"{whole}.") for one, two in ((self, other), (other, self)) for whole in one.saved for name in two.modules
        )


@dataclass
class _Halves:
    """The shapes of one module's LoRA."""

    down: tuple[int, ...] | None = None
    up: tuple[int, ...] | None = None
    table: bool = False
    more: dict[str, tuple[int, ...]] = field(default_factory=dict)


def read_adapter(path: str, model: Any) -> AdapterFiles:
    """The LoRA at ``path``, a directory or a hub id, checked against the modules of ``model``, which is left as it is.

    Raises IncompatibleAdapter for one that cannot be found or read, is something else than a LoRA, would change the base itself, is not
    of ``model``'s shapes, or has a number that is not finite.
    """
    directory = _directory(path)
    try:
        config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"adapter_config.json holds a {type(config).__name__}")
        file = next((directory / name for name in _FILES if (directory / name).is_file()), directory / _FILES[0])
        shapes = _shapes(file)
    except Exception as error:  # of any kind: a file may hold anything
        raise IncompatibleAdapter(f"{path} is not a LoRA in PEFT format ({type(error).__name__}: {error})") from error
    _check_values(path, config)
    modules = {name: module for name, module in model.named_modules() if not _PUT_THERE.search(name)}
    saved, halves = _sorted_out(path, config, shapes, modules)
    ranks, alphas = {}, {}
    for name, half in halves.items():
        ranks[name] = _rank(path, name, half, modules[name], config)
        alphas[name] = _alpha(path, name, ranks[name], config)
    tensors = _read(path, file)
    made = {
        "r": config["r"],
        "lora_alpha": config.get("lora_alpha", 8),
        "target_modules": sorted(halves),
        "rank_pattern": {f"^{name}": rank for name, rank in ranks.items() if rank != config["r"]},
        "alpha_pattern": {f"^{name}": alpha for name, alpha in alphas.items() if alpha != config.get("lora_alpha", 8)},
        "modules_to_save": sorted(saved) or None,
        "use_rslora": bool(config.get("use_rslora")),
        "use_dora": bool(config.get("use_dora")),
        "lora_bias": bool(config.get("lora_bias")),
        "fan_in_fan_out": bool(config.get("fan_in_fan_out")),
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
        "init_lora_weights": True,
        "task_type": "CAUSAL_LM" if hasattr(model, "prepare_inputs_for_generation") else None,
    }
    alone = (
        "replaces whole modules (modules_to_save)"
        if saved
        else "is a DoRA (use_dora)"
        if made["use_dora"]
        else "changes token embeddings"
        if any(half.table for half in halves.values())
        else ""
    )
    return AdapterFiles(made, tensors, frozenset(halves), frozenset(saved), alone)


def _directory(path: str) -> Path:
    """Where the files of the adapter ``path`` are; those of a hub id are downloaded into the hub's cache."""
    directory = Path(path).expanduser()
    if directory.is_dir():
        return directory
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise IncompatibleAdapter(f"there is no directory {path} with an adapter")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=["adapter_config.json", *_FILES]))
    except Exception as error:
        raise IncompatibleAdapter(
            f"{path!r} is no directory here, and cannot be downloaded as an adapter from the Hugging Face hub ({type(error).__name__}: {error}); "
            f"check the name and the connection, or name a directory"
        ) from error


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in ``file``; of a safetensors file no more than its header is read."""
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, framework="pt") as opened:
            return {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
    return {key: tuple(tensor.shape) for key, tensor in _pickled(file).items()}


def _pickled(file: Path) -> dict[str, torch.Tensor]:
    found = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in found.items()):
        raise ValueError(f"{file.name} holds no tensors by name")
    return found


def _read(path: str, file: Path) -> dict[str, torch.Tensor]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors = load_file(file)
        else:
            tensors = _pickled(file)
    except Exception as error:
        raise IncompatibleAdapter(f"the adapter at {path} cannot be read: {error}; learn it again, or download it again") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in _KINDS:
            raise IncompatibleAdapter(f"the adapter at {path} holds {name} as {tensor.dtype}; save it in float32, bfloat16 or float16")
        worst = float(tensor.abs().amax()) if tensor.numel() else 0.0
        if not worst <= LARGEST:  # nor if it is NaN
            raise IncompatibleAdapter(
                f"the adapter at {path} has a number that is not finite, or over {LARGEST:.0f}, in {name} ({worst:g}): its training went "
                f"wrong, or the file is damaged; learn it again"
            )
    return tensors


def _check_values(path: str, config: Mapping[str, Any]) -> None:
    """Raise IncompatibleAdapter for a configuration that says more than a LoRA does."""
    if config.get("peft_type") != "LORA":
        raise IncompatibleAdapter(f"the adapter at {path} is of type {str(config.get('peft_type'))[:40]}; only LORA is supported")
    if config.get("bias", "none") != "none":
        raise IncompatibleAdapter(
            f"the adapter at {path} changes biases of the base model itself (bias={str(config['bias'])[:40]!r}); learn it again with bias='none'"
        )
    start = config.get("init_lora_weights", True)
    if not any(start is known or (isinstance(start, str) and start == known) for known in _STARTS):
        raise IncompatibleAdapter(
            f"the adapter at {path} rewrites the base's weights while it is loaded (init_lora_weights={str(start)[:40]!r}); save it as a plain "
            f"LoRA, as PEFT does with save_pretrained(path_initial_model_for_weight_conversion=...)"
        )
    strange = sorted(
        k for k, v in config.items() if v and k not in _KNOWN | _TOLD_BY_TENSORS | _WITHOUT_EFFECT | {"bias", "init_lora_weights"}
    )
    if strange:
        raise IncompatibleAdapter(
            f"the adapter at {path} sets {', '.join(name[:40] for name in strange[:5])}, which is more than a LoRA on linear layers; learn it "
            f"again without"
        )
    _whole(path, "r", config.get("r"))
    _number(path, "lora_alpha", config.get("lora_alpha", 8))
    for name, check in (("rank_pattern", _whole), ("alpha_pattern", _number)):
        pattern = config.get(name) or {}
        if not isinstance(pattern, dict):
            raise IncompatibleAdapter(f"the adapter at {path} has {name}={str(pattern)[:40]}; a mapping of names is wanted")
        for key, value in pattern.items():
            if not _PLAIN_NAME.fullmatch(key):
                raise IncompatibleAdapter(f"the adapter at {path} has {key[:40]!r} in {name}; give names of modules, not expressions")
            check(path, f"{name}[{key[:40]!r}]", value)
    for name in ("use_rslora", "use_dora", "lora_bias", "fan_in_fan_out"):
        if config.get(name) not in (None, True, False):
            raise IncompatibleAdapter(f"the adapter at {path} has {name}={str(config[name])[:40]!r}; true or false is wanted")


def _whole(path: str, name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise IncompatibleAdapter(f"the adapter at {path} has {name}={str(value)[:40]!r}; a rank is an integer from 1")


def _number(path: str, name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= LARGEST:
        raise IncompatibleAdapter(f"the adapter at {path} has {name}={str(value)[:40]!r}; a number up to {LARGEST:.0f} is wanted")


def _sorted_out(
    path: str, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], modules: Mapping[str, Any]
) -> tuple[set[str], dict[str, _Halves]]:
    """The modules that are replaced as a whole, and the LoRA of each other module; every tensor of the file is in one of them."""
    names = config.get("modules_to_save") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise IncompatibleAdapter(f"the adapter at {path} has modules_to_save={str(names)[:60]}; a list of names is wanted")
    wanted = tuple(f".{name}" for name in names)
    saved = {name for name in modules if wanted and f".{name}".endswith(wanted)}
    expected = {f"{name}.{p}": tuple(q.shape) for name in saved for p, q in _own(modules[name]).named_parameters()}
    halves: dict[str, _Halves] = {}
    for key, shape in shapes.items():
        if key.startswith(_PREFIX) and key.removeprefix(_PREFIX) in expected:
            ours = expected.pop(key.removeprefix(_PREFIX))
            if ours != shape:
                raise IncompatibleAdapter(f"the adapter at {path} was trained for another base: {key} is {shape} there and {ours} here")
            continue
        found = _LORA.fullmatch(key.removeprefix(_PREFIX)) if key.startswith(_PREFIX) else None
        if found is None:
            raise IncompatibleAdapter(f"the adapter at {path} holds the tensor {key[:120]!r}, which is no part of a LoRA; learn it again")
        name = found["module"]
        if name not in modules:
            raise IncompatibleAdapter(f"the adapter at {path} was trained for another base: this decoder has no {name[:120]}")
        half = halves.setdefault(name, _Halves())
        if found["more"]:
            half.more[found["more"]] = shape
        elif (found["half"] or found["table"]) == "A":
            half.down = shape
        else:
            half.up = shape
        half.table = half.table or found["table"] is not None
    if expected:
        raise IncompatibleAdapter(f"the adapter at {path} lacks {sorted(expected)[0]}, which modules_to_save promises; save it again")
    inside = sorted(name for name in halves for whole in saved if f"{name}.".startswith(f"{whole}."))
    if inside:
        raise IncompatibleAdapter(f"the adapter at {path} both replaces {inside[0]} and has a LoRA on it; learn it again with one of them")
    if not halves:
        raise IncompatibleAdapter(f"the adapter at {path} holds no LoRA; learn it again")
    return saved, halves


def _own(module: Any) -> Any:
    """``module`` as it was before any adapter was put on it."""
    if hasattr(module, "original_module"):
        return module.original_module
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module


def _rank(path: str, name: str, half: _Halves, module: Any, config: Mapping[str, Any]) -> int:
    """The rank of the LoRA on ``module``, once its shapes fit."""
    module = _own(module)
    shape = tuple(getattr(getattr(module, "weight", None), "shape", ()))
    kind = type(module).__name__
    if len(shape) != 2 or not (isinstance(module, nn.Linear | nn.Embedding) or kind == "Conv1D"):
        raise IncompatibleAdapter(f"the adapter at {path} changes {name[:120]}, which is a {kind}; a LoRA is on linear layers")
    if half.table != isinstance(module, nn.Embedding):
        raise IncompatibleAdapter(f"the adapter at {path} was trained for another base: {name} is a {kind} here")
    if half.down is None or half.up is None or len(half.down) != 2 or len(half.up) != 2:
        raise IncompatibleAdapter(f"the adapter at {path} has an incomplete LoRA on {name} ({half.down} and {half.up}); save it again")
    in_here, out_here = shape if half.table or kind == "Conv1D" else shape[::-1]
    for theirs, ours in ((half.down[1], in_here), (half.up[0], out_here)):
        if theirs != ours:
            raise IncompatibleAdapter(
                f"the adapter at {path} was trained for another base: {name} has {theirs} features there and {ours} here"
            )
    rank = half.down[0]
    allowed = {config["r"], *(config.get("rank_pattern") or {}).values()}
    if rank != half.up[1] or rank not in allowed:
        raise IncompatibleAdapter(
            f"the adapter at {path} has tensors of rank {rank} and {half.up[1]} on {name}, and its adapter_config.json says "
            f"{', '.join(map(str, sorted(allowed)))}; take both files from the same adapter"
        )
    wanted = {"magnitude_vector"} if config.get("use_dora") else set()
    wanted |= {"B.bias"} if config.get("lora_bias") else set()
    if set(half.more) != wanted or any(shape not in ((out_here,), (out_here, 1), (1, out_here)) for shape in half.more.values()):
        raise IncompatibleAdapter(
            f"the adapter at {path} has {', '.join(half.more) or 'nothing'} beside the LoRA on {name}, where its adapter_config.json "
            f"promises {', '.join(sorted(wanted)) or 'nothing'} of {out_here} features; take both files from the same adapter"
        )
    return rank


def _alpha(path: str, name: str, rank: int, config: Mapping[str, Any]) -> float:
    """By which the LoRA on the module ``name`` is scaled, before its rank is divided out."""
    alpha: float = config.get("lora_alpha", 8)
    for key, value in (config.get("alpha_pattern") or {}).items():
        plain = key.removeprefix("^")
        if name == plain or (not key.startswith("^") and name.endswith(f".{plain}")):
            alpha = value
            break
    scale = abs(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
    if not scale <= LARGEST:
        raise IncompatibleAdapter(f"the adapter at {path} scales {name} by {scale:g}; its adapter_config.json is damaged")
    return alpha
