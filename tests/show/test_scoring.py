"""Ranking spans within a question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from lloco_integrations.embedding import Wrapped
from lloco_integrations.errors import BadInput
from lloco_integrations.show.scoring import ByBoth, ByMeaning, ByWords, Candidates, SpanVectors, ranks, words_of


def texts(*groups: Sequence[str]) -> list[Candidates]:
    return [Candidates(tuple(group), tuple(group), tuple(range(len(group)))) for group in groups]


def lengths(given: list[str]) -> list[list[float]]:
    return [[1.0, float(len(text))] for text in given]


LENGTHS = Wrapped("lengths", lengths, lambda text: [1.0, float(len(text))])


def test_words_find_the_span_that_shares_rare_ones() -> None:
    found = ByWords().score("Who keeps the lamps of the lighthouse?", texts(["The harbour froze.", "Ilse keeps lamps."], ["Lamps."]))
    assert max(range(3), key=lambda i: found[i]) == 1
    assert found[0] == 0


@pytest.mark.parametrize(
    "question",
    ["", "the", "?", "x" * 100_000, "word " * 10_000, "\x00", "\ud800", "👍🏽", "מה", "何時ですか", "<|lloco:" + "a" * 26 + "|>"],
)
def test_any_question_gives_one_finite_score_a_piece(question: str) -> None:
    given = texts(["One sentence.", "", "日本語の文です。"], ["|"])
    for scorer in (ByWords(), ByMeaning(LENGTHS), ByBoth(ByWords(), ByMeaning(LENGTHS))):
        scores = scorer.score(question, given)
        assert len(scores) == 4
        assert np.isfinite(scores).all()


def test_scripts_without_blanks_are_compared_by_pairs_of_letters() -> None:
    assert words_of("日本語の文") == ["日本", "本語", "語の", "の文"]
    found = ByWords().score("日本語は", texts(["英語の文です。", "日本語の文です。"]))
    assert found[1] > found[0]


def test_endings_do_not_matter_much() -> None:
    assert words_of("observatories") == words_of("observatory")


def test_equal_scores_share_their_place() -> None:
    assert ranks([0.5, 0.9, 0.5, 0.1]) == [1, 0, 1, 3]


def test_a_piece_has_the_meaning_of_its_sentence_and_its_own_words() -> None:
    given = [Candidates(("a long sentence", "x"), ("a long", " sentence", "x"), (0, 0, 1))]
    found = ByMeaning(LENGTHS).score("a long sentence", given)
    assert found[0] == found[1] > found[2]
    words = ByWords().score("sentence", given)
    assert words[1] > words[0] == 0


def test_sentences_are_embedded_once_and_those_of_a_store_not_at_all() -> None:
    embedded: list[str] = []

    def counting(given: list[str]) -> list[list[float]]:
        embedded.extend(given)
        return lengths(given)

    kept = SpanVectors(lambda embedder, text: np.ones((len(text), 2), dtype=np.float32) if text[0] == "stored" else None)
    scorer = ByMeaning(Wrapped("counted", counting, lambda text: [1.0, 1.0]), kept)
    for _ in range(2):
        scorer.score("q", texts(["one", "two"], ["stored", "too"]))
    assert embedded == ["one", "two"]


def test_stored_vectors_of_another_width_are_made_again() -> None:
    kept = SpanVectors(lambda embedder, text: np.ones((len(text), 7), dtype=np.float32))
    assert len(ByMeaning(LENGTHS, kept).score("q", texts(["one", "two"]))) == 2


def test_a_model_that_gives_other_widths_for_texts_or_nonsense_is_named() -> None:
    odd = Wrapped("odd", lambda given: [[1.0, 2.0, 3.0] for _ in given], lambda text: [1.0, 2.0])
    with pytest.raises(BadInput, match="the embedding model odd gave vectors"):
        ByMeaning(odd).score("q", texts(["one"]))
    nan = Wrapped("nan", lambda given: [[float("nan")] for _ in given], lambda text: [1.0])
    with pytest.raises(BadInput, match="not finite"):
        ByMeaning(nan).score("q", texts(["one"]))


def test_what_is_kept_is_bounded() -> None:
    kept = SpanVectors(most=4)
    scorer = ByMeaning(LENGTHS, kept)
    for i in range(5):
        scorer.score("q", texts([f"a{i}", "b"]))
    assert kept._size <= 4
