"""The autocompressor beyond parity (test_golden.py): other base models, adapters, limits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
import torch
from packaging.version import Version
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.integrations.peft import MIN_PEFT_VERSION

from lloco_integrations.compressors.autocompressor import AutoCompressor
from lloco_integrations.errors import BadInput, IncompatibleAdapter, IncompatibleSummary
from lloco_integrations.types import SummaryEmbeddings
from tests.checkpoints import DOCUMENTS, GOLDEN, assert_same, vectors

TINY: dict[str, dict[str, Any]] = {
    "bloom": {"n_layer": 2, "n_head": 2},
    "gemma2": {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16},
    "gpt2": {"n_layer": 2, "n_head": 2},
    "gpt_neox": {"num_hidden_layers": 2, "num_attention_heads": 2},
    "llama": {"num_hidden_layers": 2, "num_attention_heads": 2},
    "mistral": {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1},
    "opt": {"num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "qwen2": {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1},
}


def tiny_model(kind: str = "llama", **options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    common = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 64}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(common | TINY[kind] | options))).eval()


def tiny(model: PreTrainedModel | str = "llama", **options: Any) -> AutoCompressor:
    model = tiny_model(model) if isinstance(model, str) else model
    summary = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    return AutoCompressor(model, summary, **({"accumulate": True, "segment_length": 16, "fingerprint": "tiny"} | options))


# Base models ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def recurrence(compressor: AutoCompressor, document: list[int], with_positions: bool) -> Tensor:
    """The definition, one document at a time and with nothing left implicit."""
    model = compressor.model
    so_far = torch.zeros(1, 0, 32)
    for segment in torch.tensor([document]).split(16, dim=1):
        inputs = torch.cat([so_far, model.get_input_embeddings()(segment), compressor.embed_summary[None]], dim=1)
        options = {"position_ids": torch.arange(inputs.shape[1])[None]} if with_positions else {}
        mask = torch.ones(inputs.shape[:2], dtype=torch.long)
        hidden = model.base_model(inputs_embeds=inputs, attention_mask=mask, **options).last_hidden_state
        so_far = torch.cat([so_far, hidden[:, -4:]], dim=1) if compressor.accumulate else hidden[:, -4:]
    return so_far[0]


@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("kind", TINY)
def test_any_causal_lm_compresses_alike_in_any_batch(kind: str, accumulate: bool) -> None:
    compressor = tiny(kind, accumulate=accumulate)
    alone = vectors(compressor, batch_size=1)
    assert [len(v) for v in alone] == ([4, 16, 12, 4] if accumulate else [4, 4, 4, 4])
    assert_same(vectors(compressor), alone)
    assert_same(vectors(compressor, batch_size=2), alone)
    assert_same([recurrence(compressor, ids, with_positions=kind != "bloom") for ids in DOCUMENTS], alone)


def test_summaries_are_plain_tensors_of_the_models_dtype_on_the_cpu() -> None:
    compressor = tiny(tiny_model().to(torch.bfloat16))
    for summary, ids in zip(compressor.compress_ids(DOCUMENTS), DOCUMENTS, strict=True):
        assert (summary.vectors.dtype, summary.vectors.device.type) == (torch.bfloat16, "cpu")
        assert not summary.vectors.requires_grad and not summary.vectors.is_inference()
        assert (summary.n_tokens, summary.compressor, summary.window) == (len(ids), "tiny", None)
    assert compressor.compress_ids([]) == []


def test_progress_counts_every_source_token_once() -> None:
    seen: list[int] = []
    tiny().compress_ids(DOCUMENTS, progress=seen.append)
    assert sum(seen) == sum(map(len, DOCUMENTS)) and len(seen) == 4


def test_gradients_reach_the_summary_tokens_through_every_row() -> None:
    compressor = tiny()
    compressor.embed_summary = torch.nn.Parameter(compressor.embed_summary)
    assert_same([v.detach() for v in compressor.summaries(DOCUMENTS)], vectors(compressor))
    for made in compressor.summaries(DOCUMENTS):
        (gradient,) = torch.autograd.grad(made.square().sum(), [compressor.embed_summary], retain_graph=True)
        assert gradient.abs().min() > 0


def test_compression_ignores_training_mode_and_restores_it() -> None:
    compressor = tiny("gpt2")  # has dropout
    expected = vectors(compressor)
    compressor.model.train()
    compressor.model.lm_head.eval()
    assert_same(vectors(compressor), expected)
    assert compressor.model.training and compressor.model.base_model.training and not compressor.model.lm_head.training


# Adapters ------------------------------------------------------------------------------------------------------------


def lora(**options: Any) -> LoraConfig:
    """An adapter that changes the model from the start, and has dropout."""
    return LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, lora_dropout=0.5, **options)


def as_peft_model(model: PreTrainedModel) -> PreTrainedModel:
    return get_peft_model(model, lora())


def with_saved_embeddings(model: PreTrainedModel) -> PreTrainedModel:
    wrapped = get_peft_model(model, lora(modules_to_save=["embed_tokens"]))
    with torch.no_grad():
        wrapped.get_input_embeddings().modules_to_save["default"].weight.add_(1.0)
    return wrapped


def injected(model: PreTrainedModel) -> PreTrainedModel:
    return inject_adapter_in_model(lora(), model)


def by_transformers(model: PreTrainedModel) -> PreTrainedModel:
    """Where transformers' integration takes the peft that is installed: 5.24 wants one that was not out when it came."""
    if Version(version("peft")) < Version(MIN_PEFT_VERSION):
        pytest.skip(f"transformers {version('transformers')} adds adapters by itself from peft {MIN_PEFT_VERSION} on")
    model.add_adapter(lora(), adapter_name="group")
    return model


