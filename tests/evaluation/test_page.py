"""The page of scorecards says what the reports say."""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks.scorecards import JUDGED, SETS, mean_rel, page
from tests.evaluation.test_verdict import interval, lloco, report


def whole(*ours: dict[str, Any], **more: Any) -> dict[str, Any]:
    card = report(*ours, **more)
    scores = dict.fromkeys(("em", "rougeL", "accuracy"))
    for row in card["rows"].values():
        row |= {**scores, "f1": interval(40, 5), "nll": interval(1.5, 0.1), "seconds": 0.5, "bytes": 1000, "cut": 0}
    told = {
        "verdict": "Here is a verdict.",
        "date": "2025-01-01",
        "machine": "a machine",
        "versions": {"torch": "2"},
        "command": "lloco eval",
    }
    return {**card, **told}


def test_the_mean_over_the_sets_stands_beside_its_target() -> None:
    cards = {name: whole(lloco(4, 0.95, 5), lloco(8, 0.5, 5), lloco(16, 0.55, 5)) for name in JUDGED}
    text = page(cards, "results")
    assert "| 4x | 0.95 [0.91, 0.98] | 0.85, reached | 4 of 4 |" in text
    assert "| 8x | 0.50 [0.46, 0.54] | 0.70, not reached | 4 of 4 |" in text
    assert "| 16x | 0.55 [0.52, 0.59] | 0.55, undecided | 4 of 4 |" in text
    assert "| 32x | not measured | 0.45 | 0 of 4 |" in text
    one = page({JUDGED[0]: cards[JUDGED[0]]}, "results")
    assert "| 4x | 0.95 [0.88, 1.02] | 0.85 | 1 of 4 |" in one, "one set decides nothing"


def test_each_set_has_its_rows_verdict_and_command() -> None:
    text = page({name: whole(lloco(8, 0.5, 5)) for name in SETS}, "../results")
    for name in SETS:
        part = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert "| lloco@8 | 40.0 [35.0, 45.0] | 1.50 [1.40, 1.60] | 0.50 [0.43, 0.57] | 50 | 0.50 | 1,000 |" in part
        assert "Here is a verdict." in part and f"](../results/{name}.png)" in part and "```bash\nlloco eval\n```" in part
        assert "2025-01-01, a machine; torch 2." in part


def test_rows_of_an_earlier_report_say_so() -> None:
    card = whole(lloco(8, 0.5, 5))
    assert "taken from" not in page({JUDGED[0]: card}, "r")
    card["rows"]["none"] |= {"reused": "2024-12-31", "machine": "an older machine"}
    assert "\nnone: taken from a report of 2024-12-31 (an older machine).\n" in page({JUDGED[0]: card}, "r")


def test_the_interval_of_the_mean() -> None:
    assert mean_rel([interval(0.5, 0.2), None, interval(0.7, 0.2)]) == pytest.approx(
        (0.6, 0.6 - 0.2 / math.sqrt(2), 0.6 + 0.2 / math.sqrt(2), 2)
    )
    assert mean_rel([None])[3] == 0
