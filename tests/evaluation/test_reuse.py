"""Rows of an earlier report in place of measuring them again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from lloco_integrations.cli import app
from lloco_integrations.evaluation import scorecard
from tests import tiny
from tests.evaluation.conftest import Words, lora, write_lines

pytestmark = pytest.mark.needs("rouge_score")

Files = Callable[..., tuple[Path, Path]]
TAKEN = ["none", "raw", "raw+lora", "truncate@8", "retrieve@8", "other"]
METHODS = "none,raw,raw+lora,truncate,retrieve,lloco"


@pytest.fixture(scope="module")
def base(tiny_model: str) -> str:
    return str(Path(tiny_model) / "decoder")


@pytest.fixture(scope="module")
def adapters(base: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("adapters")
    made = [lora(AutoModelForCausalLM.from_pretrained(base), folder / f"a{seed}", seed) for seed in (1, 2)]
    return str(made[0]), str(made[1])


@pytest.fixture
def other_model(tmp_path: Path) -> str:
    """Other weights of ours, on the same base."""
    return str(tiny.save_mean_pool(tmp_path / "trained", seed=5))


@pytest.fixture
def card(tiny_model: str, base: str, files: Files, adapters: tuple[str, str], tmp_path: Path, words: Words) -> Callable[..., Result]:
    """``card(NAME, ...)``: a report of the same questions in ``tmp_path/NAME.json``."""
    docs, qa = files(3, 2)
    ids = [json.loads(line)["id"] for line in qa.read_text().splitlines()]
    texts = write_lines(tmp_path / "t.jsonl", [{"id": i, "text": f"short {i[-1]}"} for i in ids])

    def run(name: str, *more: object, raw: str | None = adapters[0], none: str | None = adapters[1]) -> Result:
        args: list[object] = ["eval", "--docs", docs, "--qa", qa, "--model", tiny_model, "--base", base, "--dtype", "float32"]
        args += ["--methods", METHODS, "--ratio", 8, "--texts", f"other={texts}", "--json", tmp_path / f"{name}.json", "--device", "cpu"]
        args += ["--max-new-tokens", 4, *(["--raw-adapter", raw] if raw else []), *(["--none-adapter", none] if none else []), *more]
        return CliRunner().invoke(app, [str(a) for a in args])

    return run


def read(path: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(path.read_text())
    return made


def asked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Rows that are asked from now on."""
    names: set[str] = set()
    ask = scorecard.Runner.ask
    monkeypatch.setattr(scorecard.Runner, "ask", lambda self, row, case: names.add(row.name) or ask(self, row, case))
    return names


def without(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in keys}


