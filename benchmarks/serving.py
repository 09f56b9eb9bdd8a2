"""What a vLLM server gives: requests a second and seconds to the first token, for raw text and for summaries; and what its cache holds.

    python -m benchmarks.serving --python VENV/bin/python    # the environment that has vLLM; measures both backends on this machine
    python -m benchmarks.serving --render                    # the tables in docs/serving.md again, from the JSON

*Load*: the example corpus's documents, each whole, with a question, at several numbers of requests at a time. Every prompt begins with a number of
its own, so that no cache helps. *Hot documents*: questions go round a number of documents, under a cache that holds few of them; what counts is the
second round. The rival of summaries there is raw text under vLLM's own prefix caching.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.arguments import numbers
from benchmarks.provenance import provenance
from benchmarks.tables import fill, source
from lloco_integrations import Engine, GenerationParams, placeholder
from lloco_integrations.backends.runtime import Runtime
from lloco_integrations.cli.serve import plan
from lloco_integrations.examples import load_documents, load_questions
from lloco_integrations.models.load import decoder_directory
from lloco_integrations.training.templates import PLAIN

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "serving.json"
PAGE = ROOT / "docs" / "serving.md"
CONTEXTS = {"raw text": None, "4x": 4, "8x": 8, "32x": 32}
BACKENDS = ("transformers", "vllm")
START = 600.0
BLOCK = 128
"""Positions of a block of vLLM's cache on a CPU."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--port", type=int, default=8011)
    parser.add_argument("--at-once", type=numbers, default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=32, help="of each cell of the first table")
    parser.add_argument("--hot", type=numbers, default=[2, 4, 8, 16, 30], help="documents of each row of the second table")
    parser.add_argument("--cache-blocks", type=int, default=64, help=f"of {BLOCK} positions, for the second table")
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--render", action="store_true", help="measure nothing, write the tables from the JSON")
    args = parser.parse_args()
    if not args.render:
        args.json.write_text(json.dumps(measure(args), indent=1) + "\n")
    if args.json == RESULT:
        report = json.loads(RESULT.read_text())
        fill(PAGE, "load", "\n".join(load_table(report)))
        fill(PAGE, "hot documents", "\n".join(hot_table(report)))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    report: dict[str, Any] = {
        "what": str(__doc__).splitlines()[0],
        **provenance(),
        "command": "python -m benchmarks.serving --python VENV/bin/python",
    }
    here = Engine(args.model, "memory://serving", dtype=args.dtype)
    report |= {"fingerprint": here.model.fingerprint, "dtype": args.dtype, "requests": args.requests, "new_tokens": args.new_tokens}
    there = Engine(args.model, "memory://serving", dtype=args.dtype, runtime=Runtime("vllm", f"http://127.0.0.1:{args.port}", timeout=600))
    documents = load_documents()
    questions = {
        d.doc_id: [q.question for q in (*load_questions("train"), *load_questions("heldout")) if q.doc_id == d.doc_id] for d in documents
    }
    shown = {name: contexts(here, ratio) for name, ratio in CONTEXTS.items()}
    report["positions"] = {
        name: round(statistics.mean(here.count(text, templated=False).n_positions for text in texts)) for name, texts in shown.items()
    }
    report["load"] = []
    for backend, engine in zip(BACKENDS, (here, there), strict=True):
        with server(args, []) if backend == "vllm" else _nothing():
            load(engine, [ask(shown["32x"][0], "What is it about?", "warm")], 1, args.new_tokens)
            for name, texts in shown.items():
                for n in args.at_once:
                    asked = [
                        ask(texts[i % len(texts)], questions[documents[i % len(texts)].doc_id][0], f"{backend} {name} {n} {i}")
                        for i in range(args.requests)
                    ]
                    report["load"].append({"backend": backend, "context": name, "at_once": n, **load(engine, asked, n, args.new_tokens)})
                    print(json.dumps(report["load"][-1]), flush=True)
    report["hot"], report["cache_positions"] = [], args.cache_blocks * BLOCK
    with server(args, ["--num-gpu-blocks-override", str(args.cache_blocks), "--max-model-len", str(args.cache_blocks * BLOCK // 2)]):
        for name in ("raw text", "8x"):
            for n in args.hot:
                rounds = []
                for turn in range(2):
                    asked = [ask(shown[name][i], questions[documents[i].doc_id][turn], "") for i in range(n)]
                    before = cached(args.port)
                    made = load(there, asked, 1, args.new_tokens)
                    after = cached(args.port)
                    looked, found = (b - a for a, b in zip(before, after, strict=True))
                    rounds.append(made | {"hit_rate": found / looked if looked else 0.0})
                report["hot"].append({"context": name, "documents": n, "first": rounds[0], "second": rounds[1]})
                print(json.dumps(report["hot"][-1]), flush=True)
    return report


def contexts(engine: Engine, ratio: int | None) -> list[str]:
    """Each document whole: its text, or the placeholder of its summary."""
    texts = [d.text for d in load_documents()]
    return [placeholder.neutralise(t) for t in texts] if ratio is None else [c.content for c in engine.compress(texts, ratio=ratio)]


def ask(context: str, question: str, number: str) -> str:
    """A prompt as PLAIN is; ``number`` in front keeps caches from helping."""
    (message,) = PLAIN.fill(context, question)
    return (f"[{number}]\n" if number else "") + message.content


def load(engine: Engine, prompts: Sequence[str], at_once: int, new_tokens: int) -> dict[str, float]:
    """``prompts``, ``at_once`` at a time, as streams: requests a second, and medians of the seconds to the first piece and to the end."""
    params = GenerationParams(max_new_tokens=new_tokens)
    lock_free: list[tuple[float, float]] = []

    def one(prompt: str) -> None:
        began, first = time.perf_counter(), 0.0
        for _ in engine.stream(prompt, params):
            first = first or time.perf_counter() - began
        lock_free.append((first, time.perf_counter() - began))

    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, prompts))
    took = time.perf_counter() - began
    first, whole = (statistics.median(column) for column in zip(*lock_free, strict=True))
    slowest = max(f for f, _ in lock_free)
    return {"per_second": len(prompts) / took, "first": first, "first_slowest": slowest, "whole": whole}


@contextmanager
def server(args: argparse.Namespace, more: Sequence[str], adapters: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A server for the time of the block."""
    launch = plan(args.python, decoder_directory(args.model), args.model, adapters or {}, port=args.port, dtype=args.dtype, more=more)
    environment = {**os.environ, **launch.environment, "VLLM_CPU_KVCACHE_SPACE": "1"}
    with Path(os.devnull).open("wb") as nothing:
        process = subprocess.Popen(launch.arguments, env=environment, stdout=nothing, stderr=nothing, start_new_session=True)
    try:
        until = time.monotonic() + START
        while time.monotonic() < until and not _healthy(args.port):
            if process.poll() is not None:
                raise SystemExit(f"the server ended with {process.returncode}; run it by hand to see why: {launch.line}")
            time.sleep(1)
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def cached(port: int) -> tuple[float, float]:
    """Positions that the server has looked up in its prefix cache so far, and those that it found there."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text

    def total(name: str) -> float:
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name}{{"))

    return total("vllm:prefix_cache_queries_total"), total("vllm:prefix_cache_hits_total")


def load_table(report: Mapping[str, Any]) -> list[str]:
    """Requests a second, and the median of seconds to the first token, for each context and number at a time."""
    numbers = list(dict.fromkeys(cell["at_once"] for cell in report["load"]))
    lines = [f"| context | backend | {' | '.join(f'{n} at a time' for n in numbers)} |", f"|---|---|{'---|' * len(numbers)}"]
    for name in CONTEXTS:
        for backend in BACKENDS:
            cells = [c for n in numbers for c in report["load"] if (c["backend"], c["context"], c["at_once"]) == (backend, name, n)]
            shown = " | ".join(f"{c['per_second']:.2f}, {c['first']:.1f} s" for c in cells)
            lines.append(f"| {name} ({report['positions'][name]} positions) | {backend} | {shown} |")
    return [
        *lines,
        "",
        f"Requests a second, and the median of the seconds to the first token; {report['requests']} requests a cell, answers of up to "
        f"{report['new_tokens']} tokens, {report['dtype']}. {source(report, RESULT.name)}",
    ]


def hot_table(report: Mapping[str, Any]) -> list[str]:
    """The second round over a number of hot documents."""
    lines = [
        "| hot documents | raw text: found in the cache | seconds to first token | 8x: found in the cache | seconds to first token |",
        "|---|---|---|---|---|",
    ]
    for n in dict.fromkeys(cell["documents"] for cell in report["hot"]):
        cells = []
        for name in ("raw text", "8x"):
            (one,) = (c["second"] for c in report["hot"] if (c["context"], c["documents"]) == (name, n))
            cells += [f"{100 * one['hit_rate']:.0f} %", f"{one['first']:.2f}"]
        lines.append(f"| {n} | {' | '.join(cells)} |")
    return [*lines, "", f"The cache holds {report['cache_positions']:,} positions. {source(report, RESULT.name)}"]


if __name__ == "__main__":
    main()
