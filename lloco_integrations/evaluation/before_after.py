"""What an adapter changed: held-out questions, each asked about its own passage, by the decoder alone and under the adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lloco_integrations.evaluation.intervals import Bootstrap
from lloco_integrations.evaluation.metrics import Interval, f1
from lloco_integrations.evaluation.prompts import share
from lloco_integrations.evaluation.reader import Reader
from lloco_integrations.training.lessons import asked_of, read
from lloco_integrations.training.templates import PLAIN

if TYPE_CHECKING:
    from lloco_integrations.models import LLoCOModel
    from lloco_integrations.store import SummaryStore
    from lloco_integrations.training.contexts import Context
    from lloco_integrations.training.lessons import Lessons

TEXT = "the text"


@dataclass(frozen=True)
class Line:
    """One way of reading: F1 in percent, nats a token of the right answers, and positions that the passage took, all means.
    ``change``: F1 under the adapter minus F1 without, by the same questions."""

    name: str
    f1: Interval
    nll: float
    positions: float
    adapted_f1: Interval | None = None
    adapted_nll: float | None = None
    change: Interval | None = None


def before_after(
    model: LLoCOModel,
    store: SummaryStore,
    lessons: Lessons,
    adapter: str,
    ratios: Sequence[int],
    *,
    limit: int = 60,
    max_new_tokens: int = 24,
    progress: Callable[[int, int], None] | None = None,
) -> list[Line]:
    """The text read by the decoder alone, then summaries at each of ``ratios`` without and with the ``adapter`` directory.

    Asks up to ``limit`` held-out questions, spread over the passages. ``progress``: (questions asked, all of them, every row counted).
    """
    asked = _spread(lessons.validation, limit)
    alone, adapted = Reader(model.backend, None), Reader(model.backend, adapter)  # type: ignore[arg-type]
    total = sum(len(c.questions) for c in asked) * (1 + 2 * len(ratios))
    done = 0

    def row(reader: Reader, ratio: int | None) -> _Row:
        nonlocal done
        made = _Row([], [], [], [])
        for number, context in enumerate(asked):
            content: Any = list(context.ids) if ratio is None else read(model, store, lessons.keys[context.ids], ratio)
            made.ask(str(number), context, content, model, reader, max_new_tokens)
            done += len(context.questions)
            if progress is not None:
                progress(done, total)
        return made

    bootstrap = Bootstrap([str(n) for n in range(len(asked))])
    text = row(alone, None)
    lines = [Line(TEXT, text.means(bootstrap).interval, text.nll, text.n_positions)]
    for ratio in ratios:
        before, after = row(alone, ratio), row(adapted, ratio)
        ours, theirs = after.means(bootstrap), before.means(bootstrap)
        lines.append(Line(f"{ratio}x", theirs.interval, before.nll, before.n_positions, ours.interval, after.nll, (ours - theirs).interval))
    return lines


def verdict(lines: Sequence[Line]) -> str:
    """What the lines say, in words."""
    said = []
    for line in lines[1:]:
        assert line.change is not None and line.adapted_f1 is not None
        sure = "better" if line.change.low > 0 else "worse" if line.change.high < 0 else "not clearly different"
        said.append(f"at {line.name} the adapter is {sure} (F1 {line.f1.mean:.0f} -> {line.adapted_f1.mean:.0f})")
    best = max(lines[1:], key=lambda line: line.adapted_f1.mean if line.adapted_f1 else 0.0)
    assert best.adapted_f1 is not None
    return (
        f"On held-out questions {', '.join(said)}. The decoder alone has {lines[0].f1.mean:.0f} from the text of the passage, "
        f"{lines[0].positions / max(1.0, best.positions):.0f} times the positions of {best.name}."
    )


@dataclass
class _Row:
    documents: list[str]
    scores: list[float]
    nlls: list[float]
    positions: list[int]

    def ask(self, document: str, context: Context, content: Any, model: LLoCOModel, reader: Reader, max_new_tokens: int) -> None:
        assert model.prompter is not None
        prompts = share(model.prompter, PLAIN, content, [q.question for q in context.questions])
        prefix = reader.prefill(prompts.prefix)
        answers = reader.answer(prefix, prompts.branches, max_new_tokens)
        targets = [[*model.prompter.text_ids(q.answers[0]), *reader.ends[:1]] for q in context.questions]
        for question, answer in zip(context.questions, answers, strict=True):
            self.documents.append(document)
            self.scores.append(100 * f1(reader.text(answer.ids), question.answers))
            self.positions.append(len(content))
        self.nlls += reader.nll(prefix, prompts.branches, targets)

    def means(self, bootstrap: Bootstrap) -> Any:
        values: dict[str, list[float]] = {}
        for document, score in zip(self.documents, self.scores, strict=True):
            values.setdefault(document, []).append(score)
        return bootstrap.means(values)

    @property
    def nll(self) -> float:
        return sum(self.nlls) / len(self.nlls)

    @property
    def n_positions(self) -> float:
        return sum(self.positions) / len(self.positions)


def _spread(contexts: Sequence[Context], limit: int) -> list[Context]:
    each = max(1, limit // max(1, len(contexts)))
    step = max(1, len(contexts) // limit)
    return [asked_of(c, each) for c in contexts[::step]]
