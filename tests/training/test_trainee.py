"""What is trained: training and inference compute the same, and only what should moves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from lloco_integrations.errors import BadInput, IncompatibleAdapter
from lloco_integrations.placeholder import Placeholder
from lloco_integrations.prompting import Prompter
from lloco_integrations.training.data import Mix, Sampler, context_index
from lloco_integrations.training.export import export_adapter
from lloco_integrations.training.packing import weighted_mean
from lloco_integrations.training.trainee import LoraSettings, SummaryTokenTrainee, Trainee
from tests import tiny
from tests.training.houses import LORA, PROMPTER, contexts, sampler, stir, trainee


def summary_tokens(**options: object) -> SummaryTokenTrainee:
    torch.manual_seed(0)
    settings: dict[str, object] = {"summary_length": 3, "segment_length": 20, "lora": LORA, **options}
    return SummaryTokenTrainee(tiny.decoder(seed=0), **settings)  # type: ignore[arg-type]


def check_packed_equals_alone(model: Trainee, source: Sampler, step: int) -> None:
    batch = source.batch(step)
    packed = model.packed(batch)
    losses = model.token_losses(packed)
    vectors = model.context_vectors(batch.contexts, batch.ratio)
    embedding = model.decoder.get_input_embeddings()
    question = 0
    for row in batch.rows:
        for branch in row.branches:
            parts = [vectors[context_index(s.key)] if isinstance(s, Placeholder) else embedding(torch.tensor(s)) for s in row.prefix]
            rows = torch.cat([*parts, embedding(torch.tensor([*branch.prompt, *branch.target]))])[None]
            logits = model.decoder(inputs_embeds=rows, attention_mask=torch.ones(rows.shape[:2]), use_cache=False).logits[0]
            n = len(branch.target)
            alone = cross_entropy(logits[-n - 1 : -1], torch.tensor(branch.target), reduction="none")
            torch.testing.assert_close(losses[packed.question == question], alone, atol=1e-4, rtol=1e-4)
            question += 1


@torch.no_grad()
def test_a_packed_branch_sees_what_it_would_alone(files: tuple[Path, Path]) -> None:
    """The training path's loss of each branch equals a plain forward pass over its own prompt: the inference path."""
    model = trainee().eval()
    stir(model)
    for step in range(4):
        check_packed_equals_alone(model, sampler(files), step)


@torch.no_grad()
def test_summary_tokens_stand_in_front_and_are_read_the_same(files: tuple[Path, Path]) -> None:
    model = summary_tokens().eval()
    stir(model)
    prompter = Prompter(tiny.tokenizer(), chat=False, placement="prefix")
    source = Sampler(contexts(files), prompter, lambda step: {6: 1.0}, end=2, rows=3, mix=Mix(raw=0, quote_tokens=8))
    for step in range(3):
        check_packed_equals_alone(model, source, step)
        row = source.batch(step).rows[0]
        assert isinstance(row.prefix[0], Placeholder) or not any(isinstance(s, Placeholder) for s in row.prefix)


def test_summary_tokens_learn_through_segments_of_random_length(files: tuple[Path, Path]) -> None:
    model = summary_tokens()
    stir(model)
    [made] = model.context_vectors([tuple(range(3, 100))], 6)
    lengths = {len(model.context_vectors([tuple(range(i, i + 97))], 6)[0]) for i in range(3, 30)}
    assert len(lengths) > 2, "the number of segments varies in training"
    assert len(model.context_vectors([tuple(range(3, 100))], 6)[0]) == len(made), "but not for the same documents"
    made[-1].sum().backward()
    assert model.embed_summary.grad is not None and model.embed_summary.grad.abs().sum() > 0
    model.eval()
    assert {len(model.context_vectors([tuple(range(i, i + 97))], 6)[0]) for i in range(3, 30)} == {15}


def test_the_teacher_is_imitated_and_stays_as_it_is(files: tuple[Path, Path], tmp_path: Path) -> None:
    teacher = trainee()
    stir(teacher, 0.3)
    export_adapter(teacher, tmp_path / "teacher", "tiny")
    model = trainee()
    stir(model)
    model.learn_from(tmp_path / "teacher", 0.25)
    batch = sampler(files).batch(1)
    loss = model(batch)
    with torch.no_grad():
        logits = model.logits(packed := model.packed(batch))
        expected = teacher.logits(teacher.packed(batch.as_text()))
        divergence = kl_div(log_softmax(logits, -1), log_softmax(expected, -1), reduction="none", log_target=True).sum(-1)
        own = cross_entropy(logits, packed.target, reduction="none")
        torch.testing.assert_close(loss, weighted_mean(0.75 * own + 0.25 * divergence, packed.weight), atol=1e-5, rtol=1e-5)
    loss.backward()
    teaching = {n: p for n, p in model.named_parameters() if ".teacher." in n}
    assert teaching and not any(p.requires_grad or p.grad is not None for p in teaching.values())
    learning = [p for n, p in model.decoder.named_parameters() if ".default." in n]
    assert learning and all(p.requires_grad and p.grad is not None for p in learning)


def test_a_teacher_must_fit(tmp_path: Path) -> None:
    other = trainee()
    export_adapter(other, tmp_path / "teacher", "tiny")
    model = trainee()
    with pytest.raises(BadInput, match="the teacher's share of the loss is 1.5"):
        model.learn_from(tmp_path / "teacher", 1.5)
    wide = SummaryTokenTrainee(tiny.decoder(hidden=64), lora=LoraSettings(4, 8))
    with pytest.raises(IncompatibleAdapter, match="cannot be put on this base"):
        wide.learn_from(tmp_path / "teacher", 0.5)


@pytest.mark.parametrize(("training", "moves"), [("lora", "lora_"), ("full", "layers"), ("frozen", "")])
def test_the_encoder_may_be_trained_in_part_whole_or_not(training: str, moves: str) -> None:
    names = [n for n, p in trainee(encoder_training=training).encoder.trunk.named_parameters() if p.requires_grad]
    assert bool(names) == bool(moves)
    assert all("embed_tokens" not in n for n in names)
    assert not moves or any(moves in n for n in names)


def test_weighted_mean() -> None:
    assert weighted_mean(torch.tensor([1.0, 3.0]), torch.tensor([3.0, 1.0])).item() == 1.5


def test_salience_starts_as_rarity(files: tuple[Path, Path]) -> None:
    """Rare tokens weigh more at the start, by what the hidden states tell of their frequency."""
    some = contexts(files)
    with pytest.raises(BadInput, match="has no salience"):
        trainee().weigh_by_rarity(some)
    model = trainee(salience=True).eval()
    assert model.weigh_by_rarity(some, temperature=2.0) > 0.5
    ids = torch.tensor([some[3].ids])
    salience = model.encoder.projector.salience
    assert salience is not None
    weight = (model.encoder.states(ids, torch.ones_like(ids, dtype=torch.bool))[1][0] @ salience).detach()
    common = [i for i, token in enumerate(some[3].ids) if PROMPTER.text_of([token]) == "o"]
    rare = [i for i, token in enumerate(some[3].ids) if PROMPTER.text_of([token]) == "3"]
    assert rare and common and weight[rare].mean() > weight[common].mean() + 0.3
