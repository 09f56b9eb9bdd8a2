"""The table of benchmarks/rivals.py, and what it says in words."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.tables import interval, source
from benchmarks.timing import shown, spread
from lloco_integrations.evaluation.metrics import bootstrap

FRAMEWORKS = ("llama-index", "langchain")
LABELS = {"text": "the whole text, our engine", "llama-index": "the whole text, `HuggingFaceLLM` of LlamaIndex"}
LABELS |= {"langchain": "the whole text, `HuggingFacePipeline` of LangChain"}
LABELS_AT = {"ours": "LLoCO, {}x", "cut": "text cut to {}x", "llmlingua": "LLMLingua, {}x"}


def tables(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """The table over the questions that every row was asked: those of LLMLingua's documents, or all where it has no row."""
    asked = [{r["id"] for r in rows} for rows in report["rows"].values()]
    common = set.intersection(*asked)
    figures = {name: figures_of(report, name, common) for name in report["rows"]}
    text = figures["text"]["seconds"]["median"]
    lines = [
        "| | positions | seconds a question | of the whole text's | second question | with compressing | tokens an answer | F1 |",
        "|---|" + "---:|" * 7,
    ]
    lines += [line(name, row, text) for name, row in figures.items()]
    origin = source(report, "performance/rivals.json")
    return {"rivals": [*lines, "", *against(figures), conditions(report, common, max(map(len, asked))), "", origin]}


def conditions(report: Mapping[str, Any], ids: set[str], n_asked: int) -> str:
    """What the table is over, in words; ``ids``: of its questions, of ``n_asked``."""
    rows = {name: {row["id"]: row for row in rows if row["id"] in ids} for name, rows in report["rows"].items()}
    tokens = [report["documents"][key] for key in {row["document"] for row in rows["text"].values()}]
    told = (
        f"n = {len(ids)} held-out questions; documents: {len(tokens)}, of {min(tokens):,} to {max(tokens):,} tokens; at most "
        f"{report['max_new_tokens']} tokens an answer; {report['device']}. Seconds: the median [least, greatest] over the documents of the first "
        f"question about each; the median of further questions; and, with compressing, the first question where the document comes in with it "
        f"(LLoCO compresses for all ratios at once). F1: mean and 95 % interval."
    )
    if report["llmlingua"]:
        told += " LLMLingua compresses in float32, as it comes, in one try; starting it is not counted."
    for name in (name for name in FRAMEWORKS if name in rows):
        same = sum(row["answer"].strip() == rows["text"][key]["answer"].strip() for key, row in rows[name].items())
        told += f" {name}: {same} of {len(ids)} answers are those of our engine on the whole text."
    if len(ids) < n_asked:
        told += f" {n_asked - len(ids)} questions that LLMLingua has no texts for are in the raw output only."
    if report["left_out"]:
        told += " Left out: " + "; ".join(f"{name} ({why})" for name, why in report["left_out"].items()) + "."
    return told


def figures_of(report: Mapping[str, Any], name: str, ids: Iterable[str]) -> dict[str, Any]:
    """Of the row ``name`` on the questions ``ids``. "compressing": with the seconds of compressing; None where nothing is compressed."""
    rows = [row for row in report["rows"][name] if row["id"] in ids]
    first = {row["document"]: row["seconds"]["median"] for row in rows if row["turn"] == 0}
    later = [row["seconds"]["median"] for row in rows if row["turn"]]
    extra = report["llmlingua"].get(name)
    if name.startswith("ours@"):
        extra = {document: seconds["median"] for document, seconds in report["compressing"].items()}
    return {
        "positions": statistics.mean(row["positions"] for row in rows),
        "seconds": spread(first.values()),
        "later": statistics.median(later) if later else None,
        "compressing": None if extra is None else spread(seconds + extra[document] for document, seconds in first.items()),
        "answer_tokens": statistics.mean(row["answer_tokens"] for row in rows),
        "f1": vars(bootstrap([row["f1"] for row in rows])),
    }


def line(name: str, row: Mapping[str, Any], text: float) -> str:
    kind, _, ratio = name.partition("@")
    label = LABELS_AT[kind].format(ratio) if ratio else LABELS[name]
    cells = [f"{row['positions']:,.0f}", shown(row["seconds"]), f"{row['seconds']['median'] / text:.2f}"]
    cells += ["" if row["later"] is None else f"{row['later']:.2f}", "" if row["compressing"] is None else shown(row["compressing"])]
    return f"| {label} | {' | '.join(cells)} | {row['answer_tokens']:.1f} | {interval(row['f1'])} |"


def against(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Ours beside LLMLingua at each ratio that both have, in words."""
    told = []
    for name, theirs in figures.items():
        kind, _, ratio = name.partition("@")
        if kind != "llmlingua" or (row := figures.get(f"ours@{ratio}")) is None:
            continue
        answering = theirs["seconds"]["median"] / row["seconds"]["median"]
        whole = theirs["compressing"]["median"] / row["compressing"]["median"]
        told.append(
            f"At {ratio}x, LLMLingua takes {answering:.2f} times as long as LLoCO where the context is compressed beforehand, {whole:.1f} times "
            f"where it is not; F1 {theirs['f1']['mean']:.1f} and {row['f1']['mean']:.1f} (target: faster, and better)."
        )
    return [" ".join(told), ""] if told else []
