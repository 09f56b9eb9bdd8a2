"""What is learnt from: documents, pieces of long ones, plain texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lloco_integrations.errors import BadInput
from lloco_integrations.evaluation.datasets import read_documents, read_questions
from lloco_integrations.training.contexts import load_contexts, load_texts
from tests.training.houses import PROMPTER


def test_a_long_document_is_cut_and_its_questions_go_where_the_answer_is(tmp_path: Path) -> None:
    text = "The first house is red. " * 8 + "\n\n" + "The second house is blue. " * 8
    (tmp_path / "d.jsonl").write_text(json.dumps({"doc_id": "a", "title": "Houses", "text": text}) + "\n")
    asked = [("first?", ["Red"]), ("second?", ["blue"]), ("third?", ["nowhere"])]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps({"doc_id": "a", "question": q, "answers": a}) + "\n" for q, a in asked))
    pieces = load_contexts([(tmp_path / "d.jsonl", tmp_path / "q.jsonl")], PROMPTER.text_ids, 240, 8)
    assert [[q.question for q in p.questions] for p in pieces] == [["first?"], ["second?"]]
    assert all(len(p.ids) <= 240 and p.title == "Houses" for p in pieces)
    assert PROMPTER.text_of(pieces[0].ids).endswith("red.")
    whole = load_contexts([(tmp_path / "d.jsonl", tmp_path / "q.jsonl")], PROMPTER.text_ids, 4000, 8)
    assert [[q.question for q in p.questions] for p in whole] == [["first?", "second?", "third?"]]


def test_plain_texts_come_in_pieces_with_what_follows(tmp_path: Path) -> None:
    lines = [json.dumps({"doc_id": str(i), "text": "".join(chr(97 + (i + j) % 26) for j in range(1000))}) for i in range(3)]
    (tmp_path / "d.jsonl").write_text("\n".join(lines) + "\n")
    pieces = load_texts([tmp_path / "d.jsonl"], PROMPTER.text_ids, 50, 10, most=30)
    assert len(pieces) == 30
    assert all(len(p.ids) == 50 and len(p.follows) == 10 and not p.questions for p in pieces)
    alphabet = "".join(chr(97 + i % 26) for i in range(200))
    assert all(PROMPTER.text_of(p.ids + p.follows) in alphabet for p in pieces)
    assert pieces == load_texts([tmp_path / "d.jsonl"], PROMPTER.text_ids, 50, 10, most=30)
    assert pieces != load_texts([tmp_path / "d.jsonl"], PROMPTER.text_ids, 50, 10, most=30, seed=1)


@pytest.mark.parametrize(
    ("read", "line", "problem"),
    [
        (read_documents, "{not json", "line 2: not valid JSON"),
        (read_documents, "[1]", "line 2: expected a JSON object"),
        (read_documents, '{"doc_id": "a", "text": " "}', "line 2: 'text' must be a non-empty string"),
        (read_questions, '{"doc_id": "a", "question": "q", "answers": "x"}', "line 2: 'answers' must be a list"),
    ],
)
def test_malformed_lines_are_named(read: Callable[[Path], object], line: str, problem: str, tmp_path: Path) -> None:
    good = '{"doc_id": "a", "title": "", "text": "t", "question": "q", "answers": ["x"]}'
    (tmp_path / "f.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(BadInput, match=problem):
        read(tmp_path / "f.jsonl")


def test_questions_about_other_documents(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text('{"doc_id": "zz", "question": "q", "answers": ["x"]}\n')
    with pytest.raises(BadInput, match="no question of .*other.jsonl is about a document"):
        load_contexts([(files[0], tmp_path / "other.jsonl")], PROMPTER.text_ids, 400)
    (tmp_path / "unanswered.jsonl").write_text('{"doc_id": "0", "question": "q", "answers": [" "]}\n' * 3)
    with pytest.raises(BadInput, match="none of the 3 questions of .*unanswered.jsonl has an answer"):
        load_contexts([(files[0], tmp_path / "unanswered.jsonl")], PROMPTER.text_ids, 400)
    with pytest.raises(BadInput, match="cannot read .*missing"):
        read_documents(tmp_path / "missing.jsonl.gz")
