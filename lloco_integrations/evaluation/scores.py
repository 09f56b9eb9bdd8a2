"""What one answer is worth. Percent, but for ``nll``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from lloco_integrations.errors import MissingExtra
from lloco_integrations.evaluation.datasets import Question
from lloco_integrations.evaluation.metrics import exact_match, f1

METRICS = ("f1", "em", "rougeL", "accuracy", "nll")
NAMES = {"f1": "F1", "em": "exact match", "rougeL": "ROUGE-L", "accuracy": "accuracy", "nll": "nats a token"}
LONG_ANSWERS = 12
"""Words; sets whose answers average more are judged by ROUGE-L."""

_UNKNOWN = re.compile(
    r"""^\W*(?:
        (?:(?:i\W?m\ |i\ am\ )?sorry\W+(?:but\W+)?)?
        (?:i|we|you)\ (?:do\ not|don\W?t|cannot|can\W?t|can\ not|could\ not|am\ not\ able\ to|\w+\ unable\ to)
            \ (?:\w+\ )?(?:know|tell|say|answer|determine|find)
      | (?:the\ )?(?:answer|text|context|passage|document|question|it|this|that)(?:\ \w+){0,2}?\ (?:is|are|was|does|do|did|can)
            (?:\ not|n\W?t|not)\ (?:\w+\ )?(?:known|say|said|mention|mentioned|state|stated|specified|specify|given|give|provided|provide|
            contain|answered|answer|clear|tell|determined|include)
      | (?:not|never)\ (?:known|mentioned|stated|specified|given|provided|answerable|enough\ information|in\ the\ (?:text|context|passage))
      | (?:there\ is\ )?(?:no|insufficient|not\ enough)\ (?:answer|information)
      | (?:unknown|unanswerable|n/a)\W*$
      | cannot\ be\ (?:answered|determined|known)
    )""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True)
class Score:
    """One answer's: ``f1``, ``em``, ``rougeL`` and ``accuracy`` (None without choices) in percent, ``nll`` in nats a token of the first
    answer. All None for a question that no document answers."""

    f1: float | None
    em: float | None
    rougeL: float | None
    accuracy: float | None
    nll: float | None
    says_unknown: bool


def score(question: Question, answer: str, nll: float | None, choices: Sequence[float] | None) -> Score:
    """``nll``: of the right answer; ``choices``: of each choice, the lowest is the model's."""
    unknown = says_unknown(answer)
    if not question.answers:
        return Score(None, None, None, None, None, unknown)
    right = None if not choices else 100.0 * (min(range(len(choices)), key=choices.__getitem__) == question.answer_index)
    return Score(
        100 * f1(answer, question.answers),
        100 * exact_match(answer, question.answers),
        100 * rouge_l(answer, question.answers),
        right,
        nll,
        unknown,
    )


def primary(questions: Sequence[Question]) -> str:
    """The metric a set is judged by: accuracy where all have choices, ROUGE-L where the answers are long, else F1."""
    answered = [q for q in questions if q.answers]
    if answered and all(q.choices and q.answer_index is not None for q in answered):
        return "accuracy"
    words = [len(a.split()) for q in answered for a in q.answers]
    return "rougeL" if words and sum(words) / len(words) > LONG_ANSWERS else "f1"


def rouge_l(prediction: str, answers: Sequence[str]) -> float:
    """The best ROUGE-L F-measure, 0 to 1, against any of ``answers``; without stemming. Raises MissingExtra without rouge-score."""
    return max((float(_scorer().score(answer, prediction)["rougeL"].fmeasure) for answer in answers), default=0.0)


def says_unknown(answer: str) -> bool:
    """Whether ``answer`` says, in one of the usual wordings, that the answer is not known or not given."""
    return bool(_UNKNOWN.match(" ".join(answer.split())))


@cache
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingExtra('a scorecard needs rouge-score: pip install "lloco_integrations[eval]"') from error
    return RougeScorer(["rougeL"])
