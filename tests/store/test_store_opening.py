"""Addresses, storages, secrets, and stores that are copied."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lloco_integrations.errors import MissingExtra, StoreError
from lloco_integrations.paths import home
from lloco_integrations.store import SummaryStore
from lloco_integrations.types import SummaryEmbeddings

Summary = Callable[..., SummaryEmbeddings]


def test_importing_the_store_imports_no_torch() -> None:
    code = (
        "import sys, lloco_integrations.store as s, lloco_integrations.paths\n"
        "st = s.SummaryStore.open('memory://'); st.key('f', 't'); st.stats(); st.contains_many([])\n"
        "assert not {'torch', 'fsspec', 'numpy', 'langchain_core'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=300)


def test_the_default_store_is_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLOCO_HOME", str(tmp_path / "lloco"))
    assert home() == tmp_path / "lloco"
    with pytest.raises(StoreError, match="no store at"):
        SummaryStore.open(create=False)
    with SummaryStore.open() as store:
        assert store.url == f"sqlite:///{tmp_path}/lloco/store.sqlite"
        assert (tmp_path / "lloco" / "store.sqlite").exists()
    monkeypatch.delenv("LLOCO_HOME")
    assert "lloco" in str(home())


def test_ways_to_name_a_sqlite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    absolute = tmp_path / "s.sqlite"
    first = SummaryStore.open(f"sqlite:///{absolute}")
    for name in ("sqlite:///s.sqlite", "s.sqlite", str(absolute), absolute, f"sqlite:////{str(absolute)[1:]}"):
        same = SummaryStore.open(name)
        assert same.url == first.url
        assert same.key("f", "t") == first.key("f", "t")
    assert SummaryStore.open(first) is first
    assert SummaryStore.open("other.db").key("f", "t") != first.key("f", "t")


def test_relative_addresses_survive_a_change_of_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, summary: Summary) -> None:
    monkeypatch.chdir(tmp_path)
    stores = [SummaryStore.open("sqlite:///s.sqlite"), SummaryStore.open("file://folder")]
    keys = [store.put_many([("text", summary())])[0] for store in stores]
    monkeypatch.chdir("/")
    for store, key in zip(stores, keys, strict=True):
        store.close()
        assert pickle.loads(pickle.dumps(store)).contains_many([key]) == [True]


@pytest.mark.parametrize("wrong", ["foo://x", "nothing", "", "sqlite://", "sqlite:///:memory:", "file://", "a\0.db", 5, object()])
def test_addresses_that_hold_no_store(wrong: Any) -> None:
    with pytest.raises(StoreError, match=r"sqlite:///|file:///"):
        SummaryStore.open(wrong)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.registry import _registry

    monkeypatch.delitem(_registry, "s3", raising=False)  # there if another test has used it
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setitem(sys.modules, "redis", None)
    for url, package in {"s3://bucket/prefix": "s3fs", "redis://host": "redis", "rediss://host/1": "redis"}.items():
        with pytest.raises(MissingExtra, match=f"pip install {package}"):
            SummaryStore.open(url)


@pytest.mark.parametrize(
    "url",
    [
        "foo://user:hunter2@host/x",
        "foo://:hunter2@host",
        "foo://:other@hunter2@host/x",
        "foo://:hun/hunter2@host:1/x",
        "foo://host/0?password=hunter2&db=1",
        "redis://:hunter2@host/notanumber",
        "redis://:hunter2@host:port/0",
        "redis://:hunter2/x@host:1/0",
        "redis://:hunter2@host:1/0?prefix=*",
        "cache::sqlite:///x.sqlite::redis://:hunter2@host:1/x",
    ],
)
def test_passwords_stay_out_of_messages(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        SummaryStore.open(url)
    assert "hunter2" not in str(caught.value)
    assert "host" in str(caught.value)


def test_another_storage_is_refused(target: Any, store: SummaryStore, storage: str) -> None:
    other = "int8" if storage == "exact" else "exact"
    for place in (target, store):
        with pytest.raises(StoreError, match=rf"(?s){storage}.*{other}"):
            SummaryStore.open(place, storage=other)
    assert SummaryStore.open(target, storage=storage).storage == storage
    with pytest.raises(StoreError, match="exact, int8"):
        SummaryStore.open(target, storage="int4")


def test_stores_cannot_guess_each_others_keys(target: Any, make_target: Any) -> None:
    here, there = SummaryStore.open(target), SummaryStore.open("memory://")
    assert here.key("fp", "text") != there.key("fp", "text")
    assert here._meta.secret.hex() not in repr(here) + repr(here._meta) + repr(here._meta.secret.hex)
    assert here.url != there.url


def test_create_false_makes_nothing(target: Any, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store at"):
        SummaryStore.open(target, create=False)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("place", ["memory", "sqlite", "directory", "fsspec", "redis", "cached"])
def test_copies_are_the_same_store(place: str, make_target: Any, summary: Summary) -> None:
    store = SummaryStore.open(make_target(place), storage="int8")
    (key,) = store.put_many([("text", summary())])
    for twin in (copy.copy(store), copy.deepcopy({"a": [store]})["a"][0], pickle.loads(pickle.dumps(store))):
        assert twin.url == store.url
        assert twin.storage == "int8"
        assert twin.contains_many([key]) == [True]
        twin.put_many([(f"by {id(twin)}", summary())])
    assert store.stats().entries == len(list(store.keys())) >= 3


def test_a_nameless_memory_store_ends_with_its_last_user(summary: Summary) -> None:
    store = SummaryStore.open("memory://")
    (key,) = store.put_many([("text", summary())])
    assert SummaryStore.open(store.url).contains_many([key]) == [True]
    assert SummaryStore.open("memory://").contains_many([key]) == [False]
    kept = pickle.dumps(store)
    del store
    with pytest.raises(StoreError, match="memory of another process"):
        pickle.loads(kept)


@pytest.mark.parametrize("text", ["", "{}", "null", "[" * 5000, '{"lloco_store": 1, "storage": "exact", "secret": "00", "created": 1}'])
def test_damaged_meta_data(tmp_path: Path, text: str) -> None:
    SummaryStore.open(f"file://{tmp_path}")
    (tmp_path / "lloco-store.json").write_text(text)
    with pytest.raises(StoreError, match="damaged meta data"):
        SummaryStore.open(f"file://{tmp_path}")


def test_a_store_of_a_newer_version(tmp_path: Path) -> None:
    (tmp_path / "lloco-store.json").write_text('{"lloco_store": 99}')
    with pytest.raises(StoreError, match=r"format 99.*upgrade"):
        SummaryStore.open(f"file://{tmp_path}")


def test_other_things_in_a_byte_store_are_left_alone(summary: Summary) -> None:
    stores = pytest.importorskip("langchain_core.stores")
    inner = stores.InMemoryByteStore()
    inner.mset([("theirs", b"1"), ("lloco-entry-nokey", b"2")])
    store = SummaryStore.open(inner)
    (key,) = store.put_many([("text", summary())])
    assert list(store.keys()) == [key]
    assert store.verify() == []
    assert store.delete_many([key, "theirs"]) == 1
    assert inner.mget(["theirs"]) == [b"1"]
    assert copy.deepcopy(store)._backend is store._backend


def test_a_byte_store_without_listing_says_so(summary: Summary) -> None:
    class Least:
        def __init__(self) -> None:
            self.data: dict[str, bytes] = {}

        def mget(self, keys: list[str]) -> list[bytes | None]:
            return [self.data.get(key) for key in keys]

        def mset(self, pairs: list[tuple[str, bytes]]) -> None:
            self.data.update(pairs)

    store = SummaryStore.open(Least())
    (key,) = store.put_many([("text", summary())])
    assert store.get_many([key])[0] is not None
    with pytest.raises(StoreError, match="yield_keys"):
        list(store.keys())
    with pytest.raises(StoreError, match="mdelete"):
        store.delete_many([key])
