"""A query reads the store: groups that it names choose adapters, and are not written into entries that are there."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from lloco_integrations.engine import Engine
from lloco_integrations.store import SummaryStore

FOOTER = "All rights reserved by the village of Tarnhallow."


@pytest.fixture
def engine(tiny_model: str, tmp_path: Path) -> Engine:
    return Engine(tiny_model, SummaryStore.open(tmp_path / "s.sqlite"), {"law": "a", "tax": "b"})


def group(engine: Engine) -> str | None:
    (info,) = engine.store.info_many([engine.store.key(engine.model.fingerprint, FOOTER)])
    assert info is not None
    return info.group


def test_a_query_never_rewrites_an_entry(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.compress([FOOTER], groups=["law"])
    assert group(engine) == "law", "what is compressed now keeps the group that is named"
    with monkeypatch.context() as patched:
        patched.setattr(SummaryStore, "put_many", lambda *_: pytest.fail("a query wrote"))
        for name in ("tax", "law", "tax"):
            (made,) = engine.show([FOOTER], groups=[name])
            assert made is not None
            assert engine._choose(made.content, None).name == name, "the group that was named last decides"
        engine.show([FOOTER], token_budget=1000, groups=["law"])
        assert engine._choose(made.content, None).name == "law"
    assert group(engine) == "law"
    engine.compress([FOOTER], groups=["tax"])
    assert group(engine) == "tax"
    assert engine._choose(made.content, None).name == "tax"


def test_a_read_only_store_serves_queries_that_name_groups(engine: Engine, tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.compress([FOOTER], groups=["law"])
    path: Any = engine.store._backend.path  # type: ignore[attr-defined]
    engine.store.close()
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda name, **k: real(f"file:{path}?mode=ro", **{**k, "uri": True}))
    reader = Engine(tiny_model, SummaryStore.open(path), {"law": "a", "tax": "b"})
    (made,) = reader.show([FOOTER], groups=["tax"])
    assert made is not None
    assert reader._choose(made.content, None).name == "tax"


def test_what_queries_named_is_bounded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from lloco_integrations import engine as module

    monkeypatch.setattr(module, "_MOST_NAMED", 3)
    module._name_groups({str(n): "g" for n in range(10)})
    assert list(module._named_groups)[-3:] == ["7", "8", "9"]
    assert len(module._named_groups) == 3
