"""Learning offline, as the paper means it: the example corpus is known when the adapter is learnt, the questions asked later are not.

    python -m benchmarks.same_documents             # learns three adapters in RUNS and asks; goes on where it stopped
    python -m benchmarks.same_documents --render    # the table in docs/learning.md again, from the JSON

Adapters from the 188 training questions, from synthesized ones, and from both; the 94 held-out questions, each from the two passages that retrieval
finds. The synthesized ones are those of ``lloco learn``, whose seconds are reported, too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.provenance import provenance
from benchmarks.tables import fill, interval
from lloco_integrations import Engine, GenerationParams, placeholder
from lloco_integrations.evaluation.metrics import bootstrap, f1
from lloco_integrations.evaluation.retrieval import Passages
from lloco_integrations.examples import load_documents, load_questions
from lloco_integrations.training.templates import PLAIN

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "same_documents.json"
PAGE = ROOT / "docs" / "learning.md"
GROUP = "observatory"
RATIOS = (4, 8, 16, 32)
ADAPTERS = {"none": "no adapter", "questions": "188 questions", "synthesized": "synthesized", "both": "both"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "same_documents")
    parser.add_argument("--epochs", type=float, default=1.5)
    parser.add_argument("--render", action="store_true", help="measure nothing, write the table from the JSON")
    args = parser.parse_args()
    if not args.render:
        measure(args.runs, args.epochs)
    fill(PAGE, "same documents", "\n".join(table(json.loads(RESULT.read_text()))))


def measure(runs: Path, epochs: float) -> None:
    """The three adapters, then the held-out questions under each."""
    folder, asked = runs / GROUP, runs / "questions.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    for document in load_documents():
        (folder / f"{document.doc_id}.md").write_text(document.text)
    lines = [{"id": q.id, "doc_id": f"{q.doc_id}.md", "question": q.question, "answers": list(q.answers)} for q in load_questions("train")]
    asked.write_text("".join(json.dumps(line) + "\n" for line in lines))
    took = {}
    for name, options in (
        ("synthesized", []),
        ("questions", ["--qa", str(asked), "--no-synthesize"]),
        ("both", ["--qa", str(asked)]),
    ):
        out, kept = runs / name, runs / "synthesized" / "synthesized.jsonl"
        if name == "both" and kept.exists():
            out.mkdir(exist_ok=True)
            (out / kept.name).write_text(kept.read_text())  # the same questions as in the second run
        began = time.perf_counter()
        words = ["learn", str(folder), "--out", str(out), "--epochs", str(epochs), "--limit", "12", *options]
        print(f"$ lloco {' '.join(words)}", flush=True)
        subprocess.run([sys.executable, "-m", "lloco_integrations.cli", *words], check=True)
        took[name] = time.perf_counter() - began
    cards = {n: json.loads((runs / n / "adapter" / "lloco_adapter.json").read_text()) for n in took}
    report = {"what": str(__doc__).splitlines()[0], **provenance(), "epochs": epochs, "seconds": took}
    report["fingerprint"] = Engine().model.fingerprint
    report["adapters"] = {n: {k: c[k] for k in ("documents", "questions", "steps", "validation")} for n, c in cards.items()}
    report["rows"] = ask({n: runs / n / "adapter" for n in took})
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


def ask(adapters: Mapping[str, Path]) -> dict[str, Any]:
    """Row's name -> F1 with its interval, and every answer."""
    engine = Engine(adapters={name: str(path) for name, path in adapters.items()}, store_target="memory://")
    passages = Passages.of_documents([(d.doc_id, d.text) for d in load_documents()])
    questions = load_questions("heldout")
    found = [[p.text for p, _ in passages.search(q.question, 2)] for q in questions]
    rows: dict[str, Any] = {}
    for adapter in ADAPTERS:
        for ratio in (None, *RATIOS) if adapter == "none" else RATIOS:
            shown = [
                "\n\n".join(map(placeholder.neutralise, top) if ratio is None else (c.content for c in engine.compress(top, ratio=ratio)))
                for top in found
            ]
            prompts = [PLAIN.fill(context, q.question) for context, q in zip(shown, questions, strict=True)]
            answers = engine.generate(prompts, GenerationParams(max_new_tokens=24), [adapter] * len(prompts))
            scores = [100 * f1(a.text, q.answers) for a, q in zip(answers, questions, strict=True)]
            name = "text" if ratio is None else f"{adapter}@{ratio}"
            rows[name] = {"f1": bootstrap(scores).__dict__, "answers": {q.id: a.text for q, a in zip(questions, answers, strict=True)}}
            print(f"{name:>16}  F1 {bootstrap(scores)}", flush=True)
    return rows


def table(report: Mapping[str, Any]) -> list[str]:
    """The table in Markdown."""
    rows, learnt = report["rows"], report["adapters"]
    lines = [f"| ratio | {' | '.join(ADAPTERS.values())} |", f"|---|{'---|' * len(ADAPTERS)}"]
    lines += [f"| {r}x | {' | '.join(interval(rows[f'{a}@{r}']['f1']) for a in ADAPTERS)} |" for r in RATIOS]
    gains = "; ".join(f"{r}x {', '.join(f'{ADAPTERS[a]} {_gain(rows, a, r)}' for a in learnt)}" for r in RATIOS[:2])
    counts = "; ".join(
        f"{ADAPTERS[n]}: {c['questions']} to learn from, {c['steps']} steps, held-out loss {_loss(c, 4)} at 4x and {_loss(c, 32)} at 32x"
        for n, c in learnt.items()
    )
    minutes = report["seconds"]["synthesized"] / 60
    return [
        *lines,
        "",
        f"By the same questions, over no adapter: {gains}.",
        "",
        f"F1 with 95 % intervals; the text of the same passages, read by the decoder alone: {interval(rows['text']['f1'])}. {counts} (of the step "
        f"that did best). `lloco learn` on this corpus took {minutes:.0f} minutes. {report['date']}, {report['machine']}; `python -m "
        f"benchmarks.same_documents`, [raw output](../benchmarks/results/{RESULT.name}).",
    ]


def _loss(learnt: Mapping[str, Any], ratio: int) -> str:
    """Nats a token on held-out questions of other documents, before and after."""
    before, after = (learnt["validation"][when][f"{ratio}x"] for when in ("before", "after"))
    return f"{before:.2f} -> {after:.2f}"


def _gain(rows: Mapping[str, Any], adapter: str, ratio: int) -> str:
    """F1 more than without an adapter, question by question."""
    right = {q.id: q.answers for q in load_questions("heldout")}
    ours, alone = (rows[f"{name}@{ratio}"]["answers"] for name in (adapter, "none"))
    gain = bootstrap([100 * (f1(ours[q], right[q]) - f1(alone[q], right[q])) for q in right])
    return f"{gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"


if __name__ == "__main__":
    main()
