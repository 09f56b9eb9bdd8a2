"""One adapter over all groups, one for each, and the one that retrieval picks: which answers best?

    LLOCO_DATA=../shared/data python -m benchmarks.routing             # wants the adapters of benchmarks.in_domain in RUNS
    python -m benchmarks.routing --render                              # the table in docs/learning.md again, from the JSON

The combined adapter is learnt from the training files of all domains at once, in as many passes over each question as ``EPOCHS``; then the test
questions of each domain, about their documents' summaries, are asked under every adapter, the wrong ones too. Routing: the question's nearest
passages among the documents of all domains vote for their group by score, as placeholders in a prompt do.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.in_domain import DOMAINS, ROOT
from benchmarks.in_domain import RESULTS as ALONE
from benchmarks.provenance import provenance
from benchmarks.tables import fill, interval
from lloco_integrations import embedding
from lloco_integrations.evaluation.metrics import bootstrap
from lloco_integrations.evaluation.retrieval import Passage, Passages, paragraphs
from lloco_integrations.show.groups import weights

RESULT = ROOT / "benchmarks" / "results" / "routing.json"
PAGE = ROOT / "docs" / "learning.md"
RATIOS = (4, 8)
EPOCHS = 1.5
FOUND = 4
"""Passages that vote."""
ALL = "all"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "routing")
    parser.add_argument("--domain-runs", type=Path, default=ROOT / "runs" / "in_domain", help="RUNS of benchmarks.in_domain")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the table from the JSON")
    args = parser.parse_args()
    if not args.render:
        measure(args.runs, args.domain_runs, args.device)
    fill(PAGE, "routing", "\n".join(table(json.loads(RESULT.read_text()))))


def measure(runs: Path, domains: Path, device: str) -> None:
    """The combined adapter, then every domain's questions under every adapter; each step goes on where it stopped."""
    missing = [n for n in DOMAINS if not (ALONE / f"{n}.json").exists() or not (domains / n / "adapter" / "lloco_adapter.json").exists()]
    if missing:
        raise SystemExit(
            f"no adapter in {domains} for {', '.join(missing)}; run python -m benchmarks.in_domain --domains {' '.join(missing)}"
        )
    runs.mkdir(parents=True, exist_ok=True)
    for kind in ("docs", "qa"):
        parts = [gzip.decompress((domains / name / f"train.{kind}.jsonl.gz").read_bytes()) for name in DOMAINS]
        (runs / f"train.{kind}.jsonl.gz").write_bytes(gzip.compress(b"".join(parts), mtime=0))
    store, said = f"sqlite:///{(runs / 'store.sqlite').absolute()}", []

    def lloco(*words: object) -> None:
        command = ["lloco", *map(str, words)]
        line = shlex.join(command).replace(str(runs.absolute()), "RUN").replace(str(runs), "RUN")
        said.append(line.replace(str(domains.absolute()), "DOMAIN_RUNS").replace(str(domains), "DOMAIN_RUNS"))
        print(f"$ {said[-1]}", flush=True)
        subprocess.run([sys.executable, "-m", "lloco_integrations.cli", *command[1:]], check=True)

    lloco("compress", runs / "train.docs.jsonl.gz", "--store", store, "--group", ALL, "--device", device)
    options = ("--group", ALL, "--epochs", EPOCHS, "--limit", 5, "--device", device)
    lloco("finetune", "--store", store, "--qa", runs / "train.qa.jsonl.gz", "--adapter", runs / "adapter", *options)
    adapters = {name: domains / name / "adapter" for name in DOMAINS} | {ALL: runs / "adapter"}
    report: dict[str, Any] = {"what": str(__doc__).splitlines()[0], **provenance(), "epochs": EPOCHS, "passages": FOUND}
    report["command"] = "python -m benchmarks.routing"
    card = json.loads((runs / "adapter" / "lloco_adapter.json").read_text())
    report["learnt"] = {key: card[key] for key in ("documents", "questions", "steps")}
    report["domains"] = {}
    for name in DOMAINS:
        alone = json.loads((ALONE / f"{name}.json").read_text())
        columns = {"none": alone["rows"], name: alone["rows"]}
        for other, path in adapters.items():
            if other == name:
                continue
            out = runs / f"{name}.{other}.json"
            files = ("--docs", domains / name / "test.docs.jsonl.gz", "--qa", domains / name / "test.qa.jsonl.gz")
            options = ("--methods", "lloco+adapter", "--ratio", ",".join(map(str, RATIOS)), "--adapter", path, "--device", device)
            lloco("eval", *files, *options, "--json", out)
            made = json.loads(out.read_text())
            assert made["questions"] == alone["questions"] and made["fingerprint"] == alone["fingerprint"]
            columns[other] = made["rows"]
        report["fingerprint"] = alone["fingerprint"]
        rows = {
            f"{column}@{ratio}": of[f"{'lloco' if column == 'none' else 'lloco+adapter'}@{ratio}"]
            for column, of in columns.items()
            for ratio in RATIOS
        }
        report["domains"][name] = {
            "questions": [q["id"] for q in alone["questions"]],
            "f1": {key: in_order(row["answers"], alone["questions"]) for key, row in rows.items()},
            "nll": {key: row["nll"]["mean"] for key, row in rows.items()},
        }
    report["how"] = said
    for name, picked in route(domains).items():
        report["domains"][name]["routed"] = picked
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


