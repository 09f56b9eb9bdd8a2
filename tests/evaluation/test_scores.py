"""Scores of single answers, and intervals over documents."""

from __future__ import annotations

import random

import pytest

from lloco_integrations.evaluation.datasets import Question
from lloco_integrations.evaluation.intervals import Bootstrap
from lloco_integrations.evaluation.scores import primary, rouge_l, says_unknown, score
from lloco_integrations.training.templates import NO_ANSWER


@pytest.mark.parametrize(
    "answer",
    [
        NO_ANSWER,
        "I don’t know.",
        "I do not know who built it",
        "I dont know",
        "Sorry, I cannot answer that.",
        "The context does not say.",
        "The text doesn't mention it.",
        "It is not mentioned in the text.",
        "This is not stated.",
        "Not mentioned",
        "There is no information about this.",
        "No answer",
        "Unknown.",
        "unanswerable",
        "Cannot be determined from the passage",
        "I'm sorry, but I don't know",
    ],
)
def test_says_that_it_does_not_know(answer: str) -> None:
    assert says_unknown(answer)


@pytest.mark.parametrize(
    "answer", ["", "1911", "the unknown soldier", "He did not know his father", "because no one knows the way", "Nobody", "It is not far"]
)
def test_does_not_say_so(answer: str) -> None:
    assert not says_unknown(answer)


@pytest.mark.needs("rouge_score")
def test_a_right_answer_and_a_choice() -> None:
    question = Question("q", "d", "Where?", ("The city", "town"), ("the moon", "The city"), 1)
    made = score(question, "city.", 0.7, [2.0, 1.0])
    assert (made.f1, made.em, made.rougeL, made.accuracy, made.nll, made.says_unknown) == (
        100,
        100,
        pytest.approx(200 / 3),
        100,
        0.7,
        False,
    )
    assert score(question, "city.", 0.7, [1.0, 2.0]).accuracy == 0
    nothing = score(Question("q", "d", "Where?", ()), "I don't know", None, [])
    assert nothing.says_unknown and nothing.f1 is None and nothing.nll is None


@pytest.mark.needs("rouge_score")
def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence() -> None:
    assert rouge_l("the cat sat on the mat", ["a dog", "the cat lay on a mat"]) == pytest.approx(4 / 6)
    assert rouge_l("", ["x"]) == 0.0 and rouge_l("x", []) == 0.0


def test_the_metric_a_set_is_judged_by() -> None:
    short, long = ("two words",), ("word " * 13,)
    choice = Question("c", "d", "?", short, ("a", "b"), 0)
    assert primary([choice]) == "accuracy"
    assert primary([Question("q", "d", "?", short), choice]) == "f1"
    assert primary([Question("q", "d", "?", long)]) == "rougeL"
    assert primary([Question("q", "d", "?", ())]) == "f1"


def test_intervals_resample_documents() -> None:
    """Questions of one document that agree are worth one, not ten."""
    rng = random.Random(0)
    alike = {str(d): [rng.random()] * 10 for d in range(30)}
    apart = {str(d): [rng.random() for _ in range(10)] for d in range(30)}
    widths = []
    for values in (alike, apart):
        means = Bootstrap(list(values), seed=3).means(values)
        assert means is not None
        assert means.interval.low < means.mean < means.interval.high
        widths.append(means.interval.high - means.interval.low)
        again = Bootstrap(list(values), seed=3).means(values)
        assert again is not None and again.interval == means.interval
    assert widths[0] > 2 * widths[1]


def test_rows_are_paired() -> None:
    rng = random.Random(1)
    values = {str(d): [rng.random() for _ in range(3)] for d in range(20)}
    bootstrap = Bootstrap(list(values))
    low, high = bootstrap.means(values), bootstrap.means({d: [v + 1 for v in some] for d, some in values.items()})
    assert low is not None and high is not None
    difference = (high - low).interval
    assert difference.low == pytest.approx(1) and difference.high == pytest.approx(1)
    half = (high - low).over(high - low).interval
    assert (half.low, half.high) == (1, 1)
    assert bootstrap.means({}) is None
