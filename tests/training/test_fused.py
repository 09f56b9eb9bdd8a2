"""The fused passes compute what transformers, PEFT and autograd do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralModel, Qwen2Config, Qwen2Model

from lloco_integrations.training import fused
from lloco_integrations.training.fused import Layout, answer_losses, fits, run
from lloco_integrations.training.packing import padded_run
from lloco_integrations.training.trainee import LoraSettings, Trainee, with_lora
from tests import tiny
from tests.training.houses import LORA, sampler, stir, trainee

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


def test_rows_that_are_long_compute_their_attention_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_KEPT_LENGTH", 8)
    monkeypatch.setattr(fused, "_BLOCK", 5)
    for layout in (MIXED, PLAIN_ROWS, BOTH_WAYS):
        check_equal(trunk_with_lora(), layout)


def test_rows_of_like_length_are_padded_for_their_attention_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device where few large products beat many small ones."""
    monkeypatch.setattr(fused, "_GROUPED_ON_CPU", fused._GROUPED)
    assert [g.rows for g in fused._groups(PLAIN_ROWS, torch.empty(1))] == [2, 3, 2]
    for layout in (MIXED, PLAIN_ROWS, BOTH_WAYS):
        check_equal(trunk_with_lora(), layout)


@pytest.mark.parametrize("layers", [("q_proj", "v_proj"), ("up_proj",), ("o_proj", "k_proj", "down_proj")])
def test_a_lora_on_some_layers(layers: tuple[str, ...]) -> None:
    check_equal(trunk_with_lora(layers=layers), MIXED)


@pytest.mark.parametrize("head_dim", [8, 12])
@pytest.mark.parametrize("keys", [1, 4])
def test_other_heads_and_positions(keys: int, head_dim: int) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40}
    scaled = {"rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = {**scaled, "original_max_position_embeddings": 16}
    config = LlamaConfig(**shape, num_key_value_heads=keys, head_dim=head_dim, rope_parameters=rope, initializer_range=0.2)
    check_equal(trunk_with_lora(LlamaForCausalLM(config)), MIXED)


def test_another_lora_and_none_are_followed() -> None:
    model = with_lora(tiny.decoder().requires_grad_(False), LORA, "CAUSAL_LM")
    stir(model, 0.1)
    trunk = model.get_base_model().base_model
    torch.manual_seed(3)
    embeds = torch.randn(sum(MIXED.lengths), 32)

    def made() -> torch.Tensor:
        found = run(trunk, embeds, MIXED, MIXED.positions()).detach()
        torch.testing.assert_close(found, padded_run(trunk, embeds, MIXED, MIXED.positions()).detach(), rtol=1e-5, atol=1e-5)
        return found

    first = made()
    model.add_adapter("other", model.peft_config["default"])
    model.set_adapter("other")
    assert not torch.allclose(made(), first), "a fresh LoRA adds nothing"
    with model.disable_adapter():
        made()
    model.set_adapter("default")
    torch.testing.assert_close(made(), first)
    model.double().float()  # weights move elsewhere
    torch.testing.assert_close(made(), first)
    with torch.no_grad():
        trunk.layers[0].self_attn.k_proj.base_layer.weight.mul_(2)  # and change where they are
    assert not torch.allclose(made(), first)


def test_bfloat16_is_as_near_as_bfloat16_is() -> None:
    trunk = trunk_with_lora(tiny.decoder(layers=2).bfloat16())
    check_equal(trunk, MIXED, tolerance=0.06)


def test_what_fits() -> None:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 40}
    small = {**shape, "num_key_value_heads": 2}
    assert fits(trunk_with_lora())
    assert fits(MistralModel(MistralConfig(**small, sliding_window=None)).requires_grad_(False))
    assert not fits(MistralModel(MistralConfig(**small, sliding_window=8)).requires_grad_(False))
    assert not fits(Qwen2Model(Qwen2Config(**small)).requires_grad_(False)), "its q, k and v have biases"
    assert not fits(GPT2Model(GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=40)).requires_grad_(False))
    assert not fits(tiny.decoder().base_model), "its weights are learnt"
    for special in ({"attention_bias": True}, {"mlp_bias": True}, {"hidden_act": "gelu"}):
        assert not fits(LlamaForCausalLM(LlamaConfig(**small, **special)).base_model.requires_grad_(False))


@pytest.mark.parametrize("special", [{"use_dora": True}, {"lora_dropout": 0.1}, {"lora_bias": True}, {"modules_to_save": ["q_proj"]}])
def test_a_lora_that_is_special_does_not_fit(special: dict[str, Any]) -> None:
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=4, target_modules=["v_proj"], **special)
    model = get_peft_model(tiny.decoder().base_model.requires_grad_(False), settings)
    assert not fits(model.get_base_model().train())
    assert fits(model.get_base_model().eval()) == ("lora_dropout" in special)


def test_losses_of_answers_and_their_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_LOSS_ROWS", 4)
    torch.manual_seed(0)
    head = nn.Linear(16, 50, bias=False).requires_grad_(False)
    hidden = torch.randn(11, 16, requires_grad=True)
    target, weight = torch.randint(50, (11,)), torch.rand(11)
    expected = cross_entropy(head(hidden), target, reduction="none")
    [gradient] = torch.autograd.grad((expected * weight).sum(), hidden)
    losses = answer_losses(hidden, head, target)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad((losses * weight).sum(), hidden)[0], gradient, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(answer_losses(hidden, head, target), expected, rtol=1e-5, atol=1e-6)
    learnt = nn.Linear(16, 50)
    answer_losses(hidden, learnt, target).sum().backward()
    assert learnt.weight.grad is not None and learnt.bias.grad is not None


def of_a_batch(model: Trainee, files: tuple[Path, Path], step: int, *, plain: bool) -> tuple[float, dict[str, torch.Tensor]]:
    model.plain = plain
    loss = model(sampler(files).batch(step))
    torch.autograd.backward(loss)
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return float(loss.detach()), found


@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": False, "salience": True}, {"encoder_training": "frozen"}, {"encoder_training": "full"}]
)
def test_a_trainee_learns_the_same(options: dict[str, Any], files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = trainee(**options)
    for _, p in model.named_parameters():
        if p.requires_grad and p.ndim == 2:
            nn.init.normal_(p, std=0.1)
    passes: list[bool] = []
    kept = fused._layer
    monkeypatch.setattr(fused, "_layer", lambda *given: passes.append(True) or kept(*given))
    for step in range(3):
        expected, gradients = of_a_batch(model, files, step, plain=True)
        assert not passes, "the plain path is plain"
        loss, made = of_a_batch(model, files, step, plain=False)
        assert passes, "and the other is not"
        passes.clear()
        assert abs(loss - expected) < 1e-5 * expected
        assert made.keys() == gradients.keys()
        for name, grad in made.items():
            scale = max(float(gradients[name].abs().max()), 1e-9)
            torch.testing.assert_close(grad / scale, gradients[name] / scale, rtol=1e-4, atol=1e-4)
