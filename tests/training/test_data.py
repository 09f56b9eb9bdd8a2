"""Batches: what kinds of prompt there are, and that they depend on seed and step alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lloco_integrations.errors import BadInput
from lloco_integrations.placeholder import Placeholder
from lloco_integrations.training.contexts import Context
from lloco_integrations.training.data import NO_CONTEXT, RAW_ONLY, Batch, Branch, Mix, Row, context_index, context_key
from lloco_integrations.training.templates import CONTINUE, REPEAT
from tests.training.houses import PROMPTER, sampler


def shown(batch: Batch) -> list[int]:
    return [sum(isinstance(s, Placeholder) for s in row.prefix) for row in batch.rows]


def texts_of(batch: Batch) -> list[str]:
    return ["".join("" if isinstance(s, Placeholder) else PROMPTER.text_of(s) for s in row.prefix) for row in batch.rows]


def test_batches_depend_on_seed_and_step_alone(files: tuple[Path, Path]) -> None:
    one, two = sampler(files), sampler(files)
    backwards = [two.batch(s) for s in reversed(range(9))][::-1]
    assert [one.batch(s) for s in range(9)] == backwards
    assert sampler(files, seed=1).batch(0) != one.batch(0)
    assert all(context_index(context_key(i)) == i for i in range(2000))


def test_kinds_of_prompt(files: tuple[Path, Path]) -> None:
    source = sampler(files)
    batches = [source.batch(s) for s in range(60)]
    branches = [b for batch in batches for row in batch.rows for b in row.branches]
    targets = [PROMPTER.tokenizer.decode(b.target) for b in branches]
    assert any(t.startswith("I don't know") for t in targets)
    assert {b.weight for b in branches} == {1.0, 0.5}
    assert {b.ratio for b in batches} == {4, 8}
    assert {n for batch in batches for n in shown(batch)} == {0, 1, 2, 3}
    mixed = [t for batch in batches for t, n in zip(texts_of(batch), shown(batch), strict=True) if n and "the door is" in t]
    assert mixed, "some prompts show one document as text and another as vectors"


def test_rivals_read_text_alone_or_nothing(files: tuple[Path, Path]) -> None:
    raw, none = sampler(files, mix=RAW_ONLY), sampler(files, mix=NO_CONTEXT)
    for step in range(12):
        assert shown(raw.batch(step)) == shown(none.batch(step)) == [0, 0, 0]
        assert all("the door is" in t for t in texts_of(raw.batch(step)))
        assert not any("the door is" in t for t in texts_of(none.batch(step)))


def test_a_teacher_reads_the_same_prompts_as_text(files: tuple[Path, Path]) -> None:
    source = sampler(files, mix=Mix(raw=0, no_context=0, distractors=(1.0,)))
    batch = next(b for b in map(source.batch, range(99)) if shown(b) == [1, 1, 1])
    text = batch.as_text()
    assert [r.branches for r in text.rows] == [r.branches for r in batch.rows]
    assert shown(text) == [0, 0, 0]
    for i, whole in enumerate(texts_of(text)):
        assert PROMPTER.text_of(batch.contexts[i]) in whole


def test_processes_share_a_batch(files: tuple[Path, Path]) -> None:
    batch = sampler(files).batch(0)
    shares = [batch.share(i, 2) for i in range(2)]
    assert [len(s.rows) for s in shares] == [2, 1]
    assert sum(s.weight for s in shares) == batch.weight
    assert {id(r) for s in shares for r in s.rows} == {id(r) for r in batch.rows}
    assert Batch((), 4, (Row((), (Branch((1,), (2, 3), 0.5),)),)).weight == 1.0


def test_the_first_steps_read_plain_text(files: tuple[Path, Path]) -> None:
    text = tuple(PROMPTER.text_ids("abcdefghijklmnopqrstuvwxyz" * 2))
    pieces = [Context("", text[i : i + 24], follows=text[i + 24 : i + 30]) for i in range(6)]
    source = sampler(files, texts=pieces, text_steps=3, mix=replace(Mix(), quotes=0, raw=0))
    for step in range(3):
        for row, ids in zip(source.batch(step).rows, source.batch(step).contexts, strict=True):
            again, on = row.branches
            assert again.target == ids
            assert on.target == text[text.index(ids[0]) + 24 :][:6]
            asked = [PROMPTER.text_of(row.prefix[-1]) + PROMPTER.text_of(branch.prompt) for branch in row.branches]
            assert REPEAT in asked[0] and CONTINUE in asked[1]
    assert all("house" in PROMPTER.text_of(c) for c in source.batch(3).contexts)
    shared = sampler(files, texts=pieces, text_share=0.5)
    of_text = ["house" not in PROMPTER.text_of(shared.batch(s).contexts[0]) for s in range(60)]
    assert 15 < sum(of_text) < 45


def test_too_little_to_learn_from(files: tuple[Path, Path]) -> None:
    with pytest.raises(BadInput, match="12 documents with questions are fewer than the 40 rows"):
        sampler(files, rows=40)
    with pytest.raises(BadInput, match="some steps are to read plain text, but there are 0 pieces"):
        sampler(files, text_steps=3)
