"""A passage as the model sees it: what stands as text, what as slices of the summary, what not at all.

python -m benchmarks.focus_picture --out docs/focus_picture.png
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from lloco_integrations import Engine
from lloco_integrations.examples import load_documents
from lloco_integrations.show.forms import AS_TEXT, Shown

QUESTION = "From which quarry did the granite for the original buildings come?"
TEXT, LEFT_OUT = "#fde68a", "#ffffff"
SLICES = {2: "#1d4ed8", 4: "#2563eb", 8: "#60a5fa", 16: "#bfdbfe", 32: "#dbeafe"}
WIDTH = 96


def draw(text: str, shown: Shown, question: str, path: Path) -> None:
    """The words of ``text`` in lines, on the colour of what stands for them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    lines: list[list[tuple[str, int | None]]] = [[]]
    used = 0
    for word in re.finditer(r"\S+", text):
        fidelity = next((f for start, stop, f in shown.fidelities if start <= word.start() < stop), None)
        if used + len(word[0]) > WIDTH:
            lines.append([])
            used = 0
        lines[-1].append((word[0], fidelity))
        used += len(word[0]) + 1
    figure, axes = plt.subplots(figsize=(9.5, 0.27 * len(lines) + 1.2))
    axes.axis("off")
    axes.set(xlim=(0, WIDTH + 1), ylim=(-len(lines) - 2.2, 1.4))
    font: dict[str, Any] = {"family": "monospace", "fontsize": 9, "va": "center"}
    axes.text(0, 0.8, question, family="sans-serif", fontsize=11, fontweight="bold")
    kinds = set()
    for y, line in enumerate(lines):
        x = 0
        for word, fidelity in line:
            kinds.add(fidelity)
            colour = LEFT_OUT if fidelity is None else TEXT if fidelity == AS_TEXT else SLICES.get(fidelity, "#93c5fd")
            axes.add_patch(plt.Rectangle((x - 0.4, -y - 0.95), len(word) + 0.9, 0.86, color=colour, linewidth=0))
            axes.text(x, -y - 0.5, word, color="#9ca3af" if fidelity is None else "#111827", **font)
            x += len(word) + 1
    names = [(LEFT_OUT, "left out")] if None in kinds else []
    names += [(SLICES.get(f, "#93c5fd"), f"vectors, {f} tokens in each") for f in sorted((f for f in kinds if f), reverse=True)]
    names += [(TEXT, "text")] if AS_TEXT in kinds else []
    handles = [Patch(facecolor=colour, edgecolor="#d1d5db", label=label) for colour, label in names]
    axes.legend(handles=handles, loc="lower left", ncols=len(handles), frameon=False, fontsize=9)
    axes.text(WIDTH + 0.5, -len(lines) - 1.5, f"{shown.n_tokens} tokens in {shown.n_positions} positions", ha="right", fontsize=9)
    figure.savefig(path, dpi=130, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/focus_picture.png"))
    parser.add_argument("--ratio", type=int, default=8)
    args = parser.parse_args()
    engine = Engine(store_target="memory://")
    text = load_documents()[0].text[:1400].rsplit(".", 1)[0] + "."
    [shown] = engine.show([text], question=QUESTION, ratio=args.ratio)
    assert shown is not None
    draw(text, shown, QUESTION, args.out)


if __name__ == "__main__":
    main()
