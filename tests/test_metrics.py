"""F1 agrees with the reference's evaluator; intervals are what they say."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from lloco_integrations.evaluation.metrics import bootstrap, exact_match, f1, normalise

CASES = json.loads((Path(__file__).parent / "golden" / "metrics.json").read_text())["hotpot"]["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: repr(c["pred"]))
def test_f1_equals_the_reference(case: dict[str, object]) -> None:
    prediction, answer = str(case["pred"]), str(case["answer"])
    assert normalise(prediction) == case["normalized_pred"]
    assert f1(prediction, [answer]) == pytest.approx(case["f1_raw"])


def test_best_of_several_answers() -> None:
    assert f1("the red barn", ["blue", "red barn"]) == 1.0
    assert exact_match("The Red Barn!", ["blue", "red barn"]) == 1.0
    assert exact_match("red barn door", ["red barn"]) == 0.0
    assert f1("anything", []) == 0.0


def test_interval_covers_the_mean_and_shrinks() -> None:
    rng = random.Random(1)
    few, many = [rng.random() for _ in range(20)], [rng.random() for _ in range(2000)]
    a, b = bootstrap(few), bootstrap(many)
    assert a.low < a.mean < a.high
    assert b.high - b.low < (a.high - a.low) / 3
    assert bootstrap(few) == a
