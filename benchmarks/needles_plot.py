"""Heat maps of needles found: a panel for each row, depth down, length across."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def plot(report: Mapping[str, Any], path: Path) -> None:
    """One line of panels a kind of row, one panel a ratio. In a cell: percent of words and numbers found, nats a token, and a star where the
    context was cut to fit the window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for name, row in report["rows"].items():
        lines.setdefault(row["kind"], []).append((name, row))
    columns = max(map(len, lines.values()))
    lengths, depths = report["lengths"], report["depths"]
    size = (1.2 + columns * (0.8 + 0.55 * len(lengths)), 0.6 + len(lines) * (0.8 + 0.42 * len(depths)))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(lines), columns, squeeze=False)
    shown = None
    for line, some in zip(panels, lines.values(), strict=True):
        for axes in line[len(some) :]:
            axes.set_axis_off()
        for axes, (name, row) in zip(line, some, strict=False):
            cells = {(cell["length"], cell["depth"]): cell for cell in row["cells"]}
            grid = [[cells[length, depth]["found"] for length in lengths] for depth in depths]
            shown = axes.imshow(grid, vmin=0, vmax=100, cmap="viridis", aspect="auto")
            for y, depth in enumerate(depths):
                for x, length in enumerate(lengths):
                    cell = cells[length, depth]
                    text = f"{cell['found']:.0f}{'*' if cell['cut'] else ''}\n{cell['nll']:.1f}"
                    colour = "black" if cell["found"] > 60 else "white"
                    axes.text(x, y, text, ha="center", va="center", fontsize=6, color=colour)
            axes.set_title(name, fontsize=9)
            axes.set_xticks(range(len(lengths)), [f"{n / 1000:g}k" for n in lengths], fontsize=7)
            axes.set_yticks(range(len(depths)), [f"{d} %" for d in depths], fontsize=7)
    for line in panels:
        line[0].set_ylabel("depth", fontsize=8)
    for axes in panels[-1]:
        axes.set_xlabel("tokens", fontsize=8)
    if shown is not None:
        figure.colorbar(shown, ax=panels, label="words and numbers found (%)", shrink=0.8)
    figure.suptitle(f"needles a cell: {report['needles']}; below: nats a token; * cut to fit the window", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
