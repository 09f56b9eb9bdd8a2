"""How close does compressing come to the bare forward pass of its encoder, and what do batches gain over one document at a time?

    python -m benchmarks.compressing                                  # about three and a half minutes on two cores
    python -m benchmarks.compressing --device cuda --json mine.json   # on another machine

*The limit* is the encoder's trunk alone on the same tokens, called as the compressor calls it (``MeanPoolEncoder.states``): no projector,
no averaging, no summaries brought to the CPU, and padded ids made beforehand. Where lengths differ, the limit runs as many tokens in full
rectangles, without padding; the library's own padded batches and a causal pass without a mask are shown beside it. One document at a time
is ``batch_size=1``: one forward pass a document, as the reference implementation does. Nothing is loaded or tokenised while the clock runs;
tokens are the documents' own.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.arguments import numbers
from benchmarks.provenance import called, device_of, provenance
from benchmarks.tables import source
from benchmarks.timing import Spread, interleaved, shown
from lloco_integrations.evaluation.report import write
from lloco_integrations.reading import CHUNK_OVERLAP, CHUNK_SIZE

if TYPE_CHECKING:
    import torch

    from lloco_integrations.compressors.mean_pool import MeanPoolCompressor, MeanPoolEncoder

RESULT = Path(__file__).parent / "results" / "performance" / "compressing.json"
TARGET = 0.85
"""Share of the limit that compressing should reach."""
GAIN = {"cpu": 1.3, "cuda": 3.0}
"""How many times faster the largest batch should be than one short document at a time, by device."""

Rows = Sequence[Sequence[int]]
Batches = Sequence[tuple["torch.Tensor", "torch.Tensor"]]
"""Ids and bool masks, both ``(rows, length)``, on the encoder's device."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tokens", type=int, default=8192, help="of all documents of one length together")
    parser.add_argument("--lengths", type=numbers, default=[128, 512], help="of documents, in tokens")
    parser.add_argument("--batch-sizes", type=numbers, default=[1, 4, 16])
    parser.add_argument("--passages", type=int, default=40, help="of the example corpus, for the mix of lengths")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    report = measure(args.model, args.device, args.tokens, args.lengths, args.batch_sizes, args.passages, args.repeats)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    write(report, args.json)


