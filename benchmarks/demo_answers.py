"""Twenty of the example corpus's held-out questions with the answers that demo_scorecard.py noted, as a page: evenly spaced, none picked.

python -m benchmarks.demo_answers --json benchmarks/results/demo.json --out docs/answers.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lloco_integrations.examples import load_questions

ROWS = ("raw", "4x", "8x")
HOW_MANY = 20


def page(report: dict) -> str:
    """The page in markdown, from the scorecard's JSON."""
    questions = {q.id: q for q in load_questions("heldout")}
    answers = {name: {a["id"]: a for a in report["rows"][name]["answers"]} for name in ROWS}
    ids = list(answers[ROWS[0]])
    chosen = [ids[i * len(ids) // HOW_MANY] for i in range(HOW_MANY)]
    good = {name: sum(answers[name][i]["f1"] >= 50 for i in chosen) for name in ROWS}
    lines = [
        "# Twenty answers",
        "",
        f"Every {len(ids) / HOW_MANY:.1f}th of the {len(ids)} held-out questions about the example corpus, none picked; nothing of the "
        "corpus was trained on. The same decoder reads the same two retrieved passages as text, at 4x and at 8x. "
        f"Token F1 is 50 or more for {good['raw']} of {HOW_MANY} from text, {good['4x']} at 4x and {good['8x']} at 8x: " + verdict(good),
        "",
        f"Made by `python -m benchmarks.demo_answers` from [demo.json](../benchmarks/results/demo.json) ({report['date']}).",
        "",
        "| question | right | from text | 4x | 8x |",
        "|---|---|---|---|---|",
    ]
    for i in chosen:
        question = questions[i]
        cells = [question.question, question.answers[0], *(f"{answers[n][i]['answer']} ({answers[n][i]['f1']:.0f})" for n in ROWS)]
        lines.append("| " + " | ".join(" ".join(c.split()).replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"


def verdict(good: dict[str, int]) -> str:
    """What the counts say, in words."""
    shares = {name: good[name] / max(1, good["raw"]) for name in ROWS[1:]}
    words = {
        name: "nearly as good as from text" if s >= 0.85 else "usable with care" if s >= 0.5 else "not good" for name, s in shares.items()
    }
    return ", ".join(f"{name} is {w}" for name, w in words.items()) + "."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/demo.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/answers.md"))
    args = parser.parse_args()
    args.out.write_text(page(json.loads(args.json.read_text())), encoding="utf-8")


if __name__ == "__main__":
    main()
