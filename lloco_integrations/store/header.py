"""The header of a stored value, read and checked without making a tensor.

A value is a safetensors file: 8 bytes of header length, the header in JSON, the tensors' bytes. Ours holds ``vectors``
``(n_vectors, hidden_size)``, and with int8 storage ``scales (n_vectors,)``; everything else is in ``__metadata__``, with a mark under the
store's secret over all of it (``seal``) and a checksum of the tensors, so that the header alone can be believed.

A value of format 2.N is read by every version that knows format 2: what N adds (tensors, metadata) is optional, and passed over by
versions that do not know it. Values of format 1 have no mark; they are read where the store says that it may hold some.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

from lloco_integrations.errors import DamagedEntry
from lloco_integrations.store.info import EntryInfo
from lloco_integrations.store.seal import Seal

VALUE_FORMAT = (2, 0)
HEAD_BYTES = 8 + 8192
"""The header of every value lies within this many bytes from its start."""
DTYPES = {"float16": ("F16", 2), "bfloat16": ("BF16", 2), "float32": ("F32", 4)}
"""torch name of the dtypes that can be stored: name in safetensors, bytes an element."""
_COUNT = re.compile(r"[1-9][0-9]{0,11}")
_VERSION = re.compile(r"(1)|(2)\.(0|[1-9][0-9]{0,3})")
_OLD = {"lloco_format", "storage", "dtype", "shape", "n_tokens", "fingerprint", "created", "checksum"}
_REQUIRED = _OLD | {"seal"}
_OPTIONAL = {"window", "group"}


@dataclass(frozen=True)
class Header:
    """A header that passed every check.

    Attributes:
        info: what it says about the entry.
        storage: ``"exact"`` or ``"int8"``.
        dtype: torch name of the dtype that the vectors have when decoded.
        metadata: the strings as stored.
        sealed: whether it carries a mark, which then is the right one; of format 1, nothing is certain before the checksum was computed.
        spans: first and last+1 byte of each tensor within the value.
    """

    info: EntryInfo
    storage: str
    dtype: str
    metadata: dict[str, str]
    spans: dict[str, tuple[int, int]]
    sealed: bool


def damaged(key: str, reason: str) -> DamagedEntry:
    """The error for an entry that must not be decoded."""
    return DamagedEntry(
        f"entry {key} of the store is damaged ({reason}); compress its text again: lloco store verify --repair, or "
        f"delete it: lloco store gc --damaged"
    )


def read_header(key: str, data: object, seal: Seal) -> Header:
    """Checks the header in ``data``, a whole value or its first HEAD_BYTES bytes. Raises DamagedEntry."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise damaged(key, f"{type(data).__name__} in place of bytes")
    try:
        return _parse(key, bytes(data[:HEAD_BYTES]), seal)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise damaged(key, f"not a value of this store: {error}") from None


def version() -> str:
    """VALUE_FORMAT as it is written."""
    return ".".join(map(str, VALUE_FORMAT))


def _parse(key: str, data: bytes, seal: Seal) -> Header:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= length <= HEAD_BYTES - 8 or len(data) < 8 + length:
        raise ValueError("no safetensors header, or a truncated one")
    raw = json.loads(data[8 : 8 + length].decode("utf-8"))
    if not isinstance(raw, dict) or not all(isinstance(part, dict) for part in raw.values()):
        raise TypeError("the header is no table of tables")
    meta = raw.pop("__metadata__")
    if not all(isinstance(name, str) and isinstance(value, str) for name, value in meta.items()):
        raise ValueError("metadata that are not strings")
    match = _VERSION.fullmatch(meta.get("lloco_format", ""))
    if match is None:
        raise ValueError(f"format {meta.get('lloco_format')!r}, expected {version()!r}")
    sealed, newer = match[1] is None, int(match[3] or 0) > VALUE_FORMAT[1]
    if sealed and meta.get("seal") != head_mark(seal, key, meta):
        raise ValueError("its description does not fit the store's secret")
    if not sealed and not seal.legacy:
        raise ValueError("format 1, which this store no longer holds")
    required = _REQUIRED if sealed else _OLD
    if not required <= meta.keys() or not (newer or meta.keys() <= required | _OPTIONAL):
        raise ValueError(f"metadata {sorted(meta.keys() ^ required)} missing or unknown")
    if meta["storage"] not in ("exact", "int8") or meta["dtype"] not in DTYPES:
        raise ValueError(f"storage {meta['storage']!r} of dtype {meta['dtype']!r}")
    rows, width = (_count(part) for part in meta["shape"].split(","))
    spans = _spans(raw, _expected(meta["storage"], meta["dtype"], rows, width), 8 + length, newer)
    created = float(meta["created"])
    if not math.isfinite(created):
        raise ValueError("no creation time")
    info = EntryInfo(
        n_vectors=rows,
        n_tokens=_count(meta["n_tokens"]),
        hidden_size=width,
        fingerprint=meta["fingerprint"],
        window=_count(meta["window"]) if "window" in meta else None,
        group=meta.get("group"),
        nbytes=max(end for _, end in spans.values()),
        created=created,
    )
    return Header(info, meta["storage"], meta["dtype"], meta, spans, sealed)


def head_mark(seal: Seal, key: str, metadata: dict[str, str]) -> str:
    """The mark of a header's metadata, all but the mark itself."""
    return seal.table("head", key, {name: value for name, value in metadata.items() if name != "seal"})


def _count(text: str) -> int:
    if not _COUNT.fullmatch(text):
        raise ValueError(f"{text[:32]!r} in place of a count")
    return int(text)


def _expected(storage: str, dtype: str, rows: int, width: int) -> dict[str, tuple[str, list[int], int]]:
    """Name in safetensors, shape and size in bytes of each tensor that a value must hold."""
    if storage == "int8":
        return {"vectors": ("I8", [rows, width], rows * width), "scales": ("F32", [rows], rows * 4)}
    name, size = DTYPES[dtype]
    return {"vectors": (name, [rows, width], rows * width * size)}


def _spans(
    tensors: dict[str, dict[str, object]], expected: dict[str, tuple[str, list[int], int]], start: int, newer: bool
) -> dict[str, tuple[int, int]]:
    if not expected.keys() <= tensors.keys() or not (newer or tensors.keys() <= expected.keys()):
        raise ValueError(f"tensors {sorted(tensors)}, expected {sorted(expected)}")
    spans: dict[str, tuple[int, int]] = {}
    for name, found in tensors.items():
        offsets = found["data_offsets"]
        if not isinstance(offsets, list) or [type(n) for n in offsets] != [int, int] or offsets[1] < offsets[0]:
            raise ValueError(f"tensor {name} lies at {offsets}")
        if name in expected:
            dtype, shape, size = expected[name]
            if found["dtype"] != dtype or found["shape"] != shape:
                raise ValueError(f"tensor {name} is {found['dtype']} {found['shape']}, expected {dtype} {shape}")
            if offsets[1] - offsets[0] != size:
                raise ValueError(f"tensor {name} lies at {offsets}, expected {size} bytes")
        spans[name] = (start + offsets[0], start + offsets[1])
    at = start
    for first, last in sorted(spans.values()):
        if first != at:
            raise ValueError("tensors overlap or leave gaps")
        at = last
    return spans
