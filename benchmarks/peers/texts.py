"""Texts of a wanted length from a compressor that is only told how many tokens to keep, and the file that they go to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

SLACK = 0.1


@dataclass(frozen=True)
class Item:
    """A question about a context, as a line of the file that goes in."""

    id: str
    context: str
    question: str


@dataclass(frozen=True)
class Fitted:
    """A compressed text, the positions that it takes, how many were requested to get it, and the seconds that this took, if known."""

    text: str
    positions: int
    requested: int
    seconds: float | None = None


def fit(compress: Callable[[int], str], count: Callable[[str], int], target: int, *, tries: int = 3) -> Fitted:
    """The text of ``compress(requested)`` that is nearest to ``target`` positions and not more than a tenth over it.

    The request is scaled by how far the result was off, until this is a tenth at most or after ``tries``. If all are longer: the shortest.
    """
    made: list[Fitted] = []
    request = target
    while len(made) < tries and request not in {m.requested for m in made}:
        text = compress(request)
        made.append(Fitted(text, count(text), request))
        if abs(made[-1].positions - target) <= SLACK * target:
            break
        request = max(1, round(request * target / max(made[-1].positions, 1)))
    short_enough = [m for m in made if m.positions <= (1 + SLACK) * target]
    return min(short_enough or made, key=lambda m: abs(m.positions - target))


def read_items(path: Path) -> list[Item]:
    """The lines ``{"id", "context", "question"}`` of ``path``; SystemExit for a malformed one, an id that comes twice, and none at all."""
    items: dict[str, Item] = {}
    for row, at in _lines(path.read_bytes(), path):
        found: list[Any] = [row.get("id"), row.get("context"), row.get("question") or ""]
        if not all(isinstance(value, str) for value in found) or not found[0] or not found[1]:
            raise SystemExit(f'{at}: expected {{"id", "context", "question"}}, all strings')
        if found[0] in items:
            raise SystemExit(f"{at}: the id {found[0]!r} comes twice")
        items[found[0]] = Item(*found)
    if not items:
        raise SystemExit(f"{path} holds no question")
    return list(items.values())


def digest(*parts: str) -> str:
    """A short name of what a text was made from."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


class Out:
    """A JSONL file that grows line by line and is continued by the next run. Use as a context manager.

    ``settings`` are in every line: a file of others is refused, and so is a damaged one. A last line that is torn is cut off.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, dict(settings)
        self.done: dict[str, dict[str, Any]] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Out:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = self.path.read_bytes() if self.path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        for row, at in _lines(whole, self.path):
            theirs = {key: row.get(key) for key in self.settings}
            if theirs != self.settings:
                raise SystemExit(f"{at}: made with {theirs}, not {self.settings}; give another --out")
            if not isinstance(row.get("id"), str) or row["id"] in self.done:
                raise SystemExit(f"{at}: the id {row.get('id')!r} is missing or comes twice; delete the file to begin anew")
            self.done[row["id"]] = row
        self._file = self.path.open("ab")
        self._file.truncate(len(whole))
        return self

    def check(self, sources: Mapping[str, str]) -> None:
        """SystemExit if a line's text was made from something else than ``sources`` (id -> digest) have."""
        for key, row in self.done.items():
            if sources.get(key, row.get("source")) != row.get("source"):
                raise SystemExit(f"{self.path}: the text of {key!r} was made from another context; give another --out")

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a line; it is on the disk when this returns."""
        assert self._file is not None
        line = {**row, **self.settings}
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done[line["id"]] = line

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._file is not None
        self._file.close()


def _lines(data: bytes, path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        at = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SystemExit(f"{at}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise SystemExit(f"{at}: expected a JSON object, not {type(row).__name__}")
        yield row, at
