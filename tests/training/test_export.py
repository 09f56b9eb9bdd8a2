"""Trained weights on disk: what is written, what goes on from it, and the model that they make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lloco_integrations.errors import IncompatibleAdapter, ModelNotFound
from lloco_integrations.models import load_model
from lloco_integrations.models.merge import merge
from lloco_integrations.placeholder import Placeholder
from lloco_integrations.training.data import context_index
from lloco_integrations.training.export import export, export_adapter, export_autocompressor, start_from
from lloco_integrations.training.trainee import LoraSettings, SummaryTokenTrainee
from tests import tiny
from tests.training.houses import LORA, PROMPTER, sampler, stir, trainee

RECIPE = {"base": "tiny", "encoder_layers": 1, "bidirectional": True, "segment_length": 64, "ratios": [4, 8, 16, 32], "steps": 1}
WEIGHTS = [
    "decoder/adapter_config.json",
    "decoder/adapter_model.safetensors",
    "encoder/adapter_config.json",
    "encoder/adapter_model.safetensors",
    "projector.safetensors",
    "recipe.json",
]


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_what_is_written_can_be_gone_on_from(tmp_path: Path) -> None:
    model = trainee()
    stir(model)
    assert names(export(model, tmp_path / "weights", RECIPE, "tiny")) == WEIGHTS
    again = trainee()
    start_from(again, tmp_path / "weights")
    for (name, p), (_, q) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=5e-3 if "projector.slots" in name else 0, rtol=0)  # slots are written in bfloat16


def test_salience_may_be_new(tmp_path: Path) -> None:
    export(trainee(), tmp_path / "weights", RECIPE, "tiny")
    again = trainee(salience=True)
    start_from(again, tmp_path / "weights")
    assert again.encoder.projector.salience is not None and not again.encoder.projector.salience.any()


def test_a_teacher_is_not_written(tmp_path: Path) -> None:
    model = trainee()
    export_adapter(model, tmp_path / "teacher", "tiny")
    model.learn_from(tmp_path / "teacher", 0.5)
    assert names(export(model, tmp_path / "weights", RECIPE, "tiny")) == WEIGHTS


def test_a_rival_starts_from_the_decoder_alone(tmp_path: Path) -> None:
    model = trainee()
    stir(model)
    export_adapter(model, tmp_path / "rival", "tiny")
    again = trainee()
    start_from(again, tmp_path / "rival")
    mine, theirs = dict(model.named_parameters()), dict(again.named_parameters())
    assert all(torch.equal(p, mine[n]) for n, p in theirs.items() if n.startswith("decoder."))
    assert not all(torch.equal(p, mine[n]) for n, p in theirs.items())


@torch.no_grad()
def test_a_higher_rank_goes_on_from_the_same_losses(files: tuple[Path, Path], tmp_path: Path) -> None:
    model = trainee().eval()
    stir(model)
    model.encoder.projector.slots.data = model.encoder.projector.slots.to(torch.bfloat16).float()
    export(model, tmp_path / "weights", RECIPE, "tiny")
    wider = trainee(lora=LoraSettings(2 * LORA.rank, 2 * LORA.alpha)).eval()
    start_from(wider, tmp_path / "weights")
    batch = sampler(files).batch(0)
    torch.testing.assert_close(wider(batch), model(batch), atol=1e-6, rtol=1e-6)
    grown = next(p for n, p in wider.named_parameters() if n.startswith("decoder.") and "lora_A" in n)
    assert grown.shape[0] == 2 * LORA.rank and grown[LORA.rank :].any(), "new directions that nothing can be learnt along"


@pytest.mark.parametrize("change", [{"lora": LoraSettings(2, 4)}, {"encoder_layers": 2}], ids=["rank", "layers"])
def test_weights_of_another_recipe_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    export(trainee(), tmp_path / "weights", RECIPE, "tiny")
    with pytest.raises(IncompatibleAdapter, match="cannot start from the weights in .*same base and encoder layers, and of no higher rank"):
        start_from(trainee(**change), tmp_path / "weights")
    with pytest.raises(IncompatibleAdapter, match="cannot start from the weights in .*nowhere"):
        start_from(trainee(), tmp_path / "nowhere")


@pytest.mark.parametrize(
    "change", [{}, {"encoder_training": "full"}, {"salience": True}, {"slots": 1}], ids=["lora", "full", "salience", "slots"]
)
@torch.no_grad()
def test_the_model_made_from_a_run_reads_as_the_trainee_did(change: dict[str, object], files: tuple[Path, Path], tmp_path: Path) -> None:
    """Training path and inference path, from end to end: the loss of an answer under the loaded model equals the trainee's."""
    learner = trainee(**change).eval()
    stir(learner)
    learner.encoder.projector.slots.data = learner.encoder.projector.slots.to(torch.bfloat16).float()
    export(learner, tmp_path / "weights", RECIPE, "tiny")
    merge(tiny.decoder(seed=0), tiny.tokenizer(), tmp_path / "weights", tmp_path / "model", name="mine", dtype=torch.float32)
    model = load_model(tmp_path / "model", device="cpu", dtype="float32")
    batch = sampler(files).batch(0)
    assert batch.ratio in model.spec.ratios
    vectors = learner.context_vectors(batch.contexts, batch.ratio)
    for ids, expected in zip(batch.contexts, vectors, strict=True):
        [summary] = model.compress_ids([ids])
        torch.testing.assert_close(model.compressor.read(summary, batch.ratio), expected, atol=1e-5, rtol=1e-5)
    packed = learner.packed(batch)
    losses = learner.token_losses(packed)
    row = next(r for r in batch.rows if any(isinstance(p, Placeholder) for p in r.prefix))
    question = sum(len(r.branches) for r in batch.rows[: batch.rows.index(row)])
    embedding = model.decoder.get_input_embeddings()
    context = [vectors[context_index(p.key)] if isinstance(p, Placeholder) else embedding(torch.tensor(p)) for p in row.prefix]
    branch = row.branches[0]
    mine = model.loss(torch.cat(context), branch.prompt, branch.target)
    torch.testing.assert_close(mine, losses[packed.question == question].mean(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_autocompressor_made_from_a_run_compresses_as_the_trainee_did(tmp_path: Path) -> None:
    torch.manual_seed(0)
    learner = SummaryTokenTrainee(tiny.decoder(seed=0), summary_length=3, segment_length=20, lora=LORA).eval()
    stir(learner)
    document = tuple(PROMPTER.text_ids("In the house that Jack built there is a red door, and behind it a hall."))
    expected = learner.context_vectors([document], 6)[0].clone()
    export_autocompressor(learner, tmp_path / "model", tiny.tokenizer())
    model = load_model(tmp_path / "model", device="cpu", dtype="float32")
    [summary] = model.compress_ids([document])
    torch.testing.assert_close(summary.vectors, expected, atol=1e-5, rtol=1e-4)
    assert model.spec.segment_length == 20
    assert json.loads((tmp_path / "model" / "config.json").read_text())["summary_length"] == 3


def test_weights_of_another_base_or_none_at_all(tmp_path: Path) -> None:
    export(trainee(), tmp_path / "weights", RECIPE, "tiny")
    with pytest.raises(IncompatibleAdapter, match="for a base of width 32, this one's is 64"):
        merge(tiny.decoder(hidden=64), tiny.tokenizer(), tmp_path / "weights", tmp_path / "model", name="mine")
    with pytest.raises(ModelNotFound, match="no complete folder of trained weights"):
        merge(tiny.decoder(), tiny.tokenizer(), tmp_path / "nowhere", tmp_path / "model", name="mine")
