"""What a training run's summaries are worth against the answers and quotes it has seen, and what a straight line through that would take.

    python -m benchmarks.learning_curve --run benchmarks/results/smollm2-135m-cpu

writes docs/learning_curve.png and benchmarks/results/learning_curve.json.

Worth: (none - ratio) / (none - raw) in held-out nats, the share of the way from no context to the text. The line is fitted to worth at 4x
against the logarithm of what was seen, over the last half of the measurements. It is a guess: nothing says that the curve stays straight.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RATIOS = ("2x", "4x", "8x", "16x")
GOALS = (0.7, 0.85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--plot", type=Path, default=Path("docs/learning_curve.png"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/learning_curve.json"))
    args = parser.parse_args()
    with (args.run / "train.csv").open() as file:
        steps = list(csv.DictReader(file))
    seen = np.cumsum([float(s["questions"]) for s in steps])
    seconds = np.cumsum([float(s["seconds"]) for s in steps])
    with (args.run / "eval.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r.get("documents", "30") == "30"]
    at = [min(int(r["step"]), len(seen)) - 1 for r in rows]
    points = [
        {"step": int(r["step"]), "seen": int(seen[i]), "hours": seconds[i] / 3600, **{k: worth(r, k) for k in RATIOS if r.get(k)}}
        for r, i in zip(rows, at, strict=True)
    ]
    late = points[len(points) // 2 :]
    slope, start = np.polyfit([math.log2(p["seen"]) for p in late], [p["4x"] for p in late], 1)
    takes = {goal: 2 ** ((goal - start) / slope) for goal in GOALS}
    rate = seen[-1] / seconds[-1]
    report = {
        "what": __doc__.splitlines()[0],
        "run": args.run.name,
        "points": points,
        "worth_per_doubling_at_4x": slope,
        "answers_and_quotes_a_second": rate,
        "answers_and_quotes_to_reach": takes,
        "hours_on_this_machine_to_reach": {goal: n / rate / 3600 for goal, n in takes.items()},
    }
    args.json.write_text(json.dumps(report, indent=1) + "\n")
    figure, axes = plt.subplots(figsize=(7, 4))
    for ratio in RATIOS:
        axes.plot(
            [p["seen"] for p in points if ratio in p], [p[ratio] for p in points if ratio in p], marker="o", markersize=3, label=ratio
        )
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set(
        xscale="log",
        xlabel="answers and quotes seen",
        ylabel="worth: 0 no context, 1 the text",
        title="held-out answers (squad_paragraph.dev)",
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(args.plot, dpi=110)
    print(json.dumps({k: v for k, v in report.items() if k != "points"}, indent=1))


def worth(row: dict[str, str], ratio: str) -> float:
    """The share of the way from no context to the text."""
    none, raw = float(row["none"]), float(row["raw"])
    return (none - float(row[ratio])) / (none - raw)


if __name__ == "__main__":
    main()
