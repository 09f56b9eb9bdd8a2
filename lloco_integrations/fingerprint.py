"""Names for compressors: a sha256 over everything that changes the vectors they make, and over nothing else.

Device, dtype and batch size are left out on purpose: vectors made on a GPU in bfloat16 are read by a decoder on a CPU.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from lloco_integrations.errors import BadInput

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1
"""Raised when the meaning of stored vectors changes although no weight did; all stored vectors are then foreign."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 24


def fingerprint(**parts: object) -> str:
    """sha256 (64 hex digits) over the canonical JSON of ``parts`` and FORMAT_VERSION; their order does not matter.

    Raises BadInput if a part is not plain JSON (numbers, strings, lists, dicts with string keys, None).
    """
    try:
        text = json.dumps({"format_version": FORMAT_VERSION, "parts": parts}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInput(f"a fingerprint is made of plain JSON values: {error}; pass the hash of anything else") from error
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(paths: Iterable[str | PathLike[str]]) -> str:
    """sha256 over the names (without folders) and contents of ``paths``, in any order.

    Each file is read once a process. The same weights cut into other shards have another hash.

    Raises BadInput if one of ``paths`` cannot be read, if two of them have the same name, or if a file of the Hugging Face hub's cache,
    which is a link to a blob named by its sha256, holds something else.
    """
    found = [Path(path) for path in paths]
    names = [path.name for path in found]
    if len(set(names)) < len(names):
        raise BadInput(f"two of the files to hash have the same name: {sorted(names)}; hash their folders one by one")
    try:
        hashes = {path.name: _sha256_of(path) for path in found}
    except OSError as error:
        raise BadInput(f"cannot read {error.filename} to make a fingerprint: {error.strerror}") from error
    return fingerprint(files=hashes)


def adapter_identity(path: str | PathLike[str]) -> str:
    """What a LoRA in PEFT format is, wherever it lies: ``file_hash`` of its two files; anything but such a directory is its own name."""
    files = [Path(path).expanduser() / name for name in ("adapter_config.json", "adapter_model.safetensors")]
    return file_hash(files) if all(file.is_file() for file in files) else str(path)


def weights_hash(weights: torch.nn.Module | Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, shapes and values of the tensors of a module or state dict, in any order, on any device.

    Floating point values count as float32: bfloat16 weights have the same hash when they are held in float32 (casting
    down changes them, and the hash). It passes over four bytes a weight: prefer ``file_hash`` for large models.
    """
    import torch

    state = weights.state_dict() if isinstance(weights, torch.nn.Module) else weights
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach()
        kind = "float" if tensor.is_floating_point() else str(tensor.dtype)
        total.update(json.dumps([name, kind, list(tensor.shape)]).encode())
        flat = tensor.reshape(-1)
        for at in range(0, flat.numel(), _CHUNK):
            chunk = flat[at : at + _CHUNK].cpu()
            chunk = chunk.float() if chunk.is_floating_point() else chunk
            total.update(chunk.contiguous().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _sha256_of(path: Path) -> str:
    blob = path.resolve(strict=True)
    stat = blob.stat()
    found = _read_sha256(blob, stat.st_size, stat.st_mtime_ns)
    if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) and found != blob.name:
        raise BadInput(
            f"{path} has sha256 {found}, and its blob is named {blob.name}: it is damaged, or not what it says; delete it and fetch it again"
        )
    return found


@lru_cache(maxsize=1024)
def _read_sha256(path: Path, size: int, mtime_ns: int) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()
