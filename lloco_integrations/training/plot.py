"""The loss curves of a run as a picture."""

from __future__ import annotations

import csv
from pathlib import Path


def plot(run: Path, out: Path) -> Path:
    """Draw ``run/train.csv`` and ``run/eval.csv`` into the PNG ``out`` and return it. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    steps = _read(run / "train.csv")
    rows = _read(run / "eval.csv") if (run / "eval.csv").exists() else []
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for ratio in sorted({r["ratio"] for r in steps}):
        some = [r for r in steps if r["ratio"] == ratio]
        span = max(1, len(some) // 40)
        means = [sum(r["loss"] for r in some[i : i + span]) / len(some[i : i + span]) for i in range(0, len(some), span)]
        left.plot([some[i]["step"] for i in range(0, len(some), span)], means, label=f"{ratio:.0f}x")
    left.set(xlabel="step", ylabel="loss", title="training, by the batch's ratio")
    for name in [n for n in (rows[0] if rows else {}) if n not in ("step", "documents")]:
        right.plot([r["step"] for r in rows], [r[name] for r in rows], marker="o", markersize=3, label=name)
    right.set(xlabel="step", ylabel="nats a token of the right answer", title="held-out answers, by what the decoder reads")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    plt.close(figure)
    return out


def _read(path: Path) -> list[dict[str, float]]:
    with path.open(encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
