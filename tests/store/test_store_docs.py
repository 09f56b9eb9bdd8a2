"""The commands and the Python of docs/stores.md, run in order against real servers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lloco_integrations.cli.catalogue import Catalogue, FileRecord
from lloco_integrations.cli.store import app
from lloco_integrations.reading import Piece
from lloco_integrations.store import SummaryStore
from lloco_integrations.types import SummaryEmbeddings

PAGE = Path(__file__).parents[2] / "docs" / "stores.md"
BLOCK = re.compile(r"^```(console|py)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_what_the_page_shows_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_target: Callable[[str], Any], summary: Callable[..., SummaryEmbeddings]
) -> None:
    bucket, redis = make_target("s3"), make_target("redis")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLOCO_HOME", str(tmp_path / "home"))
    texts = ["one", "two"]
    with SummaryStore.open("store.sqlite") as store, Catalogue.open(store.url) as catalogue:
        store.put_many([(text, summary(n)) for n, text in enumerate(texts)])
        catalogue.keep(FileRecord("/docs/a.txt", 3, 1, "0" * 64, "whole"), [Piece(text) for text in texts])
    blocks = BLOCK.findall(PAGE.read_text())
    assert {kind for kind, _ in blocks} == {"console", "py"}
    names: dict[str, Any] = {"texts": texts, "remote": bucket}
    for kind, block in blocks:
        block = block.replace("s3://bucket/lloco", bucket).replace("redis://:password@host:6379/0", redis)
        if kind == "py":
            exec(compile(block, str(PAGE), "exec"), names)
            continue
        for line in block.splitlines():
            words = shlex.split(line)
            assert words[:3] == ["$", "lloco", "store"]
            result = CliRunner().invoke(app, words[3:])
            assert result.exit_code == 0, f"{line}: {result.output} {result.exception}"
    for place in ("store.sqlite", bucket, redis):
        assert SummaryStore.open(place, create=False).stats().entries == 2
