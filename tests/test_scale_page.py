"""The figures of docs/scale.md are those of the benchmarks, computed as the page says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import scale, scale_plan
from benchmarks.tables import between
from lloco_integrations.compressors.autocompressor import SEGMENT_LENGTH


@pytest.fixture
def report() -> dict[str, Any]:
    """Round figures: 1,000 tokens in two documents, 100 of them compressed twice, in eleven seconds."""
    store = {"entries": 10, "vectors": 550, "tokens": 1100}
    return {
        "model": "some",
        "date": "2000-01-01",
        "machine": "a machine",
        "device": "cpu (1 threads), bfloat16",
        "spec": {"hidden_size": 100, "tokens_a_vector": 2, "element_bytes": 2},
        "corpus": {
            "documents": 2,
            "passages": 10,
            "chunk_size": 256,
            "chunk_overlap": 32,
            "document_tokens": 1000,
            "document_bytes": 4000,
            "passage_tokens": 1100,
        },
        "seconds": {
            "compressor": [10.0, 11.0, 30.0],
            "exact store": 11.0,
            "int8 store": 0.0,
            "ray, workers 2": {"all": 22.0, "first_batch": 5.0},
        },
        "stores": {
            "exact": {**store, "value_bytes": 115_000, "file_bytes": 220_000},
            "int8": {**store, "value_bytes": 66_000, "file_bytes": 77_000},
        },
    }


def test_bytes_by_the_specs(report: dict[str, Any]) -> None:
    assert scale_plan.LLAMA["tokens"] == SEGMENT_LENGTH
    assert scale_plan.bytes_a_token(report) == {
        ("some", "exact"): 100,
        ("some", "int8"): 52,
        ("llama2-7b", "exact"): pytest.approx(50 * 4096 * 2 / 1536),
        ("llama2-7b", "int8"): pytest.approx(50 * 4100 / 1536),
    }
    table = "\n".join(scale_plan.sizes(report))
    assert "| `some` | exact | 100 | 105 | 200 | 25 |" in table
    assert "| `llama2-7b` | exact | 267 | not measured | not measured | 67 |" in table
    assert "An entry has 500 bytes beside its vectors, and is stored for 110 tokens" in table


def test_hours_and_machines(report: dict[str, Any]) -> None:
    table = "\n".join(scale_plan.plan(report))
    # 10^6 documents are 1.1 * 10^9 tokens; at 100 tokens a second 3,055.6 hours, or 127.3 days.
    assert "| 1,000,000 | 1.1e+09 | 4 GB | 110 GB | 57.2 GB | 293 GB | 147 GB | 3,056 | 128 |" in table
    assert "| 1,000,000,000 | 1.1e+12 | 4 TB | 110 TB |" in table


def test_speed(report: dict[str, Any]) -> None:
    table = "\n".join(scale_plan.speed(report))
    assert "| compressor alone, median of 3 runs (37 to 110) | 100 | 11.0 |" in table
    assert "| compressor, then a new SQLite store, exact | 50 | 22.0 |" in table
    assert "(5.0 s to the first batch) | 50 | 22.0 |" in table
    assert "1.10 tokens are compressed for each token of a document" in table


def test_questions_to_break_even() -> None:
    row = {"prompt_positions": 500, "read_seconds": 0.5, "f1": {"mean": 60.0}, "compress_seconds": None}
    rows = {"raw+lora": row}
    for ratio, seconds in ((4, 0.3), (8, 0.6)):
        rows[f"lloco@{ratio}"] = row | {"prompt_positions": 100, "read_seconds": seconds, "f1": {"mean": 20.0}, "compress_seconds": 0.5}
    table = scale_plan.questions({"a set": {"machine": "a machine", "date": "2000-01-01", "rows": rows}, "no summaries": {"rows": {}}})
    assert "| a set | 4x | 400 of 500 | 0.20 of 0.50 | 0.50 | 3 | 60.0 -> 20.0 |" in table
    assert "| a set | 8x | 400 of 500 | -0.10 of 0.50 | 0.50 | never | 60.0 -> 20.0 |" in table
    assert not any("no summaries" in line for line in table)


@pytest.mark.parametrize(
    ("size", "said"), [(0, "0 B"), (999, "999 B"), (999.6, "1 kB"), (5.76e14, "576 TB"), (5.76e15, "5.76 PB"), (2e18, "2,000 PB")]
)
def test_sizes_are_short(size: float, said: str) -> None:
    assert scale_plan.decimal(size) == said


def test_passages_to_break_even() -> None:
    row = {"positions": 250, "seconds": 0.3, "f1": {"mean": 60.0}}
    rows = {
        "none": row,
        "raw": row,
        "2x": {"positions": 150, "seconds": 0.2, "f1": {"mean": 30.0}},
        "4x": {"positions": 100, "seconds": 0.4, "f1": {"mean": 20.0}},
    }
    made = {
        "rows": rows,
        "passages_compressed": 10,
        "compress_seconds": 4.95,
        "questions": 9,
        "top_k": 2,
        "machine": "a machine",
        "date": "",
    }
    table = scale_plan.passages(made)
    assert "| 2x | 100 of 250 | 0.10 of 0.30 | 50 | 5.0 | 60.0 -> 30.0 |" in table
    assert "| 4x | 150 of 250 | -0.10 of 0.30 | never | never | 60.0 -> 20.0 |" in table


def test_the_page_is_the_benchmark() -> None:
    report, text, demo = json.loads(scale.RESULT.read_text()), scale.PAGE.read_text(), scale_plan.demo()
    for name, lines in scale_plan.tables(report, scale_plan.cards(), demo).items():
        assert between(text, name, "\n".join(lines)) == text, name
    assert report["fingerprint"] == demo["fingerprint"], "measured with other weights than ship"
