"""The tables and plots of docs/performance.md, from the reports of the scripts that measure speed.

python -m benchmarks.performance            # the page again, from the committed reports
python -m benchmarks.performance --measure  # first measure all of it on this machine: some twenty minutes on two cores
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from benchmarks import answering, compressing, growth, kernels, overhead, rivals, storing
from benchmarks.tables import fill

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
RESULTS = Path(__file__).parent / "results" / "performance"
SCRIPTS: dict[str, ModuleType] = {
    "answering": answering,
    "compressing": compressing,
    "rivals": rivals,
    "storing": storing,
    "overhead": overhead,
    "growth": growth,
    "kernels": kernels,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument(
        "--llmlingua-python", help="the environment of LLMLingua, see benchmarks/peers/README.md; without it its rows are left out"
    )
    args = parser.parse_args()
    if args.measure:
        for name in SCRIPTS:
            more = ["--llmlingua-python", args.llmlingua_python] if name == "rivals" and args.llmlingua_python else []
            print(f"== {name}", flush=True)
            subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *more], check=True)
    for name, script in SCRIPTS.items():
        report = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for place, lines in script.tables(report).items():
            fill(PAGE, place, "\n".join(lines))
        if hasattr(script, "plot"):
            script.plot(report, RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
