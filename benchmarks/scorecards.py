"""Scorecards on four sets of documents and questions, and on questions that no document answers; then a page of their tables.

    LLOCO_DATA=../shared/data python benchmarks/scorecards.py --limit 100 --raw-adapter DIR --none-adapter DIR
    python benchmarks/scorecards.py --render          # the page again, from the JSONs

Each set is what ``lloco eval`` gives; an interrupted set goes on where it stopped, a finished one is left as it is (delete its JSON to
measure it again). ``--reuse`` measures a finished set again, but takes the rows that do not depend on our weights from its JSON.
``--texts NAME=FOLDER`` adds another compressor's texts from FOLDER/SET.jsonl where that file is.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lloco_integrations.evaluation.reuse import reusable
from lloco_integrations.evaluation.scores import METRICS, NAMES
from lloco_integrations.evaluation.table import taken

SETS = {
    "squad_paragraph": ("squad_paragraph.dev",),
    "squadshifts_new_wiki": ("squadshifts_new_wiki.test",),
    "narrativeqa_summary": ("narrativeqa_summary.dev",),
    "fairytaleqa": ("fairytaleqa.dev", "fairytaleqa.test"),
    "squad_v2_unanswerable": ("squad_v2_unanswerable.dev",),
}
JUDGED = tuple(SETS)[:4]
TARGETS = {4: 0.85, 8: 0.70, 16: 0.55, 32: 0.45}
"""What the mean of ``rel`` over the four sets is to reach."""
RESULTS = Path(__file__).parent / "results" / "scorecards"
PAGE = Path(__file__).parent.parent / "docs" / "scorecards.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--limit", type=int, default=100, help="questions a set")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--adapter")
    parser.add_argument("--raw-adapter")
    parser.add_argument("--none-adapter")
    parser.add_argument("--texts", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--reuse", action="store_true", help="measure finished sets again, but for the rows of other readers than ours")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the page from the JSONs")
    args = parser.parse_args()
    if not args.render:
        for name in args.sets:
            if (RESULTS / f"{name}.json").exists() and not args.reuse:
                print(f"{name} is measured; delete its JSON to measure it again", flush=True)
            else:
                print(f"\n{name}", flush=True)
                measure(name, args)
    reports = {n: json.loads((RESULTS / f"{n}.json").read_text()) for n in SETS if (RESULTS / f"{n}.json").exists()}
    PAGE.write_text(page(reports, os.path.relpath(RESULTS, PAGE.parent)))
    print(f"\n{PAGE.name} is written from {len(reports)} of {len(SETS)} sets")


def measure(name: str, args: argparse.Namespace) -> None:
    """Run ``lloco eval`` on one set. The command in its report names the data by $LLOCO_DATA, and nothing by a place on this machine."""
    from lloco_integrations.cli.eval import run
    from lloco_integrations.evaluation.readers import AdapterPaths
    from lloco_integrations.evaluation.scorecard import Settings

    folder = Path(os.environ.get("LLOCO_DATA", "../shared/data"))
    others = {one.partition("=")[0]: Path(one.partition("=")[2]) / f"{name}.jsonl" for one in args.texts}
    methods = [
        "none",
        "raw",
        *(["raw+lora"] if args.raw_adapter else []),
        "truncate",
        "lloco",
        *(["lloco+adapter"] if args.adapter else []),
    ]
    settings = Settings(
        docs=tuple(folder / f"{part}.docs.jsonl.gz" for part in SETS[name]),
        qa=tuple(folder / f"{part}.qa.jsonl.gz" for part in SETS[name]),
        out=RESULTS / f"{name}.json",
        methods=tuple(methods),
        texts={n: path for n, path in others.items() if path.is_file()},
        adapters=AdapterPaths(args.adapter, args.raw_adapter, args.none_adapter),
        limit=args.limit,
        model=args.model,
        batch_size=args.batch_size,
        device=args.device,
        dtype=args.dtype,
        reuse=earlier(RESULTS / f"{name}.json") if args.reuse else None,
    )
    run(settings, settings.out.with_suffix(".png"), command_of(name, settings))


def earlier(path: Path) -> Path | None:
    """The report at ``path``, which stays until the new one takes its place, if rows can be taken from it."""
    if path.exists() and reusable(json.loads(path.read_text())):
        return path
    print(f"{path.name} holds no results to take over; all rows are measured", flush=True)
    return None


def command_of(name: str, settings: Any) -> str:
    """The command that measures the set, to be typed in any checkout."""
    parts = ["lloco", "eval"]
    for part in SETS[name]:
        parts += ["--docs", f"$LLOCO_DATA/{part}.docs.jsonl.gz", "--qa", f"$LLOCO_DATA/{part}.qa.jsonl.gz"]
    parts += ["--methods", ",".join(settings.methods), "--limit", str(settings.limit), "--model", Path(settings.model).name]
    for option, path in vars(settings.adapters).items():
        if path is not None:
            place = Path(path)
            parts += ["--adapter" if option == "group" else f"--{option}-adapter", place.name if place.is_absolute() else place.as_posix()]
    for other in settings.texts:
        parts += ["--texts", f"{other}={other}/{name}.jsonl"]
    parts += ["--batch-size", str(settings.batch_size), "--json", f"{name}.json", "--plot", f"{name}.png"]
    return " ".join(part if part.startswith("$LLOCO_DATA") else shlex.quote(part) for part in parts)


def page(reports: Mapping[str, Mapping[str, Any]], results: str) -> str:
    """The page in Markdown: the mean over the judged sets beside what it is to reach, then one part a set."""
    lines = [
        "# Scorecards",
        "",
        "Written by `benchmarks/scorecards.py`. Each set is asked in every way: without context, with the whole text (by the untouched base "
        "model, and by one with a LoRA that was trained on raw text with the same questions), with the text cut to as many positions as the "
        "summaries take, and with summaries at each ratio. Scores are in percent, likelihoods in nats a token of the first answer (lower is "
        "better), intervals 95 % (bootstrap over documents). `kept` is (row - none) / (raw+lora - none) in the set's main metric. Seconds "
        "are what one question costs: reading its context once, and its answer; compare them within a table, and roughly, for other work may have "
        "shared the machine.",
        "",
        *_mean_table(reports),
    ]
    for name, report in reports.items():
        lines += ["", f"## {name}", "", *_part(name, report, results)]
    return "\n".join(lines) + "\n"


def _mean_table(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["## What is kept, over the four sets", ""]
    lines += ["| ratio | kept, mean of the sets | to reach | sets |", "|---|---|---|---|"]
    for ratio, target in TARGETS.items():
        found = mean_rel([reports[n]["rows"].get(f"lloco@{ratio}", {}).get("rel") for n in JUDGED if n in reports])
        n = found[3]
        mean = f"{found[0]:.2f} [{found[1]:.2f}, {found[2]:.2f}]" if n else "not measured"
        reached = "" if n < len(JUDGED) else ", reached" if found[1] >= target else ", not reached" if found[2] < target else ", undecided"
        lines.append(f"| {ratio}x | {mean} | {target:.2f}{reached} | {n} of {len(JUDGED)} |")
    lines += [
        "",
        "The mean weighs the sets alike; its interval takes theirs as independent and normal. A target is reached when the whole interval is "
        "above it, and undecided when it lies within.",
    ]
    return lines


def mean_rel(intervals: Sequence[Mapping[str, float] | None]) -> tuple[float, float, float, int]:
    """Mean, low and high of the mean over sets, and how many sets have one."""
    some = [i for i in intervals if i]
    if not some:
        return math.nan, math.nan, math.nan, 0
    mean = sum(i["mean"] for i in some) / len(some)
    half = math.sqrt(sum(((i["high"] - i["low"]) / 2) ** 2 for i in some)) / len(some)
    return mean, mean - half, mean + half, len(some)


def _part(name: str, report: Mapping[str, Any], results: str) -> list[str]:
    rows = report["rows"]
    metrics = [m for m in METRICS if any(row[m] for row in rows.values())]
    unanswerable = report["n_unanswerable"] > 0
    head = ["row", *(NAMES[m] for m in metrics), "kept", *(["says unknown"] if unanswerable else []), "positions", "seconds", "bytes"]
    lines = [
        f"{report['n_questions'] + report['n_unanswerable']} questions about {report['n_documents']} documents"
        + (f", judged by {NAMES[report['primary']]}." if report["n_questions"] else "."),
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    for row_name, row in rows.items():
        cells = [_cell(row[m], 2 if m == "nll" else 1) for m in metrics] + [_cell(row["rel"], 2)]
        cells += [_cell(row["unanswerable"] and row["unanswerable"]["says_unknown"], 0)] if unanswerable else []
        cells += [f"{row['positions']:,.0f}", f"{row['seconds']:.2f}", f"{row['bytes']:,.0f}"]
        lines.append(f"| {row_name} | {' | '.join(cells)} |")
    cuts = [f"{n} ({row['cut']})" for n, row in rows.items() if row["cut"]]
    versions = ", ".join(f"{n} {v}" for n, v in report["versions"].items())
    lines += ["", report["verdict"]]
    lines += ["", f"Questions whose text was cut to fit the window: {', '.join(cuts)}."] if cuts else []
    lines += [line for note in taken(report) for line in ("", note)]
    lines += [
        "",
        f"![{name}: score against positions]({results}/{name}.png)",
        "",
        f"{report['date']}, {report['machine']}; {versions}.",
        "",
        "```bash",
        report["command"],
        "```",
    ]
    return lines


def _cell(interval: Mapping[str, float] | None, digits: int) -> str:
    if interval is None:
        return ""
    return f"{interval['mean']:.{digits}f} [{interval['low']:.{digits}f}, {interval['high']:.{digits}f}]"


if __name__ == "__main__":
    main()
