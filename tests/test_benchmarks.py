"""The scripts that measure speed run, at sizes that measure nothing, and their tables can be made of what they write."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import performance
from benchmarks.tables import between
from tests import tiny

TINY = {
    "answering": ["--contexts", "128", "--batches", "1,2", "--new-tokens", "3", "--repeats", "1", "--dtype", "float32", "--device", "cpu"],
    "compressing": ["--tokens", "64", "--lengths", "16", "--batch-sizes", "1,2", "--passages", "4", "--repeats", "1", "--device", "cpu"],
    "rivals": [
        "--documents",
        "2",
        "--questions",
        "2",
        "--document-tokens",
        "500",
        "--max-new-tokens",
        "2",
        "--frameworks",
        "--device",
        "cpu",
    ],
    "storing": ["--entries", "8", "--written", "4", "--passages", "4", "--batch", "2", "--repeats", "1"],
    "overhead": [
        "--repeats",
        "1",
        "--import-repeats",
        "1",
        "--queries",
        "1",
        "--query-repeats",
        "1",
        "--embedding",
        "mock",
        "--device",
        "cpu",
    ],
    "kernels": ["--rows", "1", "--positions", "16", "--repeats", "1", "--largest", "600"],
    "growth": [
        "--entries",
        "10,20",
        "--calls",
        "2",
        "--lengths",
        "64",
        "--adapters",
        "0,1",
        "--new-tokens",
        "2",
        "--repeats",
        "1",
        "--questions",
        "1",
    ],
}


def test_every_script_is_tried() -> None:
    assert set(TINY) == set(performance.SCRIPTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TINY))
def test_a_script_runs_and_its_tables_have_a_place(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.save_mean_pool(tmp_path / "model", window=8192)
    report, script = tmp_path / "report.json", performance.SCRIPTS[name]
    monkeypatch.setenv("LLOCO_HOME", str(tmp_path / "home"))
    where = [] if name == "kernels" else ["--model", str(model)]
    monkeypatch.setattr(sys, "argv", [f"benchmarks.{name}", *where, "--json", str(report), *TINY[name]])
    script.main()
    found = json.loads(report.read_text())
    assert found["date"] and found["versions"] and str(tmp_path) not in report.read_text()
    page = performance.PAGE.read_text()
    for place, lines in script.tables(found).items():
        assert "\n".join(lines) in between(page, place, "\n".join(lines))
    if hasattr(script, "plot"):
        script.plot(found, tmp_path / "plot.png")
        assert (tmp_path / "plot.png").stat().st_size > 1000
