"""What is special about Redis: options in the address, other things on the server, memory that runs out."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from lloco_integrations.errors import StoreError
from lloco_integrations.store import SummaryStore
from lloco_integrations.types import SummaryEmbeddings

from .conftest import PASSWORD

Summary = Callable[..., SummaryEmbeddings]


@pytest.fixture
def url(make_target: Callable[[str], Any]) -> str:
    return str(make_target("redis"))


def client(store: SummaryStore) -> Any:
    backend: Any = store._backend
    return backend._client()


def test_stores_with_other_prefixes_share_a_server(url: str, summary: Summary) -> None:
    one, other, longer = (SummaryStore.open(url + more) for more in ("", "b", ":entry"))
    (key,) = one.put_many([("text", summary())])
    client(one).set("theirs", b"1")
    client(one).set(url.partition("prefix=")[2] + ":entry:nokey", b"2")
    assert list(one.keys()) == [key]
    assert list(other.keys()) == list(longer.keys()) == []
    assert other.key("fp", "text") != key
    assert one.delete_many([key, "theirs"]) == 1
    assert client(one).get("theirs") == b"1"


def test_the_default_prefix_and_database(redis_server: str, summary: Summary) -> None:
    host = redis_server.rpartition("/")[0]
    plain = SummaryStore.open(host)
    (key,) = plain.put_many([("text", summary())])
    assert SummaryStore.open(f"{host}/0?prefix=lloco&socket_timeout=5").contains_many([key]) == [True]
    assert SummaryStore.open(f"{host}/3").contains_many([key]) == [False]
    assert client(plain).get(f"lloco:entry:{key}") is not None
    assert client(plain).get("lloco:meta") is not None


@pytest.mark.parametrize("more", ["?prefix=", "?prefix=a*", "?prefix=a%20b", "?decode_responses=1", "/x", "#x"])
def test_options_that_are_refused(redis_server: str, more: str) -> None:
    with pytest.raises(StoreError) as caught:
        SummaryStore.open(redis_server + more)
    assert PASSWORD not in str(caught.value)


def test_a_wrong_password_and_no_server(redis_server: str) -> None:
    wrong = redis_server.replace(PASSWORD, "swordfish")
    for url in (wrong, "redis://:swordfish@127.0.0.1:1/0"):
        with pytest.raises(StoreError, match=r"cannot open.*127\.0\.0\.1") as caught:
            SummaryStore.open(url)
        assert "swordfish" not in str(caught.value)
        assert not caught.value.__class__.__name__.startswith("No"), "an outage is not an absent store"


def test_the_password_is_in_no_text_about_the_store(url: str) -> None:
    store = SummaryStore.open(url)
    assert PASSWORD not in repr(store)
    assert PASSWORD in store.url, "which opens it again"


def test_memory_used_up(url: str, summary: Summary) -> None:
    store = SummaryStore.open(url)
    (key,) = store.put_many([("text", summary())])
    server = client(store)
    server.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreError, match="no room left"):
            store.put_many([("more", summary(2))])
        assert all(store.get_many([key]))
    finally:
        server.config_set("maxmemory", "0")
    assert len(store.put_many([("more", summary(2))])) == 1


def test_a_store_that_was_flushed_while_open(url: str, summary: Summary) -> None:
    store = SummaryStore.open(url)
    store.put_many([("text", summary())])
    client(store).delete(url.partition("prefix=")[2] + ":meta")
    with pytest.raises(StoreError, match="removed or replaced"):
        store.put_many([("more", summary(2))])


def test_a_scan_that_repeats_itself(url: str, summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SummaryStore.open(url)
    keys = store.put_many([(str(n), summary(n)) for n in range(3)])
    found = client(store)
    scan = found.scan_iter
    monkeypatch.setattr(found, "scan_iter", lambda **options: [*scan(**options), *scan(**options)])
    assert sorted(store.keys()) == sorted(keys)
    assert store.stats().entries == 3


def test_a_server_that_comes_back(url: str, summary: Summary) -> None:
    """Connections that the server cut are replaced without anyone noticing."""
    store = SummaryStore.open(url)
    (key,) = store.put_many([("text", summary())])
    client(store).client_kill_filter(_type="normal", skipme=False)
    assert store.contains_many([key]) == [True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_no_connection_is_shared_with_a_child(url: str) -> None:
    store = SummaryStore.open(url)
    mine = client(store)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if client(store) is not mine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert client(store) is mine
