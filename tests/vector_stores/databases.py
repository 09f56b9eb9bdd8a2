"""Three embedded vector databases on disk, each opened by one client at a time, and what is in their files."""

from __future__ import annotations

import json
from contextlib import suppress
from inspect import isawaitable
from pathlib import Path
from typing import Any

import pytest

COLLECTION = "docs"


class Database:
    """A folder and the client that has it open. ``connect`` closes that client, and gives a fresh one."""

    name: str
    package: str

    def __init__(self, path: Path) -> None:
        pytest.importorskip(self.package, reason=f"{self.package} is not installed")
        self.path = path
        self.client: Any = None

    def connect(self) -> Any:
        self.close()
        self.client = self._client()
        return self.client

    def close(self) -> None:
        closing = self.client.close() if hasattr(self.client, "close") else None
        if isawaitable(closing):
            with suppress(StopIteration):
                closing.__await__().send(None)  # on local files it waits for nothing
        self.client = None

    def rows(self) -> list[tuple[list[float], str, str]]:
        """Everything that is stored, read by a fresh client: vector, the field that holds the text, and all fields as JSON."""
        return [([float(x) for x in vector], text, json.dumps(row, default=str)) for vector, text, row in self._rows(self.connect())]

    def _client(self) -> Any:
        raise NotImplementedError

    def _rows(self, client: Any) -> list[tuple[Any, str, Any]]:
        raise NotImplementedError


class Chroma(Database):
    name = package = "chromadb"

    def _client(self) -> Any:
        import chromadb

        return chromadb.PersistentClient(self.path, settings=chromadb.Settings(anonymized_telemetry=False))

    def _rows(self, client: Any) -> list[tuple[Any, str, Any]]:
        got = client.get_collection(COLLECTION).get(include=["embeddings", "documents", "metadatas"])
        return [(v, t, [i, t, m]) for v, t, m, i in zip(*(got[k] for k in ("embeddings", "documents", "metadatas", "ids")), strict=True)]


class Qdrant(Database):
    name, package = "qdrant", "qdrant_client"

    def _client(self) -> Any:
        from qdrant_client import QdrantClient

        return QdrantClient(path=str(self.path))

    def connect_async(self) -> Any:
        """An asynchronous client; on local files there is no other one beside it."""
        from qdrant_client import AsyncQdrantClient

        self.close()
        self.client = AsyncQdrantClient(path=str(self.path))
        return self.client

    def _rows(self, client: Any) -> list[tuple[Any, str, Any]]:
        points, _ = client.scroll(COLLECTION, limit=1000, with_payload=True, with_vectors=True)
        return [
            (
                p.vector[next(iter(p.vector))] if isinstance(p.vector, dict) else p.vector,
                p.payload["page_content"] if "page_content" in p.payload else json.loads(p.payload["_node_content"])["text"],
                [p.id, p.payload],
            )
            for p in points
        ]


class Lance(Database):
    name = package = "lancedb"

    def _client(self) -> Any:
        import lancedb

        return lancedb.connect(str(self.path))

    def _rows(self, client: Any) -> list[tuple[Any, str, Any]]:
        return [(row.pop("vector"), row["text"], row) for row in client.open_table(COLLECTION).to_arrow().to_pylist()]


DATABASES = {"chroma": Chroma, "qdrant": Qdrant, "lancedb": Lance}
