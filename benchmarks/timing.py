"""Repeated timings, side by side: what is compared runs in turn, so that a machine that slows down slows all of it down."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping

Spread = dict[str, float]
"""``median``, ``low`` and ``high`` of ``n`` values."""


def spread(values: Iterable[float]) -> Spread:
    """The median of ``values`` with the least and the greatest of them."""
    sorted_values = sorted(values)
    return {
        "median": statistics.median(sorted_values),
        "low": sorted_values[0],
        "high": sorted_values[-1],
        "n": len(sorted_values),
    }


def interleaved(functions: Mapping[str, Callable[[], object]], repeats: int, *, warm: int = 1) -> dict[str, Spread]:
    """Seconds of each of ``functions``, ``repeats`` times in turn, after ``warm`` turns that do not count."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(-warm, repeats):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            if turn >= 0:
                taken[name].append(time.perf_counter() - began)
    return {name: spread(values) for name, values in taken.items()}


def seconds(function: Callable[[], object], repeats: int, *, warm: int = 1) -> Spread:
    """Seconds of ``function``."""
    return interleaved({"": function}, repeats, warm=warm)[""]


def shown(value: Spread, unit: float = 1.0, digits: int = 2) -> str:
    """A median and its spread in cells of a table, in seconds over ``unit``."""
    return f"{value['median'] / unit:.{digits}f} [{value['low'] / unit:.{digits}f}, {value['high'] / unit:.{digits}f}]"
