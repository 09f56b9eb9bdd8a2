"""F1 against prompt positions: raw text cut to fit, one ratio for all passages, and a token budget spent by retrieval score.

    python benchmarks/budget_curve.py --json benchmarks/results/budget_curve.json --plot docs/budget_curve.png

Each question gets the same ``--top-k`` passages; rows differ in how these are shown. "cut" is the passages' text, best first, cut
after B positions; "budget" is Engine.fit, which is what token_budget= does. Positions are those of the passages.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

from lloco_integrations import Engine, GenerationParams, placeholder
from lloco_integrations.evaluation.datasets import read_documents, read_questions
from lloco_integrations.evaluation.metrics import bootstrap, f1
from lloco_integrations.evaluation.retrieval import Passage, Passages
from lloco_integrations.training.templates import PLAIN

try:
    from benchmarks.provenance import provenance
except ModuleNotFoundError:  # run as a file, not as a module
    from provenance import provenance

BUDGETS = (32, 64, 128, 256, 512)


def cut(engine: Engine, texts: Sequence[str], budget: int) -> str:
    """As much of ``texts`` as fits ``budget`` positions, best first."""
    prompter = engine.model.prompter
    assert prompter is not None
    shown, rest = [], budget
    for text in texts:
        ids = prompter.text_ids(placeholder.neutralise(text))[:rest]
        shown.append(prompter.text_of(ids))
        rest -= len(ids)
        if rest <= 0:
            break
    return "\n\n".join(shown)


def contexts(engine: Engine, row: str, found: Sequence[tuple[Passage, float]]) -> str:
    """What ``row`` shows of the passages ``found``."""
    kind, _, amount = row.partition(" ")
    texts, scores = [p.text for p, _ in found], [score for _, score in found]
    if kind == "none":
        return ""
    if kind == "cut":
        return cut(engine, texts, int(amount))
    if kind == "budget":
        return "\n\n".join(c.content for c in engine.show(texts, token_budget=int(amount), scores=scores) if c is not None)
    if kind == "raw":
        return "\n\n".join(placeholder.neutralise(t) for t in texts)
    return "\n\n".join(c.content for c in engine.compress(texts, ratio=int(kind.removesuffix("x"))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--data", default="squad_paragraph.dev", help="NAME.SPLIT in the data folder (LLOCO_DATA)")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--top-k", type=int, default=4)
    parser.add_argument("--limit", type=int, default=120, help="questions, drawn with a fixed seed")
    args = parser.parse_args()
    folder = Path(os.environ.get("LLOCO_DATA", "../shared/data"))
    documents = read_documents(folder / f"{args.data}.docs.jsonl.gz")
    questions = [q for q in read_questions(folder / f"{args.data}.qa.jsonl.gz") if q.answers]
    questions = random.Random(0).sample(questions, min(args.limit, len(questions)))
    engine = Engine(args.model, "memory://")
    passages = Passages.of_documents([(d.doc_id, d.text) for d in documents])
    found = [passages.search(q.question, args.top_k) for q in questions]
    hits = sum(any(p.doc_id == q.doc_id for p, _ in top) for q, top in zip(questions, found, strict=True)) / len(questions)
    print(
        f"{len(passages.passages)} passages, {len(questions)} questions, {100 * hits:.0f} % with their document among {args.top_k}",
        flush=True,
    )
    ratios = [f"{r}x" for r in engine.model.spec.ratios]
    rows: dict[str, dict[str, object]] = {}
    for row in ["none", "raw", *ratios, *(f"{kind} {b}" for kind in ("cut", "budget") for b in BUDGETS)]:
        shown = [contexts(engine, row, top) for top in found]
        positions = [engine.count(s, templated=False).n_positions if s else 0 for s in shown]
        began = time.perf_counter()
        prompts = [PLAIN.fill(s, q.question) for s, q in zip(shown, questions, strict=True)]
        answers = engine.generate(prompts, GenerationParams(max_new_tokens=24))
        seconds = (time.perf_counter() - began) / len(answers)
        scores = [100 * f1(a.text, q.answers) for a, q in zip(answers, questions, strict=True)]
        rows[row] = {
            "f1": bootstrap(scores).__dict__,
            "positions": sum(positions) / len(positions),
            "most_positions": max(positions),
            "seconds": seconds,
            "answers": [{"id": q.id, "answer": a.text, "f1": round(s, 1)} for q, a, s in zip(questions, answers, scores, strict=True)],
        }
        print(f"{row:>11}  F1 {bootstrap(scores)}  positions {rows[row]['positions']:.0f}  seconds {seconds:.2f}", flush=True)
    report = {
        "what": __doc__.splitlines()[0],
        "data": args.data,
        "questions": len(questions),
        "passages": len(passages.passages),
        "top_k": args.top_k,
        "retrieval_hits_document": hits,
        "model": args.model,
        "fingerprint": engine.model.fingerprint,
        **provenance(),
        "rows": rows,
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.plot:
        plot(report, args.plot)


def plot(report: dict, path: Path) -> None:  # type: ignore[type-arg]
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = report["rows"]
    figure, axes = plt.subplots(figsize=(7, 4.2))
    kinds = {
        "raw text cut to fit": [n for n in rows if n.startswith("cut")] + ["raw"],
        "one ratio for all": [n for n in reversed(rows) if n.endswith("x")],
        "token budget": [n for n in rows if n.startswith("budget")],
    }
    for label, names in kinds.items():
        xs, ys = [rows[n]["positions"] for n in names], [rows[n]["f1"]["mean"] for n in names]
        low, high = ([abs(rows[n]["f1"][end] - y) for n, y in zip(names, ys, strict=True)] for end in ("low", "high"))
        axes.errorbar(xs, ys, yerr=[low, high], marker="o", markersize=4, capsize=2, label=label)
        if label == "one ratio for all":
            for name, x, y in zip(names, xs, ys, strict=True):
                axes.annotate(name, (x, y), textcoords="offset points", xytext=(4, -11), fontsize=8)
    axes.axhline(rows["none"]["f1"]["mean"], linestyle=":", color="grey", label="no context")
    axes.set(
        xscale="log",
        xlabel=f"positions of the {report['top_k']} passages",
        ylabel="F1",
        title=f"{report['data']}, {report['questions']} questions",
    )
    axes.set_xticks([16, 32, 64, 128, 256, 512], ["16", "32", "64", "128", "256", "512"])
    axes.set_xticks([], minor=True)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
