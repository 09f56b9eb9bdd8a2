"""Other compressors beside ours: texts of a wanted length, the file they grow in, and the model they read. None of them is needed here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.peers import llmlingua_texts, questions
from benchmarks.peers.prepare_model import patched_copy
from benchmarks.peers.texts import Fitted, Item, Out, digest, fit, read_items

SETTINGS = {"ratio": 4, "ranking": "llmlingua"}


class FakeCompressor:
    """Keeps words: as many as ``kept`` makes of the number requested. ``count`` counts them."""

    def __init__(self, kept: dict[int, int] | None = None) -> None:
        self.kept, self.requests = kept, list[int]()

    def __call__(self, requested: int) -> str:
        self.requests.append(requested)
        return " ".join(["word"] * (requested if self.kept is None else self.kept[requested]))

    def count(self, text: str) -> int:
        return len(text.split())

    own_count = count

    def fit(self, item: Item, ratio: int) -> Fitted:
        return fit(self, self.count, self.count(item.context) // ratio)


@pytest.mark.parametrize(
    ("kept", "requests", "chosen"),
    [
        ({40: 40}, [40], 40),
        ({40: 37}, [40], 37),  # within a tenth: good enough
        ({40: 80, 20: 42}, [40, 20], 42),
        ({40: 20, 80: 41}, [40, 80], 41),
        ({40: 60, 27: 30, 36: 50}, [40, 27, 36], 30),  # never within a tenth: the nearest that is not longer
        ({40: 50, 32: 28, 46: 48}, [40, 32, 46], 28),  # 48 is nearer than 28, but too long
        ({40: 80, 20: 70, 11: 60}, [40, 20, 11], 60),  # all too long: the shortest
        ({40: 0, 1600: 30, 2133: 39}, [40, 1600, 2133], 39),
    ],
)
def test_the_request_is_scaled_until_the_text_is_near_its_target(kept: dict[int, int], requests: list[int], chosen: int) -> None:
    compressor = FakeCompressor(kept)
    made = fit(compressor, compressor.count, 40)
    assert compressor.requests == requests
    assert made == Fitted(" ".join(["word"] * chosen), chosen, next(r for r in requests if kept[r] == chosen))


def test_a_request_that_cannot_shrink_is_not_repeated() -> None:
    compressor = FakeCompressor({1: 9})
    assert fit(compressor, compressor.count, 1).positions == 9
    assert compressor.requests == [1]


@pytest.mark.parametrize("n_tokens", [2, 80, 199, 200, 201, 203, 276, 399, 1009, 5003])
def test_windows_leave_next_to_nothing_uncompressed(n_tokens: int) -> None:
    size = llmlingua_texts.window(n_tokens)
    assert 1 < size <= 200
    assert n_tokens % size <= 0.02 * n_tokens


def test_a_pass_that_texts_share_counts_in_the_seconds_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = SimpleNamespace(numpy=lambda: SimpleNamespace(tobytes=lambda: b"ids"))
    loss = SimpleNamespace(clone=lambda: None)
    clock = [0.0]

    def passed(seconds: float, made: object = None) -> object:
        clock[0] += seconds
        return made

    def compress(item: Item, requested: int, n_tokens: int) -> str:
        compressor._ppl("", "", ids, past_key_values=None, end=None)
        return str(passed(requested, " ".join(["word"] * requested)))

    compressor = llmlingua_texts.LLMLingua.__new__(llmlingua_texts.LLMLingua)
    compressor.aware, compressor._first_pass, compressor._spared = False, (None, None, 0.0), 0.0
    compressor._get_ppl = lambda *args, **options: passed(100.0, (loss, None))
    monkeypatch.setattr(llmlingua_texts, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(compressor, "count", lambda text: len(text.split()))
    monkeypatch.setattr(compressor, "compress", compress)
    item = Item("a", " ".join(["word"] * 40), "")
    assert [compressor.fit(item, ratio).seconds for ratio in (1, 4, 8)] == [0.0, 110.0, 105.0]
    assert clock == [115.0]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_items_are_read_and_bad_lines_named(tmp_path: Path) -> None:
    one = {"id": "a", "context": "Text.\u2028More.", "question": None}
    assert read_items(write(tmp_path / "in", one)) == [Item("a", "Text.\u2028More.", "")]
    for bad, message in [
        ([one, one], "line 2: the id 'a' comes twice"),
        ([one, {"id": "b"}], "line 2: expected"),
        ([["a"]], "line 1: expected a JSON object"),
        ([], "holds no question"),
    ]:
        with pytest.raises(SystemExit, match=message):
            read_items(write(tmp_path / "in", *bad))
    (tmp_path / "in").write_text('{"id": "a", "con')
    with pytest.raises(SystemExit, match="line 1: not valid JSON"):
        read_items(tmp_path / "in")


def test_a_file_is_continued_and_a_torn_line_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "out.jsonl"
    with Out(path, SETTINGS) as out:
        out.add({"id": "a", "text": "one\u2028two"})
    whole = path.read_bytes()
    for torn in (b'{"id": "b", "te', b'{"id": "b", "text": "c", "ratio": 4, "ranking": "llmlingua"}', b"\xc3"):
        path.write_bytes(whole + torn)
        with Out(path, SETTINGS) as out:
            assert list(out.done) == ["a"] and out.done["a"]["text"] == "one\u2028two"
        assert path.read_bytes() == whole
    path.write_bytes(whole + b'{"id": "b", "te')
    with Out(path, SETTINGS) as out:
        out.add({"id": "b", "text": "two"})
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", "b"]
    with Out(path, SETTINGS) as out:
        assert list(out.done) == ["a", "b"]


def test_a_file_that_is_not_ours_to_continue_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Out(path, SETTINGS) as out:
        out.add({"id": "a", "text": "one", "source": digest("context")})
        out.check({"a": digest("context"), "b": digest("other")})
        with pytest.raises(SystemExit, match="the text of 'a' was made from another context"):
            out.check({"a": digest("changed")})
    good = path.read_bytes()
    with pytest.raises(SystemExit, match="made with .*4.*, not .*8"), Out(path, {**SETTINGS, "ratio": 8}):
        pass
    for damaged, message in [(b"{torn}\n" + good, "line 1: not valid JSON"), (good + good, "line 2: the id 'a' is missing or comes twice")]:
        path.write_bytes(damaged)
        with pytest.raises(SystemExit, match=message), Out(path, SETTINGS):
            pass
        assert path.read_bytes() == damaged


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[FakeCompressor, Path]:
    """The command over three questions, two of them about one document, with a fake compressor."""
    compressor = FakeCompressor()
    monkeypatch.setattr(llmlingua_texts, "LLMLingua", lambda model, aware: compressor)
    monkeypatch.setattr(llmlingua_texts, "patched_copy", lambda model, folder: folder)
    contexts = {"a": " ".join("wwwwwwww"), "b": " ".join("wwwwwwww"), "c": " ".join("x" * 16)}
    write(tmp_path / "in", *({"id": key, "context": text, "question": f"{key}?"} for key, text in contexts.items()))
    command = ["llmlingua_texts", "--in", str(tmp_path / "in"), "--out", str(tmp_path / "out@{ratio}"), "--model", "m", "--ratio", "4", "8"]
    monkeypatch.setattr("sys.argv", command)
    return compressor, tmp_path


def test_the_command_writes_a_text_for_each_question_and_ratio_and_goes_on_where_it_was(
    run: tuple[FakeCompressor, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    compressor, folder = run
    llmlingua_texts.main()
    assert compressor.requests == [2, 1, 4, 2]  # a and b share their texts
    four = [json.loads(line) for line in (folder / "out@4").read_text().splitlines()]
    assert [(r["id"], r["text"], r["origin_positions"], r["positions"]) for r in four] == [
        ("a", "word word", 8, 2),
        ("b", "word word", 8, 2),
        ("c", "word word word word", 16, 4),
    ]
    assert "3 texts, 4.00x of 4x asked for" in capsys.readouterr().out
    before = {path: path.read_bytes() for path in folder.glob("out@*")}
    (folder / "out@8").write_bytes(before[folder / "out@8"][:-5])
    llmlingua_texts.main()
    assert compressor.requests[4:] == [2]  # only c at 8 was torn
    assert {path: path.read_bytes() for path in folder.glob("out@*")} == before


def test_questions_have_a_text_of_their_own_where_the_compressor_reads_them(
    run: tuple[FakeCompressor, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setattr("sys.argv", [*sys.argv, "--question-aware"])
    llmlingua_texts.main()
    assert run[0].requests == [2, 1, 2, 1, 4, 2]


def test_questions_are_those_of_the_scorecard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lloco_integrations.evaluation.cases import load_cases

    docs = write(tmp_path / "x.docs.jsonl", *({"doc_id": f"d{i}", "text": f"Text {i}."} for i in range(5)))
    asked = ({"id": f"q{i}{j}", "doc_id": f"d{i}", "question": f"{i} {j}?", "answers": ["x"]} for i in range(5) for j in range(4))
    qa = write(tmp_path / "x.qa.jsonl", *asked)
    out = tmp_path / "in.jsonl"
    monkeypatch.setattr("sys.argv", ["questions", "--docs", str(docs), "--qa", str(qa), "--limit", "7", "--seed", "3", "--out", str(out)])
    questions.main()
    cases = load_cases([docs], [qa], limit=7, seed=3)
    expected = [Item(q.id, case.document.text, q.question) for case in cases for q in case.questions]
    assert read_items(out) == expected and len(expected) == 7


def test_the_model_is_patched_in_a_copy(tmp_path: Path) -> None:
    source, folder = tmp_path / "model", tmp_path / "copy"
    source.mkdir()
    folder.mkdir()
    config = {"hidden_size": 8, "dtype": "bfloat16", "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"}}
    write(source / "config.json", config)
    write(source / "tokenizer_config.json", {"tokenizer_class": "TokenizersBackend", "eos_token": "x"})
    (source / "model.safetensors").write_bytes(b"weights")
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    patched_copy(source, folder)
    assert json.loads((folder / "config.json").read_text()) == {"hidden_size": 8, "torch_dtype": "bfloat16", "rope_theta": 100000.0}
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    with pytest.raises(SystemExit, match=r"has no config\.json"):
        patched_copy(tmp_path, folder)
