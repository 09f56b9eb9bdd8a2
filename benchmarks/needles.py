"""Needles in haystacks: a sentence put at some depth of a long text, and asked for, by length, depth and ratio.

    LLOCO_DATA=../shared/data python -m benchmarks.needles --lengths 1000,4000,16000,64000 --limit 5

Rows are those of ``lloco eval``, read by the same readers: the raw text (cut to the window), the whole text compressed, and, at the same
number of positions, passages retrieved for the question, raw or compressed. The same needles and haystacks are asked at each depth. An
interrupted run goes on where it stopped; a finished one is only drawn again (delete its JSON to measure it again). docs/long_contexts.md shows
what is in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.needles_plot import plot
from benchmarks.provenance import provenance
from benchmarks.tables import fill
from lloco_integrations import embedding, load_model
from lloco_integrations.evaluation import report as reports
from lloco_integrations.evaluation.cases import Case
from lloco_integrations.evaluation.contexts import Shown
from lloco_integrations.evaluation.datasets import Document, Question, read_documents
from lloco_integrations.evaluation.identity import identity
from lloco_integrations.evaluation.intervals import Bootstrap
from lloco_integrations.evaluation.methods import SEARCHING, Row, check_ratios, plan
from lloco_integrations.evaluation.prompts import find_template
from lloco_integrations.evaluation.readers import AdapterPaths, Readers
from lloco_integrations.evaluation.scorecard import Runner, Settings, check_writable
from lloco_integrations.fingerprint import adapter_identity
from lloco_integrations.partial import Partial

RESULT = Path(__file__).parent / "results" / "needles.json"
PAGE = Path(__file__).parent.parent / "docs" / "long_contexts.md"

_NOUNS = """
archive bakery bridge brewery castle chapel cinema dockyard ferry foundry garden granary harbour library lighthouse mill monastery museum
observatory orchard pharmacy quarry railway school shipyard stable station tannery theatre vineyard
"""
_WORDS = """
amber badger cobalt dagger ember falcon gravel hazel indigo jasmine kettle lantern magnet nectar ochre pepper quartz raven saffron thistle
umber velvet walnut yarrow zephyr
"""
_SENTENCE_END = re.compile(r"[.!?]\s+")


@dataclass(frozen=True)
class Needle:
    """One sentence to be found, and what is asked for."""

    noun: str
    word: str
    number: int

    @property
    def sentence(self) -> str:
        return f"The pass phrase of the {self.noun} is {self.word} {self.number}."

    @property
    def question(self) -> str:
        return f"What is the pass phrase of the {self.noun}?"

    def found(self, answer: str) -> tuple[bool, bool]:
        """Whether ``answer`` holds the word, and the number."""
        return bool(re.search(rf"\b{self.word}\b", answer, re.IGNORECASE)), bool(re.search(rf"\b{self.number}\b", answer))


def needles(n: int, seed: int) -> list[Needle]:
    """``n`` needles; the first ones do not depend on ``n``."""
    made = []
    for i in range(n):
        rng = random.Random(f"{seed}/{i}")
        made.append(Needle(rng.choice(_NOUNS.split()), rng.choice(_WORDS.split()), rng.randint(10, 99)))
    return made


def haystack(
    texts: Sequence[str], length: int, first: int, text_ids: Callable[[str], list[int]], text_of: Callable[[list[int]], str]
) -> str:
    """``length`` tokens of ``texts``, from that of index ``first`` on."""
    ids: list[int] = []
    for i in range(len(texts)):
        ids += text_ids(texts[(first + i) % len(texts)] + "\n\n")
        if len(ids) >= length:
            return text_of(ids[:length]).strip()
    raise SystemExit(
        f"the texts have {len(ids)} tokens, and a haystack of {length} was asked for; give others with --data, or shorter --lengths"
    )


def put(sentence: str, text: str, depth: float) -> str:
    """``text`` with ``sentence`` between two sentences of it, at ``depth`` percent of its characters."""
    ends = [0, *(found.end() for found in _SENTENCE_END.finditer(text)), len(text)]
    at = min(ends, key=lambda end: abs(end - depth / 100 * len(text)))
    return f"{text[:at].rstrip()} {sentence} {text[at:]}".strip()


def cases(args: argparse.Namespace, texts: Sequence[str], prompter: Any) -> list[Case]:
    """A document with its question for each length, depth and needle; ``LENGTH/DEPTH/NUMBER`` is its id."""
    made = []
    for length, (i, needle) in product(args.lengths, enumerate(needles(args.limit, args.seed))):
        first = random.Random(f"{args.seed}/{i}/haystack").randrange(len(texts))
        hay = haystack(texts, length, first, prompter.text_ids, prompter.text_of)
        for depth in args.depths:
            key = f"{length}/{depth}/{i}"
            question = Question(key, key, needle.question, (f"{needle.word} {needle.number}",))
            made.append(Case(Document(key, "", put(needle.sentence, hay, depth)), (question,)))
    return made


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Ask everything, and return the report."""
    check_writable(args.json)
    data = Path(os.environ.get("LLOCO_DATA", "../shared/data")) / f"{args.data}.docs.jsonl.gz"
    adapters = AdapterPaths(args.adapter, args.raw_adapter)
    rows = plan(args.methods, args.ratios)
    adapters.check(rows)
    if any(row.kind in SEARCHING for row in rows):
        embedding.model_directory()
    texts = [document.text for document in read_documents(data)]
    model = load_model(args.model, device=args.device, dtype=args.dtype)
    rows = check_ratios(rows, model)
    asked = cases(args, texts, model.prompter)
    used = {row.name: adapters.reader_of(row) for row in rows}
    settings = Settings(
        docs=(data,),
        qa=(),
        out=args.json,
        adapters=adapters,
        limit=args.limit,
        seed=args.seed,
        model=args.model,
        base=args.base,
        max_new_tokens=args.max_new_tokens,
        batch_size=1,
    )
    hashes = {name: adapter_identity(path) for name, path in vars(adapters).items() if path is not None}
    this = identity(settings, rows, used, model, hashes) | {"lengths": args.lengths, "depths": args.depths}
    readers = Readers(model, adapters, args.base, args.device, args.dtype, batch_size=1)
    shown = Shown(model, embedder=embedding.load(args.device) if any(row.kind in SEARCHING for row in rows) else None)
    runner = Runner(model, find_template("plain"), readers, shown, args.max_new_tokens)
    with Partial(args.json, this) as partial:
        for reader in sorted(set(used.values())):  # each model is loaded once, and each document compressed once
            for number, case in enumerate(asked, 1):
                waiting = [row for row in rows if used[row.name] == reader and (row.name, case.document.doc_id) not in partial.done]
                for row in waiting:
                    partial.add(row.name, case.document.doc_id, result=runner.ask(row, case)[0])
                if waiting:
                    print(f"{reader}: {number} of {len(asked)} ({case.document.doc_id})", flush=True)
                shown.forget()
        made = {
            "what": __doc__.splitlines()[0],
            "data": args.data,
            "model": args.model,
            "fingerprint": model.fingerprint,
            "lengths": args.lengths,
            "depths": args.depths,
            "needles": args.limit,
            **provenance(),
            "identity": this,
            "rows": {row.name: summary(args, row, used[row.name], partial.done) for row in rows},
        }
        reports.write(made, args.json)
        partial.delete()
    return made


