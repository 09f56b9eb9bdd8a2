"""Half an hour of mixed load on a vLLM server: does memory grow, is an answer ever wrong, does a request ever hang?

    python -m benchmarks.soak --python VENV/bin/python --adapter a=DIR --adapter b=DIR --minutes 30
    python -m benchmarks.soak --render      # the figures in docs/serving.md again, from the JSON

Workers ask the same prompts again and again, as text, summaries and both, under the adapters and none: whole answers, batches, streams, and
streams that are left early. The right answers are those that the idle server gave before, in float32, greedily. Memory is the resident set of
this process and of the server with its engine.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.provenance import provenance
from benchmarks.serving import server
from benchmarks.tables import fill
from lloco_integrations import Engine, GenerationParams
from lloco_integrations.backends.runtime import Runtime
from lloco_integrations.examples import load_documents

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "soak.json"
PAGE = ROOT / "docs" / "serving.md"
PARAMS = GenerationParams(max_new_tokens=12)
LONGEST = 300.0
"""Seconds after which a request counts as hung."""
WARM_UP = 0.2
"""Share of the time that memory may grow in."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="python")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--adapter", action="append", default=[], help="NAME=DIRECTORY")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--port", type=int, default=8012)
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--plot", type=Path, default=RESULT.with_suffix(".png"))
    parser.add_argument("--render", action="store_true", help="measure nothing, write the figures from the JSON")
    args = parser.parse_args()
    args.dtype = "float32"
    if not args.render:
        report = measure(args)
        args.json.write_text(json.dumps(report, indent=1) + "\n")
        plot(report, args.plot)
    if args.json == RESULT:
        fill(PAGE, "soak", "\n".join(told(json.loads(RESULT.read_text()))))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    adapters = dict(one.split("=", 1) for one in args.adapter)
    with server(args, [], adapters) as process:
        runtime = Runtime("vllm", f"http://127.0.0.1:{args.port}", timeout=LONGEST)
        engine = Engine(args.model, "memory://soak", adapters, dtype="float32", runtime=runtime)
        cases = prompts(engine, ["none", *adapters])
        expected = [engine.generate([prompt], PARAMS, [name])[0].text for prompt, name in cases]
        watch = Watch(engine, cases, expected)
        threads = [threading.Thread(target=watch.work, args=(seed,), daemon=True) for seed in range(args.workers)]
        for thread in threads:
            thread.start()
        began, samples = time.monotonic(), []
        while (past := time.monotonic() - began) < 60 * args.minutes:
            samples.append([round(past, 1), _resident(psutil.Process()), _resident(psutil.Process(process.pid), children=True)])
            print(f"{past:6.0f} s  {samples[-1][1]:,.0f} MB here, {samples[-1][2]:,.0f} MB there, {dict(watch.counts)}", flush=True)
            time.sleep(10 if args.minutes >= 5 else 1)
        watch.stop.set()
        for thread in threads:
            thread.join(LONGEST)
    return {
        "what": str(__doc__).splitlines()[0],
        **provenance(),
        "command": "python -m benchmarks.soak --python VENV/bin/python --adapter a=DIR --adapter b=DIR",
        "fingerprint": engine.model.fingerprint,
        "minutes": args.minutes,
        "adapters": len(adapters),
        "workers": args.workers,
        "counts": dict(watch.counts),
        "wrong": watch.wrong[:20],
        "errors": watch.errors[:20],
        "hung": sum(thread.is_alive() for thread in threads),
        "slowest_seconds": round(watch.slowest, 2),
        "samples": samples,
        "growth_percent": {"client": growth([s[1] for s in samples]), "server": growth([s[2] for s in samples])},
    }


