"""Training on a tiny random model: it learns, resumes, shares the work, and stops when it goes wrong."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lloco_integrations.errors import TrainingError
from lloco_integrations.training import checkpoint as checkpoint_module
from lloco_integrations.training.pretrain import held_out_batches, held_out_losses, pretrain
from lloco_integrations.training.trainee import MeanPoolTrainee, SummaryTokenTrainee, Trainee
from tests import tiny
from tests.training.houses import LORA, config, sampler, trainee


def summary_tokens() -> SummaryTokenTrainee:
    torch.manual_seed(0)
    return SummaryTokenTrainee(tiny.decoder(seed=0), summary_length=4, segment_length=24, lora=LORA)


@pytest.mark.parametrize("make", [trainee, summary_tokens], ids=["mean_pool", "summary_tokens"])
def test_loss_falls_and_only_what_should_moves(make: type[Trainee], files: tuple[Path, Path], tmp_path: Path) -> None:
    model = make()
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    moving = {n: p.clone() for n, p in model.named_parameters() if p.requires_grad}
    pretrain(model, sampler(files), config(40), tmp_path / "run")
    losses = [float(r["loss"]) for r in csv.DictReader((tmp_path / "run" / "train.csv").open())]
    assert len(losses) == 40
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    after = dict(model.named_parameters())
    assert frozen and all(torch.equal(after[n], p) for n, p in frozen.items())
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
    steps = [int(r["step"]) for r in csv.DictReader((tmp_path / "cut" / "train.csv").open())]
    assert steps == list(range(8)), "a step that was made again is logged once"


def test_workers_change_nothing(files: tuple[Path, Path], tmp_path: Path) -> None:
    alone = pretrain(trainee(), sampler(files), config(3), tmp_path / "alone")
    helped = dict(pretrain(trainee(), sampler(files), config(3), tmp_path / "helped", workers=2).named_parameters())
    assert all(torch.equal(p, helped[n]) for n, p in alone.named_parameters())


def test_two_processes_give_the_result_of_one(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Through the command line, as users start it."""
    base = tmp_path / "base"
    tiny.decoder().save_pretrained(base)
    tiny.tokenizer().save_pretrained(base)
    for path in files:
        path.with_suffix(".jsonl.gz").write_bytes(__import__("gzip").compress(path.read_bytes()))
    options = (
        "pretrain --data houses --held-out houses --steps 5 --rows 3 --rank 4 --encoder-layers 1 --dtype float32 --device cpu --lr 5e-3"
    )
    launch = {"one": [], "two": ["accelerate.commands.launch", "--cpu", "--num_processes", "2", "--mixed_precision", "no", "-m"]}
    for name, launcher in launch.items():
        command = [*launcher, "lloco_integrations.cli", *options.split(), "--base", base, "--data-dir", tmp_path, "--out", tmp_path / name]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "LLOCO_DEBUG": "1"}
        done = subprocess.run([sys.executable, "-m", *map(str, command)], capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(tmp_path / n / "checkpoint" / "state.safetensors") for n in launch)
    moved = 0
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=0)
        moved += int(one[name].abs().sum() > 0)
    assert moved > len(one) / 2
    logs = [(tmp_path / n / "train.csv").read_text().splitlines() for n in launch]
    assert [line.split(",")[0] for line in logs[0]] == [line.split(",")[0] for line in logs[1]] == ["step", "0", "1", "2", "3", "4"]
    assert [line.split(",")[3] for line in logs[0]] == [line.split(",")[3] for line in logs[1]], "the losses logged are of the whole batch"


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


def test_a_run_that_learns_nothing_is_stopped(files: tuple[Path, Path], tmp_path: Path) -> None:
    losses = iter([2.0, 2.99, 2.98, 2.5, 2.98, 2.99, 3.01, 0.0])

    def evaluate(_: Trainee) -> dict[str, float]:
        return {"none": 3.0, "raw": 1.0, "4x": next(losses)}

    with pytest.raises(TrainingError, match=r"after 7 steps the summaries are worth -0\.010 nats a token over no context"):
        pretrain(trainee(), sampler(files), config(9, plateau_after=2), tmp_path / "run", evaluate=evaluate, evaluate_every=1, save_every=1)
    assert len((tmp_path / "run" / "eval.csv").read_text().splitlines()) == 8


def test_a_checkpoint_of_another_recipe_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    pretrain(trainee(), sampler(files), config(1), tmp_path / "run")
    other = MeanPoolTrainee(tiny.decoder(layers=3), encoder_layers=1, lora=LORA)
    with pytest.raises(TrainingError, match="another model or recipe"):
        pretrain(other, sampler(files), config(2), tmp_path / "run")


def test_held_out_losses(files: tuple[Path, Path]) -> None:
    model, source = trainee().eval(), sampler(files)
    scores = held_out_losses(model, held_out_batches(source.contexts[:4], source, (4, 8), rows=2))
    assert set(scores) == {"none", "raw", "4x", "8x"}
    assert all(s > 0 for s in scores.values())