def summary(args: argparse.Namespace, row: Row, reader: str, done: Mapping[tuple[str, ...], Mapping[str, Any]]) -> dict[str, Any]:
    """What a row gave: ``cells``, means over the needles at each length and depth, ``by_length``, means over the depths too, with 95 %
    intervals (needles resampled), and ``answers``. ``found``: percent of words and numbers that the answers hold; ``both``: of answers that
    hold both."""
    asked = needles(args.limit, args.seed)
    resampled = Bootstrap([str(i) for i in range(len(asked))], seed=args.seed)
    cells, lengths, answers = [], [], []
    for length in args.lengths:
        found: dict[str, list[float]] = {str(i): [] for i in range(len(asked))}
        nats: dict[str, list[float]] = {str(i): [] for i in range(len(asked))}
        for depth in args.depths:
            some = [done[row.name, f"{length}/{depth}/{i}"] for i in range(len(asked))]
            held = [needle.found(result["answer"]) for needle, result in zip(asked, some, strict=True)]
            for i, (result, parts) in enumerate(zip(some, held, strict=True)):
                found[str(i)].append(50.0 * sum(parts))
                nats[str(i)].append(result["nll"])
                answers.append({"id": result["id"], "answer": result["answer"], "found": 50 * sum(parts), "nll": result["nll"]})
            words, numbers = ([100.0 * part for part in parts] for parts in zip(*held, strict=True))
            cell = {"length": length, "depth": depth, "n": len(some), "found": _mean([*words, *numbers]), "word": _mean(words)}
            cell |= {"number": _mean(numbers), "both": _mean([100.0 * all(parts) for parts in held])}
            cell |= {key: _mean([r[key] for r in some]) for key in ("nll", "positions", "source_tokens", "read_seconds", "answer_seconds")}
            cells.append(
                cell | {"compress_seconds": _mean([r["compress_seconds"] or 0.0 for r in some]), "cut": sum(r["cut"] for r in some)}
            )
        lengths.append({"length": length, "found": _interval(resampled, found), "nll": _interval(resampled, nats)})
    return {"kind": row.kind, "ratio": row.ratio, "reader": reader, "by_length": lengths, "cells": cells, "answers": answers}


