"""Several processes at one store, killed writers, forks."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lloco_integrations.store import SummaryStore
from lloco_integrations.types import SummaryEmbeddings

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
Summary = Callable[..., SummaryEmbeddings]
SHARED = ("sqlite", "directory", "redis")


class Nursery:
    def __init__(self) -> None:
        root = Path(__file__).parents[2]
        path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
        script = Path(__file__).with_name("nursery.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def ask(self, **order: Any) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    assert made.process.stdin is not None
    made.process.stdin.close()
    made.process.wait(timeout=300)
    assert made.process.stdout is not None
    made.process.stdout.close()


def acknowledged(path: Path) -> dict[str, int]:
    """Key -> number, of whole lines only."""
    text = path.read_text() if path.exists() else ""
    pairs = (line.split() for line in text.split("\n")[:-1])
    return {key: int(n) for key, n in pairs}


def check(store: SummaryStore, acks: dict[str, int]) -> None:
    for (key, n), got in zip(acks.items(), store.get_many(list(acks)), strict=True):
        assert got is not None, f"{key} was acknowledged and lost"
        assert bool((got.vectors == n).all())


@pytest.mark.parametrize("place", SHARED)
def test_processes_make_and_fill_one_store_at_once(place: str, nursery: Nursery, make_target: Any, tmp_path: Path) -> None:
    url, go = make_target(place), tmp_path / "go"
    acks = [tmp_path / f"ack {n}" for n in range(3)]
    pids = [nursery.ask(url=url, name=f"w{n}", ack=str(ack), count=25, go=str(go)) for n, ack in enumerate(acks)]
    go.touch()
    assert [nursery.ask(wait=pid) for pid in pids] == [0, 0, 0]
    with SummaryStore.open(url, create=False) as store:
        found = [acknowledged(ack) for ack in acks]
        for some in found:
            assert len(some) == 50
            check(store, some)
        assert store.stats().entries == len(set().union(*found)) == 25 * 4, "all had one secret: shared texts are stored once"
        assert store.verify() == []


@pytest.mark.parametrize("place", SHARED)
def test_a_killed_writer_loses_nothing_acknowledged(place: str, nursery: Nursery, make_target: Any, tmp_path: Path) -> None:
    url, go, ack = make_target(place), tmp_path / "go", tmp_path / "ack"
    go.touch()
    chance = random.Random(5)
    for round_ in range(7):
        before = len(acknowledged(ack))
        pid = nursery.ask(url=url, name=f"round {round_}", ack=str(ack), count=0, go=str(go))
        if round_:
            until = time.monotonic() + 20
            while len(acknowledged(ack)) <= before and time.monotonic() < until:
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.15))
        else:
            time.sleep(0.004)  # while it makes the store
        os.kill(pid, signal.SIGKILL)
        assert nursery.ask(wait=pid) == -signal.SIGKILL
        with SummaryStore.open(url) as store:
            acks = acknowledged(ack)
            check(store, acks)
            assert store.verify() == []
    assert len(acks) > 6


def test_leftovers_of_killed_writers_are_ignored_and_removed(tmp_path: Path, summary: Summary) -> None:
    store = SummaryStore.open(f"file://{tmp_path}")
    (key,) = store.put_many([("text", summary())])
    old, young = tmp_path / key[:2] / ".tmp-old", tmp_path / key[:2] / ".tmp-young"
    for path in (old, young, tmp_path / "README.txt"):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert list(store.keys()) == [key]
    assert store.verify() == []
    assert not old.exists(), "a temporary file that nobody can still be writing"
    assert young.exists()
    assert (tmp_path / "README.txt").exists()


@pytest.mark.parametrize("place", [*SHARED, "s3", "cached"])
def test_a_fork_uses_the_store_of_its_parent(place: str, make_target: Any, summary: Summary, tmp_path: Path) -> None:
    cached = f"cache::sqlite:///{tmp_path}/cache.sqlite::file://{tmp_path}/far"
    store = SummaryStore.open(cached if place == "cached" else make_target(place))
    (mine,) = store.put_many([("parent", summary(1))])
    ready, done = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.read(done[0], 1)  # the parent has closed its side by now
            ok = store.contains_many([mine]) == [True] and len(store.put_many([("child", summary(2))])) == 1
            os._exit(0 if ok else 1)
        finally:
            os._exit(2)
    store.put_many([("parent again", summary(3))])
    store.close()
    os.write(done[1], b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for end in (*ready, *done):
        os.close(end)
    assert all(store.contains_many([store.key("fp", text) for text in ("parent", "child", "parent again")]))
    assert store.verify() == []


def test_a_parent_that_closes_does_not_take_the_log_from_its_child(tmp_path: Path, summary: Summary) -> None:
    """SQLite's last connection removes the log: with locks inherited through fork it would do so under the child."""
    store = SummaryStore.open(f"sqlite:///{tmp_path}/s.sqlite")
    store.put_many([("parent", summary(1))])
    opened, closed = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            store.put_many([("child 1", summary(2))])
            os.write(opened[1], b"x")
            os.read(closed[0], 1)
            store.put_many([("child 2", summary(3))])
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(2)
    os.read(opened[0], 1)
    store.contains_many([])
    store.put_many([("parent 2", summary(4))])
    store.close()
    os.write(closed[1], b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    for end in (*opened, *closed):
        os.close(end)
    assert all(store.contains_many([store.key("fp", text) for text in ("parent", "child 1", "child 2", "parent 2")]))