def test_only_our_rows_are_measured_again(
    card: Callable[..., Result], other_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert card("first").exit_code == 0
    path = tmp_path / "first.json"
    first = read(path)
    first["date"], first["machine"] = "2020-02-02", "a slow one"
    path.write_text(json.dumps(first))
    names = asked(monkeypatch)
    result = card("first", "--reuse", path, "--model", other_model)  # in its own place
    assert result.exit_code == 0, result.output
    assert names == {"lloco@8"}
    second = read(path)
    assert list(second["rows"]) == list(first["rows"]) and second["fingerprint"] != first["fingerprint"]
    for name in TAKEN:
        row = second["rows"][name]
        assert (row["reused"], row["machine"]) == ("2020-02-02", "a slow one")
        assert without(row, "reused", "machine") == first["rows"][name]
    ours = second["rows"]["lloco@8"]
    assert "reused" not in ours and ours["each"]["nll"] != first["rows"]["lloco@8"]["each"]["nll"]
    assert ours["over_none"] is not None and second["date"] != "2020-02-02"
    assert "none, raw, raw+lora, truncate@8, retrieve@8, other: taken from a report of 2020-02-02 (a slow one)." in " ".join(
        result.output.split()
    )
    again = card("third", "--reuse", path, "--model", other_model)
    assert again.exit_code == 0
    assert read(tmp_path / "third.json")["rows"]["raw"]["reused"] == "2020-02-02", "when it was measured, not when it was copied"


def test_a_report_holds_what_each_question_gave(card: Callable[..., Result], tmp_path: Path) -> None:
    assert card("first").exit_code == 0
    report = read(tmp_path / "first.json")
    for row in report["rows"].values():
        each = row["each"]
        assert all(len(values) == 6 for values in each.values())
        assert sum(each["positions"]) / 6 == pytest.approx(row["positions"], abs=1e-4)
        assert sum(each["nll"]) / 6 == pytest.approx(row["nll"]["mean"], abs=1e-3)
    assert report["identity"]["dtype"] == "float32" and len(report["identity"]["docs"][0]) == 64


@pytest.mark.parametrize(
    ("more", "differs"),
    [
        (("--limit", 4), "limit"),
        (("--seed", 3), "seed"),
        (("--template", "plain_short"), "prompt, template"),
        (("--max-new-tokens", 3), "max_new_tokens"),
        (("--dtype", "bfloat16"), "dtype"),
    ],
)
def test_other_settings_are_refused(card: Callable[..., Result], tmp_path: Path, more: tuple[object, ...], differs: str) -> None:
    assert card("first", "--methods", "raw,lloco").exit_code == 0
    result = card("second", "--methods", "raw,lloco", "--reuse", tmp_path / "first.json", *more)
    assert result.exit_code == 2 and f"measured otherwise (different: {differs})" in result.output, result.output
    assert not (tmp_path / "second.json").exists()


def test_other_adapters_texts_and_files_are_refused(
    card: Callable[..., Result], adapters: tuple[str, str], tmp_path: Path, files: Files
) -> None:
    assert card("first").exit_code == 0
    again = ("--reuse", tmp_path / "first.json")
    assert "(different: adapters raw)" in card("second", *again, raw=adapters[1]).output
    assert "(different: adapters none)" in card("second", *again, none=adapters[0]).output
    unused = card("second", *again, "--methods", "raw", none=adapters[0])
    assert unused.exit_code == 0, "an adapter that no row to be taken reads may differ"
    texts = (tmp_path / "t.jsonl").read_text()
    (tmp_path / "t.jsonl").write_text(texts.replace("short", "brief"))
    assert "(different: texts other)" in card("second", *again).output
    (tmp_path / "t.jsonl").write_text(texts)
    docs = next(tmp_path.glob("*.docs.jsonl"))
    docs.write_text(docs.read_text().replace("harbour", "haven"))
    assert "(different: docs)" in card("second", *again).output


def test_rows_that_read_with_our_decoder_are_measured(card: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = ("--methods", "none,raw,truncate,lloco")
    assert card("first", *methods, raw=None, none=None).exit_code == 0
    names = asked(monkeypatch)
    assert card("second", *methods, "--reuse", tmp_path / "first.json", raw=None, none=None).exit_code == 0
    assert names == {"none", "truncate@8", "lloco@8", "other"}
    nothing = card("third", "--methods", "lloco", "--reuse", tmp_path / "first.json", raw=None)
    assert nothing.exit_code == 2 and "there is no row to take" in nothing.output


def test_reports_that_lack_something(card: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert card("first", "--methods", "raw,none").exit_code == 0
    path = tmp_path / "first.json"
    report = read(path)
    report["rows"]["none"]["each"]["nll"].pop()
    path.write_text(json.dumps(report))
    names = asked(monkeypatch)
    assert card("second", "--methods", "raw,none", "--reuse", path).exit_code == 0
    assert names == {"none"}, "a row that is not whole is measured again"
    path.write_text(json.dumps(without(report, "identity")))
    assert "does not hold what was measured for each question (nll, choices" in card("third", "--reuse", path).output
    path.write_text("[]")
    assert "is not a report" in card("third", "--reuse", path).output
    path.write_text("{")
    assert "cannot be read" in card("third", "--reuse", path).output


def test_committed_reports_can_be_read_and_say_that_they_hold_too_little() -> None:
    from benchmarks.scorecards import RESULTS, earlier
    from lloco_integrations.evaluation.reuse import reusable

    for path in RESULTS.glob("*.json"):
        assert earlier(path) == (path if reusable(read(path)) else None)
    assert earlier(RESULTS / "nothing.json") is None
