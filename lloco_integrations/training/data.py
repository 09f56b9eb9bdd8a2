"""Contexts -> batches of packed prompts. Batch ``step`` depends on the seed and the step alone, so that
training resumes to the step without stored iterator state."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lloco_integrations import placeholder
from lloco_integrations.errors import BadInput
from lloco_integrations.placeholder import KEY_LENGTH, Placeholder
from lloco_integrations.prompting import flatten
from lloco_integrations.training.templates import CONTINUE, NO_ANSWER, PLAIN, QUOTE, REPEAT, TEMPLATES, Template

if TYPE_CHECKING:
    from lloco_integrations.prompting import Prompter, Segment
    from lloco_integrations.training.contexts import Context


_Prompt = tuple[list["Segment"], tuple[int, ...], float]
"""Segments, target ids, and how much each target counts."""
_QUESTION_TOKENS = 48
"""What a branch takes on average, template included; to size batches only."""


@dataclass(frozen=True)
class Branch:
    """What follows a row's shared prefix: ``prompt`` ids, then the ``target`` ids that are learnt, each counted ``weight`` times."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Row:
    """A shared prefix (token ids and placeholders) and the branches that each continue it, blind to one another."""

    prefix: tuple[Segment, ...]
    branches: tuple[Branch, ...]


@dataclass(frozen=True)
class Batch:
    """``contexts``: token ids of the documents to encode. A placeholder in a row names one by ``context_key(i)``; it stands at ``ratio``,
    unless it has its own, and a slice counts in windows of ``ratio``."""

    contexts: tuple[tuple[int, ...], ...]
    ratio: int
    rows: tuple[Row, ...]

    def share(self, index: int, of: int) -> Batch:
        """The rows of process ``index`` of ``of``."""
        return replace(self, rows=self.rows[index::of])

    def as_text(self) -> Batch:
        """The same prompts with the documents' tokens in place of placeholders: what a teacher reads."""
        rows = tuple(
            replace(row, prefix=tuple(self._text(s) if isinstance(s, Placeholder) else s for s in row.prefix)) for row in self.rows
        )
        return replace(self, rows=rows)

    def _text(self, mark: Placeholder) -> list[int]:
        start, stop = mark.windows or (0, len(self.contexts[context_index(mark.key)]))
        return list(self.contexts[context_index(mark.key)][start * self.ratio : stop * self.ratio])

    @property
    def weight(self) -> float:
        """The targets' weights together."""
        return sum(b.weight * len(b.target) for row in self.rows for b in row.branches)


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of prompt; the rest are compressed contexts with an answer in one of them.

    ``raw``: batches in which documents are shown as text, each with the chance ``raw_documents``. ``distractors``: weights of showing
    0, 1, 2, ... documents that do not matter. ``metadata``: how often titles are shown. ``quotes`` branches a row ask for the
    ``quote_tokens`` tokens after a lead of ``quote_lead`` tokens: an answer is four tokens, a quote is a dozen times that, and teaches
    the same thing: to find a place in the vectors and to unpack it. Of a piece of plain text, ``repeat_tokens`` are asked for, too,
    and ``continue_tokens`` of what follows it.
    """

    raw: float = 0.06
    raw_documents: float = 0.67
    no_context: float = 0.02
    unanswerable: float = 0.03
    distractors: tuple[float, ...] = (0.45, 0.3, 0.15, 0.1)
    metadata: float = 0.25
    quotes: int = 2
    quote_weight: float = 0.5
    quote_lead: int = 8
    quote_tokens: int = 48
    repeat_tokens: int = 128
    continue_tokens: int = 64


RAW_ONLY = Mix(raw=1.0, raw_documents=1.0, no_context=0.0, quotes=1)
"""For the rival that reads text."""
NO_CONTEXT = Mix(raw=0.0, no_context=1.0, unanswerable=0.0, quotes=0)
"""For the rival that reads nothing but the question."""


def context_key(i: int) -> str:
    """The placeholder key of the batch's context ``i``."""
    letters = ""
    while i:
        i, digit = divmod(i, 26)
        letters = chr(ord("a") + digit) + letters
    return letters.rjust(KEY_LENGTH, "a")


def context_index(key: str) -> int:
    """The context that ``key`` names: the inverse of ``context_key``."""
    value = 0
    for letter in key:
        value = value * 26 + ord(letter) - ord("a")
    return value


