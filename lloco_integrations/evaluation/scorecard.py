"""The scorecard: every row asks every question; what is done is kept, so that the same command goes on after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lloco_integrations import embedding
from lloco_integrations.errors import BadInput, PromptTooLong
from lloco_integrations.evaluation import reuse
from lloco_integrations.evaluation.cases import Case, load_cases
from lloco_integrations.evaluation.contexts import Shown
from lloco_integrations.evaluation.datasets import Question
from lloco_integrations.evaluation.identity import identity
from lloco_integrations.evaluation.methods import RATIOS, SEARCHING, USUAL, Row, check_ratios, plan, read_texts
from lloco_integrations.evaluation.prompts import find_template, overhead, share
from lloco_integrations.evaluation.readers import AdapterPaths, Readers
from lloco_integrations.evaluation.reuse import Origin, Reused
from lloco_integrations.evaluation.scores import rouge_l
from lloco_integrations.fingerprint import adapter_identity
from lloco_integrations.partial import Partial

if TYPE_CHECKING:
    from lloco_integrations.evaluation.reader import Reader
    from lloco_integrations.models import LLoCOModel
    from lloco_integrations.training.templates import Template

Progress = Callable[[str, int, int], None]
"""Called with the row, the pairs of row and document that are done, and all of them."""

_JUNCTION = 8  # tokens by which a text may take another number of positions inside its prompt than alone


@dataclass(frozen=True)
class Settings:
    """What to measure. ``docs`` and ``qa`` pair in order; ``texts``: name of the row -> file; ``ratios`` None: 4, 8, 16 and 32, as far as
    the model has them; ``base``: the model without our LoRAs, None is what ``model`` was made from; ``reuse``: an earlier report, from
    which rows are taken that do not depend on our weights."""

    docs: tuple[Path, ...]
    qa: tuple[Path, ...]
    out: Path
    methods: tuple[str, ...] = USUAL
    ratios: tuple[int, ...] | None = None
    texts: dict[str, Path] = field(default_factory=dict)
    adapters: AdapterPaths = field(default_factory=AdapterPaths)
    limit: int | None = None
    seed: int = 0
    model: str = "smollm2-135m"
    base: str | None = None
    template: str = "plain"
    max_new_tokens: int = 24
    batch_size: int = 8
    device: str = "auto"
    dtype: str = "auto"
    reuse: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """``results``: (row's name, document's id) -> what ``Runner.ask`` gives; ``identity``: what they depend on; ``reused``: the rows that
    were taken from an earlier report."""

    settings: Settings
    rows: list[Row]
    cases: list[Case]
    results: dict[tuple[str, ...], dict[str, Any]]
    readers: dict[str, str]
    model: LLoCOModel
    identity: dict[str, Any]
    reused: dict[str, Origin]


def measure(settings: Settings, finish: Callable[[Outcome], None], progress: Progress | None = None) -> None:
    """Ask everything that is not yet answered in the partial file, hand it to ``finish``, which writes the report, and delete the file.

    Raises BadInput and IncompatibleAdapter before any model is loaded where that can be known, else before anything is asked.
    """
    rows = plan(settings.methods, settings.ratios or RATIOS, list(settings.texts))
    template = find_template(settings.template)
    settings.adapters.check(rows)
    if settings.max_new_tokens < 1:
        raise BadInput(f"max_new_tokens is {settings.max_new_tokens}; use 1 or more")
    cases = load_cases(settings.docs, settings.qa, limit=settings.limit, seed=settings.seed)
    texts = {name: read_texts(path, cases) for name, path in settings.texts.items()}
    check_writable(settings.out)
    rouge_l("", [""])  # says what to install before hours are spent
    if any(row.kind in SEARCHING for row in rows):
        embedding.model_directory()
    earlier = None if settings.reuse is None else reuse.read(settings.reuse)
    from lloco_integrations.models import load_model
    from lloco_integrations.models.card import check_card

    model = load_model(settings.model, device=settings.device, dtype=settings.dtype)
    if model.prompter is None:
        raise BadInput(f"{settings.model} has no tokenizer, so it cannot be asked; add its tokenizer files")
    if settings.adapters.group is not None:
        check_card(settings.adapters.group, model.name, model.fingerprint)
    if settings.ratios is None:
        ratios = [r for r in RATIOS if r in model.spec.ratios] or list(model.spec.ratios)
        rows = plan(settings.methods, ratios, list(settings.texts))
    rows = check_ratios(rows, model)
    used = {row.name: settings.adapters.reader_of(row) for row in rows}
    adapters = {k: adapter_identity(p) for k, p in vars(settings.adapters).items() if p is not None}
    this = identity(settings, rows, used, model, adapters)
    old = Reused() if earlier is None or settings.reuse is None else reuse.take(earlier, settings.reuse, rows, used, cases, this)
    readers = Readers(model, settings.adapters, settings.base, settings.device, settings.dtype, settings.batch_size)
    runner = Runner(model, template, readers, Shown(model, texts), settings.max_new_tokens)
    with Partial(settings.out, this) as partial:
        by_reader = sorted((row for row in rows if row.name not in old.rows), key=lambda row: used[row.name])  # each model is loaded once
        pairs = [(row, case) for row in by_reader for case in cases]
        waiting = [(row, case) for row, case in pairs if (row.name, case.document.doc_id) not in partial.done]
        for i, (row, case) in enumerate(waiting):
            if progress is not None:
                progress(row.name, len(pairs) - len(waiting) + i, len(pairs))
            partial.add(row.name, case.document.doc_id, result={"questions": runner.ask(row, case)})
        if progress is not None:
            progress("", len(pairs), len(pairs))
        finish(Outcome(settings, rows, cases, {**partial.done, **old.results}, used, model, this, old.rows))
        partial.delete()


class Runner:
    """Asks the questions of one document in one row."""

    def __init__(self, model: LLoCOModel, template: Template, readers: Readers, shown: Shown, max_new_tokens: int) -> None:
        self.model = model
        self.template = template
        self.readers = readers
        self.shown = shown
        self.max_new_tokens = max_new_tokens
        self._warm: set[int] = set()

    def ask(self, row: Row, case: Case) -> list[dict[str, Any]]:
        """One result a question, in order: the answer, likelihoods (nats a token), positions, bytes, and seconds.

        Raises PromptTooLong if not even the question fits the window.
        """
        reader = self.readers.get(self.readers.paths.reader_of(row))
        if id(reader.backend) not in self._warm:  # the first pass of a model takes longer than any other
            reader.answer(reader.prefill([[1, 2, 3]]), [[4]], 2)
            self._warm.add(id(reader.backend))
        room = self._room(reader, case)
        results: dict[int, dict[str, Any]] = {}
        for context, indices in self.shown.contexts(row, case, room):
            asked = [case.questions[i] for i in indices]
            targets = [self._targets(reader, question) for question in asked]
            prompts = share(self._prompter, self.template, context.content, [q.question for q in asked], context.vectors)
            prefix = reader.prefill(prompts.prefix)
            answers = reader.answer(prefix, prompts.branches, self.max_new_tokens)
            owners = [i for i, some in enumerate(targets) for _ in some]
            nlls = reader.nll(prefix, [prompts.branches[i] for i in owners], [t for some in targets for t in some])
            for i, (index, question, answer) in enumerate(zip(indices, asked, answers, strict=True)):
                own = [round(nll, 5) for owner, nll in zip(owners, nlls, strict=True) if owner == i]
                results[index] = {
                    "id": question.id,
                    "answer": reader.text(answer.ids).strip(),
                    "nll": own[0] if question.answers else None,
                    "choices": own[len(question.answers[:1]) :],
                    "positions": context.positions,
                    "prompt_positions": prefix.n_positions + len(prompts.branches[i]),
                    "source_tokens": context.source_tokens,
                    "bytes": context.n_bytes,
                    "cut": context.cut,
                    "read_seconds": round(prefix.seconds + (context.find_seconds or 0.0), 5),
                    "answer_seconds": round(answer.seconds, 5),
                    "compress_seconds": context.compress_seconds and round(context.compress_seconds, 5),
                }
        return [results[i] for i in range(len(case.questions))]

    def _room(self, reader: Reader, case: Case) -> int:
        """Positions that the window has for the context, whichever question is asked."""
        answers = [target for question in case.questions for target in self._targets(reader, question)]
        tail = max(self.max_new_tokens, *(len(target) for target in answers), 1)
        longest = max(overhead(self._prompter, self.template, question.question) for question in case.questions)
        room = reader.window - longest - tail - _JUNCTION
        if room < 1:
            raise PromptTooLong(
                f"a question about {case.document.doc_id!r} and its answer take {longest + tail} positions, and the window has "
                f"{reader.window}; shorten the question, or lower --max-new-tokens"
            )
        return room

    def _targets(self, reader: Reader, question: Question) -> list[list[int]]:
        """Token ids of the first answer and of the choices, each with an end token: what a likelihood is taken of."""
        return [[*self._prompter.text_ids(text), *reader.ends[:1]] for text in (*question.answers[:1], *question.choices)]

    @property
    def _prompter(self) -> Any:
        return self.model.prompter


def check_writable(path: Path) -> None:
    """Make the folder of ``path``. Raises BadInput if ``path`` cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        probe = path.with_name(f".{path.name}.probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error}; name a file in a folder that you may write") from error
