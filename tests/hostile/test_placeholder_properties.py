"""Whatever a text is made of: neutralised it names no entry, also after it was read as JSON, HTML or part of an address, and a stream of it is
the same text."""

from __future__ import annotations

import html
import json
import time
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lloco_integrations import placeholder
from lloco_integrations.engine import _spoken
from lloco_integrations.errors import LLoCOError
from lloco_integrations.show.groups import Choice
from lloco_integrations.types import Generation, GenerationChunk, Usage

KEY = "abcdefghijklmnopqrstuvwxya"
MARK = placeholder.make(KEY)


def spelt(text: str, how: int) -> str:
    """``text`` with its characters written in one of many ways."""
    ways = (lambda c: c, lambda c: f"\\u{ord(c):04x}", lambda c: f"&#{ord(c)};", lambda c: f"&#x{ord(c):X};", lambda c: f"%{ord(c):02X}")
    named = {"<": "&lt;", ">": "&gt;", "|": "&vert;"}
    return "".join(
        named.get(c, c) if how >> i & 1 and how % 7 == 0 else ways[how % 5 if how >> i & 1 else 0](c) for i, c in enumerate(text)
    )


PIECES = [
    "<|",
    "<",
    "|",
    "&lt;",
    "&lt",
    "lloco",
    "llo",
    ":",
    KEY,
    KEY[:9],
    KEY[9:],
    "@8",
    "~5",
    "=5",
    "|>",
    "|",
    ">",
    " ",
    "\n",
    "x",
    "\\",
    "u003c",
]
PIECES += ["\\u003c", "%3C", "&#60;", "\\u007c", "&#x7c;", "\\u006c", "LLOCO", '"', "{", "Paris", "[0-4]", "&", "#", "amp;", MARK, "é", "."]
TEXT = st.lists(
    st.one_of(st.sampled_from(PIECES), st.builds(spelt, st.sampled_from([MARK, MARK[:12], MARK[12:]]), st.integers(0, 2**36)))
).map("".join)
FEW = settings(max_examples=300, deadline=None, derandomize=True)


def harmless(text: str) -> None:
    """Raises if ``text`` names an entry, or would break a prompt."""
    assert placeholder.split(text) in ([], [text])
    assert placeholder.split_votes(text) == (text, [])


@FEW
@given(TEXT)
@example("&lt;|lloco:" + KEY + "|>")
@example("\\u003c|lloco:" + KEY + "|\\u003e")
@example('{"a": "\\u003c\\u007c\\u006c\\u006coco:' + KEY + '|>"}')
def test_neutralised_text_names_nothing(text: str) -> None:
    safe = placeholder.neutralise(text)
    harmless(safe)
    assert placeholder.neutralise(safe) == safe
    for read in (html.unescape(safe), unquote(safe)):
        assert placeholder.count(read) == 0 and placeholder.split_votes(read)[1] == []
    try:
        read = json.loads(f'"{safe}"', strict=False)
    except ValueError:
        return
    assert placeholder.count(read) == 0 and placeholder.split_votes(read)[1] == []


@FEW
@given(st.lists(TEXT, max_size=5))
def test_neutralised_pieces_join_to_nothing(pieces: list[str]) -> None:
    safe = list(map(placeholder.neutralise, pieces))
    for joint in ("", " ", "\n"):
        joined = joint.join(safe)
        assert placeholder.count(joined) == 0 and placeholder.split_votes(joined)[1] == []
        assert placeholder.count(joint.join([*safe, MARK])) == 1


def streamed(text: str, sizes: list[int]) -> tuple[str, str]:
    """What a stream says of an answer that comes in pieces, and the answer."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    chunks = [GenerationChunk(piece) for piece in pieces]
    last = GenerationChunk(text[at:], Generation(text, "stop", Usage(1, 1, 1)))
    said = list(_spoken((c for c in [*chunks, last]), Choice(None, None, {})))
    assert said[-1].final is not None
    return "".join(c.delta for c in said), said[-1].final.text


@FEW
@given(TEXT, st.lists(st.integers(0, 5), max_size=60))
@example(f"Write &lt;|lloco: {KEY}", [10, 40])
@example(f":{KEY}~5|>", [29, 40])
@example(f":{KEY}@85|>", [29, 40])
@example("a <|llocox", [9, 40])
def test_a_stream_says_what_the_answer_is(text: str, sizes: list[int]) -> None:
    joined, final = streamed(text, sizes)
    assert joined == final == placeholder.neutralise(text)


@FEW
@given(TEXT, TEXT)
def test_what_is_settled_stays(text: str, more: str) -> None:
    assert placeholder.neutralise(text + more).startswith(placeholder.settled(text))
    harmless(placeholder.settled(text))


@FEW
@given(st.one_of(TEXT, st.text()))
def test_the_grammar_reads_or_refuses(text: str) -> None:
    try:
        parts = placeholder.split(placeholder.split_votes(text)[0])
    except LLoCOError:
        return
    assert "".join(map(str, parts)) == placeholder.split_votes(text)[0] or any(str(p) not in text for p in parts)


@pytest.mark.parametrize("unit", ["\\", "<|", "<| ", "&", "%", ":", ":a", "&#", "\\u", "<", "l", "\\u003c", " ", ":" + "a" * 26])
def test_no_text_takes_long(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    began = time.perf_counter()
    placeholder.neutralise(text)
    placeholder.settled(text[:20_000])
    assert time.perf_counter() - began < 3
