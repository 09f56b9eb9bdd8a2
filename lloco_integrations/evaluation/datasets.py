"""Documents and questions from ``*.docs.jsonl[.gz]`` and ``*.qa.jsonl[.gz]`` files."""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lloco_integrations.errors import BadInput


@dataclass(frozen=True)
class Document:
    doc_id: str
    title: str
    text: str


@dataclass(frozen=True)
class Question:
    """``choices`` and ``answer_index`` are given for multiple choice. ``answers`` is empty where no document holds the answer."""

    id: str
    doc_id: str
    question: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    answer_index: int | None = None


def read_documents(path: Path | str) -> list[Document]:
    """Documents of a JSONL file. Raises BadInput naming file and line for malformed lines and missing or empty fields."""
    return [Document(_text(row, "doc_id", at), str(row.get("title") or ""), _text(row, "text", at)) for row, at in read_lines(Path(path))]


def read_questions(path: Path | str) -> list[Question]:
    """Questions of a JSONL file. Raises BadInput naming file and line for malformed lines and missing fields."""
    questions = []
    for row, at in read_lines(Path(path)):
        answers = row.get("answers")
        if not isinstance(answers, list) or not all(isinstance(a, str) for a in answers):
            raise BadInput(f"{at}: 'answers' must be a list of strings, not {answers!r}")
        index = row.get("answer_index")
        questions.append(
            Question(
                id=str(row.get("id", at)),
                doc_id=_text(row, "doc_id", at),
                question=_text(row, "question", at),
                answers=tuple(a for a in answers if a.strip()),
                choices=tuple(row.get("choices") or ()),
                answer_index=index if isinstance(index, int) else None,
            )
        )
    return questions


def read_lines(path: Path, largest: int | None = None) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects of a JSONL file, each with where it stands. Raises BadInput naming file and line for what is not one.

    ``largest``: bytes that the file may have, unpacked.
    """
    total = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number in itertools.count(1):
                line = file.readline() if largest is None else file.readline(largest + 1 - total)
                if not line:
                    return
                total += len(line)
                if largest is not None and total > largest:
                    raise BadInput(f"{path}: more than {largest:,} bytes, unpacked; split it")
                at = f"{path}, line {number}"
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if text:
                    yield _object(text, at), at
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise BadInput(f"cannot read {path}: {error}; give a .jsonl or .jsonl.gz file in UTF-8") from error


def _object(text: str, at: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{at}: not valid JSON ({error.msg} at column {error.colno}); write one object a line") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        raise BadInput(f"{at}: JSON that cannot be read ({type(error).__name__}: {error}); write one plain object a line") from error
    if not isinstance(row, dict):
        raise BadInput(f"{at}: expected a JSON object, not {type(row).__name__}")
    return row


def _text(row: dict[str, Any], field: str, at: str) -> str:
    value = row.get(field)
    if field == "doc_id" and type(value) is int:
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise BadInput(f"{at}: '{field}' must be a non-empty string, not {str(value)[:60]!r}")
    return value
