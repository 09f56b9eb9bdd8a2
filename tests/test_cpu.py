"""What makes a decoder fast on a CPU changes no result."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, scaled_dot_product_attention

from lloco_integrations.backends import cpu
from lloco_integrations.backends.cpu import PackedLinear
from lloco_integrations.models import load_model
from lloco_integrations.types import GenerationParams
from tests import tiny

needs_packing = pytest.mark.skipif(not cpu._can_pack(), reason="this torch has no oneDNN, whose layout weights are packed in")


def packed(features: int = 32, out: int = 48, *, bias: bool = False) -> nn.Linear:
    torch.manual_seed(0)
    made = nn.Linear(features, out, bias=bias).bfloat16().requires_grad_(False)
    made.__class__ = PackedLinear
    return made


@needs_packing
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 32), (7, 32), (300, 32), (2, 1, 32), (2, 3, 32)])
def test_packed_weights_give_the_same_to_the_bit(shape: tuple[int, ...], bias: bool) -> None:
    layer, rows = packed(bias=bias), torch.randn(shape).bfloat16()
    with torch.inference_mode():
        for _ in range(2):
            assert torch.equal(layer(rows), linear(rows, layer.weight, layer.bias))
    assert layer._packed is not None


@needs_packing
def test_a_weight_that_changed_is_packed_anew() -> None:
    layer, rows = packed(), torch.randn(3, 32).bfloat16()
    with torch.no_grad():
        before = layer(rows)
        layer.weight.mul_(2)
        assert torch.equal(layer(rows), linear(rows, layer.weight)) and not torch.equal(layer(rows), before)
        layer.weight = nn.Parameter(layer.weight * 3)
        assert torch.equal(layer(rows), linear(rows, layer.weight))


@needs_packing
def test_copies_and_saved_weights_know_nothing_of_it() -> None:
    layer, rows = packed(), torch.randn(3, 32).bfloat16()
    with torch.no_grad():
        layer(rows)
        other = copy.deepcopy(layer)
        other.weight.zero_()
        assert not other(rows).any() and layer(rows).any()
    assert list(layer.state_dict()) == ["weight"]
    assert other.state_dict()["weight"].dtype == torch.bfloat16


def test_weights_made_in_inference_mode_are_left_to_torch() -> None:
    with torch.inference_mode():
        layer, rows = packed(), torch.randn(3, 32).bfloat16()
        before = layer(rows)
        layer.weight.mul_(2)
        assert torch.equal(layer(rows), 2 * before)


def test_gradients_flow() -> None:
    layer, rows = packed(), torch.randn(3, 32).bfloat16().requires_grad_()
    layer(rows).sum().backward()
    assert rows.grad is not None and rows.grad.any()


def test_other_dtypes_are_left_to_torch() -> None:
    layer = packed().float()
    with torch.inference_mode():
        rows = torch.randn(3, 32)
        assert torch.equal(layer(rows), linear(rows, layer.weight))


@pytest.mark.parametrize("masked", [False, True])
def test_one_query_attends_as_in_torch(masked: bool) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 9, 1, 16), torch.randn(3, 3, 50, 16), torch.randn(3, 3, 50, 16)
    mask = torch.rand(3, 1, 1, 50) > 0.3 if masked else None
    module: Any = nn.Module()
    module.num_key_value_groups = 3
    made, _ = cpu.attention(module, query, key, value, mask, scaling=0.25)
    plain = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.25, enable_gqa=True)
    torch.testing.assert_close(made, plain.transpose(1, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoder_generates_the_same(dtype: torch.dtype) -> None:
    plain, fast = tiny.decoder().to(dtype), tiny.decoder().to(dtype)
    cpu.prepare(fast)
    assert fast.config._attn_implementation != plain.config._attn_implementation
    ids = torch.randint(3, 300, (3, 40), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :15] = 0
    how: Any = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False}
    with torch.inference_mode():
        assert plain.generate(ids, **how).tolist() == fast.generate(ids, **how).tolist()


@needs_packing
def test_a_loaded_model_is_prepared(tiny_model: str) -> None:
    model = load_model(tiny_model, device="cpu", dtype="bfloat16")
    assert any(isinstance(module, PackedLinear) for module in model.decoder.modules())
    assert model.generate(["What is it?"], GenerationParams(max_new_tokens=3))


@needs_packing
def test_a_large_decoder_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_LARGEST", 1000)
    model = tiny.decoder().bfloat16()
    cpu.prepare(model)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
