"""Parity with the reference implementation: see golden/README.md. Every tensor of goldens.safetensors is compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from lloco_integrations.compressors.autocompressor import AutoCompressor

GOLDEN = Path(__file__).parent / "golden"
G = load_file(GOLDEN / "goldens.safetensors")
ATOL = 1e-4
SEGMENT = 32
IGNORED = -100


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors on many threads are slow where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def close(got: Tensor, name: str, expected: Tensor | None = None) -> None:
    wanted = G[name] if expected is None else expected
    torch.testing.assert_close(got, wanted, atol=ATOL, rtol=0, msg=lambda text: f"{name}: {text}")


def ids(name: str, row: int = 0) -> list[int]:
    return G[name][row].tolist()


def load(name: str | Path = "ckpt_mha") -> AutoCompressor:
    return AutoCompressor.from_pretrained(GOLDEN / name, dtype=torch.float32, segment_length=SEGMENT)


@pytest.fixture(scope="module")
def mha() -> AutoCompressor:
    return load()


@pytest.fixture(scope="module")
def gqa() -> AutoCompressor:
    return load("ckpt_gqa")


@pytest.fixture
def lora() -> AutoCompressor:
    """The compressor around a PeftModel whose adapter is loaded and active, and can be trained."""
    compressor = load()
    compressor.model = PeftModel.from_pretrained(compressor.model, str(GOLDEN / "adapter_mha"), is_trainable=True).eval()
    return compressor


def vectors(compressor: AutoCompressor, *documents: list[int], **options: object) -> list[Tensor]:
    return [summary.vectors for summary in compressor.compress_ids(documents, **options)]


def logits(model: torch.nn.Module, context: Tensor | None, prompts: Tensor) -> Tensor:
    """Logits ``(rows, k + n, vocabulary)`` of ``[context | prompts]``; ``context`` is ``(rows, k, hidden)`` or None."""
    inputs = model.get_input_embeddings()(prompts)
    if context is not None:
        inputs = torch.cat([context, inputs], dim=1)
    return model(inputs_embeds=inputs, attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long)).logits


def greedy(model: torch.nn.Module, context: Tensor | None, prompts: Tensor, n: int = 20) -> Tensor:
    """``prompts`` and ``n`` more tokens, as the pipeline generates them: through ``generate(inputs_embeds=...)``."""
    inputs = model.get_input_embeddings()(prompts)
    if context is not None:
        inputs = torch.cat([context, inputs], dim=1)
    mask = torch.ones(inputs.shape[:2], dtype=torch.long)
    new = model.generate(inputs_embeds=inputs, attention_mask=mask, max_new_tokens=n, min_new_tokens=n, do_sample=False, pad_token_id=0)
    return torch.cat([prompts, new], dim=1)


def training_loss(model: torch.nn.Module, context: Tensor, prompts: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The loss over the labels that are not -100, and all logits, of ``[context | prompts]``."""
    out = logits(model, context, prompts)
    ignored = torch.full(context.shape[:2], IGNORED)
    wanted = torch.cat([ignored, labels], dim=1)[:, 1:]
    loss = torch.nn.functional.cross_entropy(out[:, :-1].flatten(0, 1), wanted.flatten(), ignore_index=IGNORED)
    return loss.reshape(1), out


# Compression ---------------------------------------------------------------------------------------------------------


def test_one_segment(mha: AutoCompressor) -> None:
    (got,) = vectors(mha, ids("A_ids"))
    close(got[None], "a_softprompt")
    with torch.no_grad():
        close(logits(mha.model, None, G["A_ids"]), "a_logits")


def test_four_segments_the_last_ragged(mha: AutoCompressor) -> None:
    (got,) = mha.compress_ids([ids("B_ids")])
    close(got.vectors[None], "b_softprompt")
    assert (got.n_tokens, got.n_vectors, got.window) == (115, 32, None)
    assert got.compressor == mha.spec.fingerprint


def test_language_modelling_over_segments(mha: AutoCompressor) -> None:
    """Each segment's logits, read behind the summaries of those before it: what the compressor is trained on."""
    summaries, parts = G["b_softprompt"], []
    with torch.no_grad():
        for i, segment in enumerate(G["B_ids"].split(SEGMENT, dim=1)):
            parts.append(logits(mha.model, summaries[:, : 8 * i], segment)[:, 8 * i :])
    close(torch.cat(parts, dim=1), "b_logits")


