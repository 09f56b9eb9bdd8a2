"""What a long run has done so far, in a file beside the one that it is for: one line for each result, in the order they were made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from lloco_integrations.errors import BadInput


class Partial:
    """``OUT.partial.jsonl``. Its first line holds the settings that the results belong to. Use as a context manager.

    ``key``: the names of what tells results apart, such as row and document; ``option``: of the command line, for another file.

    Raises BadInput for a file of other settings, a damaged one, and one that cannot be written.
    """

    def __init__(self, report: Path, settings: Mapping[str, Any], key: Sequence[str] = ("row", "document"), option: str = "--json") -> None:
        self.path = path_for(report)
        self.key = tuple(key)
        self.option = option
        self.settings = json.loads(json.dumps(settings))
        self.done: dict[tuple[str, ...], dict[str, Any]] = {}
        self._file: TextIO | None = None

    def __enter__(self) -> Partial:
        try:
            self._read()
            self._file = self.path.open("a", encoding="utf-8")
            if self.path.stat().st_size == 0:
                self._write({"settings": self.settings, "hash": _hash(self.settings)})
        except OSError as error:
            raise BadInput(f"cannot write {self.path}: {error}; name another file with {self.option}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, *key: str, result: Mapping[str, Any]) -> None:
        """Keep the result that ``key`` names; it is on the disk when this returns."""
        self.done[key] = dict(result)
        try:
            self._write({**dict(zip(self.key, key, strict=True)), **result})
        except OSError as error:
            raise BadInput(f"cannot write {self.path}: {error}; make room, and the same command goes on from there") from error

    def delete(self) -> None:
        """Remove the file, once the report is written."""
        self.path.unlink(missing_ok=True)

    def _write(self, value: Mapping[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(value, ensure_ascii=False) + "\n")
        self._file.flush()

    def _read(self) -> None:
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):  # the line that was being written when the process was killed
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        lines = [line for line in whole.decode("utf-8", errors="replace").split("\n") if line]
        if not lines:
            return
        try:
            first, *rest = map(json.loads, lines)
            theirs = first["settings"]
            done = {tuple(r.pop(k) for k in self.key): r for r in rest}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{self.path} is damaged ({error!r}); delete it to begin anew") from error
        if first.get("hash") != _hash(self.settings):
            keys = [k for k in {**theirs, **self.settings} if theirs.get(k) != self.settings.get(k)]
            raise BadInput(
                f"{self.path} holds unfinished results of other settings (different: {', '.join(keys) or 'its hash'}); run the command that "
                f"made it, delete it to begin anew, or name another file with {self.option}"
            )
        self.done = done


def path_for(report: Path) -> Path:
    """Where the results so far of ``report`` are."""
    return report.with_name(f"{report.name}.partial.jsonl")


def _hash(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
