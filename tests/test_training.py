"""Training on a tiny random model: it learns, resumes, and trains what it will be asked."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lloco_integrations.errors import BadInput, TrainingError
from lloco_integrations.evaluation.datasets import read_documents, read_questions
from lloco_integrations.placeholder import Placeholder
from lloco_integrations.prompting import Prompter
from lloco_integrations.training import checkpoint as checkpoint_module
from lloco_integrations.training.data import Batch, Branch, Mix, Row, Sampler, context_index, context_key, load_contexts
from lloco_integrations.training.export import export
from lloco_integrations.training.objectives import LoraSettings, Trainee
from lloco_integrations.training.packing import weighted_mean
from lloco_integrations.training.pretrain import PretrainConfig, held_out_batches, held_out_losses, pretrain
from tests import tiny

PROMPTER = Prompter(tiny.tokenizer(), chat=True)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    docs, qa = tmp_path / "docs.jsonl", tmp_path / "qa.jsonl"
    words = ["red", "blue", "green", "pink"]
    with docs.open("w") as d, qa.open("w") as q:
        for i in range(12):
            text = f"In house {i} the door is {words[i % 4]} and the roof is {words[(i + 1) % 4]}."
            d.write(json.dumps({"doc_id": str(i), "title": f"House {i}", "text": text}) + "\n")
            for part, at in (("door", i), ("roof", i + 1)):
                q.write(json.dumps({"id": f"{i}{part}", "doc_id": str(i), "question": f"{part}?", "answers": [words[at % 4]]}) + "\n")
    return docs, qa


def sampler(files: tuple[Path, Path], **options: object) -> Sampler:
    contexts = load_contexts([files], PROMPTER.text_ids, 400, 8)
    return Sampler(contexts, PROMPTER, lambda step: {4: 0.5, 8: 0.5}, end=2, rows=3, mix=Mix(quote_tokens=8), **options)  # type: ignore[arg-type]


def trainee() -> Trainee:
    torch.manual_seed(0)
    return Trainee(tiny.decoder(seed=0), encoder_layers=1, lora=LoraSettings(4, 8), segment_length=64)


def config(steps: int) -> PretrainConfig:
    return PretrainConfig(steps=steps, rows=3, lr=5e-3, warmup=2, curriculum=((1.0, {4: 1.0}),))


def test_batches_depend_on_seed_and_step_alone(files: tuple[Path, Path]) -> None:
    one, two = sampler(files), sampler(files)
    backwards = [two.batch(s) for s in reversed(range(9))][::-1]
    assert [one.batch(s) for s in range(9)] == backwards
    assert sampler(files, seed=1).batch(0) != one.batch(0)
    assert all(context_index(context_key(i)) == i for i in range(2000))


def test_a_packed_branch_sees_what_it_would_alone(files: tuple[Path, Path]) -> None:
    """The training path's loss of each branch equals a plain forward pass over its own prompt: the inference path."""
    model = trainee().eval()
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.05)
    batch = sampler(files).batch(1)
    packed = model.packed(batch)
    with torch.no_grad():
        losses = model.token_losses(packed)
        vectors = model.context_vectors(batch.contexts, batch.ratio)
        embedding = model.decoder.get_input_embeddings()
        question = 0
        for row in batch.rows:
            for branch in row.branches:
                parts = [vectors[context_index(s.key)] if isinstance(s, Placeholder) else embedding(torch.tensor(s)) for s in row.prefix]
                ids = torch.tensor([*branch.prompt, *branch.target])
                rows = torch.cat([*parts, embedding(ids)])[None]
                logits = model.decoder(inputs_embeds=rows, attention_mask=torch.ones(rows.shape[:2]), use_cache=False).logits[0]
                n = len(branch.target)
                alone = torch.nn.functional.cross_entropy(logits[-n - 1 : -1], torch.tensor(branch.target), reduction="none")
                torch.testing.assert_close(losses[packed.question == question], alone, atol=1e-4, rtol=1e-4)
                question += 1


def test_loss_falls_and_only_what_should_moves(files: tuple[Path, Path], tmp_path: Path) -> None:
    model = trainee()
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    moving = {n: p.clone() for n, p in model.named_parameters() if p.requires_grad}
    pretrain(model, sampler(files), config(40), tmp_path / "run")
    losses = [float(r["loss"]) for r in csv.DictReader((tmp_path / "run" / "train.csv").open())]
    assert len(losses) == 40
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    after = dict(model.named_parameters())
    assert all(torch.equal(after[n], p) for n, p in frozen.items())
    assert sum(not torch.equal(after[n], p) for n, p in moving.items()) > 0.9 * len(moving)


