"""A question that is not yet chosen, and what every question must be."""

from __future__ import annotations

import re
from dataclasses import dataclass

Asked = tuple[str, str, float]
"""A question, its answer, and how good questions of its kind are."""
BLANK = "____"
_UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
MOST_ANSWER_WORDS = 12


@dataclass(frozen=True)
class Draft:
    """``start``: where in the document the sentence or passage begins that answers it; ``score``: how good it promises to be."""

    question: str
    answer: str
    start: int
    score: float = 0.0

    @property
    def is_cloze(self) -> bool:
        return BLANK in self.question


def folded(text: str) -> str:
    """``text`` so that two which say the same are equal."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def is_sound(draft: Draft, text: str) -> bool:
    """Whether the answer is short and stands word for word in ``text``, and the question does not give it away."""
    question, answer = draft.question, draft.answer
    if answer != answer.strip() or _UNWRITABLE.search(question + answer) or len(answer.split()) > MOST_ANSWER_WORDS or answer not in text:
        return False
    bare = re.sub(r"^(?:the|a|an) ", "", folded(answer))
    paired = all(question.count(a) == question.count(b) for a, b in ("()", "“”", "[]")) and question.count('"') % 2 == 0
    return bool(bare) and paired and f" {bare} " not in f" {folded(question)} "
