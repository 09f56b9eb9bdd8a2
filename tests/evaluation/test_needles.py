"""The needle benchmark on a tiny random model."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from benchmarks import needles
from lloco_integrations.evaluation.scorecard import Runner
from tests.evaluation.conftest import WORDS, Words

TEXT = " ".join(f"The {a} of the {b} is old." for a in WORDS for b in WORDS[:5])


def test_a_needle_stands_between_sentences_at_its_depth() -> None:
    needle = needles.Needle("mill", "amber", 47)
    for depth, lowest, highest in ((0, 0, 0), (50, 45, 55), (100, 100, 100)):
        text = needles.put(needle.sentence, TEXT, depth)
        before, found, after = text.partition("The pass phrase of the mill is amber 47.")
        assert found and f"{before.strip()} {after.strip()}".strip() == TEXT
        assert lowest <= 100 * len(before.strip()) / len(TEXT) <= highest
        assert before.strip() == "" or before.strip().endswith(".")


def test_what_counts_as_found() -> None:
    needle = needles.Needle("mill", "amber", 47)
    assert needle.found("It is Amber 47.") == (True, True)
    assert needle.found("amber 470") == (True, False)
    assert needle.found("ambers, 47") == (False, True)
    assert needles.needles(3, 1) == needles.needles(5, 1)[:3] != needles.needles(3, 2)


def test_what_a_row_gave() -> None:
    import argparse

    args = argparse.Namespace(lengths=[100], depths=[0, 50], limit=2, seed=0)
    one, two = needles.needles(2, 0)
    rest = dict.fromkeys(("positions", "source_tokens", "read_seconds", "answer_seconds", "compress_seconds"), 1.0)
    answers = {"100/0/0": f"{one.word} {one.number}", "100/0/1": "no", "100/50/0": f"{one.number}", "100/50/1": f"a {two.word}"}
    done = {("raw", key): {"id": key, "answer": answer, "nll": 2.0, "cut": key == "100/0/1", **rest} for key, answer in answers.items()}
    made = needles.summary(args, needles.Row("raw", "raw"), "base", done)
    first, second = made["cells"]
    assert (first["found"], first["both"], first["word"], first["number"], first["cut"], first["nll"]) == (50, 50, 50, 50, 1, 2)
    assert (second["found"], second["both"], second["word"], second["number"], second["cut"]) == (50, 0, 50, 50, 0)
    assert made["by_length"][0]["found"] == {"mean": 50.0, "low": 25.0, "high": 75.0}, "needles are resampled, with all their depths"


@pytest.mark.needs("matplotlib")
def test_the_grid_is_measured_drawn_and_goes_on(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLOCO_DATA", str(tmp_path))
    with gzip.open(tmp_path / "hay.train.docs.jsonl.gz", "wt") as file:
        for i in range(3):
            file.write(json.dumps({"doc_id": str(i), "text": f"{i} {TEXT}"}) + "\n")
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    args: list[object] = ["--json", out, "--plot", picture, "--lengths", "400,5000", "--depths", "0,100", "--ratios", 8, "--limit", 1]
    args += ["--data", "hay.train", "--max-new-tokens", 4]
    args += ["--model", tiny_model, "--base", Path(tiny_model) / "decoder", "--dtype", "float32", "--device", "cpu"]
    argv = [str(a) for a in args]
    ask, asked = Runner.ask, []

    def failing(self: Runner, row: needles.Row, case: needles.Case) -> list[dict[str, object]]:
        if len(asked) == 5:
            raise KeyboardInterrupt
        asked.append((row.name, case.document.doc_id))
        return ask(self, row, case)

    monkeypatch.setattr(Runner, "ask", failing)
    with pytest.raises(KeyboardInterrupt):
        needles.main(argv)
    before = list(asked)
    asked.clear()
    monkeypatch.setattr(Runner, "ask", lambda self, row, case: asked.append((row.name, case.document.doc_id)) or ask(self, row, case))
    needles.main(argv)
    report = json.loads(out.read_text())
    rows = report["rows"]
    assert list(rows) == ["raw", "retrieve@8", "lloco@8", "lloco+retrieve@8"]
    assert len(before) + len(asked) == 4 * 4 and not set(before) & set(asked)
    for row in rows.values():
        assert [(c["length"], c["depth"], c["n"]) for c in row["cells"]] == [(400, 0, 1), (400, 100, 1), (5000, 0, 1), (5000, 100, 1)]
        assert all(c["both"] <= c["found"] == (c["word"] + c["number"]) / 2 and c["nll"] > 0 for c in row["cells"])
        assert len(row["answers"]) == 4 and row["by_length"][0]["found"]["low"] >= 0
    assert [c["cut"] for c in rows["raw"]["cells"]] == [0, 0, 1, 1], "the window is 4096"
    assert rows["lloco@8"]["cells"][2]["positions"] == pytest.approx(5050 / 8, abs=10)
    assert report["machine"] and report["versions"]["torch"] and report["fingerprint"]
    assert picture.stat().st_size > 10_000 and not list(tmp_path.glob("*.partial.jsonl"))
    asked.clear()
    needles.main(argv)
    assert not asked and "is measured; delete it" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="a haystack of 99000 was asked for"):
        needles.main([*argv[:1], str(tmp_path / "o.json"), *argv[2:], "--lengths", "99000"])
