"""`lloco compress --engine ray`: what the local engine stores, by several workers, also when one is killed on purpose."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from lloco_integrations import distributed, ray_cluster
from lloco_integrations.cli.catalogue import Catalogue
from lloco_integrations.errors import BadInput, IncompatibleSummary, MissingExtra, ModelNotFound, StoreError
from lloco_integrations.store import SummaryStore
from tests.cli.conftest import Call

Keys = Callable[[], set[str]]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray with two CPUs on this machine, gone afterwards."""
    ray = pytest.importorskip("ray", reason='needs Ray Data: pip install "lloco_integrations[ray]"')
    pytest.importorskip("ray.data", reason='needs Ray Data: pip install "lloco_integrations[ray]"')
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Files that give some hundred different passages."""
    folder = tmp_path / "many"
    folder.mkdir()
    for n in range(150):
        (folder / f"{n}.txt").write_text(" ".join(f"Sentence {m} of document {n} says that {n * m} is {n} times {m}." for m in range(12)))
    return folder


def test_ray_stores_what_the_local_engine_stores(ray: Any, lloco: Call, tiny_model: str, many: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one.sqlite", tmp_path / "other.sqlite"
    SummaryStore.open(f"sqlite:///{one}").close()
    shutil.copy(one, other)  # of one secret, so that equal texts have equal keys
    words = ("compress", many, "--model", tiny_model, "--chunk-size", 64, "--chunk-overlap", 8, "--group", "sums")
    assert lloco(*words, "--store", f"sqlite:///{one}").exit_code == 0
    result = lloco(*words, "--store", f"sqlite:///{other}", "--engine", "ray", "--workers", 2)
    assert result.exit_code == 0, result.output
    assert " compressed, " in result.stdout and " tokens/s, 0 in the store already" in result.stdout
    with SummaryStore.open(f"sqlite:///{one}") as local, SummaryStore.open(f"sqlite:///{other}") as spread:
        keys = sorted(local.keys())
        assert keys == sorted(spread.keys())
        assert len(keys) > 300
        assert spread.verify() == []
        for a, b in zip(local.get_many(keys), spread.get_many(keys), strict=True):
            assert a is not None and b is not None
            assert (a.n_tokens, a.window, a.group, a.compressor) == (b.n_tokens, b.window, "sums", b.compressor)
            torch.testing.assert_close(a.vectors, b.vectors, atol=0.01, rtol=0)  # other batches round otherwise, in bfloat16 at that


def test_twice_compresses_nothing(
    ray: Any, compress: Call, library: Path, stored: Keys, no_model: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "3 compressed" in compress(library, "--engine", "ray").stdout
    before = stored()
    no_model()
    monkeypatch.setattr(distributed, "compress_on_ray", lambda *a, **k: pytest.fail("Ray was used"))
    assert "nothing to compress, 3 in the store already" in compress(library, "--engine", "ray").stdout
    assert stored() == before


def test_a_killed_worker_costs_nothing(ray: Any, compress: Call, many: Path, store_url: str) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("finds the workers in /proc")
    SummaryStore.open(store_url).close()
    killed: list[int] = []
    thread = threading.Thread(target=kill, args=(store_url.removeprefix("sqlite:///"), killed))
    thread.start()
    result = compress(many, "--engine", "ray", "--workers", 1)
    thread.join()
    assert result.exit_code == 0, result.output
    (at,) = killed
    with Catalogue.open(store_url, create=False) as catalogue:
        texts = {p.text for p in catalogue.passages()}
    assert 0 < at < len(texts), "it was killed in the middle of its work"
    with SummaryStore.open(store_url) as store:
        assert store.verify() == []
        assert store.stats().entries == len(set(store.keys())) == len(texts)
    assert f"passages: {len(texts):,} compressed" in result.stdout, "no passage was counted twice"
    assert "nothing to compress" in compress(many, "--engine", "ray").stdout


def test_errors_of_a_worker_reach_the_user(ray: Any, tiny_model: str, store_url: str) -> None:
    store = SummaryStore.open(store_url)
    with pytest.raises(IncompatibleSummary, match="a worker loaded"):
        distributed.compress_on_ray(["One text."], store, model=tiny_model, fingerprint="0" * 64)
    with pytest.raises(ModelNotFound, match="no-such-model"):
        distributed.compress_on_ray(["One text."], store, model="no-such-model")
    assert list(store.keys()) == []


def test_from_python(ray: Any, tiny_model: str, tmp_path: Path) -> None:
    store = SummaryStore.open(f"file://{tmp_path}/vectors", storage="int8")
    told: list[int] = []
    texts = [f"Text {n}." for n in range(9)]
    done = distributed.compress_on_ray([*texts, texts[0]], store, model=tiny_model, workers=2, progress=lambda n, _: told.append(n))
    assert (done.texts, done.tokens, sum(told)) == (9, sum(map(len, texts)), 9), "a token is a byte here, and equal texts are one"
    assert store.stats().entries == 9 and store.verify() == []


def test_ray_is_not_installed(compress: Call, library: Path, monkeypatch: pytest.MonkeyPatch, store_url: str) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = compress(library, "--engine", "ray")
    assert result.exit_code == 2
    assert 'pip install "lloco_integrations[ray]"' in result.stderr
    assert not Path(store_url.removeprefix("sqlite:///")).exists(), "it says so before it reads a file"
    with pytest.raises(MissingExtra, match="ray"):
        distributed.compress_on_ray(["One text."], SummaryStore.open(store_url), model="any")


def test_stores_that_workers_cannot_reach(lloco: Call, library: Path, tiny_model: str) -> None:
    result = lloco("compress", library, "--store", "memory://", "--model", tiny_model, "--engine", "ray")
    assert result.exit_code == 2 and "memory://" in result.stderr
    for target in ("memory://", "memory://shared", ByteStore()):
        store = SummaryStore.open(target)
        with pytest.raises(StoreError, match="lives in this process, where workers cannot reach it; .* s3://"):
            ray_cluster.check_reach(store.url, [])


def test_an_sqlite_store_is_for_one_machine(store_url: str) -> None:
    here, there = node(CPU=2), node("elsewhere", CPU=2)
    ray_cluster.check_reach(store_url, [here])
    ray_cluster.check_reach("s3://bucket/store", [here, there])
    ray_cluster.check_reach("file:///mnt/store", [here, there])
    with pytest.raises(StoreError, match="elsewhere.* s3://"):
        ray_cluster.check_reach(store_url, [here, there])


def test_workers_need_ray(compress: Call, library: Path) -> None:
    result = compress(library, "--workers", 2)
    assert result.exit_code == 2
    assert "--workers is for --engine ray" in result.stderr


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "share"),
    [
        ([{"CPU": 8}], None, "auto", (1, 8, 0)),
        ([{"CPU": 8}], 3, "auto", (3, 2, 0)),
        ([{"CPU": 8}, {"CPU": 4}], 2, "cpu", (2, 4, 0)),
        ([{"CPU": 8}, {"CPU": 4}], 3, "cpu", (3, 4, 0)),
        ([{"CPU": 2}] * 5, 1, "cpu", (1, 2, 0)),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 4}], None, "auto", (6, 1, 1)),
        ([{"CPU": 8, "GPU": 2}], 1, "cuda", (1, 1, 1)),
        ([{"CPU": 8, "GPU": 2}], None, "cpu", (1, 8, 0)),
    ],
)
def test_shares(nodes: list[dict[str, float]], workers: int | None, device: str, share: tuple[int, int, int]) -> None:
    made = ray_cluster.share([node(**resources) for resources in nodes], workers, device)
    assert (made.workers, made.cpus, made.gpus) == share


def test_more_workers_than_there_is_room_for() -> None:
    with pytest.raises(BadInput, match="9 workers.* 8 CPUs"):
        ray_cluster.share([node(CPU=8)], 9, "cpu")
    with pytest.raises(BadInput, match="3 workers.* 2 GPUs"):
        ray_cluster.share([node(CPU=8, GPU=2)], 3, "auto")
    with pytest.raises(BadInput, match="no GPU"):
        ray_cluster.share([node(CPU=8)], None, "cuda")


def test_a_worker_finds_another_store(tiny_model: str, tmp_path: Path) -> None:
    """As on a machine of a cluster that has a folder of the same name of its own."""
    mine, other = (SummaryStore.open(f"file://{tmp_path}/{name}") for name in ("mine", "other"))
    task = distributed.Task(tiny_model, other.url, mine.key("", ""), None, "cpu", None, 1)
    with pytest.raises(StoreError, match="another store"):
        distributed.Worker(task)(None)
    absent = distributed.Task(tiny_model, f"sqlite:///{tmp_path}/none.sqlite", "", None, "cpu", None, 1)
    with pytest.raises(StoreError, match="no store"):
        distributed.Worker(absent)(None)


class ByteStore(dict[str, bytes]):
    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self.get(key) for key in keys]

    def mset(self, pairs: Sequence[tuple[str, bytes]]) -> None:
        self.update(pairs)


def node(host: str | None = None, **resources: float) -> dict[str, Any]:
    """A node as ``ray.nodes()`` describes it."""
    return {"Alive": True, "NodeManagerHostname": host or os.uname().nodename, "Resources": resources}


def kill(path: str, killed: list[int]) -> None:
    """Kills a worker as soon as it has stored something, and while nothing more can be stored; adds the entries that there were then."""
    patience = time.monotonic() + 300
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as db:

        def entries() -> int:
            return int(db.execute("SELECT count(*) FROM lloco_entries").fetchone()[0])

        while not entries() and time.monotonic() < patience:
            time.sleep(0.005)
        db.execute("BEGIN IMMEDIATE")
        for pid in workers():
            os.kill(pid, signal.SIGKILL)
            killed.append(entries())
        db.execute("ROLLBACK")


def workers() -> list[int]:
    """Process ids of the actors below this process."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):
            pid = int(folder.name)
            parents[pid] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[pid] = (folder / "cmdline").read_bytes().decode(errors="replace")
    found = []
    for pid, name in names.items():
        above = pid
        while above > 1 and above != os.getpid():
            above = parents.get(above, 0)
        if above == os.getpid() and name.startswith("ray::MapWorker"):
            found.append(pid)
    return found
