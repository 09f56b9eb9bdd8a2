"""`lloco synthesize` from files to questions, on a tiny random model or none."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from lloco_integrations.cli.options import report_skipped
from lloco_integrations.evaluation.datasets import read_questions
from lloco_integrations.reading import documents
from lloco_integrations.training import synthesize
from tests.cli.conftest import Call

MILL = "The mill was built in 1843 by Cordelia Vance. The west pier has twelve iron lamps. The mill is called the Crater.\n"
TOWER = "The solar tower is 21 metres tall and made of brick. On 3 May 1891 a storm broke the lantern of the tower.\n"
ASKERS = """
class Index:
    def complete(self, prompt): return type("R", (), {"text": "Q: When was it built? | A: 1843"})()
class Chain:
    def invoke(self, prompt): return type("M", (), {"content": "Q: When was it built? | A: 1843\\nQ: Who? | A: Nobody at all"})()
index, chain = Index(), Chain()
def make(): return Chain()
def plain(prompt): return "Q: When was it built? | A: 1843"
def fails(prompt): raise TimeoutError("too slow")
number = 3
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    (folder / "mill.md").write_text(f"# The Mill\n\n{MILL}")
    (folder / "deep" / "tower.txt").write_text(TOWER)
    (folder / "more.jsonl").write_text("".join(json.dumps({"doc_id": f"pier/{i}", "text": MILL}) + "\n" for i in range(2)))
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "q.jsonl"


@pytest.fixture
def make(lloco: Call, files: Path, out: Path) -> Callable[..., Result]:
    """``lloco synthesize`` about ``files``, without the check unless it is asked for."""

    def run(*words: object) -> Result:
        given = [*words] + ([] if "--docs" in words else ["--docs", files]) + ([] if "--out" in words else ["--out", out])
        return lloco("synthesize", *given, *([] if "--check" in words else ["--no-check"]))

    return run


