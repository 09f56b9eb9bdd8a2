"""Every kind of place a store can be in, and summaries to put there."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from lloco_integrations.store import SummaryStore
from lloco_integrations.store.cached import CachedBackend, origin
from lloco_integrations.types import SummaryEmbeddings

PLACES = ("memory", "sqlite", "directory", "fsspec", "langchain", "dict", "llamaindex", "redis", "s3", "cached")
PASSWORD = "hunter2"
_NONE = SimpleNamespace(params={})
_count = itertools.count()


class DictStore:
    """The least that serves: mget and mset, and those for deleting and listing, without LangChain's keywords."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def mget(self, keys: list[str]) -> list[bytes | None]:
        return [self.data.get(key) for key in keys]

    def mset(self, pairs: list[tuple[str, bytes]]) -> None:
        self.data.update(pairs)

    def mdelete(self, keys: list[str]) -> None:
        for key in keys:
            self.data.pop(key, None)

    def yield_keys(self) -> Iterator[str]:
        return iter(list(self.data))


def bucket_target(latency: float = 0.0) -> str:
    """A memory file system under a scheme of its own: the path that S3 and its like take; ``latency`` in seconds a call."""
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    scheme = "llocoslow" if latency else "llocobucket"

    class Bucket(MemoryFileSystem):
        protocol = (scheme,)
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]
        calls: ClassVar[list[str]] = []

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return super()._strip_protocol(str(path).removeprefix(f"{scheme}://"))

        def cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
            return self._far("read", super().cat_file, path, *args, **kwargs)

        def pipe_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
            return self._far("write", super().pipe_file, path, *args, **kwargs)

        def rm_file(self, path: str) -> Any:
            return self._far("delete", super().rm_file, path)

        def find(self, path: str, *args: Any, **kwargs: Any) -> Any:
            return self._far("list", super().find, path, *args, **kwargs)

        def _far(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if latency:
                time.sleep(latency)
            return call(*args, **kwargs)

    if scheme not in fsspec.registry:
        fsspec.register_implementation(scheme, Bucket)
    return f"{scheme}://bucket/{next(_count)}"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Redis server that keeps nothing on the disk and wants a password."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("needs redis-server on PATH (Debian: apt-get install redis-server)")
    redis = pytest.importorskip("redis", reason="needs pip install redis")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"port": port, "bind": "127.0.0.1", "dir": tmp_path_factory.mktemp("redis"), "save": "", "requirepass": PASSWORD}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    process = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL)
    url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
    try:
        with redis.Redis.from_url(url) as client:
            for _ in range(600):
                try:
                    client.ping()
                    break
                except redis.exceptions.ConnectionError:
                    time.sleep(0.05)
            else:
                pytest.fail(f"redis-server did not answer on port {port} within 30 s")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of a bucket on an S3 server on this machine."""
    s3fs = pytest.importorskip("s3fs", reason="needs pip install s3fs", exc_type=ImportError)
    moto = pytest.importorskip("moto.server", reason="needs pip install 'moto[server,s3]'", exc_type=ImportError)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patched:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patched.delenv(name)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patched.setenv(name, "testing")
        patched.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patched.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        s3fs.S3FileSystem().mkdir("lloco-test")
        yield "s3://lloco-test"
    server.stop()


@pytest.fixture
def make_target(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """Name of a place -> something to hand to SummaryStore.open, as often as wanted."""

    def make(place: str) -> Any:
        if place == "memory":
            return f"memory://test-{next(_count)}"
        if place == "sqlite":
            return f"sqlite:///{tmp_path}/sub folder/store.sqlite"
        if place == "directory":
            return f"file://{tmp_path}/sub folder/store"
        if place == "fsspec":
            return bucket_target()
        if place == "langchain":
            return pytest.importorskip("langchain_core.stores").InMemoryByteStore()
        if place == "llamaindex":
            return pytest.importorskip("llama_index.core.storage.kvstore").SimpleKVStore()
        if place == "redis":
            return f"{request.getfixturevalue('redis_server')}?prefix=test-{next(_count)}"
        if place == "s3":
            return f"{request.getfixturevalue('s3_server')}/{next(_count)}"
        if place == "cached":
            return f"cache::sqlite:///{tmp_path}/cache.sqlite::{bucket_target(0.0005)}"
        assert place == "dict"
        return DictStore()

    return make


@pytest.fixture(params=PLACES)
def target(request: pytest.FixtureRequest, make_target: Callable[[str], Any]) -> Any:
    return make_target(request.param)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Once over S3 is enough: what a storage makes of vectors is the same bytes everywhere, and the server is slow."""
    spare = [item for item in items if {"target": "s3", "storage": "int8"}.items() <= getattr(item, "callspec", _NONE).params.items()]
    if spare:
        config.hook.pytest_deselected(items=spare)
        items[:] = [item for item in items if item not in spare]


@pytest.fixture(params=("exact", "int8"))
def storage(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(target: Any, storage: str) -> Iterator[SummaryStore]:
    with SummaryStore.open(target, storage=storage) as opened:
        yield opened


@pytest.fixture
def summary() -> Callable[..., SummaryEmbeddings]:
    """summary(seed=0, rows=3, width=8, dtype="float32", fingerprint="fp", window=None, group=None)."""
    import torch

    def make(
        seed: int = 0,
        rows: int = 3,
        width: int = 8,
        dtype: str = "float32",
        fingerprint: str = "fp",
        window: int | None = None,
        group: str | None = None,
    ) -> SummaryEmbeddings:
        vectors = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).to(getattr(torch, dtype))
        return SummaryEmbeddings(vectors, rows * 4 - 1, fingerprint, window, group)

    return make


@pytest.fixture
def rewrite() -> Callable[[SummaryStore, str, Callable[[bytes], Any]], None]:
    """rewrite(store, key, change): replaces a stored value behind the store's back."""

    def change_value(store: SummaryStore, key: str, change: Callable[[bytes], Any]) -> None:
        if isinstance(store._backend, CachedBackend):
            store._backend.cache.delete([key])
        backend: Any = origin(store._backend)
        value = change(backend.get([key])[0])
        if hasattr(backend, "path"):
            with backend._session("write") as db:
                db.execute("UPDATE lloco_entries SET value = ? WHERE key = ?", (value, key))
        else:
            backend.put([(key, value, None)])

    return change_value
