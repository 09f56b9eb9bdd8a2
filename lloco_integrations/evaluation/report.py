"""The scorecard as a JSON object."""

from __future__ import annotations

import json
import os
import platform
from collections import defaultdict
from collections.abc import Mapping
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lloco_integrations.errors import BadInput
from lloco_integrations.evaluation.intervals import ROUNDS, Bootstrap, Means
from lloco_integrations.evaluation.methods import OURS
from lloco_integrations.evaluation.reuse import EACH
from lloco_integrations.evaluation.scores import METRICS, Score, primary, score
from lloco_integrations.evaluation.verdict import verdict

if TYPE_CHECKING:
    from lloco_integrations.evaluation.methods import Row
    from lloco_integrations.evaluation.scorecard import Outcome

WHAT = (
    "Questions about documents: no context, raw text, cut text, best sentences, other compressors' texts, summaries and focus at each ratio"
)
_JUDGED = ("truncate", "sentences", "retrieve", "texts", *OURS)
_MEANS = ("positions", "prompt_positions", "source_tokens", "bytes", "read_seconds", "answer_seconds")


def build(outcome: Outcome, command: str) -> dict[str, Any]:
    """The report. Scores in percent, ``nll`` in nats a token of the first answer; intervals are 95 %, documents resampled;
    ``rel`` is (row - none) / (raw+lora - none) in the metric ``primary``. ``questions`` are told once, rows' ``answers`` name them by id;
    ``each`` is what was measured for each of these, in their order, and ``identity`` what it depends on. A row that was taken from an
    earlier report says so: ``reused`` is that report's date and ``machine`` its machine."""
    settings = outcome.settings
    questions = [q for case in outcome.cases for q in case.questions]
    bootstrap = Bootstrap([case.document.doc_id for case in outcome.cases], seed=settings.seed)
    metric = primary(questions)
    answered = sum(bool(q.answers) for q in questions)
    sheets = {row.name: _Sheet(outcome, row, bootstrap, metric) for row in outcome.rows}
    report: dict[str, Any] = {
        "what": WHAT,
        "command": command,
        "model": settings.model,
        "base": settings.base,
        "fingerprint": outcome.model.fingerprint,
        "adapters": {
            name: {"name": Path(path).name, "identity": outcome.identity["adapters"][name]}
            for name, path in vars(settings.adapters).items()
            if path
        },
        "template": settings.template,
        "seed": settings.seed,
        "limit": settings.limit,
        "max_new_tokens": settings.max_new_tokens,
        "batch_size": settings.batch_size,
        "bootstrap_rounds": ROUNDS,
        "files": [p.name for pair in zip(settings.docs, settings.qa, strict=True) for p in pair],
        "texts": {name: path.name for name, path in settings.texts.items()},
        "n_documents": len(outcome.cases),
        "n_questions": answered,
        "n_unanswerable": len(questions) - answered,
        "primary": metric,
        "date": date.today().isoformat(),
        "machine": _machine(outcome),
        "versions": _versions(),
        "identity": outcome.identity,
        "rows": {name: sheet.as_dict(sheets) for name, sheet in sheets.items()},
        "questions": [{"id": q.id, "doc_id": q.doc_id, "question": q.question, "answers": list(q.answers)} for q in questions],
    }
    report["verdict"] = verdict(report)
    return report


