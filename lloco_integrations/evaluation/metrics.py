"""How good an answer is: SQuAD's F1 and exact match, and an interval for a mean."""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and extra blanks: SQuAD's normalisation."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def f1(prediction: str, answers: Sequence[str]) -> float:
    """The best token F1, 0 to 1, of ``prediction`` against any of ``answers``; yes, no and "noanswer" match whole or not at all."""
    return max((_f1(normalise(prediction), normalise(answer)) for answer in answers), default=0.0)


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if ``prediction`` equals one of ``answers`` after normalisation, else 0.0."""
    return float(any(normalise(prediction) == normalise(answer) for answer in answers))


def _f1(prediction: str, answer: str) -> float:
    whole = {"yes", "no", "noanswer"}
    if (prediction in whole or answer in whole) and prediction != answer:
        return 0.0
    ours, theirs = prediction.split(), answer.split()
    common = sum((Counter(ours) & Counter(theirs)).values())
    if not common:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


@dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"


def bootstrap(values: Sequence[float], *, seed: int = 0, rounds: int = 2000) -> Interval:
    """The mean of ``values`` with the 2.5 and 97.5 percentiles of the means of ``rounds`` resamples; deterministic for a seed."""
    if not values:
        return Interval(float("nan"), float("nan"), float("nan"))
    rng = random.Random(seed)
    n = len(values)
    means = sorted(sum(rng.choices(values, k=n)) / n for _ in range(rounds))
    return Interval(sum(values) / n, means[int(0.025 * rounds)], means[int(0.975 * rounds) - 1])
