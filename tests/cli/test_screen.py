"""What commands show where there is no terminal."""

from __future__ import annotations

import pytest

from lloco_integrations.cli import screen
from lloco_integrations.cli.screen import LongWork


def test_long_work_says_in_a_log_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [1000.0]
    monkeypatch.setattr(screen.time, "monotonic", lambda: now[0])
    with LongWork() as work:
        task = work.add_task("learning", total=None, now="")
        for step in range(1, 101):
            now[0] += 1
            work.update(task, completed=step, total=2000, now=f"loss {step / 100:.2f}")
    output = capsys.readouterr()
    assert output.out == ""
    assert [line for line in output.err.splitlines() if line.strip()] == [
        "learning: 30 of 2,000 loss 0.30",
        "learning: 60 of 2,000 loss 0.60",
        "learning: 90 of 2,000 loss 0.90",
    ]


def test_quiet_work_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(screen, "SECONDS", 0.0)
    with LongWork(quiet=True) as work:
        work.update(work.add_task("learning"), completed=1)
    assert not capsys.readouterr().err.strip()
