"""Questions from documents: what holds for all of them, going on after a stop, and the check."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lloco_integrations.errors import BadInput, LLoCOError
from lloco_integrations.evaluation.datasets import Document, read_questions
from lloco_integrations.evaluation.prompts import share
from lloco_integrations.examples import load_documents
from lloco_integrations.models import load_model
from lloco_integrations.partial import path_for
from lloco_integrations.training.contexts import load_contexts
from lloco_integrations.training.questions.check import GUESSABLE, KEPT, UNANSWERABLE, Check
from lloco_integrations.training.questions.draft import BLANK, Draft, folded
from lloco_integrations.training.questions.local import local_drafts
from lloco_integrations.training.questions.sentences import passages
from lloco_integrations.training.synthesize import Counts, make_questions, synthesize
from lloco_integrations.training.templates import PLAIN

HARBOUR = Document(
    "harbour",
    "The Harbour",
    "The harbour of Aldersea was built in 1843. It was paid for by the salt merchant Cordelia Vance, who had never seen the sea. "
    "The west pier has twelve iron lamps. Old Tobit Granger winds the harbour clock every Monday.\n\n"
    "The lighthouse is 31 metres tall. On 3 May 1891 a storm broke the lantern, and the keeper rowed out in a barrel.",
)
MILL = Document(
    "mill", "The Mill", "The mill is called the Crater. Josef Andelin bought it for 640 crowns. The grindstone weighs 610 kilograms."
)
BARREN = Document("barren", "", "ls -la\n\nno sentence here")
DOCUMENTS = [HARBOUR, BARREN, MILL]


def test_questions_about_the_example_corpus_keep_the_rules() -> None:
    for document in load_documents()[::3]:
        questions, counts = make_questions(Document(document.doc_id, document.title, document.text))
        assert counts == Counts(20, 20) and len(questions) == 20
        assert len({folded(q.question) for q in questions}) == len({q.id for q in questions}) == 20
        starts = [document.text.index(q.answers[0]) / len(document.text) for q in questions]
        assert sum(s < 0.5 for s in starts) >= 5 and sum(s > 0.5 for s in starts) >= 4
        for q in questions:
            (answer,) = q.answers
            assert answer in document.text and "\n" not in answer and len(answer.split()) <= 12
            assert f" {folded(answer)} " not in f" {folded(q.question)} "
            assert q.question.endswith("?") or q.question.startswith("Fill in the blank: ")
        assert sum(BLANK not in q.question for q in questions) >= 4


def test_a_sentence_gives_two_questions_at_most() -> None:
    drafts = local_drafts(HARBOUR.text, HARBOUR.title, 100, random.Random(0))
    starts = [d.start for d in drafts]
    assert starts == sorted(starts) and max(map(starts.count, starts)) == 2


def test_the_seed_decides() -> None:
    document = load_documents()[0]
    text = Document(document.doc_id, document.title, document.text)
    made = [make_questions(text, per_document=5, seed=s)[0] for s in (0, 0, 1)]
    assert made[0] == made[1] != made[2]


def test_the_file_can_be_read_and_trained_on(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    summary = synthesize(DOCUMENTS, tmp_path / "q.jsonl", progress=lambda *row: seen.append(row))
    questions = read_questions(tmp_path / "q.jsonl")
    assert summary.barren == ("barren",) and summary.n_documents == 3 and summary.counts.kept == len(questions) > 8
    assert seen == [("harbour", 0, 3), ("barren", 1, 3), ("mill", 2, 3), ("", 3, 3)]
    assert json.loads((tmp_path / "q.jsonl").read_text().splitlines()[0])["dataset"] == "synthesized"
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(vars(d)) + "\n" for d in DOCUMENTS))
    contexts = load_contexts([(tmp_path / "d.jsonl", tmp_path / "q.jsonl")], lambda text: list(text.encode()), 4000, 8)
    assert sum(len(c.questions) for c in contexts) == len(questions)  # every answer is found in a piece
    assert [p.name for p in tmp_path.iterdir() if "q.jsonl" in p.name] == ["q.jsonl"]


def stopped_at(doc_id: str) -> Callable[[str, int, int], None]:
    def progress(document: str, done: int, total: int) -> None:
        if document == doc_id:
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    synthesize(DOCUMENTS, tmp_path / "whole.jsonl")
    out = tmp_path / "q.jsonl"
    with pytest.raises(KeyboardInterrupt):
        synthesize(DOCUMENTS, out, progress=stopped_at("mill"))
    assert not out.exists()
    with path_for(out).open("a") as file:
        file.write('{"document": "mill", "questions": [{"id"')  # what a killed process leaves
    seen: list[str] = []
    synthesize(DOCUMENTS, out, progress=lambda document, *_: seen.append(document))
    assert seen == ["mill", ""]
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not path_for(out).exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "different: seed"),
        ({"per_document": 3}, "different: per_document"),
        ({"ask": lambda prompt: "", "llm": "other:llm"}, "different: llm"),
        ({"check": lambda text, drafts: []}, "different: check"),
        ({"documents": DOCUMENTS[1:]}, "different: documents"),
    ],
)
def test_unfinished_questions_of_other_settings_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    out = tmp_path / "q.jsonl"
    with pytest.raises(KeyboardInterrupt):
        synthesize(DOCUMENTS, out, progress=stopped_at("mill"))
    with pytest.raises(BadInput, match=said):
        synthesize(**{"documents": DOCUMENTS, "out": out, **change})
    path_for(out).write_text('{"settings": 1}\nnonsense\n')
    with pytest.raises(BadInput, match="is damaged .* delete it"):
        synthesize(DOCUMENTS, out)


def test_bad_input(tmp_path: Path) -> None:
    out = tmp_path / "q.jsonl"
    with pytest.raises(BadInput, match="per_document is 0"):
        synthesize(DOCUMENTS, out, per_document=0)
    with pytest.raises(BadInput, match="no documents"):
        synthesize([], out)
    with pytest.raises(BadInput, match="two documents have the doc_id 'mill'"):
        synthesize([MILL, MILL], out)
    with pytest.raises(BadInput, match="no question about any of the 1 documents: give documents in whole sentences"):
        synthesize([BARREN], out)
    with pytest.raises(BadInput, match="the check dropped all .*--no-check"):
        synthesize([MILL], out, check=lambda text, drafts: [GUESSABLE] * len(drafts))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot write .*file/q.jsonl.* name a file in a folder"):
        synthesize(DOCUMENTS, tmp_path / "file" / "q.jsonl")
    out.touch()
    with pytest.raises(BadInput, match="exists already; delete it, or name another file"):
        synthesize(DOCUMENTS, out)


def test_a_failing_llm_is_named_and_the_run_goes_on_later(tmp_path: Path) -> None:
    calls: list[str] = []

    def ask(prompt: str) -> str:
        calls.append(prompt)
        if "grindstone" in prompt and len(calls) < 5:
            raise ConnectionError("no route")
        return "Q: What is it about? | A: The lighthouse\nQ: Who bought the mill? | A: Josef Andelin"

    out = tmp_path / "q.jsonl"
    with pytest.raises(LLoCOError, match=r"document 'mill' \(ConnectionError: no route\).*the same command goes on"):
        synthesize(DOCUMENTS, out, ask=ask, llm="m:ask")
    n = len(calls)
    calls += [""] * 5
    summary = synthesize(DOCUMENTS, out, ask=ask, llm="m:ask")
    assert len(calls) == n + 5 + 1 and summary.counts.kept == 2 and summary.barren == ("barren",)


def test_the_check_measures_what_the_model_would(tiny_model: str) -> None:
    model = load_model(tiny_model, device="cpu", dtype="float32")
    assert model.prompter is not None
    text = "\n\n".join([HARBOUR.text, "Something else. " * 150, MILL.text])
    drafts = [
        Draft("How many lamps?", "twelve", 10),
        Draft("Who bought it?", "Josef Andelin", text.index(MILL.text)),
        Draft("Who?", "Old", 9),
    ]
    spans = passages(text)
    assert len(spans) > 1
    found = Check(model, batch_size=2).likelihoods(text, drafts)
    for draft, likelihoods in zip(drafts, found, strict=True):
        (begin, end) = next((a, b) for a, b in spans if a <= draft.start < b)
        for passage, measured in zip((text[begin:end].strip(), ""), likelihoods, strict=True):
            prompts = share(model.prompter, PLAIN, passage, [draft.question])
            ids = [i for piece in prompts.prefix for i in piece] + prompts.branches[0]
            assert measured == pytest.approx(float(model.loss(None, ids, model.prompter.text_ids(draft.answer))), abs=1e-3)


def test_a_passage_that_is_too_long_for_the_model_is_cut(tmp_path: Path) -> None:
    from tests import tiny

    model = load_model(str(tiny.save_mean_pool(tmp_path / "small", window=256)), device="cpu", dtype="float32")
    ((read, guessed),) = Check(model).likelihoods("Many words here. " * 100, [Draft("How many?", "Many", 0)])
    assert torch.isfinite(torch.tensor([read, guessed])).all()


def test_verdicts(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check = Check(load_model(tiny_model, device="cpu"))
    pairs = [(0.5, 3.0), (2.5, 9.0), (0.5, 0.8), (1.9, 2.5)]
    monkeypatch.setattr(Check, "likelihoods", lambda self, text, drafts: pairs[: len(drafts)])
    drafts = [Draft(f"{i}?", str(i), 0) for i in range(4)]
    assert check("text", drafts) == [KEPT, UNANSWERABLE, GUESSABLE, KEPT]
    assert check.identity == {"model": check.model.fingerprint, "most_nll": 2.0, "least_gain": 0.5}


def test_dropped_questions_are_counted() -> None:
    def check(text: str, drafts: Sequence[Draft]) -> list[str]:
        return [(KEPT, UNANSWERABLE, GUESSABLE)[i % 3] for i in range(len(drafts))]

    questions, counts = make_questions(HARBOUR, per_document=6, check=check)
    assert counts == Counts(made=6, kept=2, unanswerable=2, guessable=2)
    assert [q.id for q in questions] == ["harbour#1", "harbour#2"]


def test_a_model_without_a_tokenizer_cannot_check(tiny_model: str) -> None:
    model = load_model(tiny_model, device="cpu")
    model.prompter = None
    with pytest.raises(BadInput, match="has no tokenizer, so it cannot check"):
        Check(model)
