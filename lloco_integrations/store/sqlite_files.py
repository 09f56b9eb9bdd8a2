"""Connecting to a SQLite file, also where nothing may be written, and noticing that the file became another one."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path


def connect(path: Path, busy_seconds: float) -> tuple[sqlite3.Connection, bool]:
    """A connection in autocommit mode, and whether it had to be opened as immutable.

    A file with a write-ahead log cannot be read in the usual way where the directory is read-only. It is then opened
    as immutable, which is right only while nobody writes: compare ``seen`` before every use,
    and connect again on a change.

    Raises sqlite3.Error if neither works.
    """
    try:
        return _open(path, False, busy_seconds), False
    except sqlite3.OperationalError as error:
        denied = "unable to open" in str(error) or "readonly" in str(error)
        if not denied or not path.exists() or journal_left(path):
            raise
        return _open(path, True, busy_seconds), True


def _open(path: Path, immutable: bool, busy_seconds: float) -> sqlite3.Connection:
    name = f"{path.as_uri()}?mode=ro&immutable=1" if immutable else str(path)
    db = sqlite3.connect(name, timeout=busy_seconds, isolation_level=None, check_same_thread=False, uri=immutable)
    try:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def journal_left(path: Path) -> bool:
    """Whether a log with content lies next to the file."""
    return any(_size(f"{path}{suffix}") for suffix in ("-wal", "-journal"))


def seen(path: Path) -> tuple[object, ...] | None:
    """Device, inode, size, time and log of the file as it is now; None if there is none."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, journal_left(path)


def same_file(one: tuple[object, ...] | None, other: tuple[object, ...] | None) -> bool:
    """Whether both are looks at the same file, whatever was written meanwhile."""
    return one is not None and other is not None and one[:2] == other[:2]


def _size(name: str) -> int:
    try:
        return os.stat(name).st_size
    except OSError:
        return 0