class Watch:
    """What the workers do and find. ``counts``: of requests by kind."""

    def __init__(self, engine: Engine, cases: Sequence[tuple[str, str]], expected: Sequence[str]) -> None:
        self.engine, self.cases, self.expected = engine, cases, expected
        self.stop = threading.Event()
        self.counts: Counter[str] = Counter()
        self.wrong: list[dict[str, str]] = []
        self.errors: list[str] = []
        self.slowest = 0.0

    def work(self, seed: int) -> None:
        rng = random.Random(seed)
        kinds = (self.whole, self.batch, self.stream, self.left_early)
        while not self.stop.is_set():
            kind = rng.choice(kinds)
            began = time.monotonic()
            try:
                kind(rng)
                self.counts[kind.__name__] += 1
            except Exception as error:
                self.errors.append(f"{type(error).__name__}: {error}")
            self.slowest = max(self.slowest, time.monotonic() - began)

    def whole(self, rng: random.Random) -> None:
        self.batch(rng, 1)

    def batch(self, rng: random.Random, n: int = 4) -> None:
        picked = [rng.randrange(len(self.cases)) for _ in range(n)]
        made = self.engine.generate([self.cases[i][0] for i in picked], PARAMS, [self.cases[i][1] for i in picked])
        for i, answer in zip(picked, made, strict=True):
            self.judge(i, answer.text)

    def stream(self, rng: random.Random) -> None:
        i = rng.randrange(len(self.cases))
        self.judge(i, "".join(chunk.delta for chunk in self.engine.stream(self.cases[i][0], PARAMS, self.cases[i][1])))

    def left_early(self, rng: random.Random) -> None:
        i = rng.randrange(len(self.cases))
        chunks: Any = self.engine.stream(self.cases[i][0], PARAMS, self.cases[i][1])
        next(chunks)
        chunks.close()

    def judge(self, i: int, text: str) -> None:
        if text != self.expected[i]:
            self.wrong.append({"case": str(i), "adapter": self.cases[i][1], "expected": self.expected[i], "got": text})


def prompts(engine: Engine, names: Sequence[str]) -> list[tuple[str, str]]:
    """Texts, summaries and both, each under every adapter of ``names``."""
    texts = [d.text[:900] for d in load_documents()[:8]]
    marks = [c.content for c in engine.compress(texts, ratio=8)]
    made = [f"{text}\n\nWhat is this about?" for text in texts[:3]]
    made += [f"{mark}\n\nWhat is this about?" for mark in marks]
    made += [f"{marks[i]}\n\n{texts[-1 - i][:300]}\n\nWhat do they share?" for i in range(3)]
    return [(prompt, name) for prompt in made for name in names]


def _resident(process: psutil.Process, *, children: bool = False) -> float:
    """Megabytes."""
    total = process.memory_info().rss
    for child in process.children(recursive=True) if children else ():
        try:
            total += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return round(total / 1e6, 1)


def growth(values: Sequence[float]) -> float:
    """Percent by which the median of the last tenth is over that of the tenth after the warm-up."""
    rest = values[int(len(values) * WARM_UP) :]
    n = max(1, len(values) // 10)
    return round(100 * (statistics.median(rest[-n:]) / statistics.median(rest[:n]) - 1), 2)


def plot(report: Mapping[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    minutes = [s[0] / 60 for s in report["samples"]]
    for column, name in ((1, "client"), (2, "server and engine")):
        axes.plot(minutes, [s[column] for s in report["samples"]], label=name)
    axes.set(xlabel="minutes", ylabel="resident memory, MB", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def told(report: Mapping[str, Any]) -> list[str]:
    """What was found, in words."""
    counts = report["counts"]
    kinds = f"{counts.get('whole', 0):,} alone, {counts.get('batch', 0):,} batches of four, {counts.get('stream', 0):,} streams, "
    kinds += f"{counts.get('left_early', 0):,} streams left early"
    grown = report["growth_percent"]
    return [
        f"{report['minutes']:g} minutes, {report['workers']} workers, {report['adapters']} adapters and none ({kinds}): "
        f"{len(report['wrong'])} wrong answers, {len(report['errors'])} errors, {report['hung']} requests that hung; the slowest took "
        f"{report['slowest_seconds']:.1f} s. After the warm-up, memory grew by {grown['client']:.1f} % in the client and {grown['server']:.1f} % in "
        f"the server. {report['date']}, {report['machine']}; `{report['command']}`, [raw output](../benchmarks/results/{RESULT.name}).",
        "",
        "![Memory over time](../benchmarks/results/soak.png)",
    ]


if __name__ == "__main__":
    main()