def test_resumed_equals_uninterrupted(files: tuple[Path, Path], tmp_path: Path) -> None:
    whole = pretrain(trainee(), sampler(files), config(8), tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(step: int, row: dict[str, float]) -> None:
        if step == 5:
            raise Stop

    with pytest.raises(Stop):
        pretrain(trainee(), sampler(files), config(8), tmp_path / "cut", save_every=2, progress=stop)
    resumed = pretrain(trainee(), sampler(files), config(8), tmp_path / "cut", save_every=2)
    other = dict(resumed.named_parameters())
    for name, p in whole.named_parameters():
        torch.testing.assert_close(p, other[name], atol=1e-5, rtol=0)


def test_a_full_disk_leaves_the_last_good_checkpoint(files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrain(trainee(), sampler(files), config(2), tmp_path / "run", save_every=2)
    good = (tmp_path / "run" / "checkpoint" / "state.safetensors").read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "save_file", full)
    with pytest.raises(TrainingError, match="No space left on device.*last good checkpoint"):
        pretrain(trainee(), sampler(files), config(4), tmp_path / "run", save_every=2)
    assert (tmp_path / "run" / "checkpoint" / "state.safetensors").read_bytes() == good
    assert [p.name for p in (tmp_path / "run" / "checkpoint").iterdir()] == ["state.safetensors"]


def test_nan_stops_with_a_remedy(files: tuple[Path, Path], tmp_path: Path) -> None:
    model = trainee()
    model.encoder.projector.centre.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="the loss is nan at step 0; lower the learning rate"):
        pretrain(model, sampler(files), config(2), tmp_path / "run")


def test_a_checkpoint_of_another_recipe_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    pretrain(trainee(), sampler(files), config(1), tmp_path / "run")
    other = Trainee(tiny.decoder(layers=3), encoder_layers=1, lora=LoraSettings(4, 8))
    with pytest.raises(TrainingError, match="another model or recipe"):
        pretrain(other, sampler(files), config(2), tmp_path / "run")


def test_held_out_losses_and_export(files: tuple[Path, Path], tmp_path: Path) -> None:
    model, source = trainee().eval(), sampler(files)
    scores = held_out_losses(model, held_out_batches(source.contexts[:4], source, (4, 8), rows=2))
    assert set(scores) == {"none", "raw", "4x", "8x"}
    assert all(s > 0 for s in scores.values())
    out = export(model, tmp_path / "weights", {"steps": 1}, "tiny")
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert names == [
        "decoder/adapter_config.json",
        "decoder/adapter_model.safetensors",
        "encoder/adapter_config.json",
        "encoder/adapter_model.safetensors",
        "projector.safetensors",
        "recipe.json",
    ]


def test_weights_and_kinds_of_prompt(files: tuple[Path, Path]) -> None:
    source = sampler(files)
    batches = [source.batch(s) for s in range(60)]
    branches = [b for batch in batches for row in batch.rows for b in row.branches]
    targets = [PROMPTER.tokenizer.decode(b.target) for b in branches]
    assert any(t.startswith("I don't know") for t in targets)
    assert {b.weight for b in branches} == {1.0, 0.5}
    assert {b.ratio for b in batches} == {4, 8}
    shown = [sum(isinstance(s, Placeholder) for s in row.prefix) for batch in batches for row in batch.rows]
    assert {0, 1, 2, 3} == set(shown)
    assert weighted_mean(torch.tensor([1.0, 3.0]), torch.tensor([3.0, 1.0])).item() == 1.5
    assert Batch((), 4, (Row((), (Branch((1,), (2,)),)),)).rows[0].branches[0].weight == 1.0


@pytest.mark.parametrize(
    ("read", "line", "problem"),
    [
        (read_documents, "{not json", "line 2: not valid JSON"),
        (read_documents, "[1]", "line 2: expected a JSON object"),
        (read_documents, '{"doc_id": "a", "text": " "}', "line 2: 'text' must be a non-empty string"),
        (read_questions, '{"doc_id": "a", "question": "q", "answers": "x"}', "line 2: 'answers' must be a list"),
    ],
)
def test_malformed_lines_are_named(read: Callable[[Path], object], line: str, problem: str, tmp_path: Path) -> None:
    good = '{"doc_id": "a", "title": "", "text": "t", "question": "q", "answers": ["x"]}'
    (tmp_path / "f.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(BadInput, match=problem):
        read(tmp_path / "f.jsonl")


def test_questions_about_other_documents(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text('{"doc_id": "zz", "question": "q", "answers": ["x"]}\n')
    with pytest.raises(BadInput, match="no question of .*other.jsonl is about a document"):
        load_contexts([(files[0], tmp_path / "other.jsonl")], PROMPTER.text_ids, 400)
    with pytest.raises(BadInput, match="cannot read .*missing"):
        read_documents(tmp_path / "missing.jsonl.gz")
    with pytest.raises(BadInput, match="12 documents with questions are fewer than the 40 rows"):
        Sampler(load_contexts([files], PROMPTER.text_ids, 400, 8), PROMPTER, lambda s: {4: 1.0}, end=2, rows=40)
