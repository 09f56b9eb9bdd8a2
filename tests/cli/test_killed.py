"""`lloco compress`, killed at random moments, loses nothing and in the end stores each document exactly once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lloco_integrations.cli.catalogue import Catalogue
from lloco_integrations.errors import StoreError
from lloco_integrations.store import SummaryStore
from tests.cli.conftest import Call

pytestmark = [pytest.mark.needs("llama_index.core"), pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]
Ask = Callable[[Any], int]


@pytest.fixture
def nursery() -> Iterator[Ask]:
    """Starts a ``lloco`` from its words, or waits for one."""
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("nursery.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])},
    )

    def ask(order: Any) -> int:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    yield ask
    process.communicate(timeout=60)


def keys(url: str) -> set[str]:
    with suppress(StoreError), SummaryStore.open(url, create=False) as store:
        return set(store.keys())
    return set()


@pytest.mark.parametrize(
    ("documents", "kills"), [pytest.param(300, 3, id="short"), pytest.param(2000, 10, id="long", marks=pytest.mark.slow)]
)
def test_killed_at_random_moments(
    documents: int, kills: int, nursery: Ask, lloco: Call, tiny_model: str, tmp_path: Path, store_url: str
) -> None:
    path = tmp_path / "docs.jsonl"
    rows = [{"doc_id": f"d{n}", "text": f"Document {n}. " + "It is short. " * (n % 7)} for n in range(documents)]
    path.write_text("\n".join(map(json.dumps, rows)))
    words = ["compress", str(path), "--store", store_url, "--model", tiny_model]
    chance = random.Random(documents)
    known: set[str] = set()
    killed = 0
    while killed < kills:
        pid = nursery(words)
        # The first dies while it starts or reads, each of the others after it has stored a little more.
        goal = len(known) + chance.randrange(documents // (2 * kills))
        patience = time.monotonic() + 120
        while killed and len(keys(store_url)) <= goal and time.monotonic() < patience:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.05 if killed else 0.3))
        os.kill(pid, signal.SIGKILL)
        status = nursery({"wait": pid})
        now = keys(store_url)
        assert known <= now, "what was in the store is still there"
        known = now
        assert status == -signal.SIGKILL
        killed += 1
    assert 0 < len(known) < documents, "it was killed in the middle of its work each time"

    assert nursery({"wait": nursery(words)}) == 0
    with SummaryStore.open(store_url, create=False) as store, Catalogue.open(store_url, create=False) as catalogue:
        passages = catalogue.passages()
        assert len(passages) == len({p.text for p in passages}) == documents
        assert [p.place for p in passages] == [f"d{n}" for n in range(documents)]
        assert store.stats().entries == len(set(store.keys())) == documents
    assert known <= keys(store_url)
    verified = lloco("store", "verify", "--store", store_url)
    assert verified.exit_code == 0, verified.output
    assert f"All {documents:,} entries are sound." in verified.stdout
    assert f"nothing to compress, {documents:,} in the store already" in lloco(*words).stdout
