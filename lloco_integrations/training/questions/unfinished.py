"""The questions so far, in a file beside the one they are for: one line for each document, in the order they were done."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from lloco_integrations.errors import BadInput


def unfinished_path(out: Path) -> Path:
    """Where the questions so far are kept, until ``out`` is written."""
    return out.with_name(f"{out.name}.partial.jsonl")


class Unfinished:
    """``OUT.partial.jsonl``: its first line holds the settings, every other one what a document gave. Use as a context manager."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out = out
        self.path = unfinished_path(out)
        self.settings = json.loads(json.dumps(settings))
        self.done: dict[str, dict[str, Any]] = {}
        self._file: TextIO | None = None

    def __enter__(self) -> Unfinished:
        try:
            self._read()
            self._file = self.path.open("a", encoding="utf-8")
            if self.path.stat().st_size == 0:
                self._write({"settings": self.settings})
        except OSError as error:
            raise BadInput(f"cannot write {self.path}: {error}; name a file with --out in a folder that you may write") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, doc_id: str, questions: list[dict[str, Any]], counts: dict[str, int]) -> None:
        """Keep what a document gave, be it nothing; it is in the file when this returns."""
        self.done[doc_id] = {"questions": questions, "counts": counts}
        try:
            self._write({"doc_id": doc_id, **self.done[doc_id]})
        except OSError as error:
            raise BadInput(f"cannot write {self.path}: {error}; make room, and the same command goes on from there") from error

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write ``rows`` to the out file in one step, if there are any, and remove this one."""
        try:
            if rows:
                whole = self.out.with_name(f".{self.out.name}.whole")
                whole.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
                os.replace(whole, self.out)
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise BadInput(f"cannot write {self.out}: {error}; make room, and the same command goes on from there") from error

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
        try:
            first, *rest = (
                (json.loads(line) for line in whole.decode("utf-8").split("\n") if line) if whole else ({"settings": self.settings},)
            )
            theirs = first["settings"]
            self.done = {r["doc_id"]: {"questions": r["questions"], "counts": r["counts"]} for r in rest}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{self.path} is damaged ({error!r}); delete it to begin anew") from error
        if theirs != self.settings:
            different = ", ".join(k for k in {**self.settings, **theirs} if theirs.get(k) != self.settings.get(k))
            raise BadInput(
                f"{self.path} holds unfinished questions of other settings (different: {different}); run the command that made it, delete it "
                f"to begin anew, or name another file with --out"
            )