class _Sheet:
    """One row: its scores by document, and its means with the rounds of the bootstrap."""

    def __init__(self, outcome: Outcome, row: Row, bootstrap: Bootstrap, metric: str) -> None:
        self.row = row
        self.reader = outcome.readers[row.name]
        self.origin = outcome.reused.get(row.name)
        self.bootstrap = bootstrap
        self.results: list[dict[str, Any]] = []
        self.scores: list[Score] = []
        self._documents: list[str] = []
        for case in outcome.cases:
            found = outcome.results[row.name, case.document.doc_id]["questions"]
            for question, result in zip(case.questions, found, strict=True):
                self.results.append(result)
                self.scores.append(score(question, result["answer"], result["nll"], result["choices"]))
                self._documents.append(case.document.doc_id)
        self.primary = self.means([getattr(s, metric) for s in self.scores])

    def means(self, values: list[float | None]) -> Means | None:
        by_document: dict[str, list[float]] = defaultdict(list)
        for document, value in zip(self._documents, values, strict=True):
            if value is not None:
                by_document[document].append(float(value))
        return self.bootstrap.means(by_document)

    def as_dict(self, sheets: Mapping[str, _Sheet]) -> dict[str, Any]:
        answerable = [s.f1 is not None for s in self.scores]
        unknown = [100.0 * s.says_unknown for s in self.scores]
        n = len(self.scores)
        out: dict[str, Any] = {"kind": self.row.kind, "ratio": self.row.ratio, "reader": self.reader, "n": sum(answerable)}
        for metric in METRICS:
            out[metric] = _rounded(self.means([getattr(s, metric) for s in self.scores]), 4 if metric == "nll" else 2)
        for key in _MEANS:
            out[key] = round(sum(r[key] for r in self.results) / n, 4)
        out["seconds"] = round(out["read_seconds"] + out["answer_seconds"], 4)
        spent = {d: r["compress_seconds"] for d, r in zip(self._documents, self.results, strict=True) if r["compress_seconds"] is not None}
        out["compress_seconds"] = round(sum(spent.values()) / len(spent), 4) if spent else None
        out["cut"] = sum(r["cut"] for r in self.results)
        says = self.means([u if not a else None for u, a in zip(unknown, answerable, strict=True)])
        out["unanswerable"] = {"n": n - sum(answerable), "says_unknown": _rounded(says)} if says else None
        out["wrongly_says_unknown"] = _rounded(self.means([u if a else None for u, a in zip(unknown, answerable, strict=True)]))
        out |= self._compared(sheets)
        if self.origin is not None:
            out |= {"reused": self.origin.date, "machine": self.origin.machine}
        out["answers"] = [
            {"id": r["id"], "answer": r["answer"], "f1": None if s.f1 is None else round(s.f1, 1)}
            for r, s in zip(self.results, self.scores, strict=True)
        ]
        out["each"] = {key: [r[key] for r in self.results] for key in EACH}
        return out

    def _compared(self, sheets: Mapping[str, _Sheet]) -> dict[str, Any]:
        """``rel`` and why it is missing, and the differences to no context, and to the text cut to the same positions, and to passages and
        sentences found for them."""
        judged, ours = self.row.kind in _JUDGED, self.row.kind in OURS
        none, full = sheets.get("none"), sheets.get("raw+lora")
        others = {kind: sheets.get(f"{kind}@{self.row.ratio}") if ours else None for kind in ("truncate", "retrieve", "sentences")}
        rel, reason = _rel(self.primary, _primary(none), _primary(full)) if judged else (None, None)
        return {
            "rel": _rounded(rel, 4),
            "rel_reason": reason,
            "over_none": _rounded(_minus(self.primary, _primary(none))) if judged else None,
            **{f"over_{kind}": _rounded(_minus(self.primary, _primary(other))) for kind, other in others.items()},
        }


def _primary(sheet: _Sheet | None) -> Means | None:
    return None if sheet is None else sheet.primary


def _rel(row: Means | None, none: Means | None, full: Means | None) -> tuple[Means | None, str | None]:
    if row is None or none is None or full is None:
        absent = [name for name, means in (("none", none), ("raw+lora", full)) if means is None]
        return None, f"{' and '.join(absent)} was not measured" if absent and row is not None else "no question has an answer"
    gain = full - none
    if gain.interval.low <= 0:
        return None, f"raw+lora is not clearly better than none (difference {gain.interval})"
    return (row - none).over(gain), None


def _minus(row: Means | None, other: Means | None) -> Means | None:
    return None if row is None or other is None else row - other


def _rounded(means: Means | None, digits: int = 2) -> dict[str, float] | None:
    return None if means is None else {k: round(v, digits) for k, v in vars(means.interval).items()}


def _machine(outcome: Outcome) -> str:
    import torch

    device = outcome.model.decoder.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    dtype = str(outcome.model.decoder.dtype).removeprefix("torch.")
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, {device.type} ({name}), {dtype}"


def _versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "transformers", "peft", "rouge-score", "lloco_integrations"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write(report: Mapping[str, Any], path: Path) -> None:
    """Write the report in one step: it is whole, or not there. Raises BadInput if it cannot be written."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(dumps(report), encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error}; make room, and the same command goes on from there") from error
    finally:
        part.unlink(missing_ok=True)


def dumps(report: Mapping[str, Any]) -> str:
    """JSON, indented, but with one line for each answer and each interval."""
    lines: list[str] = []

    def put(value: Any, indent: int, lead: str, end: str) -> None:
        deep = isinstance(value, dict) and any(isinstance(v, dict | list) for v in value.values())
        long = isinstance(value, list) and any(isinstance(v, dict) for v in value)
        if not (deep or long):
            lines.append(f"{' ' * indent}{lead}{json.dumps(value, ensure_ascii=False)}{end}")
            return
        items = [(f"{json.dumps(k)}: ", v) for k, v in value.items()] if isinstance(value, dict) else [("", v) for v in value]
        if long and not isinstance(value, dict):
            lines.append(f"{' ' * indent}{lead}[")
            lines.extend(
                f"{' ' * (indent + 1)}{json.dumps(v, ensure_ascii=False)}{',' if i < len(items) - 1 else ''}"
                for i, (_, v) in enumerate(items)
            )
            lines.append(f"{' ' * indent}]{end}")
            return
        lines.append(f"{' ' * indent}{lead}{{")
        for i, (key, v) in enumerate(items):
            put(v, indent + 1, key, "," if i < len(items) - 1 else "")
        lines.append(f"{' ' * indent}}}{end}")

    put(dict(report), 0, "", "")
    return "\n".join(lines) + "\n"
