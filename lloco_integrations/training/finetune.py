"""``lloco finetune``: learn a group's adapter on summaries that are in a store. As in LLoCO, the compressor stays as it is, and a LoRA on
the decoder learns to read the summaries of one domain.

Resumable to the step, stopped when held-out questions get no better; the adapter kept is the one that did best on them.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lloco_integrations.errors import BadInput, TrainingError
from lloco_integrations.models.card import AdapterCard, read_card
from lloco_integrations.training.adapter_trainee import AdapterTrainee
from lloco_integrations.training.data import Batch, Mix, Sampler, plain_batch
from lloco_integrations.training.export import export_adapter
from lloco_integrations.training.lessons import Lessons, asked_of
from lloco_integrations.training.pretrain import PretrainConfig, held_out_losses, pretrain
from lloco_integrations.training.trainee import LoraSettings

if TYPE_CHECKING:
    from accelerate import Accelerator

    from lloco_integrations.models import LLoCOModel
    from lloco_integrations.store import SummaryStore

_WATCHED_CONTEXTS = 24
_WATCHED_QUESTIONS = 3
_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class FinetuneConfig:
    """How an adapter is learnt.

    Attributes:
        lora: rank, alpha and layers.
        lr: learning rate.
        epochs: passes over the questions, at most.
        rows: passages in a batch.
        questions: questions about a passage in a batch, at most.
        positions: decoder positions in a batch, about.
        ratio_mix: weights of the ratios that are drawn; those that the model lacks are left out.
        quotes: quotes that are asked for, a passage, beside the questions; see Mix.
        unanswerable: share of the questions that get contexts without an answer.
        patience: evaluations without a gain that end it; there are two an epoch.
        seed: of the order, the prompts and the LoRA's start.
    """

    lora: LoraSettings = field(default_factory=LoraSettings)
    lr: float = 4e-4
    epochs: float = 4.0
    rows: int = 6
    questions: int = 4
    positions: int = 3072
    ratio_mix: Mapping[int, float] = field(default_factory=lambda: {4: 0.4, 8: 0.3, 16: 0.15, 32: 0.15})
    quotes: int = 1
    unanswerable: float = 0.02
    patience: int = 3
    seed: int = 0

    @classmethod
    def of(cls, model: LLoCOModel) -> FinetuneConfig:
        """The defaults for a model: the paper's for autocompressors (r 8 on q, k, v and o, learning rate 2e-5, 3 epochs)."""
        if model.spec.kind == "autocompressor":
            paper = LoraSettings(8, 16, ("q_proj", "k_proj", "v_proj", "o_proj"))
            return cls(lora=paper, lr=2e-5, epochs=3.0, quotes=0, unanswerable=0.0)
        return cls()

    def ratios(self, model: LLoCOModel) -> dict[int, float]:
        """The ratios drawn with ``model``; its only one, for a model of one ratio. Raises BadInput if it has none of them."""
        known = model.spec.ratios
        mix = {r: w for r, w in self.ratio_mix.items() if r in known and w > 0} if len(known) > 1 else {known[0]: 1.0}
        if not mix:
            raise BadInput(f"none of the ratios {sorted(self.ratio_mix)} is one that {model.name} gives; use some of {known}")
        return mix

    def steps(self, lessons: Lessons) -> int:
        """Batches in all epochs."""
        pairs = sum(math.ceil(len(c.questions) / self.questions) for c in lessons.train)
        return max(1, math.ceil(self.epochs * pairs / min(self.rows, len(lessons.train))))


