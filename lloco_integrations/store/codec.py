"""Summary embeddings as bytes and back: safetensors with a checksum, never pickle."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lloco_integrations.errors import BadInput, DamagedEntry
from lloco_integrations.store.header import DTYPES, Header, damaged, head_mark, read_header, version
from lloco_integrations.store.info import EntryInfo
from lloco_integrations.store.seal import Seal
from lloco_integrations.types import SummaryEmbeddings

if TYPE_CHECKING:
    import torch

_NAME_LIMIT = 256


def encode(key: str, summary: SummaryEmbeddings, storage: str, created: float, seal: Seal) -> tuple[bytes, EntryInfo]:
    """The value to store under ``key``, and its description.

    Args:
        key: part of the checksum, so that a value moved to another key is found out.
        summary: vectors ``(n_vectors, hidden_size)`` on any device, float16, bfloat16 or float32.
        storage: ``"exact"`` keeps every bit, ``"int8"`` keeps one byte an element and a float32 scale a vector.
        created: unix seconds.
        seal: of the store.

    Raises:
        BadInput: another dtype, no vectors, non-finite elements, or names that cannot be kept.
    """
    import torch
    from safetensors.torch import save

    from lloco_integrations.store.quantise import quantise

    _check(summary)
    vectors = summary.vectors.detach().to("cpu").contiguous()
    if not _finite(vectors):
        bad = int((~torch.isfinite(vectors)).any(dim=1).sum())
        raise BadInput(
            f"{bad} of {summary.n_vectors} summary vectors hold NaN or infinity and are not stored; "
            f"compress in float32 or bfloat16, or check the compressor's weights"
        )
    tensors = {"vectors": vectors}
    if storage == "int8":
        tensors["vectors"], tensors["scales"] = quantise(vectors)
    metadata = {
        "lloco_format": version(),
        "storage": storage,
        "dtype": str(vectors.dtype).removeprefix("torch."),
        "shape": f"{vectors.shape[0]},{vectors.shape[1]}",
        "n_tokens": str(summary.n_tokens),
        "fingerprint": summary.compressor,
        "created": repr(float(created)),
    }
    if summary.window is not None:
        metadata["window"] = str(summary.window)
    if summary.group is not None:
        metadata["group"] = summary.group
    parts = {name: _raw(tensor) for name, tensor in tensors.items()}
    data = save(tensors, _vouched(key, metadata, parts, seal))
    return data, read_header(key, data, seal).info


def reseal(key: str, data: bytes, seal: Seal) -> tuple[bytes, EntryInfo]:
    """A value of format 1 in the present format, the tensors as they are; any other value unchanged. Raises DamagedEntry."""
    header = check(key, data, seal)
    if header.sealed:
        return data, header.info
    view = memoryview(data)
    parts = {name: view[first:last] for name, (first, last) in header.spans.items()}
    length = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + length])
    table["__metadata__"] = _vouched(key, {**_bare(header.metadata), "lloco_format": version()}, parts, seal)
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # safetensors begins its data at a multiple of 8
    made = len(text).to_bytes(8, "little") + text + data[8 + length :]
    return made, check(key, made, seal).info


def check(key: str, data: object, seal: Seal) -> Header:
    """Checks header, size, mark and checksum of a whole value without making a tensor. Raises DamagedEntry."""
    header = read_header(key, data, seal)
    assert isinstance(data, (bytes, bytearray, memoryview))
    if len(data) != header.info.nbytes:
        raise damaged(key, f"{len(data)} bytes, expected {header.info.nbytes}")
    view = memoryview(data)
    parts = {name: view[first:last] for name, (first, last) in header.spans.items()}
    if _checksum(key, _bare(header.metadata), parts) != header.metadata["checksum"]:
        raise damaged(key, "its checksum does not match")
    return header


def holds(value: object, key: str, info: EntryInfo, seal: Seal) -> bool:
    """Whether ``value``, found under ``key``, is sound and describes the same summary as ``info``."""
    if value is None:
        return False
    try:
        found = check(key, value, seal).info
    except DamagedEntry:
        return False
    return (found.n_vectors, found.n_tokens, found.hidden_size, found.window, found.group) == (
        info.n_vectors,
        info.n_tokens,
        info.hidden_size,
        info.window,
        info.group,
    )


def decode(key: str, data: object, seal: Seal) -> SummaryEmbeddings:
    """The summary embeddings stored under ``key``: vectors ``(n_vectors, hidden_size)`` on the CPU, in their own dtype.

    Raises:
        DamagedEntry: the value is not what ``encode`` made for this key; nothing of it is turned into a tensor.
    """
    header = check(key, data, seal)
    import torch
    from safetensors.torch import load

    from lloco_integrations.store.quantise import dequantise

    assert isinstance(data, (bytes, bytearray, memoryview))
    try:
        tensors = load(bytes(data))
    except Exception as error:
        raise damaged(key, f"safetensors refuses it: {error}") from error
    vectors = tensors["vectors"]
    if header.storage == "int8":
        vectors = dequantise(vectors, tensors["scales"], getattr(torch, header.dtype))
    if not _finite(vectors):
        raise damaged(key, "it holds NaN or infinity")
    info = header.info
    return SummaryEmbeddings(vectors, info.n_tokens, info.fingerprint, info.window, info.group)


def _check(summary: object) -> None:
    if not isinstance(summary, SummaryEmbeddings):
        raise BadInput(f"the store keeps SummaryEmbeddings, not {type(summary).__name__}")
    dtype = str(summary.vectors.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise BadInput(f"vectors of {dtype} cannot be stored; convert them to {', '.join(DTYPES)}")
    if not all(summary.vectors.shape):
        raise BadInput(f"summary embeddings of shape {tuple(summary.vectors.shape)} hold nothing to store")
    for name, count in (("n_tokens", summary.n_tokens), ("window", summary.window)):
        if count is not None and (type(count) is not int or not 1 <= count < 10**12):
            raise BadInput(f"{name} must be a whole number from 1 on, not {count!r}")
    for name, text in (("compressor", summary.compressor), ("group", summary.group)):
        if text is not None and not _storable(text):
            raise BadInput(f"{name} must be a string of 1 to {_NAME_LIMIT} characters of valid Unicode, not {text!r}")


def _storable(text: object) -> bool:
    if not isinstance(text, str) or not 1 <= len(text) <= _NAME_LIMIT:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _finite(vectors: torch.Tensor) -> bool:
    """Whether no element is NaN or infinite: both show in the least or the greatest, which are found far sooner than a mask is made."""
    return all(math.isfinite(end) for end in vectors.aminmax())


def _raw(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without a copy."""
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _bare(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in metadata.items() if name not in ("checksum", "seal")}


def _vouched(key: str, metadata: dict[str, str], parts: Mapping[str, memoryview], seal: Seal) -> dict[str, str]:
    """``metadata`` with the checksum of everything, and the mark over that."""
    checked = {**metadata, "checksum": _checksum(key, metadata, parts)}
    return {**checked, "seal": head_mark(seal, key, checked)}


def _checksum(key: str, metadata: Mapping[str, str], parts: Mapping[str, memoryview]) -> str:
    framed = json.dumps([key, metadata, {name: part.nbytes for name, part in parts.items()}], sort_keys=True)
    digest = hashlib.sha256(framed.encode("utf-8"))
    for name in sorted(parts):
        digest.update(parts[name])
    return digest.hexdigest()
