"""The loss curves of a training run as a picture, and its totals.

python benchmarks/plot_training.py benchmarks/results/smollm2-135m-cpu
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def main(run: Path) -> None:
    with (run / "eval.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (run / "train.csv").open() as file:
        steps = list(csv.DictReader(file))
    figure, axes = plt.subplots(figsize=(7, 4))
    for name in [n for n in rows[0] if n not in ("step", "documents")]:
        axes.plot([int(r["step"]) for r in rows], [float(r[name]) for r in rows], marker="o", markersize=3, label=name)
    axes.set(
        xlabel="step", ylabel="nats a token of the right answer", title="held-out answers (squad_paragraph.dev), by what the decoder reads"
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(run / "curve.png", dpi=110)
    seconds = sum(float(s["seconds"]) for s in steps)
    branches = sum(float(s["questions"]) for s in steps)
    print(f"{len(steps)} steps, {branches:.0f} answers and quotes, {seconds / 60:.0f} minutes in steps")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
