"""``lloco pretrain``: learn a compressor and the decoder's reading of it. Resumable to the step, logged, and stopped when it goes wrong.

Runs on a CPU, a GPU, or several of either under ``accelerate launch``: every process draws the same batch, takes its rows of it,
and the gradients are summed up, so that the number of processes does not change the result.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset

from lloco_integrations.errors import TrainingError
from lloco_integrations.training.checkpoint import load_checkpoint, save_checkpoint
from lloco_integrations.training.contexts import Context
from lloco_integrations.training.data import Batch, Mix, Sampler, plain_batch
from lloco_integrations.training.optimizer import MasterAdamW
from lloco_integrations.training.trainee import Trainee

LOG_FIELDS = ("step", "seconds", "ratio", "loss", "lr", "questions")


@dataclass(frozen=True)
class PretrainConfig:
    """How a run goes; kept beside its weights.

    ``curriculum``: (share of the steps, weights of the ratios until then). The learning rate warms up, stays, and falls
    linearly to a tenth over the last ``decay`` of the steps. From ``plateau_after`` steps on, a run is stopped whose summaries are
    worth less than ``plateau_gain`` nats a token over no context in three evaluations on end.
    """

    steps: int = 1000
    rows: int = 5
    questions: int = 4
    lr: float = 8e-4
    projector_lr: float = 1e-3
    salience_lr: float = 5e-5
    warmup: int = 40
    decay: float = 0.3
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    text_steps: int = 0
    text_share: float = 0.0
    plateau_after: int = 600
    plateau_gain: float = 0.03
    mix: Mix = field(default_factory=Mix)
    curriculum: tuple[tuple[float, dict[int, float]], ...] = (
        (0.10, {2: 1.0}),
        (0.25, {2: 0.5, 4: 0.5}),
        (0.70, {2: 0.1, 4: 0.7, 8: 0.2}),
        (1.00, {4: 0.5, 8: 0.3, 16: 0.12, 32: 0.08}),
    )

    def ratios(self, step: int) -> dict[int, float]:
        """Weights of the ratios that ``step`` may draw."""
        return next((weights for until, weights in self.curriculum if step < until * self.steps), self.curriculum[-1][1])

    def schedule(self, step: int) -> float:
        """The learning rate's factor at ``step``."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        start = self.steps * (1 - self.decay)
        return 1.0 if step < start else max(0.1, 1 - 0.9 * (step - start) / max(1.0, self.steps - start))


def pretrain(
    trainee: Trainee,
    sampler: Sampler,
    config: PretrainConfig,
    out: Path,
    *,
    accelerator: Accelerator | None = None,
    workers: int = 0,
    save_every: int = 50,
    evaluate: Callable[[Trainee], dict[str, float]] | None = None,
    evaluate_every: int = 100,
    progress: Callable[[int, dict[str, float]], None] | None = None,
    watch: Watch | None = None,
) -> Trainee:
    """Train to ``config.steps``, or until ``watch`` has seen enough, going on from ``out/checkpoint`` if there is one.

    ``workers`` processes prepare batches beside this one: for a GPU, which is faster than the tokenizer. ``watch`` sees every
    evaluation; without one, a run that learns nothing is stopped.

    Writes ``train.csv`` (one line a step), ``eval.csv`` and ``config.json`` into ``out``; of several processes, the first one does.
    Raises TrainingError on a loss that is not finite, on a run that learns nothing, and on a full disk; the last good checkpoint stays.
    """
    team = accelerator or Accelerator(cpu=next(trainee.parameters()).device.type == "cpu")
    alone, first = team.num_processes == 1, team.is_main_process
    sum_up: Any = None if alone else (lambda flat: team.reduce(flat, reduction="sum"))
    if first:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(json.dumps(asdict(config), indent=1) + "\n", encoding="utf-8")
    parameters = {n: p for n, p in trainee.named_parameters() if p.requires_grad}
    optimizer = MasterAdamW(parameters, {n: _rate(n, config) for n in parameters}, config.weight_decay)
    start = load_checkpoint(out / "checkpoint", optimizer)
    if first:
        _forget_after(start, out / "train.csv", out / "eval.csv")
    watch = watch or PlateauWatch(config)
    if watch.resume(start):
        return trainee
    trainee.train()
    batches = DataLoader(_Batches(sampler, start, config.steps), batch_size=None, num_workers=workers)
    began = time.monotonic()
    for step, batch in enumerate(batches, start):
        mine = batch.share(team.process_index, team.num_processes)
        total = torch.zeros((), dtype=torch.float32, device=team.device)
        if mine.rows:
            loss = trainee(mine) * (mine.weight / batch.weight)
            loss.backward()
            total = loss.detach()
        mean = float(total if alone else team.reduce(total, reduction="sum"))
        if not math.isfinite(mean):
            raise TrainingError(
                f"the loss is {mean} at step {step}; lower the learning rate ({config.lr}) and go on from {out / 'checkpoint'}"
            )
        optimizer.step(config.schedule(step), config.clip, sum_up)
        row = {
            "step": step,
            "seconds": round(time.monotonic() - began, 2),
            "ratio": batch.ratio,
            "loss": round(mean, 4),
            "lr": round(config.lr * config.schedule(step), 7),
            "questions": sum(len(r.branches) for r in batch.rows),
        }
        done = step + 1
        if first:
            _log(out / "train.csv", row, LOG_FIELDS)
            if progress:
                progress(done, {k: float(v) for k, v in row.items()})
        over = done == config.steps
        if evaluate and (done % evaluate_every == 0 or over):
            trainee.eval()
            scores = evaluate(trainee)
            trainee.train()
            if first:
                _log(out / "eval.csv", {"step": done, **{k: round(v, 4) for k, v in scores.items()}}, ("step", *scores))
            over = watch.see(done, scores) or over
        if first and (done % save_every == 0 or over):  # after the evaluation: what was not saved is evaluated again
            save_checkpoint(out / "checkpoint", optimizer, done)
        if over:
            break
        began = time.monotonic()
    return trainee


