"""Learning an adapter on stored summaries: only the adapter changes, the same run gives the same adapter, and it is put on its model alone."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lloco_integrations.engine import Engine
from lloco_integrations.errors import BadInput, IncompatibleAdapter, StoreError, TrainingError
from lloco_integrations.evaluation.before_after import before_after, verdict
from lloco_integrations.evaluation.datasets import read_documents, read_questions
from lloco_integrations.models import LLoCOModel, load_model
from lloco_integrations.models.card import CARD, read_card
from lloco_integrations.store import SummaryStore
from lloco_integrations.training import finetune as module
from lloco_integrations.training.finetune import FinetuneConfig, finetune
from lloco_integrations.training.lessons import Lessons, Passage, prepare
from lloco_integrations.training.trainee import LoraSettings
from lloco_integrations.types import GenerationParams
from tests import tiny

CONFIG = FinetuneConfig(lora=LoraSettings(4, 8), lr=1e-2, epochs=6, rows=3, questions=2, ratio_mix={4: 1.0, 8: 1.0}, quotes=0)


@pytest.fixture
def model(tiny_model: str) -> LLoCOModel:
    return load_model(tiny_model, dtype="float32")


@pytest.fixture
def store(tmp_path: Path) -> SummaryStore:
    return SummaryStore.open(f"sqlite:///{tmp_path / 'houses.sqlite'}")


@pytest.fixture
def lessons(model: LLoCOModel, store: SummaryStore, files: tuple[Path, Path]) -> Lessons:
    documents = {d.doc_id: [Passage(d.text, d.title)] for d in read_documents(files[0])}
    texts = [p.text for [p] in documents.values()]
    store.put_many([(t, replace(s, group="houses")) for t, s in zip(texts, model.compress(texts), strict=True)])
    return prepare(model, store, documents, read_questions(files[1]), group="houses", validation=0.25)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "adapter_model.safetensors")


def test_an_adapter_is_learnt_and_summaries_stay(model: LLoCOModel, store: SummaryStore, lessons: Lessons, tmp_path: Path) -> None:
    frozen = {k: v.clone() for k, v in model.decoder.state_dict().items()}
    stored = {k: (s.vectors.clone(), s.group) for k, s in zip(store.keys(), store.get_many(list(store.keys())), strict=True) if s}
    files = {p.name: p.read_bytes() for p in tmp_path.glob("houses.sqlite*") if not p.name.endswith("-shm")}
    card = finetune(model, store, lessons, tmp_path / "adapter", CONFIG, group="houses")
    assert card.validation["after"]["4x"] < 0.8 * card.validation["before"]["4x"], "the held-out loss fell"
    assert {k: v.tolist() for k, v in model.decoder.state_dict().items()} == {k: v.tolist() for k, v in frozen.items()}
    for key, summary in zip(stored, store.get_many(list(stored)), strict=True):
        assert summary is not None and torch.equal(summary.vectors, stored[key][0]) and summary.group == stored[key][1]
    assert {n: (tmp_path / n).read_bytes() for n in files} == files, "not a byte of the store was written"
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors", CARD, "training"}
    assert read_card(tmp_path / "adapter") == card
    losses = [float(r["loss"]) for r in csv.DictReader((tmp_path / "adapter" / "training" / "train.csv").open())]
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])


def test_the_same_seed_gives_the_same_adapter(model: LLoCOModel, store: SummaryStore, lessons: Lessons, tmp_path: Path) -> None:
    short = replace(CONFIG, epochs=2)
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        finetune(model, store, lessons, tmp_path / name, replace(short, seed=seed))
    one, two, other = (weights(tmp_path / n) for n in ("one", "two", "other"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_interrupted_and_resumed_gives_the_same_adapter(
    model: LLoCOModel, store: SummaryStore, lessons: Lessons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune(model, store, lessons, tmp_path / "whole", CONFIG)

    class Stop(Exception):
        pass

    at = [5]

    def stop(done: int, steps: int, row: dict[str, float]) -> None:
        if done == at[0]:
            at[0] += 6
            raise Stop

    every = module.pretrain
    monkeypatch.setattr(module, "pretrain", lambda *a, **k: every(*a, **{**k, "save_every": 2}))
    for _ in range(2):
        with pytest.raises(Stop):
            finetune(model, store, lessons, tmp_path / "cut", CONFIG, progress=stop)
        assert not (tmp_path / "cut" / CARD).exists(), "not there before it is whole"
    finetune(model, store, lessons, tmp_path / "cut", CONFIG)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    for name in whole:
        torch.testing.assert_close(whole[name], cut[name], atol=1e-5, rtol=0)
    assert read_card(tmp_path / "whole") == read_card(tmp_path / "cut")
    assert (tmp_path / "whole/training/eval.csv").read_text() == (tmp_path / "cut/training/eval.csv").read_text()


def test_a_finished_adapter_is_left_alone(
    model: LLoCOModel, store: SummaryStore, lessons: Lessons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = finetune(model, store, lessons, tmp_path / "a", replace(CONFIG, epochs=1))
    monkeypatch.setattr(module, "pretrain", None)
    assert finetune(model, store, lessons, tmp_path / "a", replace(CONFIG, epochs=1)) == card
    with pytest.raises(BadInput, match=r"has an adapter of other settings \(different: lr, epochs\); name another directory"):
        finetune(model, store, lessons, tmp_path / "a", replace(CONFIG, epochs=2, lr=1e-3))
    (tmp_path / "a" / CARD).unlink()
    with pytest.raises(BadInput, match=r"unfinished run of other settings \(different: questions or documents\)"):
        finetune(model, store, replace(lessons, train=lessons.train[1:]), tmp_path / "a", replace(CONFIG, epochs=1))


def test_it_stops_when_held_out_questions_get_no_better(
    model: LLoCOModel, store: SummaryStore, lessons: Lessons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 2.0, 1.0, 2.0, 1.5, 1.25, 0.5])
    monkeypatch.setattr(module, "held_out_losses", lambda t, w: dict.fromkeys(w, next(losses)))
    card = finetune(model, store, lessons, tmp_path / "a", replace(CONFIG, epochs=20, patience=3))
    rows = list(csv.DictReader((tmp_path / "a/training/eval.csv").open()))
    assert [float(r["4x"]) for r in rows] == [2.0, 1.0, 2.0, 1.5, 1.25]
    assert card.steps == int(rows[1]["step"]) and card.validation["after"] == {"4x": 1.0, "8x": 1.0}
    losses = iter([1.0, 2.0, 2.0, 2.0])
    with pytest.raises(TrainingError, match="never answered .* better than the decoder alone"):
        finetune(model, store, lessons, tmp_path / "b", CONFIG)
    assert not (tmp_path / "b" / "adapter_model.safetensors").exists()


def test_evaluations_after_the_checkpoint_do_not_count(model: LLoCOModel, store: SummaryStore, lessons: Lessons, tmp_path: Path) -> None:
    """Another process may read the log before the first one has dropped them."""
    (tmp_path / "eval.csv").write_text("step,4x\n2,1.0\n4,3.0\n6,3.0\n8,3.0\n")
    trainee = module.AdapterTrainee(model, store, lessons.keys, CONFIG.lora)
    for step, ended in ((6, False), (8, True)):
        watch = module.EarlyStopping(trainee, tmp_path, "tiny", {4: 1.0}, {"4x": 2.0}, patience=3)
        assert watch.resume(step) == ended and watch.best_step == 2
    trainee.release()


def test_it_changes_the_answers_of_its_group_alone(
    model: LLoCOModel, store: SummaryStore, lessons: Lessons, tmp_path: Path, tiny_model: str
) -> None:
    finetune(model, store, lessons, tmp_path / "adapter", CONFIG, group="houses")
    engine = Engine(tiny_model, store, {"houses": str(tmp_path / "adapter")}, dtype="float32")
    bare = Engine(tiny_model, store, dtype="float32")
    inside = engine.compress(["In house 3 the door is pink and the roof is red."])[0].content
    outside = engine.compress(["Ships that pass at night carry lamps of three colours."], groups=["ships"])[0].content
    params = GenerationParams(max_new_tokens=12)
    for part, changes in ((inside, True), (outside, False), ("No summary at all.", False)):
        prompt = f"{part}\n\nQuestion: door?\nAnswer:"
        ours, theirs = engine.generate([prompt], params)[0], bare.generate([prompt], params)[0]
        assert (ours.text != theirs.text) == changes, part
        assert ours.adapter == ("houses" if changes else None)


def test_an_adapter_of_another_compressor_is_refused(model: LLoCOModel, store: SummaryStore, lessons: Lessons, tmp_path: Path) -> None:
    finetune(model, store, lessons, tmp_path / "adapter", replace(CONFIG, epochs=1))
    other = tiny.save_mean_pool(tmp_path / "other", segment_length=64)
    for adapters in ({"default": str(tmp_path / "adapter")}, {}):
        loaded = load_model(other, adapters=adapters, dtype="float32")
        with pytest.raises(IncompatibleAdapter, match="was learnt on summaries of .*learn it again with lloco finetune"):
            loaded.generate(["Hm?"], adapters=[None] if adapters else [str(tmp_path / "adapter")])
    card = tmp_path / "adapter" / CARD
    card.write_text("{")
    with pytest.raises(IncompatibleAdapter, match="cannot be read"):
        model.generate(["Hm?"], adapters=[str(tmp_path / "adapter")])
    card.write_text(json.dumps({"format": 99}))
    with pytest.raises(IncompatibleAdapter, match="upgrade lloco_integrations"):
        model.generate(["Hm?"], adapters=[str(tmp_path / "adapter")])


def test_a_summary_that_is_gone(model: LLoCOModel, store: SummaryStore, lessons: Lessons, tmp_path: Path) -> None:
    store.delete_many(list(store.keys()))
    with pytest.raises(StoreError, match="no longer in .*compress the documents again"):
        finetune(model, store, lessons, tmp_path / "adapter", CONFIG)


def test_the_defaults_are_the_papers_for_autocompressors(model: LLoCOModel, checkpoint: Path) -> None:
    paper = FinetuneConfig.of(load_model(checkpoint))
    assert (paper.lora.rank, paper.lr, paper.epochs) == (8, 2e-5, 3.0)
    assert paper.lora.layers == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert FinetuneConfig.of(model).lora.layers == "all-linear"
    assert FinetuneConfig.of(model).ratios(model) == {4: 0.4, 8: 0.3, 16: 0.15, 32: 0.15}
    with pytest.raises(BadInput, match="none of the ratios"):
        FinetuneConfig(ratio_mix={3: 1.0}).ratios(model)


def test_before_and_after(model: LLoCOModel, store: SummaryStore, lessons: Lessons, tmp_path: Path) -> None:
    card = finetune(model, store, lessons, tmp_path / "adapter", CONFIG)
    seen: list[tuple[int, int]] = []
    lines = before_after(model, store, lessons, str(tmp_path / "adapter"), [4, 8], progress=lambda n, total: seen.append((n, total)))
    assert [line.name for line in lines] == ["the text", "4x", "8x"]
    assert seen[-1] == (5 * 6, 5 * 6)
    for line in lines[1:]:
        assert line.adapted_nll is not None and line.change is not None and line.adapted_f1 is not None
        assert line.adapted_nll < line.nll
        assert line.change.mean == pytest.approx(line.adapted_f1.mean - line.f1.mean)
        assert line.nll == pytest.approx(card.validation["before"][line.name], abs=0.1)
        assert line.adapted_nll == pytest.approx(card.validation["after"][line.name], abs=0.1)
    assert "the adapter is" in verdict(lines) and "times the positions" in verdict(lines)
