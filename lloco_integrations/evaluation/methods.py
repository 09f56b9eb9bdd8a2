"""The rows of a scorecard, and which of them there can be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lloco_integrations.errors import BadInput
from lloco_integrations.evaluation.cases import Case
from lloco_integrations.evaluation.datasets import read_lines

if TYPE_CHECKING:
    from lloco_integrations.models import LLoCOModel

METHODS = ("none", "raw", "raw+lora", "truncate", "sentences", "retrieve", "lloco", "lloco+adapter", "lloco+retrieve", "focus")
USUAL = ("none", "raw", "raw+lora", "truncate", "sentences", "lloco", "focus")
"""What is measured if nothing else is asked for."""
OURS = ("lloco", "lloco+adapter", "lloco+retrieve", "focus")
"""Summaries of the whole document, summaries of passages found for the question, and sentences found for it between summaries."""
RETRIEVING = ("retrieve", "lloco+retrieve")
FOCUSED = ("sentences", "focus")
"""What the question points to, as text alone, and as the model's own recipe spends the positions; at any ratio."""
SEARCHING = (*RETRIEVING, *FOCUSED)
"""Those that need an embedding model."""
WHOLE = ("lloco", "lloco+adapter")
"""Those that read the summary of the whole document, at ratios that the model gives."""
_AT_RATIOS = ("truncate", "sentences", "retrieve", *OURS)
RATIOS = (4, 8, 16, 32)


@dataclass(frozen=True)
class Row:
    """``kind``: one of METHODS, or "texts" for another compressor's; ``ratio``: the document's tokens per position, where the row has one."""

    name: str
    kind: str
    ratio: int | None = None


def plan(methods: Sequence[str], ratios: Sequence[int], texts: Sequence[str] = ()) -> list[Row]:
    """The rows in the order asked for, those of ``texts`` last.

    Raises BadInput for a method that there is not, a ratio below 1, and a name of ``texts`` that is taken.
    """
    if unknown := [m for m in methods if m not in METHODS and m not in texts]:
        raise BadInput(f"there is no method {unknown[0]!r}; use some of {', '.join(METHODS)}, and --texts NAME=FILE for others")
    if wrong := [r for r in ratios if r < 1]:
        raise BadInput(f"ratio {wrong[0]} cannot be; use whole numbers from 1")
    if not methods and not texts:
        raise BadInput(f"no method was asked for; use some of {', '.join(METHODS)}")
    rows: list[Row] = []
    for method in dict.fromkeys(methods):
        if method in _AT_RATIOS:
            if not ratios:
                raise BadInput(f"{method} needs a ratio; use --ratio 4,8,16,32")
            rows += [Row(f"{method}@{ratio}", method, ratio) for ratio in dict.fromkeys(ratios)]
        elif method in METHODS:
            rows.append(Row(method, method))
    taken = {row.name for row in rows} | set(METHODS)
    for name in texts:
        if name in taken or name.partition("@")[0] in METHODS:
            raise BadInput(f"--texts {name}=... has the name of a method of this package; give it another")
        rows.append(Row(name, "texts"))
    return rows


def check_ratios(rows: Sequence[Row], model: LLoCOModel) -> list[Row]:
    """``rows`` without summaries at a ratio that ``model`` does not give and that was asked of ``sentences`` or ``focus``.

    Raises BadInput for other ratios that it does not give, and if no summary would be left, naming those that it gives.
    """
    free = {row.ratio for row in rows if row.kind in FOCUSED}
    fitting = [row for row in rows if row.kind not in WHOLE or row.ratio in model.spec.ratios]
    for row in rows:
        if row not in fitting and not (row.ratio in free and any(other.kind == row.kind for other in fitting)):
            raise BadInput(f"ratio {row.ratio} is not one that {model.name} gives; use some of {', '.join(map(str, model.spec.ratios))}")
    return fitting


def read_texts(path: Path, cases: Sequence[Case]) -> dict[str, str]:
    """Question id -> text, of a JSONL file of {"id": ..., "text": ...}.

    Raises BadInput naming file and line for malformed ones, and the first question of ``cases`` that has no text.
    """
    texts: dict[str, str] = {}
    for row, at in read_lines(path):
        key, text = row.get("id"), row.get("text")
        if not isinstance(key, str) or not isinstance(text, str):
            raise BadInput(f'{at}: expected {{"id": question id, "text": text}}, both strings, not {json.dumps(row)[:80]}')
        if key in texts and texts[key] != text:
            raise BadInput(f"{at}: the question {key!r} has two texts; keep one")
        texts[key] = text
    missing = [q.id for case in cases for q in case.questions if q.id not in texts]
    if missing:
        raise BadInput(f"{path} has no text for {len(missing)} of the questions, the first is {missing[0]!r}; add a line for each")
    return texts
