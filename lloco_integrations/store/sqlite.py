"""The default store: one SQLite file, shared by any number of threads and processes of one machine."""

from __future__ import annotations

import atexit
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakSet

from lloco_integrations.errors import StoreError
from lloco_integrations.paths import make_private, touch_private
from lloco_integrations.store.backend import (
    Head,
    NoRoom,
    PlaceDamaged,
    absent,
    chunks,
    described,
    full,
    read_only,
    replaced,
    seal_of,
    shown,
    unusable,
)
from lloco_integrations.store.forks import track
from lloco_integrations.store.header import damaged
from lloco_integrations.store.info import EntryInfo
from lloco_integrations.store.meta import StoreMeta
from lloco_integrations.store.sqlite_files import connect, journal_left, same_file, seen

BUSY_SECONDS = 60
_IN = 500
_DELETED = 50
_PAGES = 500
_RESERVE = 2**20
"""Bytes of the disk that puts leave, so that what fills it can be deleted."""
_VALUES = 32
_COLUMNS = "e.key, n_vectors, n_tokens, hidden_size, fingerprint, window_tokens, group_name, nbytes, created"
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS lloco_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS lloco_entries (
        key TEXT PRIMARY KEY, n_vectors INTEGER NOT NULL, n_tokens INTEGER NOT NULL, hidden_size INTEGER NOT NULL,
        fingerprint TEXT NOT NULL, window_tokens INTEGER, group_name TEXT, nbytes INTEGER NOT NULL,
        created REAL NOT NULL, value BLOB NOT NULL)""",
    # Apart from the entries: behind a value, a mark would cost the walk through all of the value's pages.
    "CREATE TABLE IF NOT EXISTS lloco_seals (key TEXT PRIMARY KEY, seal BLOB NOT NULL) WITHOUT ROWID",
)


class SqliteBackend:
    """One connection behind a lock, opened when needed. Write-ahead log where the file system allows it, and
    ``synchronous=FULL``: what a commit acknowledged survives the death of the process and of the machine.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))
        self.url = f"sqlite:///{self.path.as_posix()}"
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._meta: StoreMeta | None = None
        self._seen: tuple[object, ...] | None = None
        self._immutable = False
        self._seals = False
        track(self)
        _open.add(self)

    def load_meta(self, proposal: StoreMeta | None) -> StoreMeta:
        if self.path.is_dir():
            raise StoreError(f"{self.path} is a directory; name a file in it (sqlite:///.../store.sqlite), or open file://{self.path}")
        if not self.path.exists():
            if proposal is None:
                raise absent(self.url)
            with self._explaining("write"):
                make_private(self.path.parent)
                touch_private(self.path)  # the log beside it takes its mode
        with self._session("open") as db:
            tables = {str(name) for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "lloco_meta" not in tables:
            raise StoreError(
                f"{self.path} is the SQLite database of something else (tables {', '.join(sorted(tables)[:5])}); name another file"
            )
        if not tables:
            if proposal is None:
                raise absent(self.url)
            self._create(proposal)
        with self._session("open") as db:
            self._meta = self._read_meta(db)
        return self._meta

    def keep_meta(self, meta: StoreMeta) -> None:
        with self._session("write") as db:
            self._make_tables(db)
            db.execute("UPDATE lloco_meta SET value = ? WHERE name = 'meta'", (meta.to_json(),))
        self._meta = meta

    def get(self, keys: Sequence[str]) -> list[object]:
        found: dict[str, object] = {}
        for some in chunks(keys, _IN):
            with self._session("read") as db:
                found.update(db.execute(f"SELECT key, value FROM lloco_entries WHERE key IN ({_marks(some)})", some))
        return [found.get(key) for key in keys]

    def heads(self, keys: Sequence[str]) -> list[Head]:
        seal = seal_of(self._meta)
        found: dict[str, Head] = {}
        unmarked: list[str] = []
        for some in chunks(keys, _IN):
            with self._session("read") as db:
                mark, join = ("seal", "LEFT JOIN lloco_seals s ON s.key = e.key") if self._seals else ("NULL", "")
                rows = db.execute(f"SELECT {mark}, {_COLUMNS} FROM lloco_entries e {join} WHERE e.key IN ({_marks(some)})", some).fetchall()
            for row in rows:
                mark, key, said = row[0], row[1], row[1:]
                if mark == seal.row(said):
                    found[key] = EntryInfo(*said[1:])
                elif mark is None:
                    unmarked.append(key)
                else:
                    found[key] = damaged(key, "its description does not fit the store's secret")
        for some in chunks(unmarked, _VALUES):  # of an earlier version: the columns are nobody's word
            found.update((key, described(key, value, seal)) for key, value in zip(some, self.get(some), strict=True))
        return [found.get(key) for key in keys]

    def contains(self, keys: Sequence[str]) -> list[bool]:
        found: set[str] = set()
        for some in chunks(keys, _IN):
            with self._session("read") as db:
                rows = db.execute(f"SELECT key FROM lloco_entries WHERE key IN ({_marks(some)})", some)
                found.update(key for (key,) in rows)
        return [key in found for key in keys]

    def put(self, items: Sequence[tuple[str, bytes, EntryInfo]]) -> None:
        seal = seal_of(self._meta)
        rows = [(k, i.n_vectors, i.n_tokens, i.hidden_size, i.fingerprint, i.window, i.group, i.nbytes, i.created) for k, _, i in items]
        values = [(*row, value) for row, (_, value, _) in zip(rows, items, strict=True)]
        self._check_room(sum(i.nbytes for _, _, i in items))
        with self._session("write") as db:
            self._make_tables(db)
            db.executemany("INSERT OR REPLACE INTO lloco_seals VALUES (?, ?)", [(row[0], seal.row(row)) for row in rows])
            db.executemany("INSERT OR REPLACE INTO lloco_entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def delete(self, keys: Sequence[str]) -> int:
        count = 0
        for some in chunks(keys, _DELETED):
            try:
                count += self._delete(some)
            except NoRoom:  # a transaction takes room before it gives any: give back what the ones before have freed, and take less
                self.sweep()
                for key in some:
                    count += self._delete([key])
        return count

    def _delete(self, keys: Sequence[str]) -> int:
        with self._session("write") as db:
            if self._seals:
                db.execute(f"DELETE FROM lloco_seals WHERE key IN ({_marks(keys)})", keys)
            return db.execute(f"DELETE FROM lloco_entries WHERE key IN ({_marks(keys)})", keys).rowcount

    def keys(self) -> Iterator[str]:
        last = ""
        while True:
            with self._session("read") as db:
                rows = db.execute("SELECT key FROM lloco_entries WHERE key > ? ORDER BY key LIMIT 1000", (last,)).fetchall()
            if not rows:
                return
            for (key,) in rows:
                if not isinstance(key, str) or key <= last:  # else this would go round for ever
                    raise self._disordered(f"{key!r:.40} follows {last!r}")
                last = key
                yield key

    def inspect(self) -> None:
        """Raises PlaceDamaged where the database contradicts itself, such as an index that misses rows: reads then find nothing, and no error."""
        with self._session("read") as db:
            said = [str(line) for (line,) in db.execute("PRAGMA integrity_check(3)")]
        if said != ["ok"]:
            raise self._disordered("; ".join(said))

    def _disordered(self, what: str) -> PlaceDamaged:
        return PlaceDamaged(
            f"{self.path} is a damaged SQLite database ({what}); rebuild its index (sqlite3 {self.path.name} REINDEX), restore it from a backup, "
            f"or move it away and compress again"
        )

    def sweep(self) -> None:
        with self._session("read") as db, suppress(sqlite3.OperationalError):
            left = None
            while left != (left := db.execute("PRAGMA freelist_count").fetchone()[0]) and left:
                db.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def __del__(self) -> None:
        if suppress is not None:  # at the interpreter's end, modules may be gone
            with suppress(Exception):
                self.close()

    def before_fork(self) -> None:
        self._lock.acquire()
        with suppress(sqlite3.Error):
            self.close()

    def after_fork(self) -> None:
        self._lock.release()

    def _check_room(self, nbytes: int) -> None:
        """Raises StoreError while there is still room to delete in, and to merge the log, which for a while is there twice."""
        with self._explaining("write"):
            log = os.stat(f"{self.path}-wal").st_size if os.path.exists(f"{self.path}-wal") else 0
            if shutil.disk_usage(self.path.parent).free < 2 * nbytes + log + _RESERVE:
                raise full(self.url)

    def _create(self, proposal: StoreMeta) -> None:
        with self._session("read") as db, suppress(sqlite3.OperationalError):
            # Both fail harmlessly while another process makes the same store, or where there is no shared memory.
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL").fetchall()
        with self._session("write") as db:
            self._make_tables(db)
            db.execute("INSERT OR IGNORE INTO lloco_meta VALUES ('meta', ?)", (proposal.to_json(),))

    def _make_tables(self, db: sqlite3.Connection) -> None:
        """Makes what a new store has, and what one of an earlier version lacks."""
        if not self._seals:
            for statement in _SCHEMA:
                db.execute(statement)
            self._seals = _has_seals(db)

    def _read_meta(self, db: sqlite3.Connection) -> StoreMeta:
        row = db.execute("SELECT value FROM lloco_meta WHERE name = 'meta'").fetchone()
        return StoreMeta.from_json(row[0] if row else None, str(self.path))

    @contextmanager
    def _session(self, action: str) -> Iterator[sqlite3.Connection]:
        """The connection for one read, or for one transaction where ``action`` is "write"."""
        with self._lock, self._explaining(action):
            db = self._connection()
            if action != "write":
                yield db
                return
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    with suppress(sqlite3.Error):
                        db.execute("ROLLBACK")
                        self._seals = _has_seals(db)
                raise

    def _connection(self) -> sqlite3.Connection:
        now = seen(self.path)
        if self._meta is not None and now is None:
            self.close()
            raise replaced(self.url)
        if self._db is not None and (self._seen == now or (not self._immutable and same_file(self._seen, now))):
            return self._db
        self.close()
        db, self._immutable = connect(self.path, BUSY_SECONDS)
        try:
            if self._meta is not None and self._read_meta(db) != self._meta:
                raise replaced(self.url)
            has_seals = _has_seals(db)
        except BaseException:
            db.close()
            raise
        self._db, self._seen, self._seals = db, seen(self.path), has_seals
        return db

    @contextmanager
    def _explaining(self, action: str) -> Iterator[None]:
        """Turns what SQLite and the file system say into StoreErrors that name the remedy."""
        try:
            yield
        except OSError as error:
            raise unusable(self.url, action, error) from error
        except sqlite3.Error as error:
            text = str(error)
            if "is full" in text:
                raise full(self.url) from error
            if "readonly" in text:
                raise read_only(self.url) from error
            if "locked" in text:
                raise StoreError(
                    f"the store {shown(self.url)} was busy for {BUSY_SECONDS} s; find the process that holds it, and repeat the call"
                ) from error
            if "not a database" in text or "malformed" in text:
                raise PlaceDamaged(
                    f"{self.path} is not a SQLite database, or a damaged one ({text}); restore it from a backup, "
                    f"or move it away and compress again"
                ) from error
            if journal_left(self.path) and "unable to open" in text:
                raise StoreError(
                    f"the store {shown(self.url)} holds what a killed writer had not merged, and this user cannot "
                    f"write next to it; open it once as a user who can, then it is readable here"
                ) from error
            raise unusable(self.url, action, error) from error


def _has_seals(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE name = 'lloco_seals'").fetchone() is not None


def _marks(keys: Sequence[str]) -> str:
    return ",".join("?" * len(keys))


_open: WeakSet[SqliteBackend] = WeakSet()


@atexit.register
def _close_all() -> None:
    """A database that is closed has no log beside it: whoever copies the file then copies all of it."""
    for backend in list(_open):
        with suppress(Exception):
            backend.close()
