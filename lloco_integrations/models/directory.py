"""A complete mean_pool model as a directory that any tool can read:

lloco.json              what it is: CompressorSpec, prompting
encoder/                plain Hugging Face model: the compressor's trunk
projector.safetensors   what stands between encoder and decoder
decoder/                plain Hugging Face causal LM with tokenizer (vLLM serves it as it is)
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from lloco_integrations.compressors.mean_pool import MeanPoolCompressor, MeanPoolEncoder, Projector
from lloco_integrations.errors import ModelNotFound
from lloco_integrations.models.fetch import sha256, sweep_parts
from lloco_integrations.types import CompressorSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MANIFEST = "lloco.json"
FORMAT = 1
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class Manifest:
    """``lloco.json``. ``source``: what the directory was made from, so that a newer package makes it again. ``base``: the model
    that the weights were trained over: a preset, a directory or a hub id. ``focus``: how a budget is best spent, see FocusRecipe.
    ``files``: path below the directory -> sha256, of each file but this one; what an earlier version wrote has none."""

    spec: CompressorSpec
    name: str
    bidirectional: bool
    chat: bool
    source: str = ""
    base: str = ""
    focus: Mapping[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def read_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that is saved in ``directory``. Raises FileNotFoundError where none is: transformers 5.0 would make one up, of a few
    tokens; ValueError or OSError for one that cannot be read."""
    if not has_tokenizer(directory):
        raise FileNotFoundError(f"there is none of {', '.join(_TOKENIZERS)}")
    from transformers import AutoTokenizer

    found: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    tokenizer: PreTrainedTokenizerBase = found
    return tokenizer


def has_tokenizer(directory: Path) -> bool:
    """Whether one is saved in ``directory``."""
    return any((directory / name).is_file() for name in _TOKENIZERS)


def save_directory(
    directory: Path,
    manifest: Manifest,
    encoder: MeanPoolEncoder,
    decoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Write a model directory in one step: it is complete, or not there. What was there before is replaced."""
    sweep_parts(directory)
    part = directory.with_name(f"{directory.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        encoder.trunk.save_pretrained(part / "encoder")
        decoder.save_pretrained(part / "decoder")
        tokenizer.save_pretrained(part / "decoder")
        save_file({k: v.contiguous() for k, v in encoder.projector.state_dict().items()}, part / "projector.safetensors")
        files = {path.relative_to(part).as_posix(): sha256(path) for path in sorted(part.rglob("*")) if path.is_file()}
        text = json.dumps({"format": FORMAT, **asdict(replace(manifest, files=files))}, indent=1)
        (part / MANIFEST).write_text(text + "\n", encoding="utf-8")
        if directory.exists():
            shutil.rmtree(directory)
        os.replace(part, directory)
    except OSError as error:
        raise ModelNotFound(f"cannot write the model to {directory}: {error}; make room or name another folder in LLOCO_HOME") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a model directory. Raises ModelNotFound if it is missing, damaged or of a newer format."""
    path = directory / MANIFEST
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            raise ModelNotFound(f"{path} has a format that this version does not read (it reads {FORMAT}); upgrade lloco_integrations")
        spec = values.pop("spec")
        manifest = Manifest(spec=CompressorSpec(**{**spec, "ratios": tuple(spec["ratios"])}), **values)
        _check(manifest)
        return manifest
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelNotFound(f"{path} cannot be read ({error!r}); delete {directory} and load the model again") from error


def _check(manifest: Manifest) -> None:
    """Raise ValueError for a manifest that no compressor could have."""
    spec = manifest.spec
    for name, value, kind in (
        ("fingerprint", spec.fingerprint, str),
        ("name", manifest.name, str),
        ("source", manifest.source, str),
        ("base", manifest.base, str),
        ("bidirectional", manifest.bidirectional, bool),
        ("chat", manifest.chat, bool),
    ):
        if not isinstance(value, kind):
            raise ValueError(f"{name} is {str(value)[:40]!r}")
    numbers = [spec.hidden_size, spec.segment_length, *spec.ratios]
    if not spec.ratios or any(not isinstance(n, int) or isinstance(n, bool) or not 0 < n < 1 << 31 for n in numbers):
        raise ValueError("hidden_size, segment_length and ratios are positive integers")
    if list(spec.ratios) != sorted(set(spec.ratios)) or any(ratio % spec.ratios[0] for ratio in spec.ratios):
        raise ValueError(f"the ratios {spec.ratios} are no multiples of the first, in order")
    if spec.kind != "mean_pool" or spec.placement not in ("inline", "prefix"):
        raise ValueError(f"kind {str(spec.kind)[:40]!r} with placement {str(spec.placement)[:40]!r}")


def check_files(directory: Path, manifest: Manifest) -> None:
    """Raises ModelNotFound for a file that is missing or not as it was written: one flipped bit answers a little wrongly, and says nothing."""
    try:
        wrong = [name for name, expected in manifest.files.items() if sha256(directory / name) != expected]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise _unreadable(directory, error) from error
    if wrong:
        raise ModelNotFound(
            f"{', '.join(wrong)} in {directory} changed since the model was made; delete the folder and load the model again"
        )


def load_compressor(directory: Path, manifest: Manifest, device: torch.device, dtype: torch.dtype) -> MeanPoolCompressor:
    """The compressor of a model directory."""
    from transformers import AutoModel

    try:
        trunk = AutoModel.from_pretrained(directory / "encoder", dtype=dtype, local_files_only=True, trust_remote_code=False).to(device)
    except Exception as error:
        raise _unreadable(directory, error) from error
    encoder = MeanPoolEncoder(trunk, read_projector(directory).to(device), bidirectional=manifest.bidirectional)
    return MeanPoolCompressor(encoder.requires_grad_(False), manifest.spec)


def read_projector(directory: Path) -> Projector:
    """The projector of a model directory, in float32 on the CPU: all that reading summaries takes."""
    try:
        return Projector.of_state(load_file(directory / "projector.safetensors")).requires_grad_(False)
    except Exception as error:
        raise _unreadable(directory, error) from error


def _unreadable(directory: Path, error: Exception) -> ModelNotFound:
    return ModelNotFound(f"the compressor in {directory} cannot be loaded: {error}; delete the folder and load the model again")