def test_uneven_segments(mha: AutoCompressor) -> None:
    close(vectors(mha, ids("B_ids"), segment_length=[40, 32, 43])[0][None], "b_list_softprompt")


def test_without_accumulation(mha: AutoCompressor) -> None:
    replacing = AutoCompressor(mha.model, mha.embed_summary, accumulate=False, segment_length=SEGMENT, fingerprint="replacing")
    close(vectors(replacing, ids("B_ids"))[0][None], "b_noaccum_softprompt")


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3])
def test_batches_and_ragged_rows(mha: AutoCompressor, batch_size: int | None) -> None:
    """Rows of 24, 115, 70 and 115 tokens: in one batch, segments differ in length and rows finish one by one."""
    short = G["e_ids"][1, : int(G["e_mask"][1].sum())].tolist()
    assert len(short) == 70 and int(G["e_mask"][0].sum()) == 115
    got = vectors(mha, ids("A_ids"), ids("e_ids", 0), short, ids("e_ids", 1), batch_size=batch_size)
    close(got[0][None], "a_softprompt")
    close(torch.stack([got[1], got[3]]), "e_softprompt")
    close(got[2][None], "e_single70_softprompt")
    # The reference gives the padded row vectors for an empty fourth segment, too; they are no part of its summary.
    padded = G["e_rightpad_masked_softprompt"]
    close(got[1], "e_rightpad_masked_softprompt row 0", padded[0])
    close(got[2], "e_rightpad_masked_softprompt row 1", padded[1, :24])


def test_grouped_query_heads(gqa: AutoCompressor) -> None:
    (got,) = vectors(gqa, ids("B_ids"))
    close(got[None], "h_gqa_softprompt")
    with torch.no_grad():
        close(logits(gqa.model, got[None], G["P_ids"])[:, 32:], "h_gqa_logits")
    assert torch.equal(greedy(gqa.model, got[None], G["P_ids"]), G["h_gqa_generate_ids"])


def test_rope_scaling_of_the_config(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "ckpt_mha", tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"rope_theta": 50000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    scaled = load(tmp_path)
    close(vectors(scaled, ids("B_ids"))[0][None], "i_rope_softprompt")
    assert scaled.spec.fingerprint != load().spec.fingerprint


# The prompt pass -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("c_logits", G["b_softprompt"]),
        ("c_logits_nosoftprompt", None),
        ("c_logits_halfsoftprompt", G["b_softprompt"][:, 16:]),
        ("c_logits_twodocs", torch.cat([G["a_softprompt"], G["b_softprompt"][:, :8]], dim=1)),
    ],
)
@torch.no_grad()
def test_prompt_logits(mha: AutoCompressor, name: str, context: Tensor | None) -> None:
    close(logits(mha.model, context, G["P_ids"])[:, -12:], name)


@torch.no_grad()
def test_prompt_logits_of_a_batch(mha: AutoCompressor) -> None:
    close(logits(mha.model, G["e_softprompt"], G["e_prompt_ids"])[:, -12:], "e_logits")
    close(logits(mha.model, G["e_softprompt"][1:], G["e_prompt_ids"][1:, 4:])[:, -8:], "e_leftpad_logits_row1")


def test_greedy_ids(mha: AutoCompressor) -> None:
    context = torch.stack(vectors(mha, ids("B_ids")))
    assert torch.equal(greedy(mha.model, context, G["P_ids"]), G["d_generate_ids"])
    assert torch.equal(greedy(mha.model, None, G["P_ids"]), G["d_generate_ids_nosoftprompt"])
    both = torch.stack(vectors(mha, ids("e_ids", 0), ids("e_ids", 1)))
    assert torch.equal(greedy(mha.model, both, G["e_prompt_ids"]), G["e_generate_ids"])


@torch.no_grad()
def test_logits_of_each_greedy_step(mha: AutoCompressor) -> None:
    close(logits(mha.model, G["b_softprompt"], G["d_generate_ids"])[:, 32 + 11 : -1], "d_step_logits")


# Training ------------------------------------------------------------------------------------------------------------


def test_training_loss_has_gradients_to_the_compressor(mha: AutoCompressor) -> None:
    """One path from document tokens to the answer's loss: through all segments, to the summary tokens."""
    learning = AutoCompressor(
        mha.model,
        torch.nn.Parameter(mha.embed_summary.clone()),
        accumulate=True,
        segment_length=SEGMENT,
        fingerprint="learning",
    )
    context = torch.stack(learning.summaries([ids("B_ids")]))
    close(context, "b_softprompt")
    loss, out = training_loss(mha.model, context, G["f_input_ids"], G["f_labels"])
    close(loss, "f_loss")
    close(out, "f_logits")
    of_context, gradient = torch.autograd.grad(loss, [context, learning.embed_summary])
    close(of_context, "f_grad_context")
    assert gradient.shape == (8, 64) and gradient.abs().min() > 0


