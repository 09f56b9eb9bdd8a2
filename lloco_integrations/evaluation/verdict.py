"""What a scorecard's numbers say, in words. Every sentence follows from means and their intervals; none is written in advance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lloco_integrations.evaluation.methods import OURS
from lloco_integrations.evaluation.scores import NAMES

FEWEST_QUESTIONS = 30
FEWEST_DOCUMENTS = 5
"""With fewer, intervals of resampled documents are too narrow to be believed."""
_RIVALS = {"over_retrieve": "raw passages found for the question", "over_sentences": "the best sentences as text alone"}


def verdict(report: Mapping[str, Any]) -> str:
    """Whether reading summaries, and what the question points to between them, is worth it, at which ratios, and which it is not and why.

    ``report`` as ``report.build`` makes it: ``rows``, ``primary``, ``n_questions`` (those with answers) and ``n_documents``.
    A row is worth it if it is better than no context and than the text cut to the same positions, with 95 % confidence. ``lloco`` is
    called by its ratio, the other rows of ours by their names.
    """
    rows: Mapping[str, Mapping[str, Any]] = report["rows"]
    unit = NAMES[report["primary"]]
    said = []
    if report["n_questions"]:
        said = _answerable(report, rows, unit)
    said += _unanswerable(report, rows)
    return " ".join(said)


def _answerable(report: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], unit: str) -> list[str]:
    n, documents = report["n_questions"], report["n_documents"]
    ours = sorted(((name, row) for name, row in rows.items() if row["kind"] in OURS), key=lambda item: item[1]["ratio"])
    if n < FEWEST_QUESTIONS or documents < FEWEST_DOCUMENTS:
        return [
            f"Too few to tell: {n} questions about {documents} documents. Ask at least {FEWEST_QUESTIONS} about at least "
            f"{FEWEST_DOCUMENTS} before you believe a difference."
        ]
    if not ours:
        return ["No summaries were read, so there is nothing to judge; add lloco to the methods, or focus."]
    good = [row for _, row in ours if _reason(row, unit) is None]
    said = []
    if not good:
        said.append("Nothing is worth it here:")
    for name, row in ours:
        reason, start = _reason(row, unit), _called(name, row)
        refused = f"{start} is not worth it: it is {reason}." if good else f"{start} is {reason}."
        said.append(f"{start} {_kept(row, rows, unit)}." if reason is None else refused)
    said += [_against(key, rival, ours, unit) for key, rival in _RIVALS.items()]
    said.append(_caveat(rows, ours, unit))
    for name, row in rows.items():
        if row["kind"] in ("texts", "retrieve", "sentences") and row["rel"] is not None:
            said.append(f"{name} keeps {_percents(row['rel'])} of the gain at {_share(row, rows)}.")
    if good:
        said[0] = f"Here {said[0]}"
    return [s for s in said if s]


def _called(name: str, row: Mapping[str, Any]) -> str:
    return f"{row['ratio']}x" if row["kind"] == "lloco" else name


def _reason(row: Mapping[str, Any], unit: str) -> str | None:
    """Why a row is not worth it; None if it is, or if there is nothing to compare it with."""
    for key, other in (("over_none", "no context"), ("over_truncate", "the text cut to the same positions")):
        difference = row[key]
        if difference is not None and difference["low"] <= 0:
            how = "no better than" if difference["mean"] <= 0 else "not clearly better than"
            return f"{how} {other} ({_signed(difference)} {unit})"
    return None


def _kept(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], unit: str) -> str:
    where = f"at {_share(row, rows)}"
    if row["rel"] is not None:
        return f"keeps {_percents(row['rel'])} of the gain {where}"
    if row["over_none"] is not None:
        return f"is better than no context by {_signed(row['over_none'])} {unit} {where}"
    if row["over_truncate"] is not None:
        return f"is better than the text cut to the same positions by {_signed(row['over_truncate'])} {unit} {where}"
    return f"was compared with nothing; add none, truncate and raw+lora to the methods ({where})"


def _against(key: str, rival: str, ours: list[tuple[str, Mapping[str, Any]]], unit: str) -> str:
    """How the rows compare with text that was found for each question, where this was measured."""
    said = []
    for name, row in ours:
        difference = row.get(key)
        if difference is not None:
            how = "better" if difference["low"] > 0 else "worse" if difference["high"] < 0 else "not clearly different"
            said.append(f"{_called(name, row)} is {how} ({_signed(difference)} {unit})")
    return f"Against {rival}, at the same positions: {', '.join(said)}." if said else ""


def _caveat(rows: Mapping[str, Mapping[str, Any]], ours: list[tuple[str, Mapping[str, Any]]], unit: str) -> str:
    """What the judgement lacks."""
    missing = [kind for kind in ("none", "truncate", "raw+lora") if all(row["kind"] != kind for row in rows.values())]
    if missing:
        return f"Not compared with {' and '.join(missing)}, which were not measured."
    if all(row["rel"] is None for _, row in ours):
        return f"How much of the gain is kept cannot be said: {ours[0][1]['rel_reason']}."
    return ""


def _unanswerable(report: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    n = report["n_unanswerable"]
    if not n:
        return []
    rates = ", ".join(f"{name} on {_percents_of(row['unanswerable']['says_unknown'])}" for name, row in rows.items())
    first = f"Of the {n} questions that no document answers, these rows say that they do not know: {rates}."
    wrong = [f"{name} on {_percents_of(row['wrongly_says_unknown'])}" for name, row in rows.items() if row["wrongly_says_unknown"]]
    return [first, f"They also say so where there is an answer: {', '.join(wrong)}."] if wrong else [first]


def _share(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> str:
    whole = next((rows[name] for name in ("raw+lora", "raw") if name in rows), None)
    positions = whole["positions"] if whole else row["source_tokens"]
    return f"{100 * row['positions'] / positions:.0f} % of the positions"


def _percents(interval: Mapping[str, float]) -> str:
    return f"{100 * interval['mean']:.0f} % [{100 * interval['low']:.0f}, {100 * interval['high']:.0f}]"


def _percents_of(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:.0f} % [{interval['low']:.0f}, {interval['high']:.0f}]"


def _signed(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:+.1f} [{interval['low']:+.1f}, {interval['high']:+.1f}]"
