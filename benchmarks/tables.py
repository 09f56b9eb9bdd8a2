"""Tables between markers in a page of the docs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def fill(page: Path, name: str, table: str) -> None:
    """Put ``table`` into the file ``page``, see ``between``."""
    page.write_text(between(page.read_text(encoding="utf-8"), name, table), encoding="utf-8")


def between(text: str, name: str, table: str) -> str:
    """``text`` with ``table`` between its lines ``<!-- NAME -->`` and ``<!-- end of NAME -->``."""
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, _, rest = text.partition(start)
    _, mark, after = rest.partition(end)
    if not mark:
        raise SystemExit(f"the page has no place for {name!r}: it wants the lines {start.strip()} and {end}")
    return f"{before}{start}{table.rstrip()}\n{end}{after}"


def interval(value: Mapping[str, float] | None, digits: int = 1) -> str:
    """A mean with its interval."""
    return "" if value is None else f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def source(report: Mapping[str, Any], path: str) -> str:
    """Where the figures of a table come from; ``path`` of the report is below results/."""
    return f"{report['date']}, {report['machine']}; `{report['command']}`, [raw output](../benchmarks/results/{path})."
