"""`lloco` itself: errors, interrupts, and what is not imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lloco_integrations import __version__
from lloco_integrations.errors import BadInput
from tests.cli.conftest import Call

ROOT = Path(__file__).parents[2]


def python(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path, **env})


def test_version(lloco: Call) -> None:
    assert lloco("--version").stdout == f"lloco {__version__}\n"


@pytest.mark.parametrize("words", [(), ("compress",), ("ask",), ("models",), ("store",), ("models", "pull")])
def test_help(words: tuple[str, ...], lloco: Call) -> None:
    result = lloco(*words, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.stdout


def test_an_unknown_option_is_a_usage_error(lloco: Call) -> None:
    result = lloco("ask", "q", "--nonsense")
    assert result.exit_code == 2
    assert "--nonsense" in result.stderr


def test_errors_are_one_line_unless_one_debugs(lloco: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    result = lloco("store", "stats", "--store", "nonsense")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: 'nonsense' is not the address of a store")
    assert result.stderr.count("\n") == 1
    assert isinstance(lloco("store", "gc").exception, SystemExit)
    monkeypatch.setenv("LLOCO_DEBUG", "1")
    assert isinstance(lloco("store", "gc", "--foreign").exception, BadInput)


def test_an_interrupt_says_that_the_work_is_kept(lloco: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(target: str | None) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("lloco_integrations.cli.compress.store_url", interrupted)
    result = lloco("compress", "x")
    assert result.exit_code == 130
    assert "work done so far is kept" in result.stderr


@pytest.mark.needs("llama_index.core")
def test_help_and_a_run_with_nothing_to_do_import_no_torch(compress: Call, library: Path, tiny_model: str, store_url: str) -> None:
    compress(library)
    words = ["compress", str(library), "--store", store_url, "--model", tiny_model, "--chunk-size", "64", "--chunk-overlap", "8"]
    script = (
        "import sys; from lloco_integrations.cli import app; heavy = {'torch', 'transformers', 'llama_index', 'langchain_core', 'numpy'}\n"
        "for words in (['--help'], ['models', 'list'], " + repr(words) + "):\n"
        "    app(words, standalone_mode=False); print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = python("-c", script)
    assert "nothing to compress" in done.stdout, done.stderr
    assert done.stderr == "[]\n[]\n[]\n"


def test_as_a_program(tmp_path: Path) -> None:
    done = python("-m", "lloco_integrations.cli", "compress", str(tmp_path / "gone"), "--store", str(tmp_path / "s.sqlite"))
    assert done.returncode == 2
    assert done.stderr == f"error: there is no file or folder '{tmp_path / 'gone'}'; check the path\n"
