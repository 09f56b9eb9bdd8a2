"""Who may import what, and how fast the package itself is."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lloco_integrations
from lloco_integrations.errors import MissingExtra

ROOT = Path(lloco_integrations.__file__).parent
TORCH_ROOMS = {"compressors", "models", "backends", "training"}
FRAMEWORKS = ("llama_index", "langchain", "langchain_core", "langchain_classic")


def imported(path: Path, *, module_level: bool) -> set[str]:
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    if module_level:
        for node in ast.walk(tree):
            typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            if typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                skipped.update(ast.walk(node))
    names = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names.update(a.name.split(".")[0] for a in node.names)
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_keep_to_themselves(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    everything = imported(path, module_level=False)
    if room not in ("llama_index", "cli", "reading.py"):
        assert "llama_index" not in everything
    if room not in ("langchain", "cli"):
        assert not everything & set(FRAMEWORKS[1:])
    if room == "langchain":
        assert "langchain_classic" not in everything
    if room not in TORCH_ROOMS and path.name != "prompting.py":
        assert not imported(path, module_level=True) & {"torch", "transformers"}


def test_import_is_light_and_fast() -> None:
    code = "import sys, lloco_integrations; print([m for m in ('torch','transformers','llama_index','langchain_core') if m in sys.modules])"
    best = 9.0
    for _ in range(5):
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        best = min(best, time.monotonic() - began)
        assert done.stdout.strip() == "[]"
    assert best < 0.3


def test_every_public_name_resolves() -> None:
    for name in lloco_integrations.__all__:
        assert getattr(lloco_integrations, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lloco_integrations.nothing


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_imports_or_names_the_extra_that_it_needs(path: Path) -> None:
    name = ".".join(["lloco_integrations", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
    if name.endswith("__main__"):
        return
    try:
        importlib.import_module(name)
        return
    except MissingExtra as error:
        missing = error
    extra = re.search(r'pip install "lloco_integrations\[(.+)\]"', str(missing))
    assert isinstance(missing.__cause__, ModuleNotFoundError)
    assert extra and extra[1] in name.replace("_", "-")
