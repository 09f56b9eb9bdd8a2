"""Figures in the docs are those of the committed benchmark output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import (
    ablations,
    demo_answers,
    focus,
    in_domain,
    long_contexts,
    needles,
    performance,
    routing,
    same_documents,
    scorecards,
    serving,
    soak,
    unpacking,
)
from benchmarks.tables import between

ROOT = Path(__file__).parent.parent
REPORT = json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_text())


@pytest.mark.parametrize("path", ["README.md", "lloco_integrations/models/weights/smollm2-135m/README.md"])
def test_score_table_is_the_benchmark(path: str) -> None:
    text = (ROOT / path).read_text()
    for name, row in REPORT["rows"].items():
        f1 = row["f1"]
        line = f"| {name} | {f1['mean']:.1f} [{f1['low']:.1f}, {f1['high']:.1f}] | {row['positions']:.0f} | {row['seconds']:.2f} |"
        assert line in text, line


def test_the_tables_of_focus_are_the_benchmark() -> None:
    report = json.loads((ROOT / "benchmarks" / "results" / "focus.json").read_text())
    page = focus.PAGE.read_text()
    for place, lines in focus.tables(report).items():
        assert between(page, place, "\n".join(lines)) == page, place
    readme = focus.README.read_text()
    assert between(readme, "focus over passages", "\n".join(focus.brief(report))) == readme
    assert report["fingerprint"] == REPORT["fingerprint"], "measured with other weights than ship"


def test_the_twenty_answers_are_the_benchmark() -> None:
    assert (ROOT / "docs" / "answers.md").read_text() == demo_answers.page(REPORT)


def test_the_scorecards_are_the_benchmark() -> None:
    paths = {name: scorecards.RESULTS / f"{name}.json" for name in scorecards.SETS}
    reports = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    assert reports
    assert scorecards.PAGE.read_text() == scorecards.page(reports, "../benchmarks/results/scorecards")
    assert all(report["fingerprint"] == REPORT["fingerprint"] for report in reports.values()), "measured with other weights than ship"


def test_the_tables_of_training_are_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = ablations.PAGE.read_text()
    assert ablations.page(text) == text and "| control |" in text


def test_where_the_answers_go_wrong_is_the_benchmark() -> None:
    assert "\n".join(unpacking.table(json.loads(unpacking.RESULT.read_text()))) in unpacking.PAGE.read_text()


def test_the_learning_curve_is_the_benchmark() -> None:
    report = json.loads((ROOT / "benchmarks" / "results" / "learning_curve.json").read_text())
    text = (ROOT / "docs" / "training.md").read_text()
    assert f"by {report['worth_per_doubling_at_4x']:.2f} for each doubling" in text
    assert f"{report['hours_on_this_machine_to_reach']['0.7']:.0f} hours of this machine" in text


def test_the_tables_of_learning_are_the_benchmarks() -> None:
    page = in_domain.PAGE.read_text()
    reports = {}
    for module in (in_domain, long_contexts):
        some = {p.name.removesuffix(".json"): json.loads(p.read_text()) for p in module.RESULTS.glob("*.json")}
        assert some
        for name, report in some.items():
            assert "\n".join(module.part(name, report)).rstrip() in module.PAGE.read_text(), name
        reports |= some
    reports["same documents"] = json.loads(same_documents.RESULT.read_text())
    assert "\n".join(same_documents.table(reports["same documents"])).rstrip() in page
    reports["needles"] = json.loads(needles.RESULT.read_text())
    assert "\n".join(needles.table(reports["needles"])) in needles.PAGE.read_text()
    reports["routing"] = json.loads(routing.RESULT.read_text())
    assert "\n".join(routing.table(reports["routing"])).rstrip() in page
    assert all(report["fingerprint"] == REPORT["fingerprint"] for report in reports.values()), "measured with other weights than ship"


def test_the_tables_of_speed_are_the_benchmark() -> None:
    page = performance.PAGE.read_text()
    for name, script in performance.SCRIPTS.items():
        report = json.loads((performance.RESULTS / f"{name}.json").read_text())
        for place, lines in script.tables(report).items():
            assert between(page, place, "\n".join(lines)) == page, place
        assert not hasattr(script, "plot") or (performance.RESULTS / f"{name}.png").exists()


def test_the_tables_of_serving_are_the_benchmark() -> None:
    page, load = serving.PAGE.read_text(), json.loads(serving.RESULT.read_text())
    tables = {
        "load": serving.load_table(load),
        "hot documents": serving.hot_table(load),
        "soak": soak.told(json.loads(soak.RESULT.read_text())),
    }
    for place, lines in tables.items():
        assert between(page, place, "\n".join(lines)) == page, place
