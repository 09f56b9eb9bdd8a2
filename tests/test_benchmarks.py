"""The scripts that measure speed run, at sizes that measure nothing, and their tables can be made of what they write."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import answering, performance, training_speed
from benchmarks.tables import between
from tests import tiny
from tests.training import houses

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


def test_what_does_not_fit_into_memory_is_named_and_the_rest_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = answering._cell

    def cell(ours: Any, bare: Any, name: str, ratio: int | None, n: int, *rest: int) -> dict[str, Any]:
        if (name, n) == (answering.RAW, 256):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return measured(ours, bare, name, ratio, n, *rest)

    monkeypatch.setattr(answering, "_cell", cell)
    monkeypatch.setattr(answering, "_bandwidth", lambda device: 1e9)
    report = tmp_path / "report.json"
    options = ["--shape", "tiny", "--device", "cpu", "--dtype", "float32", "--contexts", "128,256", "--batches", "1", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["benchmarks.answering", *options, "--new-tokens", "2", "--json", str(report)])
    answering.main()
    found = json.loads(report.read_text())
    assert found["out_of_memory"] == [{"method": "raw text", "context": 256, "batch": 1}]
    table = "\n".join(answering.tables(found)["answering"])
    assert "Did not fit into memory: raw text at 256 tokens." in table and "| 256 | 32x |" in table
    assert "At 128 tokens and 32x" in table


@pytest.mark.slow
def test_the_speed_of_training_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.save_mean_pool(tmp_path / "model", window=8192) / "decoder"
    for name in training_speed.SETS:
        for path in houses.write(tmp_path, name):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    monkeypatch.setenv("LLOCO_DATA", str(tmp_path))
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    report = tmp_path / "report.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks.training_speed", "--model", str(model), "--repeats", "1", "--json", str(report)])
    training_speed.main()
    found = json.loads(report.read_text())
    assert found["date"] and found["versions"] and str(tmp_path) not in report.read_text()
    losses = {(c["batch"], c["dtype"]): [] for c in found["cells"]}
    for cell in found["cells"]:
        losses[cell["batch"], cell["dtype"]].append(cell["loss"])
    assert set(losses) == {(kind, dtype) for kind in training_speed.KINDS for dtype in training_speed.DTYPES}
    for (_, dtype), (padded, fused) in losses.items():
        assert padded == pytest.approx(fused, rel=1e-4 if dtype == "float32" else 0.05), "the same batches"
    assert len(training_speed.table(found)) == 2 + len(found["cells"]) + 2
