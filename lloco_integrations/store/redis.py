"""A store in Redis, or in what speaks its protocol (Valkey, KeyDB, managed services); one server, not a cluster.

As durable as the server is set to be: ``appendonly yes`` with ``appendfsync always`` keeps every acknowledged entry through a
crash, and ``maxmemory-policy noeviction`` keeps Redis from dropping entries, or the store's secret, when memory runs short.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from lloco_integrations.errors import LLoCOError, MissingExtra, StoreError
from lloco_integrations.store.backend import Head, absent, chunks, full, heads_in, read_only, replaced, seal_of, shown, unusable
from lloco_integrations.store.header import HEAD_BYTES
from lloco_integrations.store.info import EntryInfo
from lloco_integrations.store.keys import is_key
from lloco_integrations.store.meta import StoreMeta

_PREFIX = "lloco"
_VALUES = 32
_NAMES = 500
_TIMEOUTS = {"socket_timeout": 60.0, "socket_connect_timeout": 10.0}
"""Seconds; the URL may name others (``?socket_timeout=5``). Without them a lost connection would hang for good."""


class RedisBackend:
    """Values under ``PREFIX:entry:KEY``, meta data under ``PREFIX:meta``: several stores and other things share a server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._address, prefix = _parse(url)
        self._meta_name = f"{prefix}:meta"
        self._entry = f"{prefix}:entry:"
        self._meta: StoreMeta | None = None
        self._opened: tuple[int, Any] | None = None
        _driver(url)

    def load_meta(self, proposal: StoreMeta | None) -> StoreMeta:
        with self._using("open") as client:
            found = client.get(self._meta_name)
            if found is None and proposal is None:
                raise absent(self.url)
        if found is None and proposal is not None:
            with self._using("write") as client:
                client.set(self._meta_name, proposal.to_json(), nx=True)
                found = client.get(self._meta_name)
        self._meta = StoreMeta.from_json(found, shown(self.url))
        return self._meta

    def keep_meta(self, meta: StoreMeta) -> None:
        with self._using("write") as client:
            client.set(self._meta_name, meta.to_json())
        self._meta = meta

    def get(self, keys: Sequence[str]) -> list[object]:
        values: list[object] = []
        with self._using("read") as client:
            for some in chunks(keys, _VALUES):
                values.extend(client.mget([self._entry + key for key in some]))
        return values

    def heads(self, keys: Sequence[str]) -> list[Head]:
        values: dict[str, object] = {}
        for some in chunks(keys, _NAMES):
            found = self._each(some, lambda pipe, name: pipe.getrange(name, 0, HEAD_BYTES - 1))
            values.update(zip(some, found, strict=True))
        unclear = [key for key, value in values.items() if not value]  # absent and empty read alike
        there = dict(zip(unclear, self.contains(unclear), strict=True))
        starts = [values[key] if there.get(key, True) else None for key in keys]
        return heads_in(keys, starts, seal_of(self._meta), self.get)

    def contains(self, keys: Sequence[str]) -> list[bool]:
        found: list[bool] = []
        for some in chunks(keys, _NAMES):
            found.extend(map(bool, self._each(some, lambda pipe, name: pipe.exists(name))))
        return found

    def put(self, items: Sequence[tuple[str, bytes, EntryInfo]]) -> None:
        with self._using("write") as client:
            meta = client.get(self._meta_name)
            if meta is None or StoreMeta.from_json(meta, shown(self.url)) != self._meta:
                raise replaced(self.url)
            for some in chunks(items, _VALUES):
                with client.pipeline(transaction=False) as pipe:
                    for key, value, _ in some:
                        pipe.set(self._entry + key, value)
                    pipe.execute()

    def delete(self, keys: Sequence[str]) -> int:
        count = 0
        with self._using("write") as client:
            for some in chunks(keys, _NAMES):
                count += int(client.unlink(*(self._entry + key for key in some)))
        return count

    def keys(self) -> Iterator[str]:
        names: set[str] = set()  # a scan may give a name twice
        with self._using("read") as client:
            for name in client.scan_iter(match=f"{self._entry}*", count=1000):
                names.add(name.decode("utf-8", "replace").removeprefix(self._entry))
        return filter(is_key, names)

    def sweep(self) -> None:
        pass

    def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None and opened[0] == os.getpid():
            opened[1].close()

    def _each(self, keys: Sequence[str], ask: Callable[[Any, str], Any]) -> list[Any]:
        """The answers to one command a key, in one round trip."""
        with self._using("read") as client, client.pipeline(transaction=False) as pipe:
            for key in keys:
                ask(pipe, self._entry + key)
            return list(pipe.execute())

    def _client(self) -> Any:
        """A pool of connections that threads share; made anew after a fork, so that no two processes use one socket."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), _driver(self.url).Redis.from_url(self._address, **_TIMEOUTS))
        return self._opened[1]

    @contextmanager
    def _using(self, action: str) -> Iterator[Any]:
        errors = _driver(self.url).exceptions
        try:
            yield self._client()
        except LLoCOError:
            raise
        except errors.OutOfMemoryError as error:
            raise full(self.url) from error
        except errors.ReadOnlyError as error:
            raise read_only(self.url) from error
        except Exception as error:
            raise unusable(self.url, action, error) from error


def _driver(url: str) -> Any:
    try:
        return import_module("redis")
    except ImportError as error:
        raise MissingExtra(f"{shown(url)} needs a driver that is not installed: pip install redis") from error


def _parse(url: str) -> tuple[str, str]:
    """The URL without what is ours, and the prefix. Raises StoreError; the reason never repeats a part that may be a password."""
    form = "redis://[user:password@]host:port/db?prefix=NAME"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise StoreError(
            f"{shown(url)} is not of the form {form}; write /, @, # and : within a password as {quote('/@#:', safe='')}"
        ) from None
    if not re.fullmatch(r"(/\d*)?", parts.path) or parts.fragment:
        raise StoreError(f"{shown(url)} is not of the form {form}; db is a number, 0 if left out")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    prefix = options.pop("prefix", _PREFIX)
    if not re.fullmatch(r"[A-Za-z0-9._:\-]+", prefix):
        raise StoreError(f"prefix {prefix!r} in {shown(url)} may hold ASCII letters, digits and . _ : - only; choose another")
    if "decode_responses" in options:
        raise StoreError(f"{shown(url)} asks for decode_responses, but entries are bytes; leave it out")
    return parts._replace(query=urlencode(options)).geturl(), prefix
