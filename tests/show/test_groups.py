"""Which group and which document retrieved texts vote for."""

from __future__ import annotations

import pytest

from lloco_integrations.placeholder import Placeholder
from lloco_integrations.show import groups as voting
from lloco_integrations.store.info import EntryInfo


def info(group: str | None, n_tokens: int = 100) -> EntryInfo:
    return EntryInfo(25, n_tokens, 32, "f", 4, group, 1000, 0.0)


def test_weights_are_shares_of_the_best_score_and_only_there_when_groups_differ() -> None:
    assert voting.weights(["law", "law", None], [0.9, 0.5, 0.1]) == [None, None, None]
    assert voting.weights(["law", "tax", None], [0.8, 0.4, -0.2]) == [1000, 500, 0]
    assert voting.weights(["law", "tax", "tax"], [0.8, None, 0.4]) == [1000, 500, 333]
    assert voting.weights(["law", "tax"], [-0.8, -0.9]) == [1000, 500]
    assert voting.weights([], []) == []


@pytest.mark.parametrize(
    ("scores", "winner"),
    [([0.9, 0.85, 0.8], "tax"), ([0.9, 0.3, 0.2], "law"), ([9.0, 8.5, 8.0], "tax"), ([None, None, None], "law")],
)
def test_the_group_with_most_score_wins(scores: list[float | None], winner: str) -> None:
    groups = ["law", "tax", "tax"]
    marks = [Placeholder(f"{i}" * 26, None, w) for i, w in enumerate(voting.weights(groups, scores))]
    found = voting.shares(marks, [info(g, n) for g, n in zip(groups, (1, 500, 500), strict=True)])
    assert next(iter(found)) == winner
    assert sum(found.values()) == pytest.approx(1)


def test_without_weights_source_tokens_decide() -> None:
    marks = [Placeholder("a" * 26), Placeholder("b" * 26), Placeholder("c" * 26)]
    assert voting.shares(marks, [info("law", 30), info("tax", 10), info(None, 900)]) == {"law": 0.75, "tax": 0.25}
    assert voting.shares(marks, [None, None, None]) == {}


def test_passages_vote_for_documents_by_rank() -> None:
    assert dict(voting.documents(["a", "b", "b", "c"])) == {"a": [0], "b": [1, 2], "c": [3]}
    assert list(voting.documents(["a", "b", "b", "b", "c"])) == ["b", "a", "c"]
    assert list(voting.documents([])) == []


def test_a_text_counts_once_however_many_slices_of_it_are_shown() -> None:
    law, tax = "a" * 26, "b" * 26
    slices = [Placeholder(law, 8, 500, (i, i + 1)) for i in (0, 3, 5)]
    infos = [info("law")] * 3 + [info("tax")]
    assert next(iter(voting.shares([*slices, Placeholder(tax, None, 1000)], infos))) == "tax"
    unweighed = [Placeholder(law, 8, None, (i, i + 1)) for i in (0, 3, 5)]
    assert voting.shares([*unweighed, Placeholder(tax)], [*infos[:3], info("tax", 150)]) == {"tax": 0.6, "law": 0.4}
