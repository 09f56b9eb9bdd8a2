"""Code pages, drives and default encodings of other systems."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lloco_integrations
from lloco_integrations.cli import ask
from lloco_integrations.cli.catalogue import Passage

PACKAGE = Path(lloco_integrations.__file__).parent
_MODES = {"rb", "wb", "xb", "ab", "r+b"}


def test_every_text_file_is_opened_in_a_named_encoding() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            name = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id if isinstance(call.func, ast.Name) else ""
            named = any(word.arg == "encoding" for word in call.keywords)
            values = [a.value for a in call.args if isinstance(a, ast.Constant)]
            owner = call.func.value if isinstance(call.func, ast.Attribute) else None
            ours = isinstance(owner, ast.Name) and owner.id in ("cls", "self", "SummaryStore", "Catalogue", "os", "Image")
            text_file = name in ("read_text", "write_text") or (name == "open" and not ours and not _MODES & set(map(str, values)))
            if text_file and not named and not ("open" in name and isinstance(owner, ast.Name) and owner.id in ("archive", "files")):
                wrong.append(f"{path.relative_to(PACKAGE)}:{call.lineno}")
    assert wrong == []


def test_output_in_a_windows_code_page() -> None:
    code = "import sys, typer; from lloco_integrations import cli; cli.app = lambda **_: typer.echo('O\\u2260\\u4e2d'); cli.main()"
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert (done.returncode, done.stdout.strip()) == (0, b"O??"), done.stderr


def test_a_source_on_another_drive(monkeypatch: pytest.MonkeyPatch) -> None:
    def another_drive(path: str) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", another_drive)
    assert ask._where(Passage("D:\\docs\\a.txt", "page 1", "T", "x")) == "D:\\docs\\a.txt, page 1, T"
