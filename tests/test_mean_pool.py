"""The mean_pool compressor: elastic, and blind to how its work is batched."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from lloco_integrations.compressors.mean_pool import MeanPoolEncoder, Projector, pool
from lloco_integrations.errors import BadInput, IncompatibleSummary
from lloco_integrations.models import LLoCOModel, load_model
from lloco_integrations.types import SummaryEmbeddings
from tests import tiny


@pytest.fixture(scope="module")
def model(tiny_model: str) -> LLoCOModel:
    return load_model(tiny_model, device="cpu", dtype="float32")


def documents(n: int = 12, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(3, 259) for _ in range(rng.choice([1, 3, 4, 5, 31, 32, 33, 127, 128, 129, 300]))] for _ in range(n)]


@pytest.mark.parametrize("batch_size", [1, 2, 5, None])
def test_results_do_not_depend_on_batch_size(model: LLoCOModel, batch_size: int | None) -> None:
    ids = documents()
    alone = [model.compress_ids([one])[0] for one in ids]
    together = model.compress_ids(ids, batch_size=batch_size)
    for a, b in zip(alone, together, strict=True):
        assert a.n_tokens == b.n_tokens
        torch.testing.assert_close(a.vectors, b.vectors, atol=1e-4, rtol=0)


@pytest.mark.parametrize("ratio", [8, 16, 32])
def test_coarsening_equals_compressing_at_the_ratio(model: LLoCOModel, ratio: int) -> None:
    compressor = model.compressor
    encoder: MeanPoolEncoder = compressor.encoder  # type: ignore[attr-defined]
    for ids in documents(6, seed=1):
        summary = compressor.compress_ids([ids])[0]
        expected = []
        for at in range(0, len(ids), 128):  # the model's segment length
            piece = torch.tensor([ids[at : at + 128]])
            mask = torch.ones_like(piece, dtype=torch.bool)
            with torch.no_grad():
                expected.append(pool(encoder(piece, mask), mask, ratio)[0][0])
        coarse = summary.coarsen(ratio)
        assert coarse.window == ratio
        torch.testing.assert_close(coarse.vectors, torch.cat(expected), atol=1e-5, rtol=0)


def test_number_of_vectors_and_the_gain(model: LLoCOModel) -> None:
    summary = model.compress_ids([list(range(3, 40))])[0]
    assert summary.n_vectors == 10
    assert summary.ratio == 3.7
    projector: Projector = model.compressor.encoder.projector  # type: ignore[attr-defined]
    rows = model.compressor.read(summary, 16)
    assert rows.shape == (3, 32)
    centre, gain = projector.centre, projector.gain(16)
    torch.testing.assert_close(rows, centre + gain * (summary.coarsen(16).vectors - centre))


def test_salience_weighs_the_means_and_they_stay_elastic() -> None:
    torch.manual_seed(0)
    plain, weighing = Projector(8), Projector(8, salience=True)
    for projector in (plain, weighing):
        projector.scale.fill_(0.3)
        projector.slots.data.copy_(torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1)))
    embeddings, hidden, mask = torch.randn(2, 21, 8), torch.randn(2, 21, 8), torch.ones(2, 21, dtype=torch.bool)
    mask[1, 13:] = False

    def read(projector: Projector, ratio: int, by: int) -> torch.Tensor:
        """Rows at ``ratio`` from what is stored at ``by``."""
        stored, counts = pool(projector(embeddings, hidden), mask, by)
        rows = [
            SummaryEmbeddings(s[: int((c > 0).sum())], int(c.sum()), "x", by).coarsen(ratio).vectors
            for s, c in zip(stored, counts, strict=True)
        ]
        return projector.read(torch.cat(rows), ratio)

    for ratio in (4, 8, 16):
        torch.testing.assert_close(read(weighing, ratio, 4), read(plain, ratio, 4), atol=1e-5, rtol=0)  # at the start nothing is weighed
    weighing.salience.data.normal_(std=0.5)
    for ratio in (4, 8, 16):
        torch.testing.assert_close(read(weighing, ratio, 4), read(weighing, ratio, ratio), atol=1e-5, rtol=1e-5)
    weights = (hidden[0, :4] @ weighing.salience).exp()
    vectors = plain(embeddings, hidden)[0, :4]
    expected = weighing.centre + weighing.gain(4) * ((weights[:, None] * vectors).sum(0) / weights.sum() - weighing.centre)
    torch.testing.assert_close(read(weighing, 4, 4)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ratio", [2, 6, 5])
def test_impossible_ratios(model: LLoCOModel, ratio: int) -> None:
    with pytest.raises(IncompatibleSummary, match=f"ratio {ratio} is not a multiple of the stored 4"):
        model.compress_ids([list(range(3, 40))])[0].coarsen(ratio)


def test_a_summary_of_another_compressor_is_refused_by_name(model: LLoCOModel, tmp_path: Path) -> None:
    other = load_model(tiny.save_mean_pool(tmp_path / "other", seed=7), device="cpu", dtype="float32")
    summary = other.compress(["some text"])[0]
    with pytest.raises(IncompatibleSummary) as caught:
        model.compressor.read(summary)
    assert model.fingerprint[:16] in str(caught.value)
    assert other.fingerprint[:16] in str(caught.value)


@pytest.mark.parametrize("text", ["", "   ", "\n\t "])
def test_nothing_to_compress(model: LLoCOModel, text: str) -> None:
    with pytest.raises(BadInput, match="text 1 of 2"):
        model.compress(["fine", text])


def test_a_million_tokens_simply_work(tmp_path: Path) -> None:
    small = load_model(tiny.save_mean_pool(tmp_path / "m", segment_length=512), device="cpu", dtype="float32")
    counted = []
    ids = [i % 250 + 3 for i in range(1_000_000)]
    summary = small.compress_ids([ids], progress=counted.append)[0]
    assert summary.n_vectors == 250_000
    assert sum(counted) == 1_000_000
    assert torch.isfinite(summary.vectors).all()


def test_slots_see_their_position_in_the_window() -> None:
    projector = Projector(8)
    projector.slots.data[2] = torch.eye(8)
    zeros, ones = torch.zeros(1, 6, 8), torch.ones(1, 6, 8)
    assert projector(zeros, ones)[0, :, 0].tolist() == [0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "qwen2", "mistral"])
def test_any_causal_lm_can_be_the_trunk(name: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300, "intermediate_size": 64}
    if name == "gpt2":
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 300}
    if name in ("qwen2", "mistral"):
        shape["num_key_value_heads"] = 2
    torch.manual_seed(0)
    trunk = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **shape)).eval().base_model
    encoder = MeanPoolEncoder(trunk, Projector(32))
    encoder.projector.slots.data.normal_(std=0.1)
    ids = torch.randint(3, 300, (2, 12))
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False
    with torch.no_grad():
        both, alone = encoder(ids, mask), encoder(ids[1:, :7], mask[1:, :7])
        torch.testing.assert_close(both[1, :7], alone[0], atol=1e-4, rtol=0)
        changed = ids.clone()
        changed[0, -1] = 3 + (ids[0, -1] + 1) % 290
        assert (encoder(changed, mask)[0, 0] - both[0, 0]).abs().max() > 1e-6, "the first token does not see the last one"
