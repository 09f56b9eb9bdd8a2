"""`lloco store`: stats, ls, verify, gc, copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lloco_integrations.cli.catalogue import Catalogue, FileRecord
from lloco_integrations.cli.store import _size, app
from lloco_integrations.errors import BadInput, StoreError
from lloco_integrations.reading import Piece
from lloco_integrations.store import SummaryStore
from lloco_integrations.types import SummaryEmbeddings

from .conftest import PASSWORD

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


@pytest.mark.parametrize("command", ["stats", "ls", "verify"])
def test_a_store_can_be_named_without_an_option(command: str, filled: SummaryStore, tmp_path: Path) -> None:
    assert call(command, filled.url).output == call(command, "--store", filled.url).output
    nowhere = f"sqlite:///{tmp_path}/nowhere.db"
    assert isinstance(call(command, nowhere).exception, StoreError)
    assert isinstance(call(command, filled.url, "--store", nowhere).exception, BadInput)


def test_tables_in_a_pipe_are_as_wide_as_what_they_hold(filled: SummaryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    output = call("ls").output
    key = filled.key("fp", "one")
    line = next(line for line in output.splitlines() if key in line)
    assert "[law]" in line and "…" not in output


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


@pytest.fixture
def catalogued(filled: SummaryStore) -> SummaryStore:
    """The store, and a catalogue that knows the text "two"."""
    with Catalogue.open(filled.url) as catalogue:
        catalogue.keep(FileRecord("/docs/a.txt", 3, 1, "0" * 64, "whole"), [Piece("two")])
    return filled


def test_gc_by_size(filled: SummaryStore) -> None:
    total = filled.stats().nbytes
    assert "Would delete 0" in call("gc", "--max-bytes", "1GiB").output
    assert "Would delete 1" in call("gc", "--max-bytes", str(total - 1)).output
    result = call("gc", "--max-bytes", "0.0001kB", "--group", "[law]", "--yes")
    assert "Deleted 1" in result.output
    assert "more than" in result.output, "what is left does not fit, and may not go"
    assert "Deleted 1" in call("gc", "--max-bytes", "0", "--yes").output
    assert list(filled.keys()) == []


@pytest.mark.parametrize("size", ["", "big", "1.2.3", "-1", "5 apples", "5IB", "MB"])
def test_sizes_that_are_none(filled: SummaryStore, size: str) -> None:
    result = call("gc", f"--max-bytes={size}", "--yes")
    assert isinstance(result.exception, BadInput)
    assert "500MB" in str(result.exception)


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("1000", 1000), ("1k", 1000), ("1 KiB", 1024), ("500MB", 500_000_000), ("1.5gib", 3 * 2**29), ("2T", 2 * 10**12), ("7B", 7)],
)
def test_sizes(text: str, count: int) -> None:
    assert _size(text) == count


def test_gc_keeps_what_the_catalogue_knows(catalogued: SummaryStore) -> None:
    result = call("gc", "--unreachable")
    assert "Would delete 1" in result.output
    assert catalogued.key("fp", "one") in result.output
    assert "other machines" in result.output
    assert "Would delete 0" in call("gc", "--unreachable", "--group", "tax").output
    assert "Deleted 1" in call("gc", "--unreachable", "--yes").output
    assert list(catalogued.keys()) == [catalogued.key("other", "two")]
    assert "Would delete 0" in call("gc", "--unreachable").output


def test_gc_behind_a_cache_uses_the_stores_catalogue(catalogued: SummaryStore, tmp_path: Path) -> None:
    result = call("gc", "--unreachable", "--store", f"cache::sqlite:///{tmp_path}/cache.sqlite::{catalogued.url}", "--yes")
    assert "Deleted 1" in result.output


def test_without_a_catalogue_nothing_is_unreachable(filled: SummaryStore) -> None:
    result = call("gc", "--unreachable", "--yes")
    assert isinstance(result.exception, StoreError)
    assert "lloco compress" in str(result.exception)
    assert filled.stats().entries == 2


def test_copy(catalogued: SummaryStore, tmp_path: Path) -> None:
    there = f"file://{tmp_path}/there"
    result = call("copy", catalogued.url, there)
    assert result.exit_code == 0, result.output
    assert "Copied 2 entries, 0 were there already" in result.output
    assert "Copied 0 entries, 2 were there already" in call("copy", catalogued.url, there).output
    assert "Would delete 1" in call("gc", "--unreachable", "--store", there).output, "the catalogue came along"
    assert not list(tmp_path.glob("*.tmp-*"))


def test_copy_leaves_a_catalogue_alone(catalogued: SummaryStore, tmp_path: Path) -> None:
    there = f"file://{tmp_path}/there"
    Catalogue.open(there).close()
    call("copy", catalogued.url, there)
    with Catalogue.open(there) as catalogue:
        assert catalogue.passages() == []


def test_copy_names_damaged_entries(filled: SummaryStore, tmp_path: Path, rewrite: Any) -> None:
    key = filled.key("fp", "one")
    rewrite(filled, key, lambda value: value[:-1] + b"!")
    result = call("copy", filled.url, f"file://{tmp_path}/there")
    assert result.exit_code == 1
    assert "Copied 1 entries" in result.output
    assert key in result.output
    assert SummaryStore.open(f"file://{tmp_path}/there").stats().entries == 1


def test_copy_into_another_store_and_from_none(filled: SummaryStore, tmp_path: Path) -> None:
    SummaryStore.open(f"file://{tmp_path}/foreign")
    for words in (("copy", filled.url, f"file://{tmp_path}/foreign"), ("copy", f"file://{tmp_path}/typo", f"file://{tmp_path}/there")):
        assert isinstance(call(*words).exception, StoreError)
    assert not (tmp_path / "typo").exists()
    assert not (tmp_path / "there").exists()


def test_stats_show_no_password(make_target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    url = make_target("redis")
    SummaryStore.open(url)
    result = call("stats", "--store", url)
    assert result.exit_code == 0, result.output
    assert "127.0.0.1" in result.output
    assert PASSWORD not in result.output
