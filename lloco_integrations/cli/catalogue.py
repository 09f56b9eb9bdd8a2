"""What was compressed from where: files, their passages and, once someone asked, the passages' embeddings for search.

One SQLite file for one store. The store alone says what is compressed; the catalogue is written first, so whatever a killed run
left undone is found by the next one. Deleting the catalogue loses nothing but the time to read the files again.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lloco_integrations.errors import StoreError
from lloco_integrations.paths import home, make_private, touch_private
from lloco_integrations.reading import Piece
from lloco_integrations.store.backend import shown
from lloco_integrations.store.sqlite_files import connect

if TYPE_CHECKING:
    from typing import Self

FORMAT = 1
BUSY_SECONDS = 60.0
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS files (id INTEGER PRIMARY KEY, path TEXT UNIQUE NOT NULL, size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL, sha256 TEXT NOT NULL, splitting TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS passages (id INTEGER PRIMARY KEY, file INTEGER NOT NULL, place TEXT NOT NULL,
        title TEXT NOT NULL, text TEXT NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS passages_file ON passages (file)",
    """CREATE TABLE IF NOT EXISTS embeddings (embedder TEXT NOT NULL, digest BLOB NOT NULL, vector BLOB NOT NULL,
        PRIMARY KEY (embedder, digest)) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS fingerprints (model TEXT PRIMARY KEY, fingerprint TEXT NOT NULL)",
)
_UNDER = "(path = ? OR substr(path, 1, ?) = ?)"


@dataclass(frozen=True)
class FileRecord:
    """A file as it was when it was read. ``splitting``: how it was cut."""

    path: str
    size: int
    mtime_ns: int
    sha256: str
    splitting: str


@dataclass(frozen=True)
class Passage:
    """A passage and where it comes from."""

    path: str
    place: str
    title: str
    text: str

    @property
    def searchable(self) -> str:
        """What is embedded to find it."""
        return f"{self.title}\n{self.text}" if self.title else self.text

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.searchable.encode()).digest()


def location(url: str) -> Path:
    """Where the catalogue of the store at ``url`` is: beside a store on this machine, else in the folder of this package. A cache in front
    of the store changes nothing."""
    from lloco_integrations.store.opening import uncached

    url = uncached(url)
    for scheme in ("sqlite:///", "file://"):
        if url.startswith(scheme):
            path = Path(url.removeprefix(scheme))
            return path.with_name(f"{path.name}.catalogue")
    return home() / "catalogues" / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.catalogue"


