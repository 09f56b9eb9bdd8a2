"""AutoCompressor checkpoints as their authors save them: a Hugging Face directory with one more tensor.

Beside the causal LM under its usual names there is ``embed_summary.weight (summary_length, hidden_size)``, which
transformers drops on loading, and ``config.json`` has ``summary_length`` and ``accumulate_summary``.
"""

from __future__ import annotations

import json
import logging
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from lloco_integrations.errors import IncompatibleAdapter, ModelNotFound
from lloco_integrations.fingerprint import file_hash

SUMMARY_WEIGHT = "embed_summary.weight"

_TOKENIZER_FILES = {"added_tokens.json", "merges.txt", "special_tokens_map.json", "tokenizer.json", "tokenizer.model"}
_TOKENIZER_FILES |= {"tokenizer_config.json", "vocab.json", "vocab.txt"}
# Entries of config.json that say how a checkpoint was saved or is run, not what it computes.
_NOT_COMPUTED = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}
_NOT_COMPUTED |= {"pretraining_tp", "segment_gradient_checkpointing"}


@dataclass(frozen=True)
class Checkpoint:
    """A directory that holds an AutoCompressor; see ``open_checkpoint``.

    Attributes:
        directory: where the files are.
        config: ``config.json`` as it is.
        weights: the weight files, all safetensors or, where there are none, all ``pytorch_model*.bin``.
    """

    directory: Path
    config: dict[str, Any]
    weights: tuple[Path, ...]

    @property
    def accumulate(self) -> bool:
        return bool(self.config["accumulate_summary"])

    def parts(self) -> dict[str, object]:
        """What the files say about the vectors, for ``fingerprint``: weights, tokenizer, what config.json computes."""
        tokenizer = [path for name in _TOKENIZER_FILES if (path := self.directory / name).is_file()]
        return {
            "weights": file_hash(self.weights),
            "tokenizer": file_hash(tokenizer) if tokenizer else None,
            "config": {key: value for key, value in self.config.items() if key not in _NOT_COMPUTED},
        }

    def embed_summary(self) -> torch.Tensor:
        """``embed_summary.weight``: ``(summary_length, hidden_size)`` on the CPU, dtype as saved.

        Only the file that holds it is read; ``.bin`` files with ``weights_only=True``. Raises ModelNotFound if no file
        holds it, if it cannot be read, or if its shape is not the one config.json says.
        """
        for path in self._likely_files():
            tensor = _read_tensor(path, SUMMARY_WEIGHT)
            if tensor is not None:
                break
        else:
            names = ", ".join(path.name for path in self.weights)
            raise ModelNotFound(
                f"{self.directory} has no tensor {SUMMARY_WEIGHT!r} in {names}: it is the base model, or was saved by "
                f"code that drops it; take the checkpoint that its authors published"
            )
        hidden = self.config.get("hidden_size", self.config.get("n_embd", tensor.shape[-1] if tensor.ndim else None))
        expected = (self.config["summary_length"], hidden)
        if tuple(tensor.shape) != expected:
            raise ModelNotFound(
                f"{SUMMARY_WEIGHT} in {self.directory} has the shape {tuple(tensor.shape)}, but config.json says "
                f"(summary_length, hidden_size) = {expected}; take both files from the same checkpoint"
            )
        return tensor

    def causal_lm(self, *, device: torch.device | str, dtype: torch.dtype | str) -> PreTrainedModel:
        """The causal LM in eval mode, by its ``model_type``, whatever the class it was saved from is called.

        Raises ModelNotFound if transformers cannot load it or has to invent a weight that the files lack.
        """
        try:
            with _quiet_loading():
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    self.directory, dtype=dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True
                )
        except Exception as error:
            raise ModelNotFound(f"transformers cannot load {self.directory}: {error}") from error
        model: Any = loaded[0]
        missing = sorted(loaded[1]["missing_keys"])
        if missing:
            raise ModelNotFound(
                f"{self.directory} lacks {len(missing)} weights of {type(model).__name__}, such as {missing[0]!r}; "
                f"download the checkpoint again"
            )
        return cast(PreTrainedModel, model.to(device).eval())

    def _likely_files(self) -> list[Path]:
        """The weight files, the one that the index names for ``embed_summary.weight`` first."""
        for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
            index = self.directory / name
            if index.is_file():
                names = _read_json(index).get("weight_map")
                named = names.get(SUMMARY_WEIGHT) if isinstance(names, dict) else None
                first = [path for path in self.weights if path.name == named]
                if first:
                    return first
        return list(self.weights)