@torch.no_grad()
def test_training_loss_of_a_padded_batch(mha: AutoCompressor) -> None:
    loss, out = training_loss(mha.model, G["e_softprompt"], G["f2_input_ids"], G["f2_labels"])
    close(loss, "f2_loss")
    close(out, "f2_logits")


def test_adapter_decodes_but_does_not_compress(lora: AutoCompressor) -> None:
    context = torch.stack(vectors(lora, ids("B_ids")))
    close(context, "b_softprompt")
    with torch.no_grad():
        close(logits(lora.model, context, G["P_ids"])[:, 32:], "g_logits")
    assert torch.equal(greedy(lora.model, context, G["P_ids"]), G["g_generate_ids"])


def test_adapter_training_step(lora: AutoCompressor) -> None:
    """Context from the goldens: Adam's first step is as long for tiny gradients as for large ones, so that vectors
    which are 1e-5 off move the loss after it by 1e-3."""

    def loss() -> tuple[Tensor, Tensor]:
        return training_loss(lora.model, context, G["f_input_ids"], G["f_labels"])

    context = G["b_softprompt"]
    weights = {name: weight for name, weight in lora.model.named_parameters() if weight.requires_grad}
    first, out = loss()
    close(first, "g_f_loss")
    close(out.detach(), "g_f_logits")
    first.backward()
    gradients = {name: G[name] for name in G if name.startswith("g_grad.")}
    assert len(gradients) == len(weights) == 32
    for name, expected in gradients.items():
        learnt = name.replace("g_grad.", "base_model.model.").replace(".weight", ".default.weight")
        close(weights[learnt].grad, name, expected)
    torch.optim.AdamW(weights.values(), lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0).step()
    close(loss()[0], "g_f_loss_after_step")


# Wrong turns ---------------------------------------------------------------------------------------------------------


def test_goldens_catch_independent_segments(mha: AutoCompressor) -> None:
    segments = [segment.tolist() for segment in G["B_ids"][0].split(SEGMENT)]
    assert distance(torch.cat(vectors(mha, *segments))) > 0.1


def test_goldens_catch_a_bos(mha: AutoCompressor) -> None:
    assert distance(vectors(mha, [1, *ids("B_ids")])[0]) > 0.1


def test_goldens_catch_an_active_adapter(lora: AutoCompressor) -> None:
    with torch.no_grad():
        (wrong,) = lora.summaries([ids("B_ids")])
    close(wrong[None], "g_softprompt_if_lora_active")
    assert distance(wrong) > 0.1


@pytest.mark.parametrize("turn", ["none", "summary tokens at position 0", "states before the final norm"])
@torch.no_grad()
def test_goldens_catch_wrong_positions_and_states(mha: AutoCompressor, turn: str) -> None:
    """The recurrence written out once more, plainly; with no wrong turn it is right."""
    trunk, embed, summary = mha.model.model, mha.model.get_input_embeddings(), mha.embed_summary[None]
    before_norm: list[Tensor] = []
    hook = trunk.norm.register_forward_pre_hook(lambda _, inputs: before_norm.append(inputs[0]))
    so_far = torch.zeros(1, 0, 64)
    for segment in G["B_ids"].split(SEGMENT, dim=1):
        inputs = torch.cat([so_far, embed(segment), summary], dim=1)
        positions = torch.arange(inputs.shape[1])[None]
        if turn == "summary tokens at position 0":
            positions[:, -8:] = 0
        mask = torch.ones(inputs.shape[:2], dtype=torch.long)
        hidden = trunk(inputs_embeds=inputs, position_ids=positions, attention_mask=mask).last_hidden_state
        if turn == "states before the final norm":
            hidden = before_norm[-1]
        so_far = torch.cat([so_far, hidden[:, -8:]], dim=1)
    hook.remove()
    if turn == "none":
        close(so_far, "b_softprompt")
    else:
        assert distance(so_far[0]) > 0.1


def distance(got: Tensor) -> float:
    """The largest difference from the reference's summary embeddings of B_ids."""
    return float((got - G["b_softprompt"][0]).abs().max())


def test_every_golden_is_compared() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in G if f'"{name}"' not in source and not name.startswith("g_grad.")] == []