class Catalogue:
    """See the module. Used by one thread; several processes may use one file."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path = path
        self._db = db

    @classmethod
    def open(cls, url: str, *, create: bool = True) -> Self:
        """The catalogue of the store at ``url``. Raises StoreError if it cannot be used, or is not there and ``create`` is False."""
        path = location(url)
        if not create and not path.exists():
            raise StoreError(f"nothing was compressed into {shown(url)} from here; begin with: lloco compress PATH --store {shown(url)}")
        with explaining(path):
            if create:
                make_private(path.parent)
                touch_private(path)
            db, _ = connect(path, BUSY_SECONDS)
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == 0 and create:
                db.execute("PRAGMA journal_mode = WAL").fetchall()
                db.execute("BEGIN IMMEDIATE")
                for statement in _SCHEMA:
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {FORMAT}")
                db.execute("COMMIT")
            elif version != FORMAT:
                db.close()
                raise StoreError(f"the catalogue {path} has format {version}, this version reads {FORMAT}; delete it and compress again")
        return cls(path, db)

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def file(self, path: str) -> FileRecord | None:
        """The record of a file, None if it is not in the catalogue."""
        with explaining(self.path):
            row = self._db.execute("SELECT path, size, mtime_ns, sha256, splitting FROM files WHERE path = ?", (path,)).fetchone()
        return FileRecord(*row) if row else None

    def keep(self, record: FileRecord, pieces: Sequence[Piece] | None) -> None:
        """Records a file with its passages in place of what was there; ``pieces`` None keeps the passages it has."""
        with self._transaction() as db:
            if pieces is None:
                db.execute("UPDATE files SET size = ?, mtime_ns = ? WHERE path = ?", (record.size, record.mtime_ns, record.path))
                return
            self._delete(db, record.path)
            row = (record.path, record.size, record.mtime_ns, record.sha256, record.splitting)
            cursor = db.execute("INSERT INTO files (path, size, mtime_ns, sha256, splitting) VALUES (?, ?, ?, ?, ?)", row)
            rows = [(cursor.lastrowid, p.place, p.title, p.text) for p in pieces]
            db.executemany("INSERT INTO passages (file, place, title, text) VALUES (?, ?, ?, ?)", rows)

    def drop(self, paths: Sequence[str]) -> None:
        """Forgets files."""
        with self._transaction() as db:
            for path in paths:
                self._delete(db, path)

    def paths_under(self, path: str) -> list[str]:
        """Files in the catalogue that are ``path`` or below it."""
        with explaining(self.path):
            return [p for (p,) in self._db.execute(f"SELECT path FROM files WHERE {_UNDER} ORDER BY path", _under(path))]

    def texts_under(self, path: str) -> Iterator[str]:
        """Texts of the passages of those files."""
        query = f"SELECT text FROM passages JOIN files ON file = files.id WHERE {_UNDER} ORDER BY passages.id"
        with explaining(self.path):
            for (text,) in self._db.execute(query, _under(path)):
                yield text

    def passages(self) -> list[Passage]:
        """All passages, in the order they were read."""
        query = "SELECT path, place, title, text FROM passages JOIN files ON file = files.id ORDER BY passages.id"
        with explaining(self.path):
            return [Passage(*row) for row in self._db.execute(query)]

    def vectors(self, embedder: str) -> dict[bytes, bytes]:
        """Embeddings by ``Passage.digest``, as float32 bytes."""
        with explaining(self.path):
            return dict(self._db.execute("SELECT digest, vector FROM embeddings WHERE embedder = ?", (embedder,)))

    def keep_vectors(self, embedder: str, vectors: Sequence[tuple[bytes, bytes]]) -> bool:
        """Keeps embeddings; False where the catalogue may only be read."""
        try:
            with self._transaction() as db:
                db.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", [(embedder, d, v) for d, v in vectors])
        except StoreError as error:
            if isinstance(error.__cause__, sqlite3.Error) and "readonly" in str(error.__cause__):
                return False
            raise
        return True

    def forget_vectors(self) -> None:
        """Drops embeddings of passages that are gone."""
        with explaining(self.path):
            (kept,) = self._db.execute("SELECT count(*) FROM embeddings").fetchone()
        if kept:
            wanted = {p.digest for p in self.passages()}
            with self._transaction() as db:
                gone = [(d,) for (d,) in db.execute("SELECT DISTINCT digest FROM embeddings").fetchall() if d not in wanted]
                db.executemany("DELETE FROM embeddings WHERE digest = ?", gone)

    def fingerprint(self, model: str) -> str | None:
        """The compressor fingerprint found when ``model`` (see ``known.identity``) was last loaded."""
        with explaining(self.path):
            row = self._db.execute("SELECT fingerprint FROM fingerprints WHERE model = ?", (model,)).fetchone()
        return str(row[0]) if row else None

    def keep_fingerprint(self, model: str, fingerprint: str) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO fingerprints VALUES (?, ?)", (model, fingerprint))

    @staticmethod
    def _delete(db: sqlite3.Connection, path: str) -> None:
        db.execute("DELETE FROM passages WHERE file IN (SELECT id FROM files WHERE path = ?)", (path,))
        db.execute("DELETE FROM files WHERE path = ?", (path,))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with explaining(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Turns what SQLite and the file system say into StoreErrors that name the remedy."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        text = str(error)
        if "not a database" in text or "malformed" in text or "no such table" in text:
            remedy = "delete it and compress again: summaries already in the store are not computed again"
        elif "readonly" in text or "unable to open" in text or isinstance(error, PermissionError):
            remedy = "give this user write permission on it and on the directory that holds it, or use another store"
        elif "full" in text:
            remedy = "free some space and run the command again"
        else:
            remedy = "check that the place can be reached and no other process holds it"
        raise StoreError(f"the catalogue {path} cannot be used ({text}); {remedy}") from error


def _under(path: str) -> tuple[str, int, str]:
    folder = path.rstrip("/\\") + ("\\" if "\\" in path and "/" not in path else "/")
    return path, len(folder), folder
