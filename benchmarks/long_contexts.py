"""Questions about documents that no window holds, or hardly: 8,000 to 128,000 tokens.

    LLOCO_DATA=../shared/data python -m benchmarks.long_contexts --sets squality --limit 8 --raw-adapter DIR --none-adapter DIR
    python -m benchmarks.long_contexts --render          # docs/long_contexts.md again, from the JSONs

Each set is what ``lloco eval`` gives: no context, the text as far as the window goes, the text cut to as many positions as the summaries take,
raw passages found for the question in as many, the whole document's summaries, and summaries of the passages found in as many.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.tables import fill, interval
from lloco_integrations.evaluation.report import write
from lloco_integrations.evaluation.scores import NAMES

SETS = ("squality.test", "qmsum.test", "loogle_sample.test", "leval_natural_question.test", "financebench_full.test")
METHODS = ("none", "raw+lora", "truncate", "retrieve", "lloco", "lloco+retrieve")
RESULTS = Path(__file__).parent / "results" / "long_contexts"
PAGE = Path(__file__).parent.parent / "docs" / "long_contexts.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--limit", type=int, default=20, help="questions a set")
    parser.add_argument("--ratio", default="16,32")
    parser.add_argument("--raw-adapter", default="benchmarks/adapters/raw")
    parser.add_argument("--none-adapter", default="benchmarks/adapters/none")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the page from the JSONs")
    args = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in () if args.render else args.sets:
        if not (RESULTS / f"{name}.json").exists():
            measure(name, args)
    reports = {n: json.loads((RESULTS / f"{n}.json").read_text()) for n in SETS if (RESULTS / f"{n}.json").exists()}
    fill(PAGE, "sets", "\n".join(line for name, report in reports.items() for line in part(name, report)))


def measure(name: str, args: argparse.Namespace) -> None:
    """``lloco eval`` on one set; it goes on where it stopped."""
    folder, out = Path(os.environ.get("LLOCO_DATA", "../shared/data")), RESULTS / f"{name}.json"
    options = ["--methods", ",".join(METHODS), "--ratio", args.ratio, "--limit", str(args.limit), "--max-new-tokens", "48"]
    options += ["--raw-adapter", args.raw_adapter, "--none-adapter", args.none_adapter]
    files = ["--docs", str(folder / f"{name}.docs.jsonl.gz"), "--qa", str(folder / f"{name}.qa.jsonl.gz")]
    paths = ["--json", str(out), "--plot", str(out.with_suffix(".png")), "--device", args.device]
    print(f"\n{name}", flush=True)
    subprocess.run([sys.executable, "-m", "lloco_integrations.cli", "eval", *files, *options, *paths], check=True)
    report = json.loads(out.read_text())
    report["command"] = " ".join(
        ["lloco eval", *[f.replace(str(folder), "$LLOCO_DATA") for f in files], *options, "--json", out.name, "--plot", f"{out.stem}.png"]
    )
    write(report, out)


def part(name: str, report: Mapping[str, Any]) -> list[str]:
    """One set in Markdown."""
    rows, metric = report["rows"], report["primary"]
    tokens = next(iter(rows.values()))["source_tokens"]
    lines = [
        f"### {name.partition('.')[0]}",
        "",
        f"{report['n_questions']} questions about {report['n_documents']} documents of {tokens:,.0f} tokens on average; {NAMES[metric]} with 95 % "
        f"intervals, likelihood of the right answer in nats a token (lower is better).",
        "",
        f"| reads | positions | {NAMES[metric]} | nats |",
        "|---|---|---|---|",
    ]
    for row_name, row in rows.items():
        cut = f" ({row['cut']} cut to the window)" if row["cut"] else ""
        lines.append(f"| {row_name}{cut} | {row['positions']:,.0f} | {interval(row[metric])} | {interval(row['nll'], 2)} |")
    where = f"../benchmarks/results/long_contexts/{name}"
    lines += [
        "",
        f"{report['date']}, {report['machine']}, [raw output]({where}.json), [plot]({where}.png).",
        "",
        "```bash",
        report["command"],
        "```",
        "",
    ]
    return lines


if __name__ == "__main__":
    main()