def finetune(
    model: LLoCOModel,
    store: SummaryStore,
    lessons: Lessons,
    out: Path,
    config: FinetuneConfig | None = None,
    *,
    group: str | None = None,
    accelerator: Accelerator | None = None,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> AdapterCard:
    """Learn an adapter into the directory ``out``, in PEFT format with a card beside it, going on from what is there.

    ``model`` must not answer meanwhile. ``progress`` is called with (steps done, steps planned, what the step gave).

    Returns the card; at once, if ``out`` has the adapter that these arguments make. Raises BadInput for a directory with another one,
    TrainingError for a run that goes wrong or whose adapter never answers held-out questions better than the decoder alone.
    """
    config = config or FinetuneConfig.of(model)
    settings = _settings(model, lessons, config, group)
    done = read_card(out)
    if done is not None:
        if done.settings != settings:
            raise BadInput(f"{out} has an adapter {_difference(done.settings, settings)}; name another directory, or delete it")
        return done
    record = out / "training"
    _begin(record, settings)
    if model.prompter is None:
        raise BadInput(f"{model.name} has no tokenizer, so it cannot learn from text; add its tokenizer files")
    torch.manual_seed(config.seed)
    steps = config.steps(lessons)
    mix = config.ratios(model)
    rows = min(config.rows, len(lessons.train))
    plan = PretrainConfig(
        steps=steps,
        rows=rows,
        questions=config.questions,
        lr=config.lr,
        warmup=max(1, min(20, steps // 10)),
        decay=0.8,
        seed=config.seed,
        curriculum=((1.0, mix),),
        mix=Mix(raw=0.0, no_context=0.0, quotes=config.quotes, unanswerable=config.unanswerable),
    )
    trainee = AdapterTrainee(model, store, lessons.keys, config.lora)
    sampler = Sampler(
        lessons.train,
        model.prompter,
        plan.ratios,
        model.backend.ends[0],
        rows=rows,
        questions=config.questions,
        positions=config.positions,
        seed=config.seed,
        mix=plan.mix,
    )
    watched = _watched(lessons, sampler, mix)
    first = accelerator is None or accelerator.is_main_process
    try:
        before = _before(record, trainee, watched)
        stopping = EarlyStopping(trainee, record, model.name, mix, before, config.patience, first=first)
        pretrain(
            trainee,
            sampler,
            plan,
            record,
            accelerator=accelerator,
            save_every=25,
            evaluate=lambda t: held_out_losses(t, watched),
            evaluate_every=max(1, math.ceil(steps / config.epochs / 2)),
            progress=None if progress is None else lambda done, row: progress(done, steps, row),
            watch=stopping,
        )
    finally:
        trainee.release()
    if stopping.best_step == 0:
        raise TrainingError(
            f"the adapter never answered the {len(lessons.validation)} held-out passages' questions better than the decoder alone "
            f"({stopping.best:.3f} nats a token); give more questions, or change the learning rate ({config.lr}); {record} has the losses"
        )
    from lloco_integrations import __version__

    validation = {"held out": lessons.held_out, "before": before, "after": stopping.scores}
    card = AdapterCard(
        model.name,
        model.fingerprint,
        group,
        lessons.n_questions,
        lessons.n_documents,
        stopping.best_step,
        __version__,
        settings,
        validation,
    )
    if first:
        _finish(out, record, card)
    return card


class EarlyStopping:
    """A Watch that keeps the weights which did best on held-out questions, and ends a run after ``patience`` evaluations without a gain.

    What counts is the mean loss of the ratios, weighted as they are drawn.
    """

    def __init__(
        self,
        trainee: AdapterTrainee,
        record: Path,
        base: str,
        mix: Mapping[int, float],
        before: Mapping[str, float],
        patience: int,
        *,
        first: bool = True,
    ) -> None:
        self.trainee, self.record, self.base, self.patience, self.first = trainee, record, base, patience, first
        self.weights = {f"{r}x": w for r, w in mix.items()}
        self.scores = dict(before)
        self.best, self.best_step, self.idle = self._value(before), 0, 0

    def resume(self, step: int) -> bool:
        log = self.record / "eval.csv"
        if step and log.exists():
            for row in csv.DictReader(log.read_text(encoding="utf-8").splitlines()):
                if int(row["step"]) <= step:  # another process may not have dropped the later ones yet
                    self._count(int(row["step"]), {k: float(v) for k, v in row.items() if k != "step"})
        return self.idle >= self.patience

    def see(self, step: int, scores: Mapping[str, float]) -> bool:
        if self._count(step, {k: round(v, 4) for k, v in scores.items()}) and self.first:  # as the log has them
            export_adapter(self.trainee, self.record / "best", self.base)
        return self.idle >= self.patience

    def _count(self, step: int, scores: Mapping[str, float]) -> bool:
        """Whether ``scores`` are the best so far."""
        value = self._value(scores)
        if value < self.best:
            self.best, self.best_step, self.idle, self.scores = value, step, 0, dict(scores)
            return True
        self.idle += 1
        return False

    def _value(self, scores: Mapping[str, float]) -> float:
        return sum(w * scores[name] for name, w in self.weights.items()) / sum(self.weights.values())


def _watched(lessons: Lessons, sampler: Sampler, mix: Mapping[int, float]) -> dict[str, list[Batch]]:
    """Batches of held-out questions at each ratio that is trained, the plain prompt, the question's own passage."""
    step = max(1, len(lessons.validation) // _WATCHED_CONTEXTS)
    some = [asked_of(c, _WATCHED_QUESTIONS) for c in lessons.validation[::step][:_WATCHED_CONTEXTS]]
    groups = [some[i : i + 6] for i in range(0, len(some), 6)]
    return {f"{r}x": [plain_batch(g, sampler, "summary", r, _WATCHED_QUESTIONS) for g in groups] for r in sorted(mix)}


def _before(record: Path, trainee: AdapterTrainee, watched: Mapping[str, Sequence[Batch]]) -> dict[str, float]:
    """Held-out losses of the decoder alone: a LoRA adds nothing at its start."""
    path = record / "before.json"
    if not path.exists():
        trainee.eval()
        losses = {k: round(v, 4) for k, v in held_out_losses(trainee, watched).items()}
        _put(path, losses)
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _settings(model: LLoCOModel, lessons: Lessons, config: FinetuneConfig, group: str | None) -> dict[str, Any]:
    """All that decides what is learnt, as JSON has it."""
    asked = [[c.title, list(c.ids), [[q.id, q.question, *q.answers] for q in c.questions]] for c in (*lessons.train, *lessons.validation)]
    lessons_hash = hashlib.sha256(json.dumps([asked, len(lessons.train)]).encode()).hexdigest()
    whole = {**asdict(config), "group": group, "compressor": model.fingerprint, "questions_sha256": lessons_hash}
    found: dict[str, Any] = json.loads(json.dumps(whole))
    return found


def _begin(record: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder of a run. Raises BadInput if it is that of another one."""
    path = record / "settings.json"
    try:
        record.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _put(path, settings)
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot use {record}: {error}; name a directory that can be written, or delete it") from error
    if theirs != settings:
        raise BadInput(
            f"{record} has an unfinished run {_difference(theirs, settings)}; give the command that began it, name another directory, or delete it"
        )


def _put(path: Path, value: Mapping[str, Any]) -> None:
    """JSON in one step: of several processes, none reads half of it."""
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    names = {"compressor": "model or store", "questions_sha256": "questions or documents"}
    keys = [names.get(k, k) for k in {**theirs, **ours} if theirs.get(k) != ours.get(k)]
    return f"of other settings (different: {', '.join(keys)})"


def _finish(out: Path, record: Path, card: AdapterCard) -> None:
    """The best adapter to its place, the card last: a directory with a card is complete."""
    try:
        for name in _FILES:
            shutil.copy(record / "best" / name, out / name)
        card.write(out)
    except OSError as error:
        raise TrainingError(f"cannot write the adapter to {out}: {error}; make room, and the same command goes on from there") from error
    shutil.rmtree(record / "best", ignore_errors=True)
    shutil.rmtree(record / "checkpoint", ignore_errors=True)