def table(report: Mapping[str, Any]) -> list[str]:
    """Percent found and nats a token for each row and length, in Markdown."""
    lengths = report["lengths"]
    lines = [f"| reads | {' | '.join(f'{n:,} tokens' for n in lengths)} |", f"|---|{'---|' * len(lengths)}"]
    for name, row in report["rows"].items():
        cut = {cell["length"] for cell in row["cells"] if cell["cut"]}
        cells = [
            f"{one['found']['mean']:.0f} %, {one['nll']['mean']:.1f}{' (cut to the window)' if one['length'] in cut else ''}"
            for one in row["by_length"]
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    options = f"--lengths {','.join(map(str, lengths))} --depths {','.join(map(str, report['depths']))} --limit {report['needles']}"
    return [
        *lines,
        "",
        "Words and numbers of the pass phrases found, and nats a token of the right answer (lower is better): "
        f"{report['needles']} needles at depths of {', '.join(f'{d} %' for d in report['depths'])}. {report['date']}, {report['machine']}; "
        f"`python -m benchmarks.needles {options}`, [raw output](../benchmarks/results/{RESULT.name}).",
        "",
        f"![Needles by length, depth and ratio](../benchmarks/results/{RESULT.stem}.png)",
    ]


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


def _interval(resampled: Bootstrap, values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    means = resampled.means(values)
    assert means is not None
    return {key: round(value, 4) for key, value in vars(means.interval).items()}


def main(argv: Sequence[str] | None = None) -> None:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--plot", type=Path, help="heat maps, one a row: .png, .svg or .pdf; default: beside the JSON")
    parser.add_argument("--lengths", type=numbers, default=[1000, 4000, 16000, 64000], help="tokens of the haystacks")
    parser.add_argument("--depths", type=numbers, default=[0, 25, 50, 75, 100], help="percent of the haystack before the needle")
    parser.add_argument("--ratios", type=numbers, default=[4, 8, 16, 32])
    parser.add_argument("--methods", type=lambda text: text.split(","), help="those of lloco eval; default: all but none and truncate")
    parser.add_argument("--limit", type=int, default=5, help="needles for each length and depth")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", default="text_paul_graham_essays.train", help="NAME.SPLIT in the data folder (LLOCO_DATA)")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--base")
    parser.add_argument("--adapter", help="for lloco+adapter")
    parser.add_argument("--raw-adapter", help="for raw+lora and retrieve")
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    args = parser.parse_args(argv)
    if args.methods is None:
        lora, adapter = ["raw+lora"] * bool(args.raw_adapter), ["lloco+adapter"] * bool(args.adapter)
        args.methods = ["raw", *lora, "retrieve", "lloco", *adapter, "lloco+retrieve"]
    if args.json.exists():
        print(f"{args.json} is measured; delete it to measure it again", flush=True)
    made = json.loads(args.json.read_text()) if args.json.exists() else measure(args)
    plot(made, args.plot or args.json.with_suffix(".png"))
    if args.json == RESULT:
        fill(PAGE, "needles", "\n".join(table(made)))
    for name, row in made["rows"].items():
        print(f"{name:>18}  " + "  ".join(f"{one['length']:,}: {one['found']['mean']:.0f} %" for one in row["by_length"]))


if __name__ == "__main__":
    main()
