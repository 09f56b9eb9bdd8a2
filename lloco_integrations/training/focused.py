"""Prompts as focus makes them, for training: the policy that answers at query time draws them, over budgets and recipes of all kinds.

What a decoder reads all day is text between slices of summaries, so that is what it is taught on: sometimes the sentence with the answer is
text, sometimes only vectors are left of it, sometimes nothing that is shown answers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from lloco_integrations import placeholder
from lloco_integrations.evaluation.datasets import Question
from lloco_integrations.show.forms import Entry
from lloco_integrations.show.policy import FocusRecipe
from lloco_integrations.show.scoring import ByWords, Texts, ranks
from lloco_integrations.show.showing import Spending, focused
from lloco_integrations.store.info import EntryInfo
from lloco_integrations.training.contexts import Context
from lloco_integrations.training.data import Batch, Row, Sampler, context_key, share_prefix
from lloco_integrations.training.templates import NO_ANSWER, PLAIN, TEMPLATES, Template

FINEST = 2
"""Tokens in a window of the summaries that slices are taken of."""
RATIOS = (2, 4, 8, 16, 32)
_WHOLE = 1 << 20
K = TypeVar("K")


@dataclass(frozen=True)
class FocusMix:
    """What prompts are drawn of; weights are relative.

    Attributes:
        uniform: the share of batches in which each document has one form, with quotes (see ``data.Mix``).
        budgets: tokens of the texts for each position.
        text_shares, slices: of the recipe; ``slices`` are its finest and coarsest.
        all_text, nothing: shares of prompts with every text whole, and without any.
        hidden: how often the sentences that hold the answer are ranked last, so that only vectors are left of them.
        unanswerable: how often the document that answers is not among those shown.
        others: weights of 0, 1, 2, ... documents beside it.
        metadata: how often titles are shown.
    """

    uniform: float = 0.2
    budgets: dict[int, float] = field(default_factory=lambda: {2: 1.0, 4: 3.0, 6: 2.0, 8: 3.0, 12: 2.0, 16: 2.0, 24: 1.0, 30: 1.0})
    text_shares: dict[float, float] = field(default_factory=lambda: {0.0: 1.5, 0.3: 2.0, 0.5: 3.0, 0.7: 2.0, 0.85: 1.0, 1.0: 2.0})
    slices: dict[tuple[int, int], float] = field(
        default_factory=lambda: {(2, 2): 1.0, (2, 4): 1.5, (4, 4): 2.0, (4, 8): 2.0, (8, 8): 2.0, (8, 32): 1.5, (16, 16): 1.0, (2, 32): 2.0}
    )
    all_text: float = 0.08
    nothing: float = 0.02
    hidden: float = 0.25
    unanswerable: float = 0.07
    others: tuple[float, ...] = (2.0, 2.0, 2.0, 1.0, 0.5, 0.5)
    metadata: float = 0.25


@dataclass
class FocusSampler(Sampler):
    """Draws batches of focused prompts, one question each, several of a document; see Sampler for the rest."""

    focus: FocusMix = field(default_factory=FocusMix)

    def batch(self, step: int) -> Batch:
        """The batch of ``step``, the same however often and in whatever order it is asked for."""
        rng = random.Random(f"{self.seed}/{step}/focus")
        if step < self.text_steps or rng.random() < self.focus.uniform:
            return super().batch(step)
        chosen = self._chosen(step, self.contexts, "contexts")
        texts = [self.prompter.text_of(context.ids) for context in chosen]
        ids = tuple(tuple(self.prompter.text_ids(text)) for text in texts)
        rows: list[Row] = []
        left = self.positions
        for own, context in enumerate(chosen):
            for question in rng.sample(context.questions, min(self.questions, len(context.questions))):
                row = self._prompt(own, question, chosen, texts, ids, rng)
                cost = _cost(row, ids)
                if cost <= left:
                    left -= cost
                    rows.append(row)
        return Batch(ids, FINEST, tuple(rows)) if rows else super().batch(step)

    def _prompt(
        self, own: int, question: Question, chosen: list[Context], texts: list[str], ids: Sequence[tuple[int, ...]], rng: random.Random
    ) -> Row:
        mix = self.focus
        n_others = min(rng.choices(range(len(mix.others)), mix.others)[0], len(chosen) - 1)
        shown = [own, *rng.sample([i for i in range(len(chosen)) if i != own], n_others)]
        answer = question.answers[0]
        if len(shown) > 1 and rng.random() < mix.unanswerable:
            shown, answer = shown[1:], NO_ANSWER
        rng.shuffle(shown)
        kind = rng.random()
        if kind < mix.nothing:
            shown = []
        recipe = FocusRecipe(_drawn(mix.text_shares, rng), *_drawn(mix.slices, rng))
        budget = _WHOLE if kind > 1 - mix.all_text else None
        contents = self.contents(
            question, [(i, texts[i], len(ids[i])) for i in shown], recipe, _drawn(mix.budgets, rng), budget, rng.random() < mix.hidden
        )
        named = rng.random() < mix.metadata
        parts = [
            f"title: {placeholder.neutralise(chosen[i].title)}\n\n{content}" if named and chosen[i].title else content
            for i, content in zip(shown, contents, strict=True)
            if content
        ]
        template = rng.choices(TEMPLATES, [t.weight for t in TEMPLATES])[0]
        return self.row(template, "\n\n".join(parts), question.question, answer)

    def contents(
        self, question: Question, texts: Sequence[tuple[int, str, int]], recipe: FocusRecipe, ratio: int, budget: int | None, hidden: bool
    ) -> list[str]:
        """What focus shows of ``texts`` (the context's index, the text, its tokens), best first; an empty string for nothing.

        ``hidden``: the sentences with the answer are ranked last.
        """
        if not texts:
            return []
        entries = [Entry(text, context_key(i), EntryInfo(-(-n // FINEST), n, 0, "", FINEST, None, 0, 0.0)) for i, text, n in texts]
        scorer = _Hiding(question.answers) if hidden else ByWords()
        how = Spending(budget, ratio, recipe, scorer)
        scores = [1 / (rank + 1) for rank in range(len(entries))]
        found = focused(entries, question.question, scores, how, [None] * len(entries), RATIOS, self.prompter)
        return [placeholder.split_votes(shown.content)[0] if shown is not None else "" for shown in found]

    def row(self, template: Template, context: str, question: str, answer: str) -> Row:
        """One prompt and what is learnt of it."""
        segments = self.prompter.segments(template.fill(context, placeholder.neutralise(question)))
        return share_prefix([(segments, (*self.prompter.text_ids(answer), self.end), 1.0)])


class _Hiding:
    """As ByWords, but what holds an answer word for word comes last."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers = [answer.casefold() for answer in answers]

    def score(self, question: str, texts: Texts) -> Sequence[float]:
        """See Scorer."""
        pieces = [piece.casefold() for text in texts for piece in text.pieces]
        placed = ranks(ByWords().score(question, texts))
        return [-float(p) - (len(pieces) if any(a in piece for a in self.answers) else 0) for p, piece in zip(placed, pieces, strict=True)]


def focused_batch(contexts: Sequence[Context], sampler: FocusSampler, recipe: FocusRecipe, ratio: int, questions: int = 3) -> Batch:
    """The first questions of each of ``contexts`` over that document alone, as ``recipe`` shows it at ``ratio``. For evaluation."""
    prompter, rows = sampler.prompter, []
    texts = [prompter.text_of(context.ids) for context in contexts]
    ids = tuple(tuple(prompter.text_ids(text)) for text in texts)
    for i, context in enumerate(contexts):
        for question in context.questions[:questions]:
            [content] = sampler.contents(question, [(i, texts[i], len(ids[i]))], recipe, ratio, None, False)
            rows.append(sampler.row(PLAIN, content, question.question, question.answers[0]))
    return Batch(ids, FINEST, tuple(rows))


WATCHED = {
    "text 8x": (FocusRecipe(), 8),
    "text 4x": (FocusRecipe(), 4),
    "focus 8x": (FocusRecipe(0.6, 4, 8), 8),
    "focus 4x": (FocusRecipe(0.6, 4, 8), 4),
}
"""What is watched of focus while training: sentences alone, and sentences between slices, at as many positions."""


def held_out_focus(contexts: Sequence[Context], sampler: FocusSampler, rows: int = 6) -> dict[str, list[Batch]]:
    """Batches of unseen ``contexts`` for ``held_out_losses``, by the names of WATCHED."""
    groups = [contexts[i : i + rows] for i in range(0, len(contexts), rows)]
    return {name: [focused_batch(group, sampler, recipe, ratio) for group in groups] for name, (recipe, ratio) in WATCHED.items()}


def _drawn(weights: dict[K, float], rng: random.Random) -> K:
    return rng.choices(list(weights), list(weights.values()))[0]


def _cost(row: Row, ids: Sequence[tuple[int, ...]]) -> int:
    """Positions of ``row``, near enough to fill a batch."""
    cost = sum(len(branch.prompt) + len(branch.target) for branch in row.branches)
    for segment in row.prefix:
        if isinstance(segment, list):
            cost += len(segment)
        else:
            start, stop = segment.windows or (0, 1 << 20)
            cost += max(1, min(stop - start, 512) * FINEST // (segment.ratio or FINEST))
    return cost