def _rate(name: str, config: PretrainConfig) -> float:
    """The learning rate of a parameter: one step of salience moves every token's weight, so it goes slowly."""
    if name.endswith("salience"):
        return config.salience_lr
    return config.projector_lr if "projector" in name or "embed_summary" in name else config.lr


class _Batches(Dataset[Batch]):
    """The batches from one step to another, for a DataLoader: its workers prepare them while the model computes."""

    def __init__(self, sampler: Sampler, start: int, end: int) -> None:
        self.sampler, self.start, self.end = sampler, start, end

    def __len__(self) -> int:
        return self.end - self.start

    def __getitem__(self, i: int) -> Batch:
        return self.sampler.batch(self.start + i)


class Watch(Protocol):
    """Decides, from the evaluations of a run, whether it goes on."""

    def resume(self, step: int) -> bool:
        """A run goes on from ``step``, 0 at its start; True if it had ended."""

    def see(self, step: int, scores: Mapping[str, float]) -> bool:
        """What an evaluation gave; True ends the run."""


class PlateauWatch:
    """Raises TrainingError for a run that stays on the plateau where summaries tell the decoder nothing."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        self.idle = 0

    def resume(self, step: int) -> bool:
        return False

    def see(self, step: int, scores: Mapping[str, float]) -> bool:
        ratios = [v for k, v in scores.items() if k.removesuffix("x").isdigit()]
        if step < self.config.plateau_after or not ratios or "none" not in scores:
            return False
        gain = scores["none"] - min(ratios)
        self.idle = self.idle + 1 if gain < self.config.plateau_gain else 0
        if self.idle >= 3:
            raise TrainingError(
                f"after {step} steps the summaries are worth {gain:.3f} nats a token over no context, under {self.config.plateau_gain} in "
                f"the last three evaluations: the decoder does not learn to read them; start with finer ratios, raise the learning rate "
                f"({self.config.lr}) or the quotes, or begin from trained weights"
            )
        return False


def held_out_losses(trainee: Trainee, batches: Mapping[str, Sequence[Batch]]) -> dict[str, float]:
    """Mean negative log-likelihood (nats a token) of the answers in each named list of batches: the gap between ``none`` and a ratio
    is what the summaries are worth."""
    scores = {}
    with torch.no_grad():
        for name, some in batches.items():
            total = weight = 0.0
            for batch in some:
                packed = trainee.packed(batch)
                total += float((trainee.token_losses(packed) * packed.weight).sum())
                weight += float(packed.weight.sum())
            scores[name] = total / weight
    return scores


def held_out_batches(contexts: Sequence[Context], sampler: Sampler, ratios: Sequence[int], rows: int = 6) -> dict[str, list[Batch]]:
    """Batches of unseen ``contexts`` for ``held_out_losses``: ``none``, ``raw``, and each ratio; the plain template, one document a prompt."""
    kinds: dict[str, Any] = {"none": ("none", 4), "raw": ("raw", 4), **{f"{r}x": ("summary", r) for r in ratios}}
    groups = [contexts[i : i + rows] for i in range(0, len(contexts), rows)]
    return {name: [plain_batch(group, sampler, kind, ratio) for group in groups] for name, (kind, ratio) in kinds.items()}


def _forget_after(step: int, *logs: Path) -> None:
    """Drop the lines of steps that come after the checkpoint and will be made again."""
    for path in logs:
        if path.exists():
            head, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            last = step - 1 if path.name == "train.csv" else step
            kept = [line for line in lines if line.endswith("\n") and int(line.partition(",")[0]) <= last]
            if len(kept) < len(lines):
                path.write_text(head + "".join(kept), encoding="utf-8")


def _log(path: Path, row: dict[str, float], fields: Sequence[str]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
