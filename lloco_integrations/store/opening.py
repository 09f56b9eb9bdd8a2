"""From what a user names to the backend that serves it."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from lloco_integrations.errors import MissingExtra, StoreError
from lloco_integrations.paths import home
from lloco_integrations.secret import Secret, shown
from lloco_integrations.store.backend import Backend

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)(?:::|://)")
_CACHE = "cache::"
_SQLITE_SUFFIXES = (".sqlite", ".sqlite3", ".db")
_ALLOWED = (
    "sqlite:///path (or a path that ends in .sqlite or .db), file:///directory, memory://, redis://host:port/db, an fsspec URL such as "
    "s3://bucket/prefix or gcs://bucket/prefix, one of those behind a cache (cache::sqlite:///path::s3://bucket/prefix), "
    "an object with mget and mset, or a LlamaIndex key-value store"
)
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "smb": "smbprotocol",
    "hdfs": "pyarrow",
    "oci": "ocifs",
    "oss": "ossfs",
    "webdav": "webdav4",
}


def open_backend(target: object) -> Backend:
    """The backend for ``target``: None (the default store), a URL, a path, or an object that holds bytes or JSON by key.

    Raises:
        StoreError: nothing that can hold a store; the message names what can.
        MissingExtra: the driver for the URL's scheme is not installed; the message names the package.
    """
    if target is None:
        target = f"sqlite:///{(home() / 'store.sqlite').absolute()}"
    if isinstance(target, os.PathLike):
        target = os.fspath(target)
    if isinstance(target, Secret):
        target = target.get_secret_value()
    if isinstance(target, str):
        return _from_string(target)
    if hasattr(target, "mget") and hasattr(target, "mset"):
        from lloco_integrations.store.bytestore import ByteStoreBackend

        return ByteStoreBackend(target)
    from lloco_integrations.store.kvstore import KVStoreBackend, is_kvstore

    if is_kvstore(target):
        return KVStoreBackend(target)
    raise StoreError(f"{type(target).__name__} cannot hold a store; give {_ALLOWED}")


def settled(target: Any) -> Any:
    """``target`` with a path relative to the folder of this moment made absolute; anything else as it is, also what is no address."""
    target = os.fspath(target) if isinstance(target, os.PathLike) else target
    if not isinstance(target, str):
        return target
    if target[: len(_CACHE)].lower() == _CACHE:
        cache, _, remote = target[len(_CACHE) :].partition("::")
        return f"{_CACHE}{settled(cache)}::{settled(remote)}"
    match = _SCHEME.match(target)
    if (match[1].lower() if match else "sqlite") not in ("sqlite", "file", "local"):
        return target
    with suppress(StoreError):  # raised again, and said, when it is opened
        return _from_string(target).url
    return target


def with_cache(remote: Backend, cache: object) -> Backend:
    """``remote`` behind the cache at the address ``cache``: any address of a store, but one on this machine makes sense.

    Raises StoreError for no address, one that contains ``::``, or that of ``remote`` itself.
    """
    from lloco_integrations.store.cached import CachedBackend

    if not isinstance(cache, (str, os.PathLike)):
        raise StoreError(f"cache takes an address such as sqlite:///path, not {type(cache).__name__}")
    local = open_backend(cache)
    if "::" in local.url:
        raise StoreError(f"the cache address {shown(local.url)} contains '::', which separates addresses; name another place")
    if local.url == remote.url:
        raise StoreError(f"{shown(local.url)} cannot be its own cache; name another place, or leave the cache out")
    return CachedBackend(remote, local)


def uncached(url: str) -> str:
    """The address of the store behind the caches in ``url``; ``url`` itself if it names none."""
    while url[: len(_CACHE)].lower() == _CACHE:
        url = url[len(_CACHE) :].partition("::")[2]
    return url


def _from_string(target: str) -> Backend:
    if "\0" in target:
        raise StoreError(f"{target!r} cannot hold a store; give {_ALLOWED}")
    if target[: len(_CACHE)].lower() == _CACHE:
        # fsspec's own chaining has no protocol of this name (it has cached, filecache, ...), and may follow in the second address.
        cache, _, remote = target[len(_CACHE) :].partition("::")
        if not cache or not remote:
            raise StoreError(f"{shown(target)} names no cache and store; write cache::sqlite:///path::s3://bucket/prefix")
        return with_cache(_from_string(remote), cache)
    match = _SCHEME.match(target)
    scheme = match[1].lower() if match else ""
    rest = target[match.end() :] if match else target
    if scheme == "memory":
        from lloco_integrations.store.memory import open_memory

        return open_memory(f"memory://{rest}")
    if scheme == "sqlite" or (not scheme and target.lower().endswith(_SQLITE_SUFFIXES)):
        return _sqlite(target, rest.removeprefix("/") if scheme else rest)
    if scheme in ("file", "local"):
        from lloco_integrations.store.directory import DirectoryBackend

        if not rest.strip("/"):
            raise StoreError(f"{target!r} names no directory; write file:///path/of/directory")
        return DirectoryBackend(Path(re.sub(r"^/(?=[A-Za-z]:)", "", rest)).expanduser())
    if scheme in ("redis", "rediss"):
        from lloco_integrations.store.redis import RedisBackend

        return RedisBackend(target)
    if scheme:
        return _remote(target, scheme)
    raise StoreError(f"{target!r} is not the address of a store; give {_ALLOWED}")


def _sqlite(target: str, path: str) -> Backend:
    """``sqlite:///relative``, ``sqlite:////absolute``: the third slash ends the empty host name."""
    from lloco_integrations.store.sqlite import SqliteBackend

    if path in ("", ":memory:"):
        raise StoreError(f"{target!r} names no file; write sqlite:///path/of/store.sqlite, or memory:// for one without a file")
    return SqliteBackend(Path(path).expanduser())


def _remote(target: str, scheme: str) -> Backend:
    try:
        get_filesystem_class = import_module("fsspec").get_filesystem_class
    except ImportError as error:
        raise MissingExtra(f"{shown(target)} needs fsspec: pip install fsspec") from error
    try:
        get_filesystem_class(scheme)
    except ValueError as error:
        raise StoreError(f"{shown(target)} has the unknown scheme {scheme!r}; give {_ALLOWED}") from error
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        remedy = f"pip install {package}" if package else str(error)
        raise MissingExtra(f"{shown(target)} needs a driver that is not installed: {remedy}") from error
    from lloco_integrations.store.remote import RemoteBackend

    return RemoteBackend(target)
