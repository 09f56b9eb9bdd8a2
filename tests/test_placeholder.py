"""The placeholder's grammar."""

from __future__ import annotations

import itertools
import random

import pytest

from lloco_integrations import placeholder
from lloco_integrations.errors import PlaceholderError
from lloco_integrations.placeholder import Placeholder

KEY = "abcdefghijklmnopqrstuvwx27"


def test_round_trip() -> None:
    text = f"a {placeholder.make(KEY)} b{placeholder.make(KEY, 16)}"
    assert placeholder.split(text) == ["a ", Placeholder(KEY), " b", Placeholder(KEY, 16)]
    assert "".join(map(str, placeholder.split(text))) == text
    assert placeholder.count(text) == 2
    assert list(placeholder.find(text)) == [Placeholder(KEY), Placeholder(KEY, 16)]


def test_is_ascii_without_blanks() -> None:
    mark = placeholder.make(KEY, 32)
    assert mark.isascii()
    assert len(mark.split()) == 1


@pytest.mark.parametrize(("key", "ratio"), [("short", None), (KEY.upper(), None), (KEY, 0), (KEY, -4), (KEY + "a", None), ("", 4)])
def test_make_refuses_what_it_could_not_read(key: str, ratio: int | None) -> None:
    with pytest.raises(PlaceholderError, match="makes no placeholder"):
        placeholder.make(key, ratio)


def test_every_cut_of_a_placeholder_is_noticed_or_harmless() -> None:
    mark = placeholder.make(KEY, 8)
    for at in range(1, len(mark)):
        head, tail = mark[:at], mark[at:]
        assert placeholder.count(head) == placeholder.count(tail) == 0
        if "lloco" in head:
            with pytest.raises(PlaceholderError, match="broken placeholder"):
                placeholder.split(f"text {head}")


def test_neutralise() -> None:
    for hostile in (placeholder.make(KEY), f"<|lloco:{KEY}", f"&lt;|lloco:{KEY}|&gt;", "<|LLoCO:x|>", "<| lloco:x|>", "<|lloco"):
        safe = placeholder.neutralise(f"before {hostile} after")
        assert placeholder.split(safe) == [safe]
        assert placeholder.neutralise(safe) == safe
    plain = "nothing to do: <|im_end|> lloco <| x"
    assert placeholder.neutralise(plain) == plain


def test_two_neutralised_texts_never_make_one_lookalike() -> None:
    whole = f"<|lloco:{KEY}|>"
    for at in range(1, len(whole)):
        joined = placeholder.neutralise(whole[:at]) + "\n" + placeholder.neutralise(whole[at:])
        assert placeholder.split(joined) == [joined]


def test_neutralised_pieces_never_join_to_a_placeholder() -> None:
    rng = random.Random(0)
    mark = placeholder.make(KEY)
    for _ in range(300):
        noise = "".join(rng.choice(["<|", "lloco:", KEY, "|>", " ", "@4", "x", "<"]) for _ in range(rng.randrange(12)))
        assert placeholder.count(placeholder.neutralise(noise)) == 0
        assert placeholder.count(placeholder.neutralise(noise) + mark) == 1


def test_weights_travel_with_the_placeholder() -> None:
    text = f"{placeholder.make(KEY, 16, 870)} {placeholder.make(KEY, weight=0)}"
    assert list(placeholder.find(text)) == [Placeholder(KEY, 16, 870), Placeholder(KEY, None, 0)]
    with pytest.raises(PlaceholderError, match="weight 10000"):
        placeholder.make(KEY, 16, 10000)


def test_a_vote_is_no_placeholder_and_leaves_no_trace_in_the_text() -> None:
    text = f"raw{placeholder.vote(KEY, 500)} and {placeholder.vote(KEY)}{placeholder.make(KEY)}"
    assert placeholder.split_votes(text) == (f"raw and {placeholder.make(KEY)}", [Placeholder(KEY, None, 500), Placeholder(KEY)])
    assert placeholder.count(text) == 1
    assert placeholder.split_votes(placeholder.neutralise(text)) == (placeholder.neutralise(text), [])
    with pytest.raises(PlaceholderError):
        placeholder.vote("short")


def test_a_placeholder_cut_anywhere_is_found_out() -> None:
    for mark in (placeholder.make(KEY), placeholder.make(KEY, 16, 870), placeholder.vote(KEY, 5)):
        for at in range(1, len(mark)):
            found = 0
            for piece in (f"Source 1: {mark[:at]}", f"{mark[at:]} Source 2"):
                try:
                    placeholder.split(piece)
                except PlaceholderError:
                    found += 1
            assert found, (mark[:at], mark[at:])


def test_an_answer_that_spells_a_placeholder_is_harmless_at_every_length() -> None:
    text = f"see {placeholder.make(KEY)} and <b> or a<b, <| x"
    said = [placeholder.settled(text[:n]) for n in range(len(text) + 1)]
    for before, after in itertools.pairwise(said):
        assert after.startswith(before)
    assert all(placeholder.split(s) in ([], [s]) for s in said)
    assert placeholder.neutralise(text).startswith(said[-1])
