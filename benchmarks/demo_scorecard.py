"""F1 on the example corpus's held-out questions: no context, raw text, and summaries at each ratio, on the same retrieved passages.

    python benchmarks/demo_scorecard.py --json benchmarks/results/demo.json

The rows share one model: the shipped decoder reads raw text, summaries, or nothing. Passages are the retriever's top k.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from lloco_integrations import Engine, GenerationParams, placeholder
from lloco_integrations.evaluation.metrics import bootstrap, exact_match, f1
from lloco_integrations.evaluation.retrieval import Passages
from lloco_integrations.examples import load_documents, load_questions
from lloco_integrations.training.templates import TEMPLATES

try:
    from benchmarks.provenance import provenance
except ModuleNotFoundError:  # run as a file, not as a module
    from provenance import provenance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--top-k", type=int, default=2)
    parser.add_argument("--template", default="plain", choices=[t.name for t in TEMPLATES])
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    template = next(t for t in TEMPLATES if t.name == args.template)
    engine = Engine(args.model, "memory://")
    passages = Passages.of_documents([(d.doc_id, d.text) for d in load_documents()])
    questions = load_questions("heldout")[: args.limit]
    found = [[p for p, _ in passages.search(q.question, args.top_k)] for q in questions]
    hits = sum(any(p.doc_id == q.doc_id for p in top) for q, top in zip(questions, found, strict=True)) / len(questions)
    texts = sorted({p.text for top in found for p in top})
    began = time.perf_counter()
    engine.compress(texts)
    compress_seconds = time.perf_counter() - began
    rows: dict[str, dict[str, object]] = {}
    scores: dict[str, list[float]] = {}
    for name, ratio in [("none", None), ("raw", 1), *((f"{r}x", r) for r in engine.model.spec.ratios)]:
        prompts = []
        for question, top in zip(questions, found, strict=True):
            if name == "none":
                shown = ""
            elif name == "raw":
                shown = "\n\n".join(placeholder.neutralise(p.text) for p in top)
            else:
                shown = "\n\n".join(c.content for c in engine.compress([p.text for p in top], ratio=ratio))
            prompts.append(template.fill(shown, question.question))
        began = time.perf_counter()
        answers = engine.generate(prompts, GenerationParams(max_new_tokens=24))
        seconds = time.perf_counter() - began
        scores[name] = [100 * f1(a.text, q.answers) for a, q in zip(answers, questions, strict=True)]
        exact = [100 * exact_match(a.text, q.answers) for a, q in zip(answers, questions, strict=True)]
        rows[name] = {
            "f1": bootstrap(scores[name]).__dict__,
            "exact_match": bootstrap(exact).__dict__,
            "gain_over_none": bootstrap([a - b for a, b in zip(scores[name], scores["none"], strict=True)]).__dict__,
            "positions": sum(a.usage.prompt_tokens for a in answers) / len(answers),
            "source_tokens": sum(a.usage.source_tokens for a in answers) / len(answers),
            "seconds": seconds / len(answers),
            "answers": [
                {"id": q.id, "answer": a.text, "f1": round(s, 1)} for q, a, s in zip(questions, answers, scores[name], strict=True)
            ],
        }
        print(
            f"{name:>5}  F1 {bootstrap(scores[name])}  over none {bootstrap([a - b for a, b in zip(scores[name], scores['none'], strict=True)])}"
            f"  positions {rows[name]['positions']:.0f}  seconds {rows[name]['seconds']:.2f}",
            flush=True,
        )
    report = {
        "what": __doc__.splitlines()[0],
        "model": args.model,
        "fingerprint": engine.model.fingerprint,
        "template": args.template,
        "top_k": args.top_k,
        "questions": len(questions),
        "retrieval_hits_document": hits,
        "passages_compressed": len(texts),
        "compress_seconds": compress_seconds,
        **provenance(),
        "rows": rows,
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