def merged(model: PreTrainedModel) -> PreTrainedModel:
    wrapped = get_peft_model(model, lora())
    wrapped.merge_adapter()
    return wrapped


@pytest.mark.parametrize("attach", [as_peft_model, with_saved_embeddings, injected, by_transformers, merged])
def test_adapters_are_off_while_compressing_and_as_before_afterwards(
    attach: Callable[[PreTrainedModel], PreTrainedModel],
) -> None:
    expected = vectors(tiny())
    model = attach(tiny_model()).train()
    next(p for n, p in model.named_parameters() if "lora_A" in n).requires_grad_(False)
    trainable = {name: weight.requires_grad for name, weight in model.named_parameters()}
    prompt = torch.tensor([[1, 2, 3]])
    answer = model.eval()(prompt).logits
    model.train()
    compressor = tiny(model)
    assert_same(vectors(compressor), expected)
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == trainable
    assert model.training
    torch.testing.assert_close(model.eval()(prompt).logits, answer, atol=1e-4, rtol=0)
    with torch.no_grad():
        assert (compressor.summaries(DOCUMENTS)[1] - expected[1]).abs().max() > 0.01


def test_adapter_loaded_after_the_compressor_was_made() -> None:
    plain = AutoCompressor.from_pretrained(GOLDEN / "ckpt_mha", segment_length=16)
    expected = vectors(plain)
    PeftModel.from_pretrained(plain.model, str(GOLDEN / "adapter_mha"))  # injects into plain.model in place
    assert_same(vectors(plain), expected)


def test_adapters_that_were_off_stay_off() -> None:
    model = get_peft_model(tiny_model(), lora())
    compressor = tiny(model)
    with model.disable_adapter():
        off = model(torch.tensor([[1, 2, 3]])).logits
        vectors(compressor)
        torch.testing.assert_close(model(torch.tensor([[1, 2, 3]])).logits, off)