def in_order(answers: Sequence[Mapping[str, Any]], questions: Sequence[Mapping[str, Any]]) -> list[float]:
    """F1 of ``answers``, in the order of ``questions``."""
    f1 = {answer["id"]: answer["f1"] for answer in answers}
    return [f1[question["id"]] for question in questions]


def route(domains: Path) -> dict[str, list[str]]:
    """The group that retrieval picks for each test question of each domain, out of the documents of all of them, those for training too."""
    passages, group_of = [], {}
    for name in DOMAINS:
        for part in ("train", "test"):
            for document in _lines(domains / name / f"{part}.docs.jsonl.gz"):
                group_of[document["doc_id"]] = name
                passages += [Passage(document["doc_id"], text) for text in paragraphs(document["text"])]
    index = Passages.of(passages, embedding.load())
    picked = {}
    for name in DOMAINS:
        questions = [q["question"] for q in _lines(domains / name / "test.qa.jsonl.gz")]
        picked[name] = [first(index.search(question, FOUND), group_of) for question in questions]
        print(f"{name}: {picked[name].count(name)} of {len(questions)} questions find their own group", flush=True)
    return picked


def first(found: Sequence[tuple[Passage, float]], group_of: Mapping[str, str]) -> str:
    """The group with most votes of the passages ``found``; if they are of one group, that."""
    groups = [group_of[passage.doc_id] for passage, _ in found]
    votes: Counter[str] = Counter()
    for group, weight in zip(groups, weights(groups, [score for _, score in found]), strict=True):
        votes[group] += 1 if weight is None else weight
    return votes.most_common(1)[0][0]


def _lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def table(report: Mapping[str, Any]) -> list[str]:
    """The table in Markdown, and what retrieval picked."""
    lines = ["| questions about | ratio | no adapter | its own | the others' | one for all | routed |", "|---|---|---|---|---|---|---|"]
    gains: dict[int, list[float]] = {ratio: [] for ratio in RATIOS}
    for name, one in report["domains"].items():
        for ratio in RATIOS:
            others = [one["f1"][f"{other}@{ratio}"] for other in report["domains"] if other != name]
            both = [sum(pair) / len(pair) for pair in zip(*others, strict=True)]
            columns = [one["f1"][f"none@{ratio}"], one["f1"][f"{name}@{ratio}"], both, one["f1"][f"{ALL}@{ratio}"], routed(one, ratio)]
            cells = " | ".join(interval(vars(bootstrap(column))) for column in columns)
            lines.append(f"| {name} | {ratio}x | {cells} |")
            gains[ratio] += [a - b for a, b in zip(one["f1"][f"{ALL}@{ratio}"], one["f1"][f"{name}@{ratio}"], strict=True)]
    right = ", ".join(f"{name} {one['routed'].count(name)} of {len(one['routed'])}" for name, one in report["domains"].items())
    learnt = report["learnt"]
    versus = "; ".join(f"{ratio}x {_signed(values)}" for ratio, values in gains.items())
    nats = "; ".join(
        f"{name} {' / '.join(format(one['nll'][f'{column}@{RATIOS[0]}'], '.2f') for column in ('none', name, ALL))}"
        for name, one in report["domains"].items()
    )
    return [
        *lines,
        "",
        'F1 with 95 % intervals; "the others\'" is the mean of the two wrong adapters. The one for all was learnt from '
        f"{learnt['questions']} questions about {learnt['documents']} documents in {learnt['steps']} steps. Against each domain's own, "
        f"question by question: {versus}. Likelihood of the right answer at {RATIOS[0]}x, in nats a token, under none / its own / one "
        f"for all: {nats}. Retrieval ({report['passages']} passages out of all domains' documents, which vote for their group by score) "
        f"picked the right adapter for {right} questions.",
        "",
        f"{report['date']}, {report['machine']}; `{report['command']}`, [raw output](../benchmarks/results/{RESULT.name}).",
    ]


def routed(one: Mapping[str, Any], ratio: int) -> list[float]:
    """F1 of each question under the adapter that retrieval picked for it."""
    return [one["f1"][f"{group}@{ratio}"][i] for i, group in enumerate(one["routed"])]


def _signed(values: Sequence[float]) -> str:
    gain = bootstrap(values)
    return f"{gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"


if __name__ == "__main__":
    main()
