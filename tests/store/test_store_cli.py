"""`lloco store`: stats, ls, verify, gc."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lloco_integrations.cli.store import app
from lloco_integrations.errors import BadInput, StoreError
from lloco_integrations.store import SummaryStore
from lloco_integrations.types import SummaryEmbeddings

Summary = Callable[..., SummaryEmbeddings]


@pytest.fixture
def filled(tmp_path: Path, summary: Summary, monkeypatch: pytest.MonkeyPatch) -> SummaryStore:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LLOCO_HOME", str(tmp_path))
    store = SummaryStore.open()
    store.put_many([("one", summary(1, group="[law]")), ("two", summary(2, fingerprint="other", window=4))])
    return store


def call(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_stats(filled: SummaryStore) -> None:
    result = call("stats")
    assert result.exit_code == 0, result.output
    assert "fp" in result.output
    assert "other" in result.output
    assert "22" in result.output


def test_ls(filled: SummaryStore) -> None:
    result = call("ls", "--store", filled.url)
    assert result.exit_code == 0
    assert all(key in result.output for key in list(filled.keys()))
    assert "[law]" in result.output
    only = call("ls", "--group", "[law]").output
    assert filled.key("fp", "one") in only
    assert filled.key("other", "two") not in only
    assert "more than 1" in call("ls", "--limit", "1").output


def test_verify(filled: SummaryStore, rewrite: Any) -> None:
    result = call("verify")
    assert result.exit_code == 0
    assert "2 entries are sound" in result.output
    key = filled.key("fp", "one")
    rewrite(filled, key, lambda value: value[:-1] + b"!")
    result = call("verify")
    assert result.exit_code == 1
    assert key in result.output
    assert "lloco store gc --damaged" in result.output
    assert call("ls").exit_code == 0
    assert call("stats").exit_code == 0


def test_gc_says_what_it_would_do_first(filled: SummaryStore, rewrite: Any) -> None:
    key = filled.key("fp", "one")
    rewrite(filled, key, lambda value: b"")
    assert "Would delete 1" in call("gc", "--damaged").output
    assert filled.contains_many([key]) == [True]
    assert "Deleted 1" in call("gc", "--damaged", "--yes").output
    assert filled.contains_many([key]) == [False]


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("--group", "[law]"), 1),
        (("--foreign", "--keep", "fp"), 1),
        (("--foreign", "--keep", "fp", "--keep", "other"), 0),
        (("--older-than", "1"), 0),
        (("--older-than", "0"), 2),
    ],
)
def test_gc_conditions(filled: SummaryStore, words: tuple[str, ...], count: int) -> None:
    assert f"Would delete {count}" in call("gc", *words).output
    assert f"Deleted {count}" in call("gc", *words, "--yes").output
    assert filled.stats().entries == 2 - count


@pytest.mark.parametrize("words", [(), ("--yes",), ("--foreign",), ("--keep", "fp")])
def test_gc_wants_to_know_what_may_go(filled: SummaryStore, words: tuple[str, ...]) -> None:
    assert isinstance(call("gc", *words).exception, BadInput)
    assert filled.stats().entries == 2


def test_a_mistyped_address_makes_no_store(tmp_path: Path) -> None:
    result = call("stats", "--store", f"sqlite:///{tmp_path}/typo.sqlite")
    assert isinstance(result.exception, StoreError)
    assert list(tmp_path.iterdir()) == []
