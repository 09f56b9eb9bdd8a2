"""What a server says, believed only as far as it has been checked: every odd answer is one ValueError, and no answer is longer than asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

OTHERS = 1 << 20
"""Bytes of an answer beside its tokens, at most; and of a list of models, or an error."""
A_TOKEN = 16 << 10
"""Bytes that an answer may take for each of its tokens: an event of a stream has some 300."""
_ENDS = ("stop", "length")


class Served(NamedTuple):
    """A model of the server: ``parent`` is None for a base model, ``root`` the path that it was loaded from, there."""

    name: str
    root: str
    parent: str | None
    window: int | None


class Piece(NamedTuple):
    """New tokens of an answer, and why it ended, if it did."""

    ids: list[int]
    reason: str | None


def parsed(data: bytes) -> Any:
    """JSON. Raises ValueError for anything else, however deep."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("JSON too deep to be read") from error


def models(data: Any) -> dict[str, Served]:
    """The answer of ``/v1/models``, by name."""
    found = {}
    for model in _list(_dict(data, "the list of models").get("data"), "data"):
        entry = _dict(model, "a model")
        name, root, parent, window = (entry.get(key) for key in ("id", "root", "parent", "max_model_len"))
        if not isinstance(name, str) or not name:
            raise ValueError(f"a model is called {_short(name)}")
        if not isinstance(root, str | None) or not isinstance(parent, str | None):
            raise ValueError(f"the model {_short(name)} has root {_short(root)} and parent {_short(parent)}")
        if window is not None and not (_is_whole(window) and window > 0):
            raise ValueError(f"the model {_short(name)} has max_model_len {_short(window)}")
        found[name] = Served(name, root or "", parent, window)
    return found


def answer(data: Any, vocabulary: int, most: int) -> Piece:
    """A whole answer of ``/v1/completions``: ``most`` tokens at most, each below ``vocabulary``."""
    choices = _list(_dict(data, "the answer").get("choices"), "choices")
    if len(choices) != 1:
        raise ValueError(f"{len(choices)} choices where one was asked for")
    choice = _dict(choices[0], "a choice")
    if choice.get("token_ids") is None:
        raise ValueError("it gives no token ids; it needs vLLM 0.11 or newer")
    piece = Piece(_ids(choice["token_ids"], vocabulary, most), _reason(choice))
    if piece.reason is None:
        raise ValueError("no finish_reason")
    return piece


def event(data: Any, vocabulary: int, most: int) -> Piece:
    """One event of a streamed answer, of which ``most`` tokens may still come."""
    body = _dict(data, "an event")
    if "error" in body:
        raise ValueError(f"it failed in the middle of an answer: {_short(body['error'], 300)}")
    choices = _list(body.get("choices"), "choices")
    if not choices:  # one that only tells the usage
        return Piece([], None)
    if len(choices) != 1:
        raise ValueError(f"{len(choices)} choices where one was asked for")
    choice = _dict(choices[0], "a choice")
    if choice.get("token_ids") is None and choice.get("text"):
        raise ValueError("it gives no token ids; it needs vLLM 0.11 or newer")
    ids = choice.get("token_ids")
    return Piece(_ids([] if ids is None else ids, vocabulary, most), _reason(choice))


def events(pieces: Iterator[bytes]) -> Iterator[Any]:
    """The server-sent events in a body that comes in ``pieces``. Raises ValueError for a line over OTHERS bytes, or an event that is no JSON."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            data = line.strip().removeprefix(b"data:").strip()
            if line.startswith(b"data:") and data != b"[DONE]":
                yield parsed(data)
        if len(rest) > OTHERS:
            raise ValueError(f"a line of more than {OTHERS} bytes")


def _ids(found: Any, vocabulary: int, most: int) -> list[int]:
    ids = _list(found, "token_ids")
    if len(ids) > most:
        raise ValueError(f"{len(ids)} tokens where {most} more were asked for")
    for i in ids:
        if not _is_whole(i) or not 0 <= i < vocabulary:
            raise ValueError(f"the token {_short(i)}, and the vocabulary has {vocabulary}")
    return ids


def _reason(choice: dict[str, Any]) -> str | None:
    reason = choice.get("finish_reason")
    if reason is not None and reason not in _ENDS:
        raise ValueError(f"the answer ended with finish_reason {_short(reason)}")
    return None if reason is None else str(reason)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _dict(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {_short(value)}")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} is {_short(value)}")
    return value


def _short(value: object, most: int = 60) -> str:
    text = value if isinstance(value, str) else type(value).__name__ if isinstance(value, dict | list) and most < 100 else repr(value)
    return ascii(text[:most])
