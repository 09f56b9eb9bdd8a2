"""Every kind of place a store can be in, and summaries to put there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lloco_integrations.store import SummaryStore
from lloco_integrations.types import SummaryEmbeddings

PLACES = ("memory", "sqlite", "directory", "fsspec", "langchain", "dict")
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


def _bucket_target() -> str:
    """A memory file system under a scheme of its own: the path that S3 and its like take."""
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    class Bucket(MemoryFileSystem):
        protocol = ("llocobucket",)
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return super()._strip_protocol(str(path).removeprefix("llocobucket://"))

    if "llocobucket" not in fsspec.registry:
        fsspec.register_implementation("llocobucket", Bucket)
    return f"llocobucket://bucket/{next(_count)}"


@pytest.fixture
def make_target(tmp_path: Path) -> Callable[[str], Any]:
    """Name of a place -> something to hand to SummaryStore.open, as often as wanted."""

    def make(place: str) -> Any:
        if place == "memory":
            return f"memory://test-{next(_count)}"
        if place == "sqlite":
            return f"sqlite:///{tmp_path}/sub folder/store.sqlite"
        if place == "directory":
            return f"file://{tmp_path}/sub folder/store"
        if place == "fsspec":
            return _bucket_target()
        if place == "langchain":
            return pytest.importorskip("langchain_core.stores").InMemoryByteStore()
        return DictStore()

    return make


@pytest.fixture(params=PLACES)
def target(request: pytest.FixtureRequest, make_target: Callable[[str], Any]) -> Any:
    return make_target(request.param)


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
        backend: Any = store._backend
        value = change(backend.get([key])[0])
        if hasattr(backend, "path"):
            with backend._session("write") as db:
                db.execute("UPDATE lloco_entries SET value = ? WHERE key = ?", (value, key))
        else:
            backend.put([(key, value, None)])

    return change_value
