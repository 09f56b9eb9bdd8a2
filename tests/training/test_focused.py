"""Prompts as focus makes them: drawn by the policy that answers, and read as inference reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lloco_integrations.placeholder import Placeholder
from lloco_integrations.show.policy import FocusRecipe
from lloco_integrations.training.data import Batch, context_index
from lloco_integrations.training.focused import FINEST, FocusMix, FocusSampler, focused_batch, held_out_focus
from lloco_integrations.training.pretrain import held_out_losses
from lloco_integrations.training.trainee import MeanPoolTrainee
from lloco_integrations.types import SummaryEmbeddings
from tests import tiny
from tests.training.houses import PROMPTER, sampler

RECIPE = FocusRecipe(0.5, 4)


@pytest.fixture
def source(files: tuple[Path, Path]) -> FocusSampler:
    plain = sampler(files)
    return FocusSampler(plain.contexts, PROMPTER, plain.ratios, plain.end, rows=3, focus=FocusMix(uniform=0.2))


def marks(batch: Batch) -> list[Placeholder]:
    return [s for row in batch.rows for s in row.prefix if isinstance(s, Placeholder)]


def texts(batch: Batch) -> list[str]:
    return ["".join("" if isinstance(s, Placeholder) else PROMPTER.text_of(s) for s in row.prefix) for row in batch.rows]


def test_batches_depend_on_seed_and_step_alone(source: FocusSampler) -> None:
    first = [source.batch(step) for step in range(6)]
    assert [source.batch(step) for step in reversed(range(6))][::-1] == first


def test_all_kinds_of_prompt_come(source: FocusSampler) -> None:
    batches = [b for b in map(source.batch, range(80)) if all(len(row.branches) == 1 for row in b.rows)]
    sliced = [m for b in batches for m in marks(b)]
    assert {m.ratio or FINEST for m in sliced} >= {2, 4, 8, 16}
    assert any(m.windows is None for m in sliced) or any(m.windows for m in sliced)
    answers = [PROMPTER.text_of(row.branches[0].target) for b in batches for row in b.rows]
    assert any(a.startswith("I don't know") for a in answers)
    with_text = ["the door is" in t for b in batches for t in texts(b)]
    assert any(with_text)
    assert not all(with_text)


def test_slices_are_parts_of_their_context_and_none_is_shown_twice(source: FocusSampler) -> None:
    for batch in map(source.batch, range(40)):
        for row in batch.rows:
            seen: dict[int, int] = {}
            for mark in (s for s in row.prefix if isinstance(s, Placeholder)):
                if mark.windows is None:
                    continue
                i = context_index(mark.key)
                assert seen.get(i, 0) <= mark.windows[0] < mark.windows[1] <= -(-len(batch.contexts[i]) // FINEST)
                seen[i] = mark.windows[1]


def test_a_hidden_answer_is_not_shown_as_text(source: FocusSampler) -> None:
    context = source.contexts[0]
    question = context.questions[0]
    text = PROMPTER.text_of(context.ids)
    for ratio in (2, 3):
        [hidden] = source.contents(question, [(0, text, len(context.ids))], FocusRecipe(), ratio, None, True)
        assert hidden
        assert question.answers[0] not in hidden
    [everything] = source.contents(question, [(0, text, len(context.ids))], FocusRecipe(), 2, 1000, True)
    assert everything == text


def test_what_is_trained_is_what_is_read(source: FocusSampler) -> None:
    trainee = MeanPoolTrainee(tiny.decoder(window=4096), encoder_layers=1).eval()
    trainee.encoder.projector.slots.data.normal_(0, 0.3)
    batch = next(b for b in map(source.batch, range(40)) if any(m.windows and (m.ratio or 2) > 2 for m in marks(b)))
    mark = next(m for m in marks(batch) if m.windows and (m.ratio or 2) > 2)
    rows = trainee.reading(batch, marks(batch))(mark)
    i = context_index(mark.key)
    [stored] = trainee.means([batch.contexts[i]], FINEST)
    whole = SummaryEmbeddings(stored, len(batch.contexts[i]), "f", window=FINEST)
    expected = trainee.encoder.projector.read(whole.part(mark.windows).coarsen(mark.ratio or FINEST).vectors, mark.ratio or FINEST)
    assert torch.allclose(rows, expected, atol=1e-6)
    trainee.train()
    trainee(batch).backward()
    assert trainee.encoder.projector.slots.grad is not None
    assert float(trainee.encoder.projector.slots.grad.abs().sum()) > 0


def test_it_is_watched(source: FocusSampler) -> None:
    watched: Any = held_out_focus(source.contexts[:3], source)
    losses = held_out_losses(MeanPoolTrainee(tiny.decoder(window=4096), encoder_layers=1).eval(), watched)
    assert set(losses) == {"text 8x", "text 4x", "focus 8x", "focus 4x"}
    batch = focused_batch(source.contexts[:3], source, RECIPE, 4)
    assert batch.ratio == FINEST
    assert all(len(row.branches) == 1 for row in batch.rows)
