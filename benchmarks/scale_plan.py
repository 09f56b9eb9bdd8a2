"""Bytes, hours and questions to break even for very many documents, computed from what ``benchmarks.scale`` and the scorecards measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

TOKENS_A_DOCUMENT = 1000
"""Assumed."""
DOCUMENTS = (10**6, 10**7, 10**8, 10**9)
HOURS_A_DAY = 24
LLAMA = {"hidden_size": 4096, "tokens": 1536, "vectors": 50, "element_bytes": 2}
"""llama2-7b: a segment of 1536 tokens gives 50 vectors of width 4096; in bfloat16."""
SCALE_BYTES = 4
"""int8 keeps a float32 for each vector beside one byte an element."""
RATIOS = (4, 8, 16, 32)


def cards() -> dict[str, Any]:
    """The committed scorecards by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((RESULTS / "scorecards").glob("*.json"))}


def demo() -> dict[str, Any]:
    """The committed scores of the demo."""
    report: dict[str, Any] = json.loads((RESULTS / "demo.json").read_text())
    return report


def tables(report: Mapping[str, Any], scorecards: Mapping[str, Any], demo: Mapping[str, Any]) -> dict[str, list[str]]:
    """The page's tables by the names of their places."""
    return {
        "bytes": sizes(report),
        "speed": speed(report),
        "plan": plan(report),
        "questions": questions(scorecards),
        "passages": passages(demo),
    }


