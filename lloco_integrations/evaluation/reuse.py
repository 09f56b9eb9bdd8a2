"""Rows of an earlier report, in place of measuring them again: those whose reader does not depend on what we trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lloco_integrations.errors import BadInput
from lloco_integrations.evaluation.cases import Case
from lloco_integrations.evaluation.methods import Row
from lloco_integrations.evaluation.readers import BASE_NONE, BASE_RAW, RIVALS

EACH = (
    "nll",
    "choices",
    "positions",
    "prompt_positions",
    "source_tokens",
    "bytes",
    "cut",
    "read_seconds",
    "answer_seconds",
    "compress_seconds",
)
"""What a report holds for each question beside the answer; reports from before this was so cannot be reused."""
SAME = ("version", "docs", "qa", "limit", "seed", "template", "prompt", "max_new_tokens", "dtype", "base")
"""What must be equal for any row to be reused. The model's fingerprint is none of it, nor are the machine and the batch size."""


@dataclass(frozen=True)
class Origin:
    """When and on which machine a reused row was measured."""

    date: str
    machine: str


@dataclass(frozen=True)
class Reused:
    """``results``: (row's name, document's id) -> what ``Runner.ask`` gave then; ``rows``: row's name -> where it is from."""

    results: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, Origin] = field(default_factory=dict)


def read(path: Path) -> dict[str, Any]:
    """A report that rows can be taken from. Raises BadInput for what is not one."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"--reuse {path}: cannot be read as a report: {error}") from error
    if not isinstance(report, dict) or not isinstance(report.get("rows"), dict):
        raise BadInput(f"--reuse {path}: is not a report of lloco eval; give one")
    if not reusable(report):
        raise BadInput(
            f"--reuse {path}: this report does not hold what was measured for each question ({', '.join(EACH)}), as older ones do not; "
            f"measure it once without --reuse"
        )
    return report


def reusable(report: Mapping[str, Any]) -> bool:
    """Whether the report holds what it depends on, and any row with the results of each question."""
    return isinstance(report.get("identity"), dict) and any("each" in row for row in report["rows"].values())


def take(
    report: Mapping[str, Any], path: Path, rows: Sequence[Row], readers: Mapping[str, str], cases: Sequence[Case], now: Mapping[str, Any]
) -> Reused:
    """Those of ``rows`` that ``report``, read from ``path``, has whole. ``readers``: row -> reader; ``now``: the identity of this run.

    Raises BadInput if they were measured otherwise, saying what differs, and if there is none to take.
    """
    ids = [q.id for case in cases for q in case.questions]
    then = report["identity"]
    wanted = [row for row in rows if readers[row.name] in RIVALS and row.name in report["rows"]]
    differing = {key for key in SAME if then.get(key) != now[key]} if wanted else set()
    for row in wanted:
        for part, key in _own(row, readers[row.name]):
            if then.get(part, {}).get(key) != now[part].get(key):
                differing.add(f"{part} {key}")
    if differing:
        raise BadInput(
            f"--reuse {path}: its rows were measured otherwise (different: {', '.join(sorted(differing))}); give the settings that made it, "
            f"or leave --reuse out"
        )
    reused = Reused()
    for row in wanted:
        old = report["rows"][row.name]
        if _whole(old, ids):
            reused.rows[row.name] = Origin(old.get("reused") or report["date"], old.get("machine") or report["machine"])
            results = iter(_results(old))
            for case in cases:
                reused.results[row.name, case.document.doc_id] = {"questions": [next(results) for _ in case.questions]}
    if not reused.rows:
        raise BadInput(
            f"--reuse {path}: there is no row to take from it; only rows that the base reads can be taken "
            f"(none with --none-adapter, raw, raw+lora, and truncate, retrieve and texts with --raw-adapter); leave --reuse out"
        )
    return reused


def _own(row: Row, reader: str) -> list[tuple[str, str]]:
    """What else a row depends on, as two keys into the identity."""
    adapter = {BASE_RAW: "raw", BASE_NONE: "none"}.get(reader)
    return [*([("adapters", adapter)] if adapter else []), *([("texts", row.name)] if row.kind == "texts" else [])]


def _whole(row: Mapping[str, Any], ids: Sequence[str]) -> bool:
    each = row.get("each", {})
    return [a.get("id") for a in row.get("answers", [])] == list(ids) and all(len(each.get(key, [])) == len(ids) for key in EACH)


def _results(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"id": a["id"], "answer": a["answer"], **{key: row["each"][key][i] for key in EACH}} for i, a in enumerate(row["answers"])]