def measure(
    name: str, device: str, tokens: int, lengths: Sequence[int], batch_sizes: Sequence[int], passages: int, repeats: int
) -> dict[str, Any]:
    """Seconds of compressing and of bare forward passes: documents of equal length by batch size, then a mix of lengths."""
    from lloco_integrations.compressors.mean_pool import MeanPoolCompressor
    from lloco_integrations.models import load_model

    model = load_model(name, device=device)
    compressor = model.compressor
    if not isinstance(compressor, MeanPoolCompressor):
        raise SystemExit(f"{name} is a compressor of kind {model.spec.kind}; the bare forward pass is known for mean_pool alone")
    rows = [model.text_ids(text) for text in texts(passages)]
    running = [token for row in rows for token in row]
    compressor.compress_ids(rows[:2])  # the first pass is slower than those after it
    return {
        "what": str(__doc__).splitlines()[0],
        **provenance(),
        "command": "python -m benchmarks.compressing",
        "model": called(name),
        "fingerprint": model.fingerprint,
        "device": device_of(model),
        "equal": [equal(compressor, running, length, max(1, tokens // length), batch_sizes, repeats) for length in lengths],
        "mixed": mixed(compressor, rows, max(batch_sizes), repeats),
    }


def equal(
    compressor: MeanPoolCompressor, running: Sequence[int], length: int, documents: int, batch_sizes: Sequence[int], repeats: int
) -> dict[str, Any]:
    """``documents`` of ``length`` tokens each, cut from ``running`` text. Seconds by batch size."""
    endless = cycle(running)
    rows = [list(islice(endless, length)) for _ in range(documents)]
    functions: dict[str, Callable[[], object]] = {}
    for size in batch_sizes:
        functions[f"compressor, {size}"] = partial(compressor.compress_ids, rows, batch_size=size)
        functions[f"forward, {size}"] = forward(compressor.encoder, padded(compressor, rows, size))
    taken = interleaved(functions, repeats, warm=0)
    for which, value in taken.items():
        print(f"{documents} documents of {length} tokens, {which}: {documents * length / value['median']:,.0f} tokens/s", flush=True)
    return {
        "length": length,
        "documents": documents,
        "tokens": documents * length,
        "compressor": {str(size): taken[f"compressor, {size}"] for size in batch_sizes},
        "forward": {str(size): taken[f"forward, {size}"] for size in batch_sizes},
    }


def mixed(compressor: MeanPoolCompressor, rows: Rows, batch_size: int, repeats: int) -> dict[str, Any]:
    """Documents of different lengths. Tokens and seconds of each way; ``shape`` is what the library's batches are padded to, in tokens."""
    own, full = padded(compressor, rows, None), rectangles(compressor, rows)
    tokens = sum(map(len, rows))
    counts = {"one": tokens, "batches": tokens, "library": tokens, "padded": tokens, "full": real_tokens(full), "causal": real_tokens(full)}
    taken = interleaved(
        {
            "one": lambda: compressor.compress_ids(rows, batch_size=1),
            "batches": lambda: compressor.compress_ids(rows, batch_size=batch_size),
            "library": lambda: compressor.compress_ids(rows),
            "padded": forward(compressor.encoder, own),
            "full": forward(compressor.encoder, full),
            "causal": causal(compressor.encoder, full),
        },
        repeats,
        warm=0,
    )
    for which, value in taken.items():
        print(f"{len(rows)} passages, {which}: {counts[which] / value['median']:,.0f} tokens/s", flush=True)
    lengths = sorted(map(len, rows))
    return {
        "documents": len(rows),
        "lengths": {"least": lengths[0], "median": statistics.median(lengths), "most": lengths[-1]},
        "batch_size": batch_size,
        "shape": sum(ids.numel() for ids, _ in own),
        "tokens": counts,
        "seconds": taken,
    }


def texts(passages: int) -> list[str]:
    """``passages`` of the example corpus, from all over it, as ``lloco compress`` cuts them."""
    from lloco_integrations.examples import load_documents
    from lloco_integrations.reading import Splitting

    splitter = Splitting(CHUNK_SIZE, CHUNK_OVERLAP).splitter()
    found = list(dict.fromkeys(text for document in load_documents() for text in splitter.split_text(document.text)))
    return found[:: max(1, len(found) // passages)][:passages]


def padded(compressor: MeanPoolCompressor, rows: Rows, batch_size: int | None) -> Batches:
    """The batches that the compressor itself makes of ``rows``."""
    from lloco_integrations.compressors.mean_pool import pad

    device = compressor.encoder.trunk.device
    return [pad(batch, device) for batch in batched(compressor, rows, batch_size)]


def rectangles(compressor: MeanPoolCompressor, rows: Rows) -> Batches:
    """As many rows a batch as the compressor chooses, and its tokens, but spread evenly: no padding. What does not divide is left out,
    less than a token a row."""
    from lloco_integrations.compressors.mean_pool import pad

    found = []
    for batch in batched(compressor, rows, None):
        ids = [token for row in batch for token in row]
        length = len(ids) // len(batch)
        found.append(pad([ids[i * length : (i + 1) * length] for i in range(len(batch))], compressor.encoder.trunk.device))
    return found


def batched(compressor: MeanPoolCompressor, rows: Rows, batch_size: int | None) -> list[list[Sequence[int]]]:
    """The segments of ``rows`` in the compressor's batches."""
    from lloco_integrations.compressors.base import buckets

    coarsest = compressor.spec.ratios[-1]
    length = compressor.spec.segment_length // coarsest * coarsest
    segments = [row[at : at + length] for row in rows for at in range(0, len(row), length)]
    return [[segments[i] for i in batch] for batch in buckets([len(s) for s in segments], batch_size)]


def forward(encoder: MeanPoolEncoder, batches: Batches) -> Callable[[], None]:
    """Runs the trunk over ``batches`` as the compressor does."""
    import torch

    @torch.inference_mode()
    def run() -> None:
        for ids, mask in batches:
            float(encoder.states(ids, mask)[1][-1, -1, 0])  # waits for a GPU

    return run


def causal(encoder: MeanPoolEncoder, batches: Batches) -> Callable[[], None]:
    """Runs the trunk over ``batches``, which have no padding, as transformers runs a causal model without a mask."""
    import torch

    @torch.inference_mode()
    def run() -> None:
        for ids, _ in batches:
            float(encoder.trunk(input_ids=ids, use_cache=False).last_hidden_state[-1, -1, 0])

    return run


def real_tokens(batches: Batches) -> int:
    """Tokens of ``batches`` without padding."""
    return sum(int(mask.sum()) for _, mask in batches)


def tables(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """Equal lengths by batch size, and the mix of lengths."""
    return {"compressing": _equal_table(report), "compressing mixed": _mixed_table(report)}


def _equal_table(report: Mapping[str, Any]) -> list[str]:
    lines = ["| documents | batch size | tokens/s | bare forward pass, tokens/s | of the limit | against one at a time |"]
    lines += ["|---|--:|--:|--:|--:|--:|"]
    shares = []
    for cell in report["equal"]:
        for size, taken in cell["compressor"].items():
            limit = cell["forward"][size]
            shares.append(limit["median"] / taken["median"])
            gain = f"{cell['compressor']['1']['median'] / taken['median']:.2f}x" if "1" in cell["compressor"] else ""
            lines.append(
                f"| {cell['documents']} of {cell['length']} tokens | {size} | {_speed(cell['tokens'], taken)} | "
                f"{_speed(cell['tokens'], limit)} | {shares[-1]:.0%} | {gain} |"
            )
    reached = sum(share >= TARGET for share in shares)
    return [
        *lines,
        "",
        f"Medians [least, greatest] of {_repeats(report)} passes, {report['device']}. The limit is the encoder's trunk alone on the "
        f"same tokens in the same batches. The target of {TARGET:.0%} of it is reached in {reached} of {len(shares)} rows; the lowest is "
        f"{min(shares):.0%}.{_gained(report)}",
        "",
        source(report, f"performance/{RESULT.name}"),
    ]


def _gained(report: Mapping[str, Any]) -> str:
    """The gain of the largest batch over one document at a time, for the shortest documents, beside its target."""
    cell = min(report["equal"], key=lambda one: one["length"])
    largest = max(cell["compressor"], key=int)
    target = GAIN.get(report["device"].split()[0])
    if "1" not in cell["compressor"] or largest == "1":
        return ""
    gain = cell["compressor"]["1"]["median"] / cell["compressor"][largest]["median"]
    aim = f" (target: {target:g}x)" if target else ""
    return f" Batches of {largest} compress documents of {cell['length']} tokens {gain:.2f}x as fast as one at a time{aim}."


def _mixed_table(report: Mapping[str, Any]) -> list[str]:
    cell = report["mixed"]
    names = {
        "one": "compressing, one document at a time",
        "batches": f"compressing, batches of {cell['batch_size']}",
        "library": "compressing, as the library chooses batches",
        "padded": "bare forward pass, the library's batches with their padding",
        "full": "**bare forward pass, no padding: the limit**",
        "causal": "bare forward pass, no padding, causal and without a mask",
    }
    speeds = {which: cell["tokens"][which] / taken["median"] for which, taken in cell["seconds"].items()}
    lines = ["| | tokens/s | of the limit |", "|---|--:|--:|"]
    for which, name in names.items():
        lines.append(f"| {name} | {_speed(cell['tokens'][which], cell['seconds'][which])} | {speeds[which] / speeds['full']:.0%} |")
    lengths, tokens = cell["lengths"], cell["tokens"]["library"]
    return [
        *lines,
        "",
        f"{cell['documents']} passages of the example corpus, {lengths['least']} to {lengths['most']} tokens (median "
        f"{lengths['median']:g}), {tokens:,} in all; the library's batches are padded by {cell['shape'] / tokens - 1:.1%}. "
        f"The target is {TARGET:.0%} of the limit; the library reaches {speeds['library'] / speeds['full']:.0%}, and "
        f"{speeds['library'] / speeds['one']:.2f}x of one document at a time. {report['device']}.",
        "",
        source(report, f"performance/{RESULT.name}"),
    ]


def _speed(tokens: int, taken: Spread) -> str:
    """Tokens a second with their spread."""
    return shown({"median": tokens / taken["median"], "low": tokens / taken["high"], "high": tokens / taken["low"]}, digits=0)


def _repeats(report: Mapping[str, Any]) -> int:
    return int(report["mixed"]["seconds"]["library"]["n"])


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Tokens a second of the compressor as bars, with the limit and the target over each."""
    from matplotlib.figure import Figure

    bars = [
        (f"{cell['length']} tokens\nbatch {size}", cell["tokens"] / taken["median"], cell["tokens"] / cell["forward"][size]["median"])
        for cell in report["equal"]
        for size, taken in cell["compressor"].items()
    ]
    cell = report["mixed"]
    speeds = {which: cell["tokens"][which] / taken["median"] for which, taken in cell["seconds"].items()}
    for which, name in (("one", "batch 1"), ("batches", f"batch {cell['batch_size']}"), ("library", "default")):
        bars.append((f"passages\n{name}", speeds[which], speeds["full"]))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    at = range(len(bars))
    limits = [limit for _, _, limit in bars]
    axes.bar(at, [speed for _, speed, _ in bars], width=0.7, label="compressing")
    axes.hlines(limits, [i - 0.4 for i in at], [i + 0.4 for i in at], colors="black", label="bare forward pass: the limit")
    axes.hlines(
        [TARGET * limit for limit in limits],
        [i - 0.4 for i in at],
        [i + 0.4 for i in at],
        colors="black",
        linestyles="dashed",
        label=f"target: {TARGET:.0%} of it",
    )
    axes.set(ylabel="tokens/s", ylim=(0, 1.3 * max(limits)))
    axes.set_xticks(list(at), [label for label, _, _ in bars], fontsize=8)
    axes.legend(frameon=False, loc="upper left", ncols=3, fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
