"""What an answer takes from raw text and from summaries: seconds to the first token, seconds a token, the whole answer, memory.

    python -m benchmarks.answering                                   # the default model on this machine, about ten minutes on two cores
    python -m benchmarks.answering --shape llama2-7b --contexts 4096,32768,131072 --batches 1,4 --json OUT   # random weights of that shape

A context of n tokens stands in the prompt as n positions (raw text) or as n / ratio vectors, before a question of 24 tokens and after an
instruction of 16; the answer is always so many tokens long. *Again* is a second question on the same context. Bare transformers is
``generate`` on a model as ``from_pretrained`` gives it. What the tokens are does not matter here, so they are drawn at random, and vectors are
means of their embeddings.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.arguments import numbers
from benchmarks.provenance import called, provenance
from benchmarks.tables import source
from benchmarks.timing import Spread, shown, spread
from lloco_integrations.backends.transformers import TransformersBackend
from lloco_integrations.errors import LLoCOError
from lloco_integrations.evaluation.report import write
from lloco_integrations.types import GenerationParams, ResolvedPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RESULT = Path(__file__).parent / "results" / "performance" / "answering.json"
RATIOS = (4, 8, 16, 32)
BARE, RAW = "bare transformers", "raw text"
INSTRUCTION, QUESTION = 16, 24
CACHE = 4 << 30
TARGETS = {"first": 60, "whole": 20, "again": 2}
"""How many times sooner, at 8,000 tokens and 32x on a CPU."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--shape", choices=list(SHAPES), help="random weights of this shape, in place of --model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--contexts", type=numbers, default=[512, 2048, 8000])
    parser.add_argument("--batches", type=numbers, default=[1, 8])
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3, help="of batch 1; larger ones are measured once")
    parser.add_argument(
        "--largest", type=int, default=20_000, help="positions of a batch of raw text beyond which it is left out, from batch 2 on"
    )
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    args.json.parent.mkdir(parents=True, exist_ok=True)
    measure(args)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The report, which is written after each cell: what was measured stays if the machine goes away. What memory does not hold is named
    in it, and left out."""
    from lloco_integrations.models.load import resolve_device, resolve_dtype

    device, dtype = resolve_device(args.device), resolve_dtype(args.dtype, resolve_device(args.device))
    bare = decoder(args.model, args.shape, device, dtype)
    ours = TransformersBackend(decoder(args.model, args.shape, device, dtype) if device.type == "cpu" else bare, None)
    ours.ends = []
    for model in (bare, ours.model):
        model.generation_config.eos_token_id = None  # type: ignore[union-attr]
    for name, ratio in ((BARE, None), (RATIOS[0], RATIOS[0])):
        _cell(ours, bare, str(name), ratio, min(args.contexts), 1, args.new_tokens, 1)  # the first pass is slower than those after it
    report: dict[str, Any] = {
        "what": str(__doc__).splitlines()[0],
        **provenance(),
        "command": "python -m benchmarks.answering" + (f" --shape {args.shape}" if args.shape else ""),
        "model": args.shape or called(args.model),
        "device": _device(device),
        "dtype": str(dtype).removeprefix("torch."),
        "new_tokens": args.new_tokens,
        "weight_bytes": sum(weight.nbytes for weight in bare.parameters()),
        "read_bytes_per_second": _bandwidth(device),
        "cells": [],
        "out_of_memory": [],
    }
    for batch in args.batches:
        for n in args.contexts:
            for name, ratio in {BARE: None, RAW: None, **{f"{r}x": r for r in RATIOS}}.items():
                if (batch > 1 and name == BARE) or (batch > 1 and ratio is None and batch * n > args.largest):
                    continue
                which = {"method": name, "context": n, "batch": batch}
                try:
                    cell = _cell(ours, bare, name, ratio, n, batch, args.new_tokens, args.repeats if batch == 1 else 1)
                except (torch.OutOfMemoryError, LLoCOError) as error:
                    if not isinstance(error.__cause__ or error, torch.OutOfMemoryError):
                        raise
                    report["out_of_memory"].append(which)
                    print(json.dumps(which), "does not fit into memory", flush=True)
                else:
                    report["cells"].append({**which, **cell})
                    print(json.dumps({k: v["median"] if isinstance(v, dict) else v for k, v in report["cells"][-1].items()}), flush=True)
                write(report, args.json)
    return report


def _cell(
    ours: TransformersBackend, bare: PreTrainedModel, name: str, ratio: int | None, n: int, batch: int, new_tokens: int, repeats: int
) -> dict[str, Any]:
    """One method at one length: ``first``, ``token``, ``whole`` and ``again`` in seconds, ``peak_bytes`` over what was there before."""
    params = GenerationParams(max_new_tokens=new_tokens)
    taken: dict[str, list[float]] = {"first": [], "token": [], "whole": [], "again": []}
    peaks = []
    for turn in range(repeats):
        asked = [prompt(ours.model, n, ratio, seed=1000 * turn + i) for i in range(batch)]
        ours.keep_prefixes(0)
        ours.keep_prefixes(CACHE)
        with peak(ours.model.device) as used:
            if name == BARE:
                ids = torch.tensor([[t for piece in one.pieces for t in piece] for one in asked], device=bare.device)
                how: Any = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
                with torch.inference_mode():
                    times = timed(bare, lambda: bare.generate(ids, attention_mask=torch.ones_like(ids), **how))  # noqa: B023
            else:
                times = timed(ours.model, lambda: ours.generate(asked, params))  # noqa: B023
        first, whole = times[-new_tokens], times[-1]
        taken["first"].append(first)
        taken["whole"].append(whole)
        taken["token"].append((whole - first) / max(1, new_tokens - 1))
        if ratio is not None:
            more = [_asked_again(one) for one in asked]
            taken["again"].append(timed(ours.model, lambda: ours.generate(more, GenerationParams(max_new_tokens=1)))[-1])  # noqa: B023
        peaks.append(used["bytes"])
    return {"positions": asked[0].n_positions, **{k: spread(v) for k, v in taken.items() if v}, "peak_bytes": max(peaks)}


def prompt(model: PreTrainedModel, n: int, ratio: int | None, seed: int) -> ResolvedPrompt:
    """An instruction, a context of ``n`` tokens as text or at ``ratio``, and a question."""
    random = torch.Generator().manual_seed(seed)
    low, high = 10, model.config.vocab_size
    head, context, tail = (torch.randint(low, high, (k,), generator=random) for k in (INSTRUCTION, n, QUESTION))
    middle: list[int] | torch.Tensor = context.tolist()
    if ratio is not None:
        embeddings: Any = model.get_input_embeddings()
        with torch.inference_mode():
            rows = embeddings(context[: n // ratio * ratio].to(model.device))
            middle = rows.view(n // ratio, ratio, -1).float().mean(1).mul(ratio**0.5).to(rows.dtype)
    pieces = (head.tolist(), middle, tail.tolist())
    return ResolvedPrompt(pieces, sum(map(len, pieces)), INSTRUCTION + n + QUESTION)


def _asked_again(one: ResolvedPrompt) -> ResolvedPrompt:
    head, middle, tail = one.pieces
    return ResolvedPrompt((head, middle, list(reversed(list(tail)))), one.n_positions, one.source_tokens)


def timed(model: PreTrainedModel, generate: Callable[[], object]) -> list[float]:
    """Seconds from the start to the end of each forward pass of ``model``; the last is the end of ``generate``."""
    times: list[float] = []

    def note(*_: object) -> None:
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)

    handle = model.register_forward_hook(note)
    began = time.perf_counter()
    try:
        generate()
    finally:
        handle.remove()
    times[-1] = time.perf_counter() - began
    return times


@contextmanager
def peak(device: torch.device) -> Iterator[dict[str, int]]:
    """``bytes``: the most memory that was used inside, over what was used at its start."""
    used = {"bytes": 0}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield used
        used["bytes"] = torch.cuda.max_memory_allocated() - before
        return
    import psutil

    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.01):
            used["bytes"] = max(used["bytes"], process.memory_info().rss - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield used
    finally:
        done.set()
        thread.join()


SHAPES: dict[str, dict[str, int]] = {
    "llama2-7b": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 1 << 18,
    },
    "tiny": {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1 << 14,
    },
}


def decoder(name: str, shape: str | None, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The decoder of a model as transformers loads it, or random weights of a shape."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    if shape is None:
        from lloco_integrations.models.load import decoder_directory

        loaded: Any = AutoModelForCausalLM.from_pretrained(decoder_directory(name), dtype=dtype, trust_remote_code=False)
        return loaded.to(device).eval()  # type: ignore[no-any-return]
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            config = LlamaConfig(**SHAPES[shape], eos_token_id=None, pad_token_id=0)
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def _bandwidth(device: torch.device) -> float:
    """Bytes a second that this machine reads from memory: the sum of 1 GiB, the best of five."""
    block = torch.ones(1 << 28, device=device)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        float(block.sum())
        best = min(best, time.perf_counter() - began)
    return block.nbytes / best


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else f"cpu ({torch.get_num_threads()} threads)"


def tables(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """``answering``: batch 1; ``answering in batches``: the others."""
    batches = sorted({cell["batch"] for cell in report["cells"]})
    made = {"answering": [*_table(report, [1]), "", *_found(report)]}
    if len(batches) > 1:
        made["answering in batches"] = _table(report, batches[1:])
    return made


def _found(report: Mapping[str, Any]) -> list[str]:
    """The longest context that all could read, at the coarsest ratio, beside the targets."""
    lengths = sorted({cell["context"] for cell in report["cells"]}, reverse=True)
    compared = (f"{RATIOS[-1]}x", RAW, BARE)
    for longest in lengths:
        cells = {cell["method"]: cell for cell in report["cells"] if (cell["context"], cell["batch"]) == (longest, 1)}
        if set(compared) <= set(cells):
            break
    else:
        return []
    ours, raw, bare = (cells[name] for name in compared)

    def times(what: str, than: Mapping[str, Any]) -> str:
        return f"{than[what]['median'] / ours[what]['median']:.1f}x"

    again = ours["first"]["median"] / ours["again"]["median"]
    return [
        f"At {longest:,} tokens and {RATIOS[-1]}x, the first token comes {times('first', raw)} sooner than from raw text under the same engine and "
        f"{times('first', bare)} sooner than from bare transformers (target: {TARGETS['first']}x), the whole answer {times('whole', raw)} and "
        f"{times('whole', bare)} (target: {TARGETS['whole']}x), a second question on the same context {again:.1f}x sooner again (target: "
        f"{TARGETS['again']}x). Each further token comes {times('token', bare)} sooner than from bare transformers on the raw text."
    ]


def _table(report: Mapping[str, Any], batches: Sequence[int]) -> list[str]:
    many = batches != [1]
    lines = [
        f"| context |{' batch |' if many else ''} method | positions | first token, s | again, s | a token, ms | whole answer, s | "
        "faster: first | faster: whole | memory, MB |",
        f"|---|{'---|' if many else ''}---|---|---|---|---|---|---|---|---|",
    ]
    for cell in report["cells"]:
        if cell["batch"] not in batches:
            continue
        raw = _raw(report, cell)
        again = shown(cell["again"]) if "again" in cell else ""
        where = f"{cell['context']:,} | {cell['batch']}" if many else f"{cell['context']:,}"
        lines.append(
            f"| {where} | {cell['method']} | {cell['positions']:,} | {shown(cell['first'])} | {again} | {shown(cell['token'], 1e-3, 0)} "
            f"| {shown(cell['whole'])} | {_times(raw, cell, 'first')} | {_times(raw, cell, 'whole')} | {cell['peak_bytes'] / 1e6:,.0f} |"
        )
    limit = report["weight_bytes"] / report["read_bytes_per_second"]
    too_large = [f"{c['method']} at {c['context']:,} tokens" for c in report.get("out_of_memory", []) if c["batch"] in batches]
    return [
        *lines,
        *(["", f"Did not fit into memory: {', '.join(too_large)}."] if too_large else []),
        "",
        f"Answers of {report['new_tokens']} tokens, {report['dtype']}, {report['device']}. *Faster* is against raw text of that length, read by "
        f"the same engine. Memory is what the process grew by on the way; what it had freed before and used again does not show. "
        f"The limit for a token is reading the weights once: {report['weight_bytes'] / 1e6:,.0f} MB at "
        f"{report['read_bytes_per_second'] / 1e9:.0f} GB/s, {1e3 * limit:.0f} ms. {source(report, f'performance/{RESULT.name}')}",
    ]


def _raw(report: Mapping[str, Any], cell: Mapping[str, Any]) -> Mapping[str, Any] | None:
    same = [c for c in report["cells"] if (c["context"], c["batch"], c["method"]) == (cell["context"], cell["batch"], RAW)]
    return same[0] if same else None


def _times(raw: Mapping[str, Any] | None, cell: Mapping[str, Any], what: str) -> str:
    return "" if raw is None or cell is raw else f"{raw[what]['median'] / cell[what]['median']:.1f}x"


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Seconds to the first token and of the whole answer against the length of the context, batch 1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, (what, title) in zip(figure.subplots(1, 2), (("first", "first token"), ("token", "each further token")), strict=True):
        for name in (BARE, RAW, *(f"{r}x" for r in RATIOS)):
            cells = [c for c in report["cells"] if c["method"] == name and c["batch"] == 1]
            axes.plot([c["context"] for c in cells], [c[what]["median"] for c in cells], marker="o", markersize=3, label=name)
        if what == "token":
            axes.axhline(report["weight_bytes"] / report["read_bytes_per_second"], color="grey", linestyle=":", label="weights read once")
        axes.set(xscale="log", yscale="log", xlabel="tokens of context", ylabel="seconds", title=title)
        lengths = sorted({cell["context"] for cell in report["cells"]})
        axes.set_xticks(lengths, [f"{n:,}" for n in lengths])
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=120)


__all__ = ["Spread", "main", "measure", "plot", "tables"]


if __name__ == "__main__":
    main()