def open_checkpoint(path_or_id: str | PathLike[str]) -> Checkpoint:
    """The checkpoint in a directory, which never uses the network, or of a hub id, downloaded into the hub's cache.

    Raises ModelNotFound, naming what is missing, if there is no such directory or id, or if it is no AutoCompressor
    of the Llama kind: the reference's OPT models put all summary tokens at one position and are refused.
    """
    directory = Path(path_or_id).expanduser()
    if not directory.is_dir():
        directory = _download(str(path_or_id))
    if not (directory / "config.json").is_file():
        raise ModelNotFound(f"{directory} has no config.json; name the directory that holds it and the weights")
    config = _read_json(directory / "config.json")
    length, accumulate = config.get("summary_length"), config.get("accumulate_summary")
    if not isinstance(length, int) or isinstance(length, bool) or length < 1 or not isinstance(accumulate, bool):
        raise ModelNotFound(
            f"config.json in {directory} has summary_length={length!r} and accumulate_summary={accumulate!r}, but an "
            f"AutoCompressor has a number above 0 and true or false: this is another kind of model"
        )
    if "OPTAutoCompressorModel" in (config.get("architectures") or ()):
        raise ModelNotFound(
            f"{directory} is an OPTAutoCompressorModel, which puts its summary tokens at another position than "
            f"LlamaAutoCompressorModel; only the latter kind can be read"
        )
    weights = sorted(directory.glob("model*.safetensors")) or sorted(directory.glob("pytorch_model*.bin"))
    if not weights:
        raise ModelNotFound(f"{directory} has neither model*.safetensors nor pytorch_model*.bin; download the weights into it")
    return Checkpoint(directory, config, tuple(weights))


def _download(name: str) -> Path:
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelNotFound(f"there is no directory {name!r}; name one that exists, or a hub id such as 'owner/model'")
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.txt", "tokenizer.model", "model*.safetensors"]
        found = Path(snapshot_download(name, allow_patterns=patterns))
        if not any(found.glob("model*.safetensors")):
            found = Path(snapshot_download(name, allow_patterns=["pytorch_model*.bin"]))
    except Exception as error:
        raise ModelNotFound(
            f"{name!r} is no directory here and cannot be downloaded from the Hugging Face hub ({error!r}); check the "
            f"name and the connection, log in with `hf auth login` if it is private, or name a local directory"
        ) from error
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelNotFound(f"cannot read {path}: {error}; download it again") from error
    if not isinstance(content, dict):
        raise ModelNotFound(f"{path} holds no JSON object; download it again")
    return content


def _read_tensor(path: Path, name: str) -> torch.Tensor | None:
    """The tensor ``name`` of a weight file, on the CPU; None if the file has none of that name."""
    from safetensors import safe_open

    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                tensor: torch.Tensor | None = file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118
            return tensor
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)).get(name)
        return found.clone() if isinstance(found, torch.Tensor) else None
    except Exception as error:  # of any kind: a file may hold anything
        raise ModelNotFound(f"cannot read {path}: {error}; download it again") from error


@contextmanager
def as_saved(model: torch.nn.Module) -> Iterator[None]:
    """Inside, ``model`` computes what its checkpoint does: adapters off, dropout off. Afterwards all is as it was.

    Unlike peft's own ``disable_adapter`` it covers adapters that were injected into a plain model, too, and leaves
    alone which weights are trainable. Not for several threads at once. Raises IncompatibleAdapter if an adapter
    changes biases of the model itself.
    """
    for name, config in getattr(model, "peft_config", {}).items():
        if getattr(config, "bias", "none") != "none":
            raise IncompatibleAdapter(
                f"adapter {name!r} changes biases of the base model (bias={config.bias!r}), even while it is off; "
                f"compress before loading it, or train it with bias='none'"
            )
    layers = [layer for layer in _adapter_layers(model) if not layer._disable_adapters]
    training = [module for module in model.modules() if module.training]
    try:
        for layer in layers:
            layer._disable_adapters = True  # and no more: peft's own method changes gradients, too, and fails on inference tensors
        for module in training:
            module.training = False
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
        for module in training:
            module.training = True


def _adapter_layers(model: torch.nn.Module) -> list[Any]:
    """The layers of ``model`` that peft put there; none can be if peft was never imported."""
    if "peft" not in sys.modules:
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    return [module for module in model.modules() if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))]


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Silences transformers' report of weights it does not use: ``embed_summary.weight`` is always one of them."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
