"""``lloco eval`` from files to report, on a tiny random model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from lloco_integrations.cli import app
from lloco_integrations.evaluation import scorecard
from lloco_integrations.evaluation.cases import load_cases
from lloco_integrations.evaluation.report import dumps
from lloco_integrations.partial import Partial
from tests import tiny
from tests.evaluation.conftest import Words, lora, write_lines

pytestmark = pytest.mark.needs("rouge_score")

Files = Callable[..., tuple[Path, Path]]
ALL = "none,raw,raw+lora,truncate,sentences,retrieve,lloco,lloco+adapter,lloco+retrieve,focus"


@pytest.fixture(scope="module")
def base(tiny_model: str) -> str:
    return str(Path(tiny_model) / "decoder")


@pytest.fixture(scope="module")
def adapter(base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(lora(AutoModelForCausalLM.from_pretrained(base), tmp_path_factory.mktemp("adapters") / "raw"))


@pytest.fixture
def card(tiny_model: str, base: str, tmp_path: Path) -> Callable[..., Result]:
    """Run ``lloco eval`` on the tiny model; the report goes to ``tmp_path/out.json`` unless --json says otherwise."""

    def run(files: tuple[Path, Path], *more: object) -> Result:
        args = ["eval", "--docs", files[0], "--qa", files[1], "--model", tiny_model, "--base", base, "--dtype", "float32"]
        args += [] if "--json" in more else ["--json", tmp_path / "out.json"]
        return CliRunner().invoke(app, [str(a) for a in (*args, "--device", "cpu", "--max-new-tokens", 4, *more)])

    return run


def read(tmp_path: Path, name: str = "out.json") -> dict[str, Any]:
    made: dict[str, Any] = json.loads((tmp_path / name).read_text())
    return made


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    def timeless(values: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in values.items() if not k.endswith("seconds")}

    rows = {n: {**timeless(r), "each": timeless(r["each"])} for n, r in report["rows"].items()}
    return {**report, "rows": rows, "command": ""}


def test_all_rows(card: Callable[..., Result], files: Files, adapter: str, tmp_path: Path, words: Words) -> None:
    pair = files(3, 2)
    cases = load_cases([pair[0]], [pair[1]])
    texts = write_lines(tmp_path / "t.jsonl", [{"id": q.id, "text": f"short {q.id[-1]}"} for c in cases for q in c.questions])
    result = card(
        pair, "--methods", ALL, "--ratio", "4,8", "--raw-adapter", adapter, "--none-adapter", adapter, "--adapter", adapter,
        "--texts", f"other={texts}", "--plot", tmp_path / "plots" / "out.png",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = read(tmp_path)
    rows = report["rows"]
    at_ratios = ("truncate", "sentences", "retrieve", "lloco", "lloco+adapter", "lloco+retrieve", "focus")
    assert list(rows) == ["none", "raw", "raw+lora", *(f"{kind}@{ratio}" for kind in at_ratios for ratio in (4, 8)), "other"]
    lengths = [len(c.document.text) for c in cases]  # one token a byte
    mean = sum(lengths) / 3
    assert rows["none"]["positions"] == rows["none"]["bytes"] == 0
    assert rows["raw"]["positions"] == rows["raw+lora"]["bytes"] == rows["lloco@8"]["source_tokens"] == pytest.approx(mean, abs=1e-3)
    for ratio in (4, 8):
        expected = pytest.approx(sum(math.ceil(n / ratio) for n in lengths) / 3, abs=1e-3)
        assert rows[f"truncate@{ratio}"]["positions"] == rows[f"lloco@{ratio}"]["positions"] == expected
        assert rows[f"lloco+adapter@{ratio}"]["positions"] == expected
        assert 0 <= rows[f"lloco@{ratio}"]["positions"] - rows[f"retrieve@{ratio}"]["positions"] <= 3
        assert 0 <= rows[f"lloco@{ratio}"]["positions"] - rows[f"lloco+retrieve@{ratio}"]["positions"] <= 2
        for kind in ("sentences", "focus"):
            assert 0 < rows[f"{kind}@{ratio}"]["positions"] <= rows[f"lloco@{ratio}"]["positions"]
        assert rows[f"lloco+adapter@{ratio}"]["bytes"] == rows[f"lloco@{ratio}"]["bytes"]
        assert rows[f"lloco@{ratio}"]["bytes"] == pytest.approx(rows[f"lloco@{ratio}"]["positions"] * 32 * 4, abs=0.1)
        assert rows[f"lloco@{ratio}"]["compress_seconds"] > 0
    assert rows["other"]["positions"] == rows["other"]["bytes"] == 7
    template = rows["none"]["prompt_positions"]
    for row in rows.values():
        assert row["n"] == 6 and len(row["answers"]) == 6 and row["cut"] == 0
        assert row["prompt_positions"] - row["positions"] == pytest.approx(template, abs=1e-3)
        assert row["seconds"] == pytest.approx(row["read_seconds"] + row["answer_seconds"], abs=2e-4)
        assert row["f1"]["low"] <= row["f1"]["mean"] <= row["f1"]["high"]
        assert row["nll"]["mean"] > 0 and row["accuracy"] is None
    readers = {
        "none": "base + none adapter",
        "raw": "base",
        "raw+lora": "base + raw adapter",
        "truncate@4": "base + raw adapter",
        "retrieve@4": "base + raw adapter",
        "other": "base + raw adapter",
        "sentences@4": "shipped",
        "focus@4": "shipped",
        "lloco@4": "shipped",
        "lloco+adapter@4": "shipped + adapter",
        "lloco+retrieve@4": "shipped",
    }
    assert {name: rows[name]["reader"] for name in readers} == readers
    assert rows["lloco@4"]["nll"] != rows["lloco+adapter@4"]["nll"]
    assert rows["raw"]["nll"] != rows["raw+lora"]["nll"]
    differences = ("over_none", "over_truncate", "over_retrieve", "over_sentences", "rel_reason")
    for ours in ("lloco", "lloco+adapter", "lloco+retrieve", "focus"):
        assert all(rows[f"{ours}@4"][key] is not None for key in differences)
    assert rows["sentences@4"]["over_none"] is not None and rows["sentences@4"]["over_sentences"] is None
    assert rows["retrieve@4"]["over_none"] is not None and rows["retrieve@4"]["over_truncate"] is None
    assert rows["lloco@4"]["rel"] is None and "not clearly better than none" in rows["lloco@4"]["rel_reason"]
    assert report["primary"] == "f1" and report["n_questions"] == 6 and report["n_documents"] == 3
    assert len(report["adapters"]["raw"]["identity"]) == 64 and report["adapters"]["raw"]["name"] == "raw"
    assert report["verdict"].startswith("Too few to tell: 6 questions about 3 documents")
    assert report["verdict"] in result.output and "lloco@8" in result.output
    assert (tmp_path / "plots" / "out.png").stat().st_size > 10_000
    assert not (tmp_path / "out.json.partial.jsonl").exists()
    assert json.loads(dumps(report)) == report


def test_defaults_read_with_the_shipped_decoder(card: Callable[..., Result], files: Files, tmp_path: Path) -> None:
    result = card(files(), "--methods", "none,truncate,lloco")
    assert result.exit_code == 0, result.output
    rows = read(tmp_path)["rows"]
    assert {row["reader"] for row in rows.values()} == {"shipped"}
    assert [n for n in rows if n.startswith("lloco")] == ["lloco@4", "lloco@8", "lloco@16", "lloco@32"]
    assert rows["lloco@4"]["rel_reason"] == "raw+lora was not measured"


def test_choices_are_judged_by_accuracy(card: Callable[..., Result], files: Files, tmp_path: Path) -> None:
    assert card(files(choices=True), "--methods", "none,lloco", "--ratio", "8").exit_code == 0
    report = read(tmp_path)
    assert report["primary"] == "accuracy"
    assert 0 <= report["rows"]["lloco@8"]["accuracy"]["mean"] <= 100


def test_questions_without_an_answer_have_their_own_part(card: Callable[..., Result], files: Files, tmp_path: Path) -> None:
    docs, qa = files(3, 2)
    lines = [json.loads(line) for line in qa.read_text().splitlines()]
    write_lines(qa, [{**row, "answers": [] if i % 2 else row["answers"]} for i, row in enumerate(lines)])
    assert card((docs, qa), "--methods", "none").exit_code == 0
    report = read(tmp_path)
    row = report["rows"]["none"]
    assert (report["n_questions"], report["n_unanswerable"], row["n"], row["unanswerable"]["n"]) == (3, 3, 3, 3)
    assert row["unanswerable"]["says_unknown"]["mean"] == 0 and row["wrongly_says_unknown"]["mean"] == 0
    write_lines(qa, [{**row, "answers": []} for row in lines])
    result = card((docs, qa), "--methods", "none", "--plot", tmp_path / "p.svg")
    assert result.exit_code == 0, result.output
    report = read(tmp_path)
    assert report["rows"]["none"]["f1"] is None and report["verdict"].startswith("Of the 6 questions that no document answers")


def test_long_texts_are_cut_and_counted(files: Files, base: str, tmp_path: Path) -> None:
    model = str(tiny.save_mean_pool(tmp_path / "small", window=160))
    docs, qa = files(2, 2)
    write_lines(docs, [{"doc_id": "set/0", "text": "harbour lamp " * 40}, {"doc_id": "set/1", "text": "short"}])
    args = ["eval", "--docs", docs, "--qa", qa, "--model", model, "--base", Path(model) / "decoder", "--json", tmp_path / "out.json"]
    args += ["--methods", "raw,truncate,lloco", "--ratio", "4,32", "--max-new-tokens", 4, "--dtype", "float32", "--device", "cpu"]
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == 0, result.output
    rows = read(tmp_path)["rows"]
    assert [rows[n]["cut"] for n in ("raw", "truncate@4", "truncate@32", "lloco@4", "lloco@32")] == [2, 2, 0, 2, 0]
    assert rows["raw"]["prompt_positions"] <= 160 - 4
    assert rows["raw"]["source_tokens"] == (520 + 5) / 2
    assert "raw: 2 of 4 questions had their text cut" in result.output


def test_an_interrupted_run_goes_on(card: Callable[..., Result], files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = files(4, 2)
    args = ("--methods", "none,raw,lloco", "--ratio", "4,16")
    assert card(pair, *args).exit_code == 0
    expected = read(tmp_path)
    assert card(pair, *args).exit_code == 0
    assert without_times(read(tmp_path)) == without_times(expected)
    (tmp_path / "out.json").unlink()
    ask, asked = scorecard.Runner.ask, []

    def failing(self: scorecard.Runner, row: Any, case: Any) -> Any:
        if len(asked) == 7:
            raise KeyboardInterrupt
        asked.append((row.name, case.document.doc_id))
        return ask(self, row, case)

    monkeypatch.setattr(scorecard.Runner, "ask", failing)
    stopped = card(pair, *args)
    assert stopped.exit_code == 130 and "the same command goes on" in stopped.output
    partial = tmp_path / "out.json.partial.jsonl"
    assert len(partial.read_text().splitlines()) == 8 and not (tmp_path / "out.json").exists()
    with partial.open("a") as file:
        file.write('{"row": "lloco@16", "docu')  # killed while writing
    for other in (("--methods", "none"), (*args, "--seed", 1), (*args, "--template", "plain_short"), (*args, "--limit", 3)):
        refused = card(pair, *other)
        assert refused.exit_code == 2 and "of other settings" in refused.output and "delete it to begin anew" in refused.output
    again: list[tuple[str, str]] = []
    monkeypatch.setattr(scorecard.Runner, "ask", lambda s, row, case: again.append((row.name, case.document.doc_id)) or ask(s, row, case))
    assert card(pair, *args).exit_code == 0
    assert len(again) == 4 * 4 - 7 and not set(again) & set(asked)
    assert without_times(read(tmp_path)) == without_times(expected)
    assert not partial.exists()


def test_results_are_read_back_whatever_line_ends_an_answer_holds(tmp_path: Path) -> None:
    result = {"questions": [{"answer": "one\u2028two\x85three\r\nfour"}]}
    with Partial(tmp_path / "out.json", {"seed": 0}) as partial:
        partial.add("raw", "d", result=result)
    with Partial(tmp_path / "out.json", {"seed": 0}) as partial:
        assert partial.done == {("raw", "d"): result}


def test_changed_files_and_damage_are_noticed(card: Callable[..., Result], files: Files, tmp_path: Path) -> None:
    docs, qa = files()
    partial = tmp_path / "out.json.partial.jsonl"
    partial.write_text('{"settings": {"docs": ["another"]}, "hash": "1"}\n')
    refused = card((docs, qa), "--methods", "none")
    assert refused.exit_code == 2 and "different: " in refused.output and "docs" in refused.output
    partial.write_text("not json\n{}\n")
    assert "is damaged" in card((docs, qa), "--methods", "none").output
    partial.write_text('{"settings": {"docs": [')  # torn within its first line: nothing was done yet
    assert card((docs, qa), "--methods", "none").exit_code == 0


def test_limit_spreads_over_documents_and_depends_on_nothing_else(files: Files) -> None:
    docs, qa = files(5, 4)
    four, seven = (load_cases([docs], [qa], limit=n, seed=3) for n in (4, 7))
    assert [len(c.questions) for c in four] == [1] * 4
    assert sorted(len(c.questions) for c in seven) == [1, 1, 1, 2, 2]
    assert {q.id for c in four for q in c.questions} < {q.id for c in seven for q in c.questions}
    assert load_cases([docs], [qa], limit=4, seed=3) == four != load_cases([docs], [qa], limit=4, seed=4)
    assert sum(len(c.questions) for c in load_cases([docs], [qa], limit=99)) == 20
    more = files(2, 1, name="more")
    assert len(load_cases([docs, more[0]], [qa, more[1]])) == 7


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (("--methods", "raw,magic"), "there is no method 'magic'; use some of none, raw"),
        (("--methods", ""), "no method was asked for"),
        (("--methods", "lloco", "--ratio", "5"), "ratio 5 is not one that .* gives; use some of 4, 8, 16, 32"),
        (("--methods", "lloco", "--ratio", "0"), "ratio 0 cannot be"),
        (("--methods", "lloco,focus", "--ratio", "30"), "ratio 30 is not one that .* gives; use some of 4, 8, 16, 32"),
        (("--methods", "lloco,truncate", "--ratio", "8,30"), "ratio 30 is not one that .* gives"),
        (("--methods", "focus", "--ratio", "0"), "ratio 0 cannot be"),
        (("--methods", "lloco", "--ratio", "many"), "--ratio 'many' is not a list of whole numbers"),
        (("--methods", "raw+lora"), "raw\\+lora needs --raw-adapter DIR"),
        (("--methods", "none", "--template", "langchain_tutorial"), "asks before it shows the context"),
        (("--methods", "none", "--texts", "raw=x.jsonl"), "has the name of a method"),
        (("--methods", "none", "--texts", "nothing"), "is not NAME=FILE"),
        (("--methods", "none", "--texts", "x=missing.jsonl"), "cannot read missing.jsonl"),
        (("--methods", "none", "--adapter", "./nowhere"), "there is no such directory"),
        (("--methods", "lloco+adapter"), "lloco\\+adapter needs --adapter DIR"),
        (("--methods", "lloco", "--adapter", "/tmp"), "--adapter /tmp is read by lloco\\+adapter alone"),
        (("--methods", "lloco+adapter", "--ratio", "5", "--adapter", "/tmp"), "ratio 5 is not one that"),
        (("--methods", "none", "--texts", "retrieve@4=x.jsonl"), "has the name of a method"),
        (("--methods", "raw", "--reuse", "missing.json"), "--reuse missing.json: cannot be read"),
        (("--methods", "none", "--plot", "out.gif"), "a picture ends in .png"),
        (("--methods", "none", "--docs", "again.jsonl"), "2 --docs and 1 --qa"),
        (("--methods", "none", "--json", "/dev/null/out.json"), "cannot write"),
        (("--methods", "raw", "--base", "/dev/null/nothing"), "cannot load '/dev/null/nothing'"),
    ],
)
def test_bad_arguments(card: Callable[..., Result], files: Files, more: tuple[str, ...], problem: str) -> None:
    import re

    result = card(files(), *more)
    assert result.exit_code == 2, result.output
    assert re.search(problem, result.output), result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('{"id": "a", "text": "x"}\nnot json\n', "t.jsonl, line 2: not valid JSON"),
        ('{"id": "a", "text": 3}\n', "t.jsonl, line 1: expected"),
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', "line 2: the question 'a' has two texts"),
        ('{"id": "a", "text": "x"}\n', "no text for 6 of the questions, the first is 'set/0/0'"),
    ],
)
def test_bad_texts(card: Callable[..., Result], files: Files, tmp_path: Path, lines: str, problem: str) -> None:
    (tmp_path / "t.jsonl").write_text(lines)
    result = card(files(), "--methods", "none", "--texts", f"other={tmp_path / 't.jsonl'}")
    assert result.exit_code == 2 and problem in result.output


def test_bad_sets(card: Callable[..., Result], files: Files, tmp_path: Path) -> None:
    docs, qa = files()
    other, _ = files(name="other")
    assert "no question is about a document of these files" in card((other, qa), "--methods", "none").output
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "there is no question" in card((docs, tmp_path / "empty.jsonl"), "--methods", "none").output
    qa.write_text(qa.read_text() + "{broken\n")
    assert f"{qa}, line 7: not valid JSON" in card((docs, qa), "--methods", "none").output
    docs, qa = files()
    qa.write_text(qa.read_text() * 2)
    assert "two questions have the id 'set/0/0'" in card((docs, qa), "--methods", "none").output


def test_an_adapter_of_another_base(card: Callable[..., Result], files: Files, tmp_path: Path) -> None:
    wrong = lora(tiny.decoder(hidden=64), tmp_path / "wrong")
    for option, method in (("--adapter", "lloco+adapter"), ("--raw-adapter", "raw+lora"), ("--none-adapter", "none")):
        result = card(files(), "--methods", method, option, wrong, "--json", tmp_path / f"{method}.json")
        assert result.exit_code == 2 and "trained for another base" in result.output


def test_an_adapter_for_another_compressor(card: Callable[..., Result], files: Files, base: str, tmp_path: Path) -> None:
    from lloco_integrations.models.card import AdapterCard

    folder = lora(AutoModelForCausalLM.from_pretrained(base), tmp_path / "a")
    AdapterCard("another", "0" * 64).write(folder)
    result = card(files(), "--methods", "lloco+adapter", "--adapter", folder)
    assert result.exit_code == 2 and "learnt on summaries of another" in result.output


def test_retrieval_says_what_to_install_before_anything_is_loaded(
    card: Callable[..., Result], files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    for method in ("retrieve", "lloco+retrieve", "sentences", "focus"):
        result = card(files(), "--methods", f"none,{method}", "--model", "/dev/null/nothing")
        assert result.exit_code == 2 and "needs sentence-transformers: pip install" in result.output


def test_a_document_of_sixty_thousand_tokens(card: Callable[..., Result], files: Files, tmp_path: Path, words: Words) -> None:
    docs, qa = files(1, 2)
    text = "The harbour of Vesk has a lamp. " * 1875
    write_lines(docs, [{"doc_id": "set/0", "text": text}])
    methods = "raw,truncate,retrieve,lloco,lloco+retrieve"
    result = card((docs, qa), "--methods", methods, "--ratio", "4,32", "--batch-size", 2)
    assert result.exit_code == 0, result.output
    rows = read(tmp_path)["rows"]
    for name in ("truncate", "retrieve", "lloco", "lloco+retrieve"):
        wide, narrow = rows[f"{name}@4"], rows[f"{name}@32"]
        assert wide["cut"] == 2 and wide["prompt_positions"] <= 4096 and wide["source_tokens"] == 60_000
        assert narrow["cut"] == 0 and 1872 <= narrow["positions"] <= 1875
        assert f"{name}@4: 2 of 2 questions had their text cut" in result.output
    assert rows["raw"]["cut"] == 2


def test_focus_over_a_document_of_sixty_thousand_tokens(card: Callable[..., Result], files: Files, tmp_path: Path, words: Words) -> None:
    docs, qa = files(1, 2)
    text = "".join(f"The harbour of Vesk has lamp {i}. " for i in range(2000))
    write_lines(docs, [{"doc_id": "set/0", "text": text}])
    assert card((docs, qa), "--methods", "sentences,focus", "--ratio", "4,30", "--batch-size", 2).exit_code == 0
    rows = read(tmp_path)["rows"]
    for kind in ("sentences", "focus"):
        wide, narrow = rows[f"{kind}@4"], rows[f"{kind}@30"]
        assert wide["cut"] == 2 and 3900 < wide["prompt_positions"] <= 4096 and wide["source_tokens"] == len(text)
        assert narrow["cut"] == 0 and len(text) / 30 - 40 < narrow["positions"] <= math.ceil(len(text) / 30)
        assert wide["compress_seconds"] is None, "a recipe that shows no vectors needs none"


def test_any_ratio_will_do_for_text(card: Callable[..., Result], files: Files, tmp_path: Path, words: Words) -> None:
    """30 is no ratio of a compressor: summaries are left out there, and the output says so."""
    docs, qa = files(2, 2)
    text = " ".join(f"The lamp of pier {i} is called {name}." for i, name in enumerate(["Ada", "Bo", "Cyd", "Dov"] * 8))
    write_lines(docs, [{"doc_id": f"set/{i}", "text": text} for i in range(2)])
    result = card((docs, qa), "--methods", "truncate,sentences,lloco,focus", "--ratio", "8,30")
    assert result.exit_code == 0, result.output
    names = ["truncate@8", "truncate@30", "sentences@8", "sentences@30", "lloco@8", "focus@8", "focus@30"]
    rows = read(tmp_path)["rows"]
    assert list(rows) == names
    assert "lloco: not at 30x, which the model does not give." in result.output
    for kind in ("sentences", "focus"):
        assert 0 < rows[f"{kind}@30"]["positions"] <= rows["truncate@30"]["positions"] == math.ceil(len(text) / 30)


def test_where_not_one_sentence_has_room(card: Callable[..., Result], files: Files, tmp_path: Path, words: Words) -> None:
    docs, qa = files(2, 2)
    write_lines(docs, [{"doc_id": f"set/{i}", "text": "The harbour lamp of Vesk is called Ada by everyone here."} for i in range(2)])
    result = card((docs, qa), "--methods", "sentences,focus", "--ratio", "30")
    assert result.exit_code == 0, result.output
    rows = read(tmp_path)["rows"]
    assert rows["sentences@30"]["each"]["positions"] == [0] * 4
    assert "sentences@30: for 4 of 4 questions no sentence had room, and nothing was shown." in result.output
    assert rows["focus@30"]["each"]["positions"] == [2] * 4, "vectors are shown where no text has room"
    assert rows["focus@30"]["compress_seconds"] > 0


def test_a_model_of_unknown_origin_asks_for_its_base(files: Files, tiny_model: str, tmp_path: Path) -> None:
    docs, qa = files()
    args = ["eval", "--docs", docs, "--qa", qa, "--model", tiny_model, "--methods", "raw", "--json", tmp_path / "o.json"]
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == 2 and "with --base" in result.output