def bytes_a_token(report: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """(preset, storage) -> bytes of vectors for a source token, by the specs, at the ratio that is stored."""
    spec, out = report["spec"], {}
    for preset, hidden, element, per_token in (
        (report["model"], spec["hidden_size"], spec["element_bytes"], 1 / spec["tokens_a_vector"]),
        ("llama2-7b", LLAMA["hidden_size"], LLAMA["element_bytes"], LLAMA["vectors"] / LLAMA["tokens"]),
    ):
        out[preset, "exact"] = hidden * element * per_token
        out[preset, "int8"] = (hidden + SCALE_BYTES) * per_token
    return out


def text_bytes(report: Mapping[str, Any]) -> float:
    """Bytes of raw text for a source token, in the example corpus."""
    return float(report["corpus"]["document_bytes"] / report["corpus"]["document_tokens"])


def overlap(report: Mapping[str, Any]) -> float:
    """Tokens that are compressed for each token of a document: neighbouring passages share some."""
    return float(report["corpus"]["passage_tokens"] / report["corpus"]["document_tokens"])


def rate(report: Mapping[str, Any]) -> float:
    """Tokens a second of the compressor alone, the median of its runs."""
    return float(report["corpus"]["passage_tokens"] / statistics.median(report["seconds"]["compressor"]))


def sizes(report: Mapping[str, Any]) -> list[str]:
    """Bytes for a source token: by the specs, and as measured in a store."""
    text = text_bytes(report)
    lines = ["| preset | storage | bytes a source token, by the specs | as stored, measured | on disk, measured | times the text |"]
    lines += ["|---|---|---|---|---|---|"]
    for (preset, storage), size in bytes_a_token(report).items():
        found = report["stores"][storage] if preset == report["model"] else None
        measured = [f"{found[part] / found['tokens']:.0f}" for part in ("value_bytes", "file_bytes")] if found else ["not measured"] * 2
        lines.append(f"| `{preset}` | {storage} | {size:.0f} | {' | '.join(measured)} | {size / text:.0f} |")
    corpus, spec, exact = report["corpus"], report["spec"], report["stores"]["exact"]
    beside = (exact["value_bytes"] - exact["vectors"] * spec["hidden_size"] * spec["element_bytes"]) / exact["entries"]
    return [
        *lines,
        "",
        f"Raw text takes {text:.1f} bytes a token (UTF-8, the example corpus: {corpus['document_tokens']:,} tokens in {corpus['documents']} "
        f"documents). An entry has {beside:.0f} bytes beside its vectors, and is stored for {exact['tokens'] / exact['entries']:.0f} tokens on "
        f"average; the rest on disk is SQLite's. Vectors were made in {report['device'].rpartition(' ')[2]}: what a machine computes in float32 "
        f"takes twice the bytes of bfloat16 under `exact`, and the same under `int8`.",
    ]


def speed(report: Mapping[str, Any]) -> list[str]:
    """Tokens a second on the machine that measured."""
    tokens, took = report["corpus"]["passage_tokens"], report["seconds"]
    runs = sorted(tokens / s for s in took["compressor"])
    median = statistics.median(took["compressor"])
    lines = ["| what | tokens a second | seconds for the corpus |", "|---|---|---|"]
    lines.append(
        f"| compressor alone, median of {len(runs)} runs ({runs[0]:,.0f} to {runs[-1]:,.0f}) | {tokens / median:,.0f} | {median:.1f} |"
    )
    for storage in ("exact", "int8"):
        whole = median + took[f"{storage} store"]
        lines.append(f"| compressor, then a new SQLite store, {storage} | {tokens / whole:,.0f} | {whole:.1f} |")
    for name, some in took.items():
        if name.startswith("ray"):
            lines.append(
                f"| {name}, with starting Ray and loading the model ({some['first_batch']:.1f} s to the first batch) "
                f"| {tokens / some['all']:,.0f} | {some['all']:.1f} |"
            )
    corpus = report["corpus"]
    return [
        *lines,
        "",
        f"`{report['model']}`, {corpus['passages']} passages with {tokens:,} tokens, as `lloco compress` cuts them ({corpus['chunk_size']} tokens, "
        f"{corpus['chunk_overlap']} shared): {overlap(report):.2f} tokens are compressed for each token of a document. {report['device']}; "
        f"{report['machine']}, {report['date']}.",
    ]


def plan(report: Mapping[str, Any]) -> list[str]:
    """From 10^6 to 10^9 documents."""
    each, text, more, per_second = bytes_a_token(report), text_bytes(report), overlap(report), rate(report)
    stores = " | ".join(f"`{preset}` {storage}" for preset, storage in each)
    lines = [f"| documents | tokens compressed | raw text | {stores} | hours of this machine | such machines, to be done in a day |"]
    lines.append("|" + "---|" * (5 + len(each)))
    for n in DOCUMENTS:
        source = n * TOKENS_A_DOCUMENT
        compressed = source * more
        hours = compressed / per_second / 3600
        cells = [decimal(source * text), *(decimal(compressed * size) for size in each.values())]
        lines.append(f"| {n:,} | {compressed:.2g} | {' | '.join(cells)} | {hours:,.0f} | {-(-hours // HOURS_A_DAY):,.0f} |")
    return [
        *lines,
        "",
        f"Assumed: {TOKENS_A_DOCUMENT:,} tokens a document, {text:.1f} bytes a token of text and {more:.2f} tokens compressed for each, both as in "
        f"the example corpus; {per_second:,.0f} tokens a second a machine, as measured above, and machines that do not wait for one another. Hours "
        f"are those of `{report['model']}`; those of `llama2-7b` were not measured, nor anything on a GPU.",
    ]


def questions(scorecards: Mapping[str, Any]) -> list[str]:
    """How many questions about a document until compressing it has paid, by the scorecards' seconds."""
    columns = ("set", "ratio", "positions saved a question", "seconds saved reading", "seconds to compress", "questions to break even")
    lines, used = [f"| {' | '.join(columns)} | F1, text -> summaries |", "|" + "---|" * (len(columns) + 1)], []
    for name, card in scorecards.items():
        text = card["rows"].get("raw+lora")
        for ratio in RATIOS:
            ours = card["rows"].get(f"lloco@{ratio}")
            if text is None or ours is None or not ours["compress_seconds"] or not ours.get("f1") or not text.get("f1"):
                continue
            saved = text["read_seconds"] - ours["read_seconds"]
            cells = (
                f"{text['prompt_positions'] - ours['prompt_positions']:,.0f} of {text['prompt_positions']:,.0f}",
                f"{saved:.2f} of {text['read_seconds']:.2f}",
                f"{ours['compress_seconds']:.2f}",
                break_even(ours["compress_seconds"], saved),
                f"{text['f1']['mean']:.1f} -> {ours['f1']['mean']:.1f}",
            )
            lines.append(f"| {name} | {ratio}x | {' | '.join(cells)} |")
            used.append(card)
    where = sorted({f"{card['machine']}, {card['date']}" for card in used})
    return [
        *lines,
        "",
        f"A document's whole text, read by the model with a LoRA for text, against its summaries, read by the shipped one "
        f"([scorecards](scorecards.md)); seconds of a question are those of reading its context, the answer's left out, for its length differs. "
        f"{'; '.join(where)}.",
    ]


def passages(demo: Mapping[str, Any]) -> list[str]:
    """As ``questions``, where a question reads the few passages that retrieval found."""
    rows, n, took = demo["rows"], demo["passages_compressed"], demo["compress_seconds"]
    columns = ("ratio", "positions saved a question", "seconds saved", "questions to break even", "for each passage")
    lines = [f"| {' | '.join(columns)} | F1, text -> summaries |", "|" + "---|" * (len(columns) + 1)]
    for name, row in rows.items():
        if name in ("none", "raw"):
            continue
        saved = rows["raw"]["seconds"] - row["seconds"]
        lines.append(
            f"| {name} | {rows['raw']['positions'] - row['positions']:,.0f} of {rows['raw']['positions']:,.0f} "
            f"| {saved:.2f} of {rows['raw']['seconds']:.2f} | {break_even(took, saved)} | {f'{took / saved / n:.1f}' if saved > 0 else 'never'} "
            f"| {rows['raw']['f1']['mean']:.1f} -> {row['f1']['mean']:.1f} |"
        )
    return [
        *lines,
        "",
        f"{demo['questions']} questions, each with the {demo['top_k']} passages that retrieval found, reading and answering together; compressing "
        f"{n} passages took {took:.1f} s. {demo['machine']}, {demo['date']}.",
    ]


def break_even(compress_seconds: float, saved: float) -> str:
    """Questions about a document after which compressing it once has cost less than reading its text each time."""
    return f"{-(-compress_seconds // saved):,.0f}" if saved > 0 else "never"


def decimal(size: float) -> str:
    """``size`` in bytes, by thousands, to three digits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} PB" if size < 999.5 else f"{size:,.0f} PB"
