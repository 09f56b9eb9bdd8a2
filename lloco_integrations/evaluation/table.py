"""The scorecard as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lloco_integrations.evaluation.methods import FOCUSED, WHOLE
from lloco_integrations.evaluation.scores import METRICS, NAMES

if TYPE_CHECKING:
    from rich.table import Table


def table(report: Mapping[str, Any], width: int = 80) -> Table:
    """The rows for a terminal of ``width`` columns: intervals for the primary metric and for what is kept, means for the others."""
    from rich import box
    from rich.table import Table

    rows: Mapping[str, Mapping[str, Any]] = report["rows"]
    first = report["primary"]
    others = [m for m in METRICS if m != first and any(row[m] for row in rows.values())] if width >= 110 else []
    title = f"{report['n_questions'] + report['n_unanswerable']} questions about {report['n_documents']} documents, 95 % intervals"
    made = Table(title=title, box=box.SIMPLE, padding=(0, 1), collapse_padding=True)
    made.add_column("row", no_wrap=True)
    answerable, kept = report["n_questions"] > 0, any(row["rel"] for row in rows.values())
    columns = [*([NAMES[first]] if answerable else []), *(NAMES[m] for m in others), *(["kept"] if kept else [])]
    columns += ["says unknown"] if report["n_unanswerable"] else []
    for column in (*columns, "positions", "seconds", "bytes"):
        made.add_column(column, justify="right", no_wrap=True)
    for name, row in rows.items():
        cells = [_cell(row[first], 1)] if answerable else []
        cells += [f"{row[m]['mean']:.{2 if m == 'nll' else 1}f}" if row[m] else "" for m in others]
        cells += [_cell(row["rel"], 2)] if kept else []
        cells += [_cell(row["unanswerable"] and row["unanswerable"]["says_unknown"], 0)] if report["n_unanswerable"] else []
        made.add_row(name, *cells, f"{row['positions']:,.0f}", f"{row['seconds']:.2f}", f"{row['bytes']:,.0f}")
    return made


def notes(report: Mapping[str, Any]) -> list[str]:
    """What a reader of the table must know besides."""
    rows: Mapping[str, Mapping[str, Any]] = report["rows"]
    said = [
        f"{name}: {row['cut']} of {len(row['answers'])} questions had their text cut to fit the window."
        for name, row in rows.items()
        if row["cut"]
    ]
    for name, row in rows.items():
        nothing = sum(n == 0 for n in row["each"]["positions"]) if row["kind"] in FOCUSED else 0
        if nothing:
            said.append(f"{name}: for {nothing} of {len(row['answers'])} questions no sentence had room, and nothing was shown.")
    free = {row["ratio"] for row in rows.values() if row["kind"] in FOCUSED}
    for kind in dict.fromkeys(row["kind"] for row in rows.values() if row["kind"] in WHOLE):
        if missing := sorted(free - {row["ratio"] for row in rows.values() if row["kind"] == kind}):
            said.append(f"{kind}: not at {', '.join(f'{ratio}x' for ratio in missing)}, which the model does not give.")
    return said + taken(report)


def taken(report: Mapping[str, Any]) -> list[str]:
    """Which rows were taken from earlier reports, and when and where they were measured."""
    origins: dict[tuple[str, str], list[str]] = {}
    for name, row in report["rows"].items():
        if row.get("reused"):
            origins.setdefault((row["reused"], row["machine"]), []).append(name)
    return [f"{', '.join(names)}: taken from a report of {date} ({machine})." for (date, machine), names in origins.items()]


def _cell(interval: Mapping[str, float] | None, digits: int) -> str:
    if interval is None:
        return ""
    return f"{interval['mean']:.{digits}f} [{interval['low']:.{digits}f}, {interval['high']:.{digits}f}]"
