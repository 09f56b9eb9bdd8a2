"""Tables between markers in a page of the docs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def fill(page: Path, name: str, text: str) -> None:
    """Put ``text`` between ``<!-- NAME -->`` and ``<!-- end of NAME -->`` of ``page``."""
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, _, rest = page.read_text().partition(start)
    _, mark, after = rest.partition(end)
    if not mark:
        raise SystemExit(f"{page} has no place for {name!r}: it wants the lines {start.strip()} and {end}")
    page.write_text(f"{before}{start}{text.rstrip()}\n{end}{after}")


def interval(value: Mapping[str, float] | None, digits: int = 1) -> str:
    """A mean with its interval."""
    return "" if value is None else f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
