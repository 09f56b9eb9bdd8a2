"""What does a training step take by the fused passes, and by padded rows left to transformers and autograd?

    LLOCO_DATA=../shared/data python -m benchmarks.training_speed [--threads 1] [--json OUT]    # about ten minutes

The same batches by each path and in each dtype, in turn, forward, backward and the optimizer's step: documents that an encoder of 12 layers
reads, three in a batch, in prompts of today's recipe (``summaries``); and the same documents as text, beside others or not, so that rows differ
in length, with the decoder alone being trained (``text``). Besides the clock's seconds there are those of the processor, which other work on the
machine stretches less.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.provenance import called, provenance
from benchmarks.tables import fill, source
from benchmarks.timing import Spread, spread
from lloco_integrations.evaluation.report import write
from lloco_integrations.prompting import Prompter
from lloco_integrations.training.base import load_base_model
from lloco_integrations.training.contexts import Context, load_contexts
from lloco_integrations.training.data import RAW_ONLY, Batch, Mix, Sampler
from lloco_integrations.training.optimizer import MasterAdamW
from lloco_integrations.training.trainee import MeanPoolTrainee

RESULT = Path(__file__).parent / "results" / "training_speed.json"
PAGE = Path(__file__).parent.parent / "docs" / "training.md"
SETS = ("squadshifts_amazon.train", "quoref.dev")
KINDS = {"summaries": Mix(raw=0.0), "text": RAW_ONLY}
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
PATHS = {"padded": True, "fused": False}
"""Whether it is the plain one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a preset, or a directory with a causal LM and its tokenizer")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=3)
    parser.add_argument("--batches", type=int, default=1, help="of one run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = measure(args.model, torch.device(args.device), args.rows, args.batches, args.repeats)
    write(report, args.json)
    if args.json == RESULT:
        fill(PAGE, "training speed", "\n".join(table(report)))


def measure(name: str, device: torch.device, rows: int, batches: int, repeats: int) -> dict[str, Any]:
    """Answers and positions a second of each path, in each dtype, for each kind of batch."""
    learners = {}
    for dtype, kind in DTYPES.items():
        model, tokenizer = load_base_model(name, device, kind)
        torch.manual_seed(0)
        learners[dtype] = _Learner(MeanPoolTrainee(model, encoder_layers=min(12, model.config.num_hidden_layers)))
        end = model.config.eos_token_id
        prompter = Prompter(tokenizer, chat=tokenizer.chat_template is not None)
    contexts = _contexts(prompter)
    cells = []
    for kind, mix in KINDS.items():
        sampler = Sampler(contexts, prompter, lambda step: {4: 0.5, 8: 0.5}, end[0] if isinstance(end, list) else end, rows=rows, mix=mix)
        some = [sampler.batch(step) for step in range(batches)]
        cells += _timed(learners, some, kind, repeats)
    return {
        "what": str(__doc__).splitlines()[0],
        **provenance(),
        "model": called(name),
        "device": f"{device.type}, {torch.get_num_threads()} threads",
        "command": "python -m benchmarks.training_speed",
        "batches": batches,
        "rows": rows,
        "cells": cells,
    }


class _Learner:
    """A trainee and its optimizer."""

    def __init__(self, trainee: MeanPoolTrainee) -> None:
        self.trainee = trainee.train()
        parameters = {n: p for n, p in trainee.named_parameters() if p.requires_grad}
        self.optimizer = MasterAdamW(parameters, dict.fromkeys(parameters, 1e-6), 0.01)

    def steps(self, batches: Sequence[Batch], *, plain: bool) -> float:
        """The loss of the last of ``batches``, after a step on each."""
        self.trainee.plain = plain
        for batch in batches:
            loss = self.trainee(batch)
            torch.autograd.backward(loss)
            self.optimizer.step(1.0, 1.0)
        return float(loss.detach())


def _contexts(prompter: Prompter) -> list[Context]:
    folder = Path(os.environ.get("LLOCO_DATA", "../shared/data"))
    pairs = [(folder / f"{name}.docs.jsonl.gz", folder / f"{name}.qa.jsonl.gz") for name in SETS]
    return load_contexts(pairs, prompter.text_ids, 800)[:400]


def _timed(learners: dict[str, _Learner], batches: Sequence[Batch], kind: str, repeats: int) -> list[dict[str, Any]]:
    answers = sum(len(row.branches) for batch in batches for row in batch.rows)
    with torch.no_grad():
        positions = sum(len(next(iter(learners.values())).trainee.packed(batch).positions) for batch in batches)
    cells: dict[tuple[str, str], dict[str, list[float]]]
    cells = {(path, dtype): {"wall": [], "cpu": [], "loss": []} for path in PATHS for dtype in learners}
    for turn in range(-1, repeats):
        for (path, dtype), taken in cells.items():
            wall, cpu = time.perf_counter(), time.process_time()
            loss = learners[dtype].steps(batches, plain=PATHS[path])
            if turn >= 0:
                taken["wall"].append(time.perf_counter() - wall)
                taken["cpu"].append(time.process_time() - cpu)
                taken["loss"].append(loss)
    return [
        {
            "batch": kind,
            "path": path,
            "dtype": dtype,
            "answers": answers,
            "positions": positions,
            "wall_seconds": spread(taken["wall"]),
            "processor_seconds": spread(taken["cpu"]),
            "loss": median(taken["loss"]),
        }
        for (path, dtype), taken in cells.items()
    ]


def table(report: dict[str, Any]) -> list[str]:
    """The cells, each beside what was usual before: padded rows in bfloat16."""
    lines = [
        "| batches of | path | dtype | answers a second | positions a second | the same, of processor seconds | times the first |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    first: dict[str, float] = {}
    for cell in report["cells"]:
        wall, cpu = cell["wall_seconds"], cell["processor_seconds"]
        first.setdefault(cell["batch"], cpu["median"])
        lines.append(
            f"| {cell['batch']} | {cell['path']} | {cell['dtype']} | {_rate(cell['answers'], wall)} | {_rate(cell['positions'], wall)} "
            f"| {_rate(cell['answers'], cpu)}; {_rate(cell['positions'], cpu)} | {first[cell['batch']] / cpu['median']:.2f} |"
        )
    return [
        *lines,
        "",
        f"{report['device']}; median [least, most] of {report['cells'][0]['wall_seconds']['n']} runs in turn; the last column is of processor "
        "seconds. " + source(report, "training_speed.json"),
    ]


def _rate(amount: float, taken: Spread) -> str:
    low, middle, high = (amount / taken[k] for k in ("high", "median", "low"))
    digits = 0 if middle >= 20 else 2
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


if __name__ == "__main__":
    main()
