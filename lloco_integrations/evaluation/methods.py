"""The rows of a scorecard, and what each of them shows of a document."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lloco_integrations.errors import BadInput
from lloco_integrations.evaluation.cases import Case
from lloco_integrations.evaluation.datasets import read_lines

if TYPE_CHECKING:
    import torch

    from lloco_integrations.models import LLoCOModel
    from lloco_integrations.types import SummaryEmbeddings

METHODS = ("none", "raw", "raw+lora", "truncate", "lloco")
RATIOS = (4, 8, 16, 32)


@dataclass(frozen=True)
class Row:
    """``kind``: one of METHODS, or "texts" for another compressor's; ``ratio``: source tokens per position, where the row has one."""

    name: str
    kind: str
    ratio: int | None = None


@dataclass(frozen=True)
class Context:
    """What stands for a document: a text, token ids or vectors ``(n, hidden_size)``; its positions, those of the whole text, and the bytes
    that must be kept to show it."""

    content: str | list[int] | torch.Tensor
    positions: int
    source_tokens: int
    n_bytes: int
    compress_seconds: float | None = None

    def cut(self, room: int, model: LLoCOModel) -> Context:
        """The first ``room`` positions of it."""
        if isinstance(self.content, str):
            return of_ids(model, ids_of(model, self.content)[:room], self.source_tokens)
        if isinstance(self.content, list):
            return of_ids(model, self.content[:room], self.source_tokens)
        rows = self.content[:room]
        return replace(self, content=rows, positions=len(rows), n_bytes=rows.numel() * rows.element_size())


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
        if method in ("truncate", "lloco"):
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


def check_ratios(rows: Sequence[Row], model: LLoCOModel) -> None:
    """Raise BadInput for a ratio that ``model`` does not give, naming those that it gives."""
    for row in rows:
        if row.kind == "lloco" and row.ratio not in model.spec.ratios:
            raise BadInput(f"ratio {row.ratio} is not one that {model.name} gives; use some of {', '.join(map(str, model.spec.ratios))}")


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


def ids_of(model: LLoCOModel, text: str) -> list[int]:
    """Token ids of ``text`` as a prompt shows it; none for a blank one."""
    from lloco_integrations.placeholder import neutralise

    return model.text_ids(neutralise(text)) if text.strip() else []


def of_text(model: LLoCOModel, text: str, source_tokens: int | None = None) -> Context:
    """A text as it is."""
    n = len(ids_of(model, text))
    return Context(text, n, n if source_tokens is None else source_tokens, len(text.encode()))


def of_ids(model: LLoCOModel, ids: list[int], source_tokens: int) -> Context:
    """The first tokens of a text."""
    assert model.prompter is not None
    return Context(ids, len(ids), source_tokens, len(model.prompter.text_of(ids).encode()))


class Shown:
    """Contexts of the rows. A document is compressed once for all ratios, when a row first needs it.

    ``texts``: for each row of that kind, question id -> text.
    """

    def __init__(self, model: LLoCOModel, texts: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self.model = model
        self.texts = texts or {}
        self._summaries: dict[str, tuple[SummaryEmbeddings, float]] = {}

    def contexts(self, row: Row, case: Case) -> list[tuple[Context, list[int]]]:
        """What ``row`` shows, and to which of the case's questions (their indices): one context for all, or one for each text."""
        everyone = list(range(len(case.questions)))
        text = case.document.text
        if row.kind == "texts":
            groups: dict[str, list[int]] = {}
            for i, question in enumerate(case.questions):
                groups.setdefault(self.texts[row.name][question.id], []).append(i)
            n = len(ids_of(self.model, text))
            return [(of_text(self.model, shown, n), some) for shown, some in groups.items()]
        if row.kind == "none":
            return [(Context("", 0, len(ids_of(self.model, text)), 0), everyone)]
        if row.kind == "truncate":
            ids = ids_of(self.model, text)
            return [(of_ids(self.model, ids[: math.ceil(len(ids) / (row.ratio or 1))], len(ids)), everyone)]
        if row.kind == "lloco":
            return [(self._vectors(case, row.ratio), everyone)]
        return [(of_text(self.model, text), everyone)]

    def _vectors(self, case: Case, ratio: int | None) -> Context:
        import time

        key = case.document.doc_id
        if key not in self._summaries:
            began = time.perf_counter()
            (summary,) = self.model.compress([case.document.text])
            self._summaries[key] = (summary, time.perf_counter() - began)
        summary, seconds = self._summaries[key]
        rows = self.model.compressor.read(summary, ratio)
        return Context(rows, rows.shape[0], summary.n_tokens, rows.numel() * summary.vectors.element_size(), seconds)