@pytest.fixture
def askers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module ``askers`` in the folder where the command runs."""
    (tmp_path / "askers.py").write_text(ASKERS)
    (tmp_path / "broken_askers.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "askers", raising=False)


def test_every_kind_of_file(make: Callable[..., Result], out: Path) -> None:
    result = make()
    assert result.exit_code == 0, result.output
    questions = read_questions(out)
    assert result.stdout == f"{len(questions)} questions about 4 documents in {out}\n"
    assert result.stderr == ""  # no bar where there is no terminal
    assert list(dict.fromkeys(q.doc_id for q in questions)) == ["mill.md", "pier/0", "pier/1", "deep/tower.txt"]
    assert {q.question: q.answers for q in questions}["How tall is the solar tower?"] == ("21 metres",)


def test_a_single_file_is_named_by_its_name(make: Callable[..., Result], files: Path, out: Path) -> None:
    assert make("--docs", files / "deep" / "tower.txt", "--per-document", 2).exit_code == 0
    assert [q.id for q in read_questions(out)] == ["tower.txt#1", "tower.txt#2"]


def test_html_and_pdf(files: Path) -> None:
    pytest.importorskip("bs4")
    (files / "page.html").write_text(f"<html><title>The Mill</title><p>{MILL}</p></html>")
    (document,) = documents(files / "page.html", "page.html")
    assert (document.doc_id, document.title, document.text) == ("page.html", "The Mill", MILL.strip())


def test_the_pages_of_a_pdf_are_one_document(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lloco_integrations import reading

    (files / "book.pdf").write_bytes(b"%PDF")
    monkeypatch.setattr(reading, "_pdf", lambda path: [reading.Piece(MILL, place="page 1"), reading.Piece(TOWER, place="page 2")])
    (document,) = documents(files / "book.pdf", "deep/book.pdf")
    assert document.doc_id == "deep/book.pdf" and document.text == f"{MILL}\n\n{TOWER}"


def test_what_cannot_be_used_is_named(make: Callable[..., Result], files: Path) -> None:
    (files / "photo.png").touch()
    (files / "empty.txt").touch()
    (files / "barren.txt").write_text("no sentence\n")
    (files / ".hidden.txt").write_text(MILL)
    result = make()
    assert result.exit_code == 0
    assert f"skipped {files / 'photo.png'}: no reader for .png files" in result.stderr
    assert f"skipped {files / 'empty.txt'}: empty file" in result.stderr
    assert "no question about barren.txt\n" in result.stderr
    assert "questions about 4 documents" in result.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--docs", "nowhere"], "there is no file or folder 'nowhere'"),
        (["--out", "docs/mill.md"], "exists already; delete it"),
        (["--out", "docs/mill.md/q.jsonl"], "cannot write docs/mill.md/q.jsonl"),
        (["--docs", "docs/nothing"], "found no documents in docs/nothing"),
        (["--docs", "docs/photo.png"], "none of the 1 files found could be used"),
        (["--docs", "docs/barren"], "no question about any of the 1 documents"),
        (["--llm", "askers"], "is not module:name"),
        (["--llm", "no_such_module:llm"], "cannot be imported: ModuleNotFoundError"),
        (["--llm", "broken_askers:llm"], "cannot be imported: ZeroDivisionError"),
        (["--llm", "askers:nothing"], "the module 'askers' has no 'nothing'"),
        (["--llm", "askers:number"], "is of type int, which cannot be asked; give a LlamaIndex LLM"),
        (["--llm", "askers:fails"], "failed on document 'mill.md' (TimeoutError: too slow)"),
        (["--check", "--model", "no-such-model"], "'no-such-model' is neither a preset"),
    ],
)
def test_bad_words(words: list[str], said: str, make: Callable[..., Result], files: Path, askers: None) -> None:
    (files / "nothing").mkdir()
    (files / "barren").write_text("no sentence here")
    (files / "photo.png").touch()
    result = make(*words)
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert said in line


def test_fewer_than_one_question(make: Callable[..., Result]) -> None:
    result = make("--per-document", 0)
    assert result.exit_code == 2 and "--per-document" in result.stderr


def test_two_documents_of_one_id(make: Callable[..., Result], files: Path) -> None:
    (files / "again.jsonl").write_text(json.dumps({"doc_id": "pier/1", "text": MILL}))
    result = make()
    assert result.exit_code == 2
    assert "two documents have the doc_id 'pier/1'" in result.stderr and "more.jsonl" in result.stderr and "again.jsonl" in result.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_folder_that_cannot_be_written(make: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    result = make("--docs", tmp_path / "docs" / "mill.md", "--out", tmp_path / "closed" / "q.jsonl")
    assert result.exit_code == 2
    assert "cannot write" in result.stderr and "in a folder that you may write" in result.stderr


@pytest.mark.parametrize("name", ["index", "Index", "chain", "make", "plain"])
def test_an_llm_by_name(name: str, make: Callable[..., Result], files: Path, out: Path, askers: None) -> None:
    path = list(sys.path)
    result = make("--llm", f"askers:{name}", "--docs", files / "mill.md")
    assert result.exit_code == 0, result.output
    assert [(q.question, q.answers) for q in read_questions(out)] == [("When was it built?", ("1843",))]
    assert ("1 of the LLM's could not be used" in result.stdout) == (name in ("chain", "make"))
    assert sys.path == path


def test_an_interrupted_run_goes_on(
    make: Callable[..., Result], files: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = synthesize.make_questions, iter([True, True])

    def stops(*args: Any, **kwargs: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    assert make("--out", tmp_path / "whole.jsonl").exit_code == 0
    inside = files / "q.jsonl"  # neither it nor what is unfinished is a document
    monkeypatch.setattr(synthesize, "make_questions", stops)
    result = make("--out", inside)
    assert result.exit_code == 130 and "the same command goes on from there" in result.stderr
    assert not inside.exists()
    assert "different: seed" in make("--out", inside, "--seed", 1).stderr
    monkeypatch.setattr(synthesize, "make_questions", real)
    result = make("--out", inside)
    assert result.exit_code == 0 and result.stderr == ""
    assert inside.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_what_the_check_drops_is_counted(make: Callable[..., Result], tiny_model: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lloco_integrations.training.questions.check import Check

    measured = Check.likelihoods

    def spread(self: Check, text: str, drafts: Any) -> list[tuple[float, float]]:
        assert len(measured(self, text, drafts)) == len(drafts)
        return [((0.1, 3.0), (3.0, 9.0), (0.1, 0.2))[i % 3] for i in range(len(drafts))]

    monkeypatch.setattr(Check, "likelihoods", spread)
    result = make("--check", "--model", tiny_model, "--per-document", 6, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert len(read_questions(out)) == 8
    expected = "; 14 were dropped: 7 could not be answered from the text, 7 can be guessed without it\n"
    assert result.stdout.startswith("8 questions about 4 documents") and result.stdout.endswith(expected)


def test_names_that_steer_the_terminal_are_shown_harmless(
    make: Callable[..., Result], files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "a\x1b[31m.png").touch()
    (files / "b\x1b[31m.txt").write_text("nothing here")
    result = make()
    assert result.exit_code == 0 and "\x1b" not in result.stderr and "no question about b" in result.stderr


def test_many_skipped_files_do_not_flood(capsys: pytest.CaptureFixture[str]) -> None:
    report_skipped([(f"{i}.png", "no reader") for i in range(25)])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21 and lines[-1] == "... and 5 more"
