"""The one rule for what becomes prompt text: whatever it is and wherever it comes from, nothing in it names an entry of a store.

Only what this package puts into a prompt itself, in the place of a text, may be read as a placeholder. Texts, metadata, templates, ids and
what an assistant or a tool said before are made harmless by the functions here.
"""

from __future__ import annotations

import datetime
import decimal
import re
import uuid
from collections.abc import Mapping, Sequence, Set
from typing import Any

from lloco_integrations.errors import BadInput
from lloco_integrations.placeholder import neutralise
from lloco_integrations.types import Message

_PAST = ("assistant", "tool")
_SIMPLE = (type(None), bool, int, float, complex, decimal.Decimal, uuid.UUID, datetime.date, datetime.datetime, datetime.time)
_DEEPEST = 32
_SURROGATE = re.compile("[\ud800-\udfff]")


def plain(value: Any, depth: int = 0) -> Any:
    """A copy of ``value`` that prints nothing like a placeholder, whatever its type: with ``str``, ``repr`` or any of its parts.

    Strings are neutralised, dicts, lists, tuples and sets part by part, keys included. Any other object stays itself where it prints nothing
    hostile; else its parts take its place (a dict or a list), or its neutralised text.
    """
    if type(value) in _SIMPLE:
        return value
    if depth > _DEEPEST:
        return _text(value)
    if type(value) is str:
        return neutralise(value)
    kind = type(value)
    parts: Any = None
    if isinstance(value, Mapping):
        parts = {plain(key, depth + 1): plain(part, depth + 1) for key, part in value.items()}
    elif isinstance(value, Set):
        parts = {_hashable(plain(part, depth + 1)) for part in value}
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview | range):
        parts = [plain(part, depth + 1) for part in value]
    if kind in (dict, list, set):
        return parts
    if kind in (tuple, frozenset):
        return kind(parts)
    same = parts is None or _same(value, parts)
    if same and _is_harmless(value):
        return value
    return _text(value) if parts is None else parts


def spoken(message: Message) -> str:
    """The text of ``message`` as a prompt may have it: no placeholder is read from what an assistant or a tool said."""
    return neutralise(message.content) if message.role in _PAST else message.content


def heard(message: Message) -> Message:
    """``message`` with its text ``spoken``: what everyone sees who looks at a prompt on its way."""
    return Message(message.role, spoken(message))


def legible(text: str) -> str:
    """``text`` without lone surrogates, which readers of PDF leave behind and no tokenizer takes: pairs are joined, others replaced."""
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def listed(values: Any, what: str, kind: type | tuple[type, ...] = object) -> list[Any]:
    """``values`` as a list. Raises BadInput for one value where a list of them is meant, and for one that is no ``kind``."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(values, (str, bytes, Mapping, *(k for k in kinds if k is not object))) or not hasattr(values, "__iter__"):
        raise BadInput(f"a list of {what} is wanted, not one {type(values).__name__}; write [...] around it")
    found = list(values)
    for i, value in enumerate(found):
        if not isinstance(value, kind):
            names = " or ".join("None" if k is type(None) else k.__name__ for k in kinds)
            raise BadInput(f"{what}[{i}] is a {type(value).__name__}, and a {names} is wanted")
    return found


def _same(value: Any, parts: Any) -> bool:
    """Whether ``parts`` are those of ``value``, unchanged."""
    if isinstance(value, Mapping):
        return len(value) == len(parts) and all(
            _equal(key, a) and _equal(value[key], parts[a]) for key, a in zip(value, parts, strict=True)
        )
    if isinstance(value, Set):
        return all(any(_equal(a, b) for b in parts) for a in value)
    return all(_equal(a, b) for a, b in zip(value, parts, strict=False))


def _equal(value: Any, part: Any) -> bool:
    return value is part or (type(value) is type(part) and type(value) in (str, list, dict, tuple, set, frozenset) and value == part)


def _is_harmless(value: Any) -> bool:
    try:
        return all(neutralise(text) == text for text in (str(value), repr(value), f"{value}"))
    except Exception:  # an object may do anything
        return False


def _text(value: Any) -> str:
    try:
        return neutralise(value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else str(value))
    except Exception:  # an object may do anything
        return f"<{neutralise(type(value).__name__)}>"


def _hashable(value: Any) -> Any:
    if isinstance(value, dict | set):
        return _text(value)
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
