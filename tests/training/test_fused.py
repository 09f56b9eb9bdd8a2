"""The fused passes compute what transformers, PEFT and autograd do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from lloco_integrations.training.fused import Layout, run
from lloco_integrations.training.packing import padded_run
from lloco_integrations.training.trainee import LoraSettings, with_lora
from tests import tiny
from tests.training.houses import stir

MIXED = Layout(((7, ()), (1, ()), (9, (3, 1, 5)), (1, (2, 2)), (8, ()), (7, (1,)), (1, ()), (40, ())))
PLAIN_ROWS = Layout.of([5, 1, 5, 6, 30, 31, 1])
BOTH_WAYS = Layout.of([12, 1, 13, 4, 12, 26], causal=False)


def trunk_with_lora(base: LlamaForCausalLM | None = None, layers: str | tuple[str, ...] = "all-linear") -> Any:
    """The trunk of a causal LM with a stirred LoRA."""
    model = with_lora((base or tiny.decoder(layers=3)).requires_grad_(False), LoraSettings(4, 8, layers), "CAUSAL_LM")
    stir(model, 0.1)
    return model.get_base_model().base_model


def gradients(model: nn.Module, embeds: torch.Tensor, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of everything that is learnt, and of ``embeds``, from a loss in which each number counts otherwise."""
    torch.manual_seed(5)
    (hidden.float() * torch.randn(hidden.shape)).sum().backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    if embeds.requires_grad:
        found["embeds"] = embeds.grad
    model.zero_grad()
    embeds.grad = None
    assert all(g is not None for g in found.values())
    return {n: g for n, g in found.items() if g is not None}


def check_equal(trunk: Any, layout: Layout, *, learnt_embeds: bool = True, tolerance: float = 1e-5) -> None:
    torch.manual_seed(3)
    total = sum(layout.lengths)
    embeds = torch.randn(total, trunk.config.hidden_size, dtype=trunk.dtype, requires_grad=learnt_embeds)
    kept = torch.randperm(total)[: max(1, total // 3)]
    for at in (None, kept):
        plain = padded_run(trunk, embeds, layout, layout.positions())
        plain = plain if at is None else plain[at]
        expected = gradients(trunk, embeds, plain)
        made = run(trunk, embeds, layout, layout.positions(), at)
        torch.testing.assert_close(made, plain, rtol=tolerance, atol=tolerance)
        for name, grad in gradients(trunk, embeds, made).items():
            scale = float(expected[name].abs().max())
            torch.testing.assert_close(
                grad / scale, expected[name] / scale, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("learnt_embeds", [True, False])
@pytest.mark.parametrize("layout", [MIXED, PLAIN_ROWS, BOTH_WAYS], ids=["branches", "rows", "both ways"])
def test_states_and_gradients_are_those_of_the_plain_path(layout: Layout, learnt_embeds: bool) -> None:
    check_equal(trunk_with_lora(), layout, learnt_embeds=learnt_embeds)
