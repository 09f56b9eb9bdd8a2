"""The scorecard as a picture: what is gained against positions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lloco_integrations.errors import BadInput, MissingExtra
from lloco_integrations.evaluation.methods import OURS
from lloco_integrations.evaluation.scores import NAMES

FORMATS = (".png", ".svg", ".pdf")
_COLOURS = {
    "lloco": "#0b6e99",
    "lloco+adapter": "#0aa5c9",
    "lloco+retrieve": "#5b4bb3",
    "focus": "#1b8a5a",
    "truncate": "#b5651d",
    "sentences": "#d1495b",
    "retrieve": "#c9a227",
}
_LEVELS = {"none": ("#888888", ":"), "raw": ("#555555", "--"), "raw+lora": ("#222222", "-")}


def check(path: Path) -> None:
    """Raise BadInput for a kind of picture that cannot be made, MissingExtra without matplotlib."""
    if path.suffix.lower() not in FORMATS:
        raise BadInput(f"--plot {path}: a picture ends in {', '.join(FORMATS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtra('a plot needs matplotlib: pip install "lloco_integrations[eval]"') from error


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Write the picture. Lines: the primary metric of each compressed row against the context's positions (log), with error bars;
    horizontal lines: no context and the whole text. Raises BadInput if it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metric = report["primary"]
    figure = Figure(figsize=(7, 4.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for name, row in report["rows"].items():
        interval = row[metric]
        if interval is None:
            continue
        if row["kind"] in _LEVELS:
            colour, style = _LEVELS[row["kind"]]
            axes.axhline(interval["mean"], color=colour, linestyle=style, linewidth=1.2, label=name)
            axes.axhspan(interval["low"], interval["high"], color=colour, alpha=0.07, linewidth=0)
        else:
            lines.setdefault(name.partition("@")[0], []).append(row)
    for i, (name, rows) in enumerate(lines.items()):
        aside = 1.03 ** (i - (len(lines) - 1) / 2)  # rows of equal positions stand beside one another
        some = sorted(rows, key=lambda row: row["positions"])
        means = [row[metric]["mean"] for row in some]
        below = [max(0.0, row[metric]["mean"] - row[metric]["low"]) for row in some]
        above = [max(0.0, row[metric]["high"] - row[metric]["mean"]) for row in some]
        axes.errorbar(
            [max(row["positions"], 1) * aside for row in some],
            means,
            yerr=[below, above],
            label=name,
            color=_COLOURS.get(name),
            marker="o",
            markersize=4.5,
            capsize=3,
            linewidth=1.8 if name in OURS else 1.2,
        )
    if lines:
        axes.set_xscale("log", base=2)
        positions = sorted({max(row["positions"], 1) for rows in lines.values() for row in rows})
        ticks = [p for i, p in enumerate(positions) if i == 0 or p > 1.25 * positions[i - 1]]
        axes.set_xticks(ticks, [f"{t:,.0f}" for t in ticks])
        axes.minorticks_off()
    axes.set_xlabel("positions of the context (mean, log scale)")
    axes.set_ylabel(NAMES[metric] + (" (lower is better)" if metric == "nll" else " (%)"))
    axes.set_title(f"{report['n_questions']} questions about {report['n_documents']} documents, 95 % intervals", fontsize=10)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error}; name another file with --plot") from error