def test_adapters_are_on_again_after_a_failure() -> None:
    model = get_peft_model(tiny_model(), lora()).eval()
    before = model(torch.tensor([[1, 2, 3]])).logits

    def fail(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny(model).compress_ids(DOCUMENTS, progress=fail)
    torch.testing.assert_close(model(torch.tensor([[1, 2, 3]])).logits, before)


def test_adapter_that_cannot_be_switched_off_is_refused() -> None:
    model = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"], bias="all"))
    with pytest.raises(IncompatibleAdapter, match=r"'default'.*bias='all'.*bias='none'"):
        vectors(tiny(model))


def test_lock_is_held_while_adapters_are_off() -> None:
    compressor, free = tiny(), []

    def try_lock() -> None:
        free.append(compressor.lock.acquire(timeout=0))

    def from_another_thread(_: int) -> None:
        thread = threading.Thread(target=try_lock)
        thread.start()
        thread.join()

    compressor.compress_ids(DOCUMENTS, progress=from_another_thread)
    assert free and not any(free)


# Limits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"max_segments": 3}, {}, "document 1 has 4 segments of up to 16 tokens, the limit is 3; .*longer.*split"),
        ({}, {"segment_length": 3}, "19 segments .* need 79 positions, the limit is 64; use longer segments, or split"),
        ({}, {"segment_length": 61}, "1 segments .* need 65 positions, the limit is 64; use shorter segments"),
        ({"accumulate": False}, {"segment_length": 61}, "need 65 positions, the limit is 64; use shorter segments"),
        ({}, {"segment_length": 0}, "segment_length=0"),
        ({}, {"segment_length": [16, 16]}, r"\[16, 16\].*add up to the document's 3 tokens"),
        ({}, {"batch_size": 0}, "batch_size=0"),
    ],
)
def test_limits_are_named(options: dict[str, Any], call: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        tiny(**options).compress_ids([*DOCUMENTS, [1] * 61], **call)


def test_the_last_position_can_be_used() -> None:
    assert tiny().compress_ids([[1] * 60], segment_length=4)[0].n_vectors == 60
    with pytest.raises(BadInput, match=r"16 segments of up to 4 .* need 65 positions, the limit is 64"):
        tiny().compress_ids([[1] * 61], segment_length=4)


@pytest.mark.parametrize(("document", "message"), [([], "no tokens"), ([64], "vocabulary has 64"), ([3, -1], "from -1 to 3")])
def test_unusable_documents_are_named(document: list[int], message: str) -> None:
    with pytest.raises(BadInput, match=f"document 1 .*{message}"):
        tiny().compress_ids([[1, 2], document])


def test_the_reference_caps_at_80_segments() -> None:
    model = tiny_model()
    model.config.max_position_embeddings = 4096
    assert tiny(model).compress_ids([[1] * 80], segment_length=1)[0].n_vectors == 320
    with pytest.raises(BadInput, match=r"81 segments of up to 1 tokens, the limit is 80"):
        tiny(model).compress_ids([[1] * 81], segment_length=1)


def test_llama_2_sizes_pass_the_positions_from_segment_52_on() -> None:
    model = tiny_model()
    model.config.max_position_embeddings = 4096
    compressor = AutoCompressor(model, torch.zeros(50, 32), accumulate=True, fingerprint="paper")
    assert compressor.spec.segment_length == 1536 and compressor.spec.ratios == (30,)
    compressor._plan([[1] * (51 * 1536)], None)
    with pytest.raises(BadInput, match=r"document 0 has 52 segments .* need 4136 positions, the limit is 4096"):
        compressor._plan([[1] * (52 * 1536)], None)


def test_scaled_rope_has_more_positions() -> None:
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    scaled = tiny(tiny_model("llama", rope_parameters=rope))
    assert scaled.compress_ids([[1] * 80], segment_length=80)[0].n_vectors == 4
    with pytest.raises(BadInput, match=r"132 positions, the limit is 128"):
        scaled.compress_ids([[1] * 128], segment_length=128)


@pytest.mark.parametrize("shape", [(4, 31), (0, 32), (32,)])
def test_summary_tokens_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match=r"embed_summary has the shape"):
        AutoCompressor(tiny_model(), torch.zeros(shape), accumulate=True, fingerprint="tiny")


def test_read_accepts_only_its_own_vectors_and_ratio() -> None:
    compressor = tiny()
    (summary,) = compressor.compress_ids([[1, 2, 3]])
    assert compressor.spec.ratios == (4,) and compressor.spec.placement == "prefix"
    assert torch.equal(compressor.read(summary), summary.vectors)
    assert torch.equal(compressor.read(summary, 4), summary.vectors)
    with pytest.raises(IncompatibleSummary, match=r"fixed ratio, here 4, and cannot be brought to 8"):
        compressor.read(summary, 8)
    with pytest.raises(IncompatibleSummary, match=r"compressor foreign.* those of tiny"):
        compressor.read(SummaryEmbeddings(summary.vectors, 3, "foreign"))