@dataclass
class Sampler:
    """Draws batches. ``rows`` documents a batch, fewer where they would pass ``positions`` decoder positions together; up to
    ``questions`` questions each; ``ratios(step)`` gives the ratios' weights. The first ``text_steps`` batches are of ``texts``,
    and after them a share of ``text_share``."""

    contexts: Sequence[Context]
    prompter: Prompter
    ratios: Callable[[int], dict[int, float]]
    end: int
    rows: int = 8
    questions: int = 5
    positions: int = 3072
    seed: int = 0
    mix: Mix = field(default_factory=Mix)
    texts: Sequence[Context] = ()
    text_steps: int = 0
    text_share: float = 0.0
    _decks: dict[str, tuple[int, list[list[int]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.contexts) < self.rows:
            raise BadInput(
                f"{len(self.contexts)} documents with questions are fewer than the {self.rows} rows of a batch; add data or lower rows"
            )
        if (self.text_steps or self.text_share) and len(self.texts) < self.rows:
            raise BadInput(
                f"some steps are to read plain text, but there are {len(self.texts)} pieces for the {self.rows} rows of a "
                f"batch; name longer texts, or ask for no such steps"
            )

    def batch(self, step: int) -> Batch:
        """The batch of ``step``, the same however often and in whatever order it is asked for."""
        rng = random.Random(f"{self.seed}/{step}")
        of_text = step < self.text_steps or rng.random() < self.text_share
        chosen = self._chosen(step, self.texts if of_text else self.contexts, "texts" if of_text else "contexts")
        weights = self.ratios(step)
        ratio = rng.choices(list(weights), list(weights.values()))[0]
        raw = rng.random() < self.mix.raw  # for all rows or none: one long raw row would pad all others
        longest = max(len(c.ids) for c in chosen) // (1 if raw else ratio) + _QUESTION_TOKENS * self.questions
        n_rows = max(1, min(self.rows, self.positions // longest))
        room = max(self.positions // n_rows - longest, 0)
        rows = tuple(self._row(i, chosen, ratio, room, raw, rng) for i in range(n_rows))
        return Batch(tuple(c.ids for c in chosen), ratio, rows)

    def _chosen(self, step: int, source: Sequence[Context], name: str) -> list[Context]:
        epoch, at = divmod(step, len(source) // self.rows)
        if name not in self._decks or self._decks[name][0] != epoch:
            self._decks[name] = (epoch, self._order(source, f"{self.seed}/{name}/{epoch}"))
        return [source[i] for i in self._decks[name][1][at]]

    def _order(self, source: Sequence[Context], key: str) -> list[list[int]]:
        """Batches of documents of similar length, in random order."""
        rng = random.Random(key)
        order = list(range(len(source)))
        rng.shuffle(order)
        usable = len(order) // self.rows * self.rows
        batches: list[list[int]] = []
        pool = self.rows * 32
        for start in range(0, usable, pool):
            near = sorted(order[start : min(start + pool, usable)], key=lambda i: len(source[i].ids))
            batches += [near[i : i + self.rows] for i in range(0, len(near), self.rows)]
        rng.shuffle(batches)
        return batches

    def _row(self, own: int, chosen: list[Context], ratio: int, room: int, raw: bool, rng: random.Random) -> Row:
        mix, context = self.mix, chosen[own]
        template = PLAIN if not context.questions else rng.choices(TEMPLATES, [t.weight for t in TEMPLATES])[0]
        n_others = rng.choices(range(len(mix.distractors)), mix.distractors)[0] if context.questions else 0
        others = rng.sample([i for i in range(len(chosen)) if i != own], min(n_others, len(chosen) - 1))
        as_text = {i for i in (own, *others) if raw and rng.random() < mix.raw_documents}
        shown: list[int] = []
        if not context.questions or rng.random() >= mix.no_context:
            shown = [own]
            for i in others:
                cost = len(chosen[i].ids) // (1 if i in as_text else ratio)
                if cost <= room:
                    shown.append(i)
                    room -= cost
            rng.shuffle(shown)
        named = rng.random() < mix.metadata
        text = "\n\n".join(self._shown(i, chosen[i], i in as_text, named) for i in shown)
        prompts = self._asked(template, text, context, [c for i, c in enumerate(chosen) if i not in shown] if shown else [], rng)
        if template.shares_prefix and shown:
            prompts += [self._quote(template, text, context, rng) for _ in range(mix.quotes)]
        if not context.questions:
            prompts += self._retold(template, text, context)
        return share_prefix(prompts)

    def _asked(self, template: Template, text: str, context: Context, elsewhere: Sequence[Context], rng: random.Random) -> list[_Prompt]:
        """Questions about ``context``; now and then one about a document of ``elsewhere``, which is not shown."""
        prompts = []
        n_questions = self.questions if template.shares_prefix else 1
        for question in rng.sample(context.questions, min(n_questions, len(context.questions))):
            asked, answer = question.question, question.answers[0]
            if elsewhere and rng.random() < self.mix.unanswerable:
                asked, answer = rng.choice(rng.choice(elsewhere).questions).question, NO_ANSWER
            prompts.append((self._segments(template, text, asked), (*self.prompter.text_ids(answer), self.end), 1.0))
        return prompts

    def _retold(self, template: Template, text: str, context: Context) -> list[_Prompt]:
        """A piece of plain text again, and how it goes on."""
        again = context.ids[: self.mix.repeat_tokens]
        prompts = [(self._segments(template, text, REPEAT), again, self.mix.quote_weight)]
        if context.follows:
            prompts.append((self._segments(template, text, CONTINUE), context.follows[: self.mix.continue_tokens], self.mix.quote_weight))
        return prompts

    def _quote(self, template: Template, text: str, context: Context, rng: random.Random) -> _Prompt:
        mix = self.mix
        at = rng.randrange(max(1, len(context.ids) - mix.quote_lead - 7))
        lead = self.prompter.text_of(context.ids[at : at + mix.quote_lead])
        rest = context.ids[at + mix.quote_lead :][: mix.quote_tokens]
        return self._segments(template, text, QUOTE.format(lead.strip())), rest, mix.quote_weight

    def _segments(self, template: Template, text: str, question: str) -> list[Segment]:
        return self.prompter.segments(template.fill(text, placeholder.neutralise(question)))

    def _shown(self, i: int, context: Context, raw: bool, named: bool) -> str:
        content = self.prompter.text_of(context.ids) if raw else placeholder.make(context_key(i))
        return f"title: {placeholder.neutralise(context.title)}\n\n{content}" if named and context.title else content


def plain_batch(contexts: Sequence[Context], sampler: Sampler, kind: str, ratio: int, questions: int = 3) -> Batch:
    """One document a prompt in the plain template, its first questions; ``kind``: "none", "raw" or "summary". For evaluation."""
    prompter, rows = sampler.prompter, []
    for i, context in enumerate(contexts):
        shown = {"none": "", "raw": prompter.text_of(context.ids), "summary": placeholder.make(context_key(i))}[kind]
        prompts = [
            (prompter.segments(PLAIN.fill(shown, q.question)), (*prompter.text_ids(q.answers[0]), sampler.end), 1.0)
            for q in context.questions[:questions]
        ]
        rows.append(share_prefix(prompts))
    return Batch(tuple(c.ids for c in contexts), ratio, tuple(rows))


def share_prefix(prompts: Sequence[_Prompt]) -> Row:
    """One Row of prompts that begin alike: what all share comes once, as long as a branch keeps one position of its own."""
    flat = [flatten(segments) for segments, _, _ in prompts]
    shared = 0
    limit = min(len(f) for f in flat) - 1
    while shared < limit and all(f[shared] == flat[0][shared] for f in flat):
        shared += 1
    if any(isinstance(item, Placeholder) for f in flat for item in f[shared:]):
        raise BadInput("a prompt whose context follows its question cannot share a prefix; give each its own row")
    branches = tuple(
        Branch(tuple(i for i in f[shared:] if not isinstance(i, Placeholder)), target, weight)
        for f, (_, target, weight) in zip(flat, prompts, strict=True)
    )
    prefix: list[Segment] = []
    for item in flat[0][:shared]:
        if isinstance(item, Placeholder):
            prefix.append(item)
        elif prefix and isinstance(prefix[-1], list):
            prefix[-1].append(item)
        else:
            prefix.append([item])
    return Row(tuple(prefix), branches)
