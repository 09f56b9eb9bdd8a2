"""What decided the recipe: short training runs that differ in one thing each, and the table of their held-out losses.

    python -m benchmarks.ablations --runs RUNS --start-from WEIGHTS [--only NAME ...]   # train, a folder a row, and keep the curves
    python -m benchmarks.ablations --render                                             # the tables in docs/training.md

Every row is one ``lloco pretrain`` command, printed before it runs. A short run from trained weights shows which change learns
faster from there; it does not show where a long run from nothing would end.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.provenance import provenance
from benchmarks.tables import between

RESULTS = Path("benchmarks/results/ablations")
PAGE = Path("docs/training.md")
HELD_OUT = Path("benchmarks/results/held_out.json")
COMMON = "--steps 60 --lr 4e-4 --warmup 10 --decay 0.7 --ratio-mix 4:0.6,8:0.4 --evaluate-every 30 --seed 7"
ROWS = {
    "control": ("the recipe as it is", ""),
    "kl": ("half of the loss is the divergence from a teacher that reads the text", "--teacher {teacher} --teacher-weight 0.5"),
    "rank64": ("LoRAs of rank 64, begun as the weights' rank 16 with directions to spare", "--rank 64"),
    "noquotes": ("no quotes", "--quotes 0"),
    "text": (
        "half of the steps on plain text: to be repeated, to be gone on with, and quotes",
        "--texts text_peps.train --texts text_100_english_novels.train --text-share 0.5",
    ),
    "quotes4x64": ("four quotes of 64 tokens and two questions a document", "--quotes 4 --quote-tokens 64 --questions 2"),
}
COLUMNS = ("none", "raw", "2x", "4x", "8x", "16x")


def command(name: str, runs: str, start: str, teacher: str) -> str:
    """The shell command of a row."""
    options = ROWS[name][1].format(teacher=teacher)
    return " ".join(f"lloco pretrain --out {runs}/{name} --start-from {start} {COMMON} {options}".split())


def keep(name: str, run: Path) -> None:
    """Copy the curves and settings of a finished run to where they are committed."""
    kept = RESULTS / name
    kept.mkdir(parents=True, exist_ok=True)
    for file in ("train.csv", "eval.csv", "config.json"):
        shutil.copy(run / file, kept / file)
    (kept / "provenance.json").write_text(json.dumps(provenance(), indent=1) + "\n")


def table() -> str:
    """The rows that have results, as markdown."""
    lines = ["| run | what is different | " + " | ".join(COLUMNS) + " | s/step | command |", "|---" * (len(COLUMNS) + 4) + "|"]
    for name, (what, _) in ROWS.items():
        if not (RESULTS / name / "eval.csv").exists():
            continue
        last = list(csv.DictReader((RESULTS / name / "eval.csv").open()))[-1]
        seconds = sorted(float(r["seconds"]) for r in csv.DictReader((RESULTS / name / "train.csv").open()))
        cells = [f"{float(last[c]):.3f}" if c in last else "" for c in COLUMNS]
        shown = command(name, "RUNS", "WEIGHTS", "TEACHER")
        lines.append(f"| {name} | {what} | " + " | ".join(cells) + f" | {seconds[len(seconds) // 2]:.1f} | `{shown}` |")
    return "\n".join(lines)


def held_out_table() -> str:
    """The weights in held_out.json, as markdown."""
    losses = json.loads(HELD_OUT.read_text())["losses"]
    columns = list(next(iter(losses.values())))
    lines = ["| weights | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(f"{row[c]:.3f}" for c in columns) + " |" for name, row in losses.items()]
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with its tables as the results are now."""
    return between(between(text, "ablations", table()), "held out", held_out_table())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder for the runs; one that is finished is not run again")
    parser.add_argument("--start-from", default="lloco_integrations/models/weights/smollm2-135m")
    parser.add_argument("--teacher", default="", help="LoRA of the row 'kl': lloco pretrain --reads raw makes it")
    parser.add_argument("--only", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--render", action="store_true")
    args = parser.parse_args()
    for name in args.only if args.runs else ():
        line = command(name, str(args.runs), args.start_from, args.teacher)
        print(line, flush=True)
        subprocess.run([sys.executable, "-m", "lloco_integrations.cli", *shlex.split(line)[1:]], check=True)
        keep(name, args.runs / name)
    if args.render:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
