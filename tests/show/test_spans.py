"""Texts as spans: end to end, exact for any Unicode, and where a reader would cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lloco_integrations.prompting import Prompter
from lloco_integrations.show import spans as spanning
from tests import tiny

PROMPTER = Prompter(tiny.tokenizer(), chat=True)


def cut(text: str, most: int = 400) -> list[str]:
    ends = PROMPTER.token_ends(text)
    assert ends is not None
    return [text[span.start : span.stop] for span in spanning.split(text, ends, most)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Ames paid $3.5 million. He left.", ["Dr. Ames paid $3.5 million. ", "He left."]),
        ("One.\n\n\nTwo. Three", ["One.\n\n\n", "Two. ", "Three"]),
        ("日本語の文です。これも文です。", ["日本語の文です。", "これも文です。"]),
        ("שלום עולם. מה שלומך?", ["שלום עולם. ", "מה שלומך?"]),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n\nAfter it.", ["| a | b |\n", "|---|---|\n", "| 1 | 2 |\n\n", "After it."]),
        ("- item one\n- item two, longer\n- three", ["- item one\n", "- item two, longer\n", "- three"]),
        ("def f(x):\n    return x\n", ["def f(x):\n", "    return x\n"]),
        ("no marks at all", ["no marks at all"]),
        ("word", ["word"]),
    ],
)
def test_where_texts_are_cut(text: str, expected: list[str]) -> None:
    assert cut(text) == expected


def test_a_paragraph_with_hard_line_breaks_is_cut_into_sentences() -> None:
    lines = [
        "The lighthouse at Carrow has forty lamps, and a keeper who",
        "counts them every evening. She writes them into the blue book,",
        "and nobody",
    ]
    assert cut("\n".join(lines) + " reads it.")[1].startswith("She writes")


def test_nothing_is_longer_than_asked_with_or_without_blanks() -> None:
    for text in ("word " * 200, "x" * 1000, "日本語" * 300, "a" * 90 + " " + "b" * 300):
        ends = PROMPTER.token_ends(text)
        assert ends is not None
        made = spanning.split(text, ends, 50)
        assert max(span.n_tokens for span in made) <= 75
        assert all(text[s.start : s.stop].endswith(" ") for s in made[:-1]) or " " not in text[:-1] or "x" in text or "b" in text


SAMPLE = st.text(st.one_of(st.sampled_from(list("ab .!?\n|-。é👍🏽\u200f\x00日")), st.characters(codec="utf-8")), min_size=1, max_size=120)


@settings(max_examples=150, deadline=None)
@given(SAMPLE, st.integers(4, 60))
def test_spans_lie_end_to_end_and_so_do_their_tokens(text: str, most: int) -> None:
    ends = PROMPTER.token_ends(text)
    assert ends is not None and len(ends) == len(PROMPTER.text_ids(text))
    for spans in (spanning.split(text, ends, most), spanning.pieces(text, spanning.split(text, ends), ends, most)[0]):
        assert "".join(text[s.start : s.stop] for s in spans) == text
        assert [s.first for s in spans] == [0, *(s.last for s in spans[:-1])]
        assert spans[-1].last == len(ends)
        assert all(s.n_tokens > 0 for s in spans)


def test_lone_surrogates_do_not_stop_it() -> None:
    text = "One \ud800 sentence. Another one."
    ends = list(range(1, len(text) + 1))
    assert [text[s.start : s.stop] for s in spanning.split(text, ends)] == ["One \ud800 sentence. ", "Another one."]


def test_pieces_know_their_sentence() -> None:
    text = "Short. " + "long " * 30 + "end. Short again."
    ends = PROMPTER.token_ends(text)
    assert ends is not None
    sentences = spanning.split(text, ends, 400)
    found, owners = spanning.pieces(text, sentences, ends, 60)
    assert len(sentences) == 3
    assert owners[0] == 0 and owners[-1] == 2 and owners.count(1) >= 2
    assert all(sentences[o].start <= p.start and p.stop <= sentences[o].stop for p, o in zip(found, owners, strict=True))
