"""What a domain's adapter is worth on documents that it has not seen, against the same training on raw text.

    LLOCO_DATA=../shared/data python -m benchmarks.in_domain --domains pubmedqa       # one domain, or all of them
    python -m benchmarks.in_domain --render                                           # docs/learning.md again, from the JSONs

For each domain: ``lloco compress`` and ``lloco finetune`` on training documents, ``lloco pretrain --reads raw`` for the rival that reads their text,
which begins from the scorecards' rival, then ``lloco eval`` on other documents. Every step goes on where it stopped. Adapters stay in RUNS; the
commands are in the JSON's "how".
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tables import fill, interval
from lloco_integrations.evaluation.metrics import f1
from lloco_integrations.evaluation.report import write

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "in_domain"
PAGE = ROOT / "docs" / "learning.md"
RIVALS = ROOT / "benchmarks" / "adapters"
RATIOS = (4, 8, 16, 32)
_PICKED = ("none", "raw", "raw+lora", "lloco@4", "lloco@8", "lloco+adapter@4", "lloco+adapter@8")


@dataclass(frozen=True)
class Domain:
    """``train`` and ``test``: data sets, none for the example corpus, of which every fifth document is for the test."""

    train: str | None
    test: str | None
    documents: int
    questions: int
    asked: int
    epochs: float
    rival_steps: int


DOMAINS = {
    "observatory": Domain(None, None, 24, 400, 48, 3, 40),
    "pubmedqa": Domain("pubmedqa.train", "pubmedqa.test", 200, 200, 30, 1.5, 40),
    "fairytaleqa": Domain("fairytaleqa.train", "fairytaleqa.test", 20, 240, 24, 1.5, 40),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "in_domain")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the tables from the JSONs")
    args = parser.parse_args()
    if not args.render:
        RESULTS.mkdir(parents=True, exist_ok=True)
        for name in args.domains:
            if not (RESULTS / f"{name}.json").exists():
                measure(name, DOMAINS[name], args.runs / name, args.device)
    reports = {n: json.loads((RESULTS / f"{n}.json").read_text()) for n in DOMAINS if (RESULTS / f"{n}.json").exists()}
    fill(PAGE, "in domain", "\n".join(line for name, report in reports.items() for line in part(name, report)))


def measure(name: str, domain: Domain, run: Path, device: str) -> None:
    """All steps for one domain."""
    write_data(domain, run)
    store, said = f"sqlite:///{(run / 'store.sqlite').absolute()}", []

    def lloco(*words: object) -> None:
        command = ["lloco", *map(str, words)]
        said.append(shlex.join(command).replace(str(run.absolute()), "RUN").replace(str(run), "RUN").replace(f"{ROOT}/", ""))
        print(f"$ {said[-1]}", flush=True)
        subprocess.run([sys.executable, "-m", "lloco_integrations.cli", *command[1:]], check=True)

    lloco("compress", run / "train.docs.jsonl.gz", "--store", store, "--group", name, "--device", device)
    learnt = run / "adapter"
    options = ("--group", name, "--epochs", domain.epochs, "--limit", 5, "--device", device)
    lloco("finetune", "--store", store, "--qa", run / "train.qa.jsonl.gz", "--adapter", learnt, *options)
    same = ("--data-dir", run, "--data", "train", "--held-out", "train", "--held-out-documents", 1, "--evaluate-every", 10_000)
    size = ("--steps", domain.rival_steps, "--rows", 4, "--max-tokens", 400, "--lr", "4e-4", "--warmup", 10, "--decay", 0.8)
    lloco("pretrain", "--reads", "raw", "--start-from", RIVALS / "raw", "--out", run / "raw", *same, *size, "--device", device)
    out = RESULTS / f"{name}.json"
    files = ("--docs", run / "test.docs.jsonl.gz", "--qa", run / "test.qa.jsonl.gz")
    adapters = ("--adapter", learnt, "--raw-adapter", run / "raw" / "weights", "--none-adapter", RIVALS / "none")
    methods = "none,raw,raw+lora,truncate,retrieve,lloco,lloco+adapter"
    lloco("eval", *files, "--methods", methods, *adapters, "--json", out, "--plot", out.with_suffix(".png"), "--device", device)
    report = json.loads(out.read_text())
    card = json.loads((learnt / "lloco_adapter.json").read_text())
    report["how"] = said
    report["command"] = f"python -m benchmarks.in_domain --domains {name}"
    report["learnt"] = {k: card[k] for k in ("documents", "questions", "steps", "validation")}
    write(report, out)


def write_data(domain: Domain, run: Path) -> None:
    """Training and test files of one domain in ``run``; documents of the test are in no training file."""
    run.mkdir(parents=True, exist_ok=True)
    train, test = _examples() if domain.train is None else (_read(domain.train), _read(str(domain.test)))
    for part_name, (docs, asked), most, limit in (
        ("train", train, domain.documents, domain.questions),
        ("test", test, len(test[0]), domain.asked),
    ):
        rng = random.Random(f"0/{part_name}")
        names = sorted({q["doc_id"] for q in asked})
        chosen = set(rng.sample(names, min(most, len(names))))
        waiting = {n: [q for q in asked if q["doc_id"] == n] for n in sorted(chosen)}
        for some in waiting.values():
            rng.shuffle(some)
        taken: list[dict[str, Any]] = []
        while len(taken) < limit and any(waiting.values()):
            taken += [waiting[n].pop() for n in sorted(waiting) if waiting[n]]
        taken = taken[:limit]
        used = {q["doc_id"] for q in taken}
        for kind, rows in (("docs", [d for d in docs if d["doc_id"] in used]), ("qa", taken)):
            path = run / f"{part_name}.{kind}.jsonl.gz"
            data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
            path.write_bytes(gzip.compress(data, mtime=0))


Rows = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def _read(name: str) -> Rows:
    folder = Path(os.environ.get("LLOCO_DATA", ROOT.parent / "shared" / "data"))

    def rows(kind: str) -> list[dict[str, Any]]:
        with gzip.open(folder / f"{name}.{kind}.jsonl.gz", "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    return rows("docs"), [q for q in rows("qa") if q["answers"]]


def _examples() -> tuple[Rows, Rows]:
    """The example corpus: every fifth document with its questions for the test, the others for training."""
    from lloco_integrations.examples import load_documents, load_questions

    docs = [{"doc_id": d.doc_id, "title": d.title, "text": d.text} for d in load_documents()]
    asked = [
        {"id": q.id, "doc_id": q.doc_id, "question": q.question, "answers": list(q.answers)}
        for split in ("train", "heldout")
        for q in load_questions(split)
    ]
    held = {d["doc_id"] for d in docs[::5]}
    train, test = ([d for d in docs if (d["doc_id"] in held) == wanted] for wanted in (False, True))
    return (train, [q for q in asked if q["doc_id"] not in held]), (test, [q for q in asked if q["doc_id"] in held])


def part(name: str, report: Mapping[str, Any]) -> list[str]:
    """One domain's table in Markdown."""
    rows, learnt = report["rows"], report["learnt"]
    lines = [
        f"### {name}",
        "",
        f"Learnt from {learnt['questions']} questions about {learnt['documents']} documents in {learnt['steps']} steps; "
        f"{report['n_questions']} questions about {report['n_documents']} other documents. F1 with 95 % intervals.",
        "",
        "| ratio | text cut | passages found | summaries | summaries + adapter |",
        "|---|---|---|---|---|",
    ]
    for ratio in RATIOS:
        cells = [interval(rows[f"{kind}@{ratio}"]["f1"]) for kind in ("truncate", "retrieve", "lloco", "lloco+adapter")]
        lines.append(f"| {ratio}x | {' | '.join(cells)} |")
    alone = ", ".join(
        f"{what} {interval(rows[row]['f1'])}"
        for row, what in (("none", "no context"), ("raw", "the whole text, untrained"), ("raw+lora", "the whole text, same training"))
    )
    constant, value = same_answer(report["questions"])
    lines += ["", f"Beside them: {alone}; {constant!r} to every question {value:.1f}. {judged(rows)}"]
    if any(row.get("accuracy") for row in rows.values()):
        picked = ", ".join(f"{name} {row['accuracy']['mean']:.0f}" for name, row in rows.items() if name in _PICKED)
        lines += ["", f"By likelihood among the choices, accuracy in percent: {picked}."]
    where = f"../benchmarks/results/in_domain/{name}"
    lines += [
        "",
        f"{report['date']}, {report['machine']}; `{report['command']}`, [raw output]({where}.json), [plot]({where}.png).",
        "",
    ]
    return lines


def same_answer(questions: Sequence[Mapping[str, Any]]) -> tuple[str, float]:
    """The one answer that has the best F1 when it is given to every question, and that F1 in percent."""
    asked = [q["answers"] for q in questions if q["answers"]]
    scored = {a: 100 * sum(f1(a, answers) for answers in asked) / len(asked) for answers in asked for a in answers[:1]}
    best = max(scored, key=lambda a: scored[a])
    return best, scored[best]


def judged(rows: Mapping[str, Any]) -> str:
    """Whether the two targets are met, in words."""
    mean = {name: row["f1"]["mean"] for name, row in rows.items()}
    far, near = mean["lloco+adapter@32"], mean["lloco+adapter@8"]
    above = "above" if far > mean["raw"] else "not above"
    share = near / mean["raw+lora"] if mean["raw+lora"] else 0.0
    return (
        f"At 32x the adapter is {above} untrained raw text ({far:.1f} against {mean['raw']:.1f}); at 8x it has {100 * share:.0f} % of raw text with "
        f"the same training (the aim is 85 %)."
    )


if __name__ == "__main__":
    main()
