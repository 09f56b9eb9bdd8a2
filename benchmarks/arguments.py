"""Kinds of arguments that several scripts take."""

from __future__ import annotations


def numbers(text: str) -> list[int]:
    """Of ``1,2,3``."""
    return [int(part) for part in text.split(",")]
