"""What do the parts give that make a decoder fast on a CPU, and those that were tried and left out?

    python -m benchmarks.kernels    # half a minute

Each part in the shapes of the default decoder (30 layers; 9 heads of 64 that share 3 of keys and values), beside what it stands for, in turn.
Weights and caches go round a set that no CPU cache holds, as they do in a decoder.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention

from benchmarks.arguments import numbers
from benchmarks.provenance import provenance
from benchmarks.tables import source
from benchmarks.timing import Spread, interleaved, shown
from lloco_integrations.backends import cpu
from lloco_integrations.backends.cpu import PackedLinear
from lloco_integrations.evaluation.report import write

RESULT = Path(__file__).parent / "results" / "performance" / "kernels.json"
SHAPES = ((576, 576), (1536, 576), (576, 1536), (49152, 576))
"""Outputs and inputs of a linear layer."""
HEADS, GROUPS, WIDTH = 9, 3, 64
CALLS = 30
"""Of one timing, as there are layers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--rows", type=numbers, default=[1, 16, 256], help="of a linear layer's input")
    parser.add_argument("--positions", type=numbers, default=[64, 256, 1024, 8000], help="that one query attends to")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--largest", type=int, default=100_000, help="outputs of a linear layer beyond which it is left out")
    args = parser.parse_args()
    args.json.parent.mkdir(parents=True, exist_ok=True)
    write(measure(args.rows, args.positions, args.repeats, args.largest), args.json)


def measure(rows: list[int], positions: list[int], repeats: int, largest: int) -> dict[str, Any]:
    """Seconds of one call of each part: ``usual``, ``ours``, and what was left out."""
    cells: list[dict[str, Any]] = []
    for outputs, inputs in SHAPES:
        for n in rows if outputs <= largest else []:
            cells.append({"part": f"linear layer {outputs} x {inputs}, {n} rows", **_timed(products(outputs, inputs, n), repeats)})
    for n in positions:
        cells.append({"part": f"one query, {n} positions", **_timed(attentions(n), repeats)})
    cells.append({"part": "norm of one row of 576", **_timed(norms(), repeats)})
    cells.append({"part": "are 126 x 576 numbers finite", **_timed(checks(), repeats)})
    return {
        "what": str(__doc__).splitlines()[0],
        **provenance(("torch", "transformers")),
        "command": "python -m benchmarks.kernels",
        "dtype": "bfloat16",
        "threads": torch.get_num_threads(),
        "cells": cells,
    }


def _timed(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Spread]:
    """Seconds a call."""

    def many(function: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(CALLS):
                function()

        return run

    with torch.inference_mode():
        taken = interleaved({name: many(function) for name, function in functions.items()}, repeats)
    return {name: {k: v if k == "n" else v / CALLS for k, v in value.items()} for name, value in taken.items()}


def products(outputs: int, inputs: int, rows: int) -> dict[str, Callable[[], object]]:
    """torch's linear layer, and one that is packed."""
    layers = [torch.nn.Linear(inputs, outputs, bias=False).bfloat16() for _ in range(1 if outputs > 10_000 else CALLS)]
    for layer in layers:
        layer.__class__ = PackedLinear
    given = torch.randn(rows, inputs).bfloat16()
    usual, ours = cycle(layers), cycle(layers)
    return {"usual": lambda: linear(given, next(usual).weight), "ours": lambda: next(ours)(given)}


def attentions(positions: int) -> dict[str, Callable[[], object]]:
    """torch's attention with shared heads, ours, and two plain products."""
    query = torch.randn(1, HEADS, 1, WIDTH).bfloat16()
    held = [
        (torch.randn(1, GROUPS, positions, WIDTH).bfloat16(), torch.randn(1, GROUPS, positions, WIDTH).bfloat16()) for _ in range(CALLS)
    ]
    turns = {name: cycle(held) for name in ("usual", "ours", "left out")}
    layer = torch.nn.Module()

    def usual() -> object:
        key, value = next(turns["usual"])
        return scaled_dot_product_attention(query, key, value, enable_gqa=True)

    def ours() -> object:
        return cpu.attention(layer, query, *next(turns["ours"]), None)

    def plain() -> object:
        key, value = next(turns["left out"])
        scores = query.view(1, GROUPS, HEADS // GROUPS, WIDTH) @ key.transpose(2, 3)
        return (scores.float() * WIDTH**-0.5).softmax(-1).to(value.dtype) @ value

    return {"usual": usual, "ours": ours, "left out": plain}


def norms() -> dict[str, Callable[[], object]]:
    """transformers' norm, and torch's fused one, which was left out."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norm, row = LlamaRMSNorm(576).bfloat16(), torch.randn(1, 1, 576).bfloat16()
    return {"usual": lambda: norm(row), "left out": lambda: rms_norm(row, norm.weight.shape, norm.weight, norm.variance_epsilon)}


def checks() -> dict[str, Callable[[], object]]:
    """A mask of what is finite, and the least and the greatest."""
    vectors = torch.randn(126, 576).bfloat16()
    return {"usual": lambda: bool(torch.isfinite(vectors).all()), "ours": lambda: bool(torch.stack(vectors.aminmax()).isfinite().all())}


def tables(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """Milliseconds of a call."""
    lines = ["| | usual, ms | ours, ms | tried and left out, ms |", "|---|--:|--:|--:|"]
    for cell in report["cells"]:
        shown_ = [shown(cell[name], 1e-3, 3) if name in cell else "" for name in ("usual", "ours", "left out")]
        lines.append(f"| {cell['part']} | {' | '.join(shown_)} |")
    told = f"One call, {report['dtype']}, {report['threads']} threads. {source(report, f'performance/{RESULT.name}')}"
    return {"kernels": [*lines, "", told]}


if __name__ == "__main__":
    main()
