"""The bytes of a value: what is written, and everything that is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from lloco_integrations.errors import DamagedEntry
from lloco_integrations.store import codec
from lloco_integrations.store.codec import check, decode, encode
from lloco_integrations.store.header import HEAD_BYTES, read_header
from lloco_integrations.store.keys import is_key, make_key
from lloco_integrations.store.quantise import dequantise, quantise
from lloco_integrations.store.seal import Seal
from lloco_integrations.types import SummaryEmbeddings

Summary = Callable[..., SummaryEmbeddings]
KEY = "abcdefghijklmnopqrstuvwxya"
SEAL = Seal(bytes(range(32)))


def parts(value: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(value[:8], "little")
    return json.loads(value[8 : 8 + length]), value[8 + length :]


def joined(header: Any, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def test_any_safetensors_reader_can_open_it(summary: Summary) -> None:
    put = summary(1, dtype="bfloat16", group="g", window=4)
    value, info = encode(KEY, put, "exact", 12.5, SEAL)
    assert torch.equal(load(value)["vectors"], put.vectors)
    assert info.nbytes == len(value)
    assert info.created == 12.5
    assert read_header(KEY, value[:HEAD_BYTES], SEAL).info == info


@pytest.mark.parametrize("storage", ["exact", "int8"])
def test_every_flipped_byte_is_found(summary: Summary, storage: str) -> None:
    value, _ = encode(KEY, summary(1, rows=2, width=3, group="g", window=4), storage, 1.0, SEAL)
    missed = []
    for at in range(len(value)):
        changed = bytearray(value)
        changed[at] ^= 0x15
        try:
            check(KEY, changed, SEAL)
            missed.append(at)
        except DamagedEntry:
            continue
    # Blanks that pad the header carry nothing; a flip there gives no valid JSON, so even they are found.
    assert missed == []


def test_every_truncation_is_found(summary: Summary) -> None:
    value, _ = encode(KEY, summary(1), "int8", 1.0, SEAL)
    for length in range(len(value)):
        with pytest.raises(DamagedEntry):
            check(KEY, value[:length], SEAL)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("n_tokens", "12"),
        ("n_tokens", "-1"),
        ("n_tokens", "1e3"),
        ("fingerprint", "another"),
        ("group", "another"),
        ("window", "8"),
        ("dtype", "float16"),
        ("dtype", "int64"),
        ("shape", "3,9"),
        ("shape", "3"),
        ("shape", "9" * 400 + ",1"),
        ("storage", "int8"),
        ("created", "nan"),
        ("lloco_format", "2"),
        ("checksum", "0" * 64),
        ("something", "foreign"),
        ("n_tokens", None),
        ("checksum", None),
        ("n_tokens", 11),
    ],
)
def test_changed_metadata_are_refused(summary: Summary, name: str, wrong: Any) -> None:
    value, _ = encode(KEY, summary(1, group="g", window=4), "exact", 1.0, SEAL)
    header, body = parts(value)
    assert check(KEY, joined(header, body), SEAL)
    if wrong is None:
        del header["__metadata__"][name]
    else:
        header["__metadata__"][name] = wrong
    with pytest.raises(DamagedEntry, match=KEY):
        decode(KEY, joined(header, body), SEAL)


@pytest.mark.parametrize("offsets", [[0, 95], [0, 97], [1, 97], [-96, 0], [0, "96"], [True, 96], [0], None, [0, 10**30], [0.0, 96.0]])
def test_wrong_offsets_are_refused(summary: Summary, offsets: Any) -> None:
    header, body = parts(encode(KEY, summary(1), "exact", 1.0, SEAL)[0])
    header["vectors"]["data_offsets"] = offsets
    with pytest.raises(DamagedEntry):
        decode(KEY, joined(header, body), SEAL)


@pytest.mark.parametrize(
    "value",
    [
        save({"vectors": torch.ones(2, 2)}),
        save({"vectors": torch.ones(2, 2)}, {"format": "pt"}),
        joined([], b""),
        joined({"__metadata__": None}, b""),
        joined({"__metadata__": {"lloco_format": "1"}}, b""),
        (9000).to_bytes(8, "little") + b"[" * 9000,
        (8000).to_bytes(8, "little") + b"[" * 8000,
        b"\xff" * 64,
        "text",
        None,
        17,
    ],
)
def test_foreign_values_are_refused(value: Any) -> None:
    with pytest.raises(DamagedEntry, match=KEY):
        decode(KEY, value, SEAL)


def test_non_finite_values_with_a_right_checksum_are_refused(summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = summary(1)
    bad.vectors[0, 0] = float("nan")
    with monkeypatch.context() as patched:
        patched.setattr(codec, "_finite", lambda _: True)
        value, _ = encode(KEY, bad, "exact", 1.0, SEAL)
    with pytest.raises(DamagedEntry, match="NaN"):
        decode(KEY, value, SEAL)


@pytest.mark.parametrize("scale", [0.0, 1e-45, 1e-38, 1e-6, 1.0, 1e30, 3.4e38])
def test_int8_error_bound(scale: float) -> None:
    unit = torch.rand(16, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1
    unit[:, 0] = 1.0
    vectors = unit * scale
    vectors[5] = 0.0
    q, scales = quantise(vectors)
    assert q.dtype == torch.int8
    assert scales.shape == (16,)
    got = dequantise(q, scales, torch.float32)
    assert bool(torch.isfinite(got).all())
    bound = vectors.double().abs().amax(dim=1, keepdim=True) / 254 * 1.0001 + 1e-43
    assert bool(((got.double() - vectors.double()).abs() <= bound).all())
    assert not bool(got[5].any())


def test_int8_is_a_quarter_of_float32(summary: Summary) -> None:
    big = summary(1, rows=64, width=576)
    exact, small = encode(KEY, big, "exact", 1.0, SEAL)[0], encode(KEY, big, "int8", 1.0, SEAL)[0]
    assert len(small) < 0.27 * len(exact)


def test_keys_frame_their_parts_and_depend_on_the_secret() -> None:
    one, two = bytes(32), bytes(31) + b"\1"
    key = make_key(one, "fp", "text")
    assert is_key(key)
    assert key == make_key(one, "fp", "text")
    others = {
        make_key(two, "fp", "text"),
        make_key(one, "f", "ptext"),
        make_key(one, "fpt", "ext"),
        make_key(one, "fp", ""),
    }
    assert len(others | {key}) == 5
    assert all(is_key(make_key(one, "fp", str(n))) for n in range(500))
    for wrong in ("", key[:-1], key + "a", key.upper(), "../" + key[3:], key + "\n", None, 3, key.encode()):
        assert not is_key(wrong)
