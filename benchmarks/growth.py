"""How does what a store, a compressor and adapters cost grow: with entries, with the length of a document, with adapters loaded?

    python -m benchmarks.growth                           # about three minutes on two cores; 0.7 GB in a temporary directory
    python -m benchmarks.growth --entries 100,1000,10000  # less

*Entries*: SQLite stores of tiny entries, one of each size, asked in turn, so that what slows the machine slows all sizes. ``put_many``
writes 32 entries a transaction and would take many minutes for 10^6, so the stores are filled by the same backend with 10,000 rows a
transaction; of a large store, 10,000 entries from all over it are whole, and it is those that are read; the others have rows and bytes of
the same size. Files are in the page cache. *Length*: compressing one document. *Adapters*: random LoRAs of the rank that ``lloco learn``
makes, one model for each number of them; questions are asked under each adapter in turn, and under none. Every prompt begins with a number
of its own, so that no cache helps.
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.arguments import numbers
from benchmarks.provenance import called, device_of, provenance
from benchmarks.tables import source
from benchmarks.timing import interleaved, shown, spread
from lloco_integrations.evaluation.report import write
from lloco_integrations.types import NO_ADAPTER, GenerationParams, SummaryEmbeddings

if TYPE_CHECKING:
    from lloco_integrations.models import LLoCOModel
    from lloco_integrations.store import SummaryStore

RESULT = Path(__file__).parent / "results" / "performance" / "growth.json"
WIDTH = 32
"""Elements of the one float16 vector of an entry."""
COMPRESSOR = "0" * 64
"""Fingerprint of the entries."""
ROWS, WHOLE = 10_000, 10_000
"""Rows in one transaction of filling, and entries that can be read in a store that has more."""
CALLS = ("get_many", "info_many", "put_many", "delete_many")
RANK, ALPHA = 16, 32
"""Of ``lloco learn``."""
QUESTION = "What does an observatory look at?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--entries", type=numbers, default=[100, 1000, 10_000, 100_000, 1_000_000], help="in the store")
    parser.add_argument("--at-once", type=int, default=8, help="entries in one call of the store")
    parser.add_argument("--calls", type=int, default=200, help="of each kind, of each store")
    parser.add_argument("--lengths", type=numbers, default=[512, 2048, 8192], help="of the document, in tokens")
    parser.add_argument("--adapters", type=numbers, default=[0, 1, 4, 8], help="loaded")
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3, help="of compressing")
    parser.add_argument("--questions", type=int, default=32, help="under adapters, and under none, by number of adapters")
    args = parser.parse_args()
    report = measure(args)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    write(report, args.json)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All three kinds of growth."""
    from lloco_integrations.models import load_model

    with tempfile.TemporaryDirectory() as folder:
        entries = store_calls(Path(folder), args.entries, args.at_once, args.calls)
    model = load_model(args.model)
    lengths = compressing(model, args.lengths, args.repeats)
    with tempfile.TemporaryDirectory() as folder:
        adapters = answering(args.model, Path(folder), args.adapters, args.new_tokens, args.questions)
    return {
        "what": str(__doc__).splitlines()[0],
        **provenance(),
        "command": "python -m benchmarks.growth",
        "model": called(args.model),
        "fingerprint": model.fingerprint,
        "device": device_of(model),
        "entries": entries,
        "lengths": lengths,
        "adapters": adapters,
    }


def store_calls(folder: Path, sizes: Sequence[int], at_once: int, calls: int) -> dict[str, Any]:
    """Seconds of each of CALLS on ``at_once`` entries, by entries in the store; seconds of filling, and bytes of the files."""
    from lloco_integrations.store import SummaryStore

    paths = {n: folder / f"{n}.sqlite" for n in sizes}
    functions: dict[str, Callable[[], object]] = {}
    stores, filling = [], {}
    for n, path in paths.items():
        began = time.perf_counter()
        keys = fill(path, n)
        filling[str(n)] = time.perf_counter() - began
        print(f"{n:,} entries filled in {filling[str(n)]:.1f} s", flush=True)
        store = SummaryStore.open(path)
        stores.append(store)
        for call, function in store_functions(store, keys, min(at_once, n), calls + 1).items():
            functions[f"{call} {n}"] = function
    n_bytes = {str(n): path.stat().st_size for n, path in paths.items()}
    taken = interleaved(functions, calls)
    for store in stores:
        store.close()
    for which, value in taken.items():
        print(f"{which}: {shown(value, 1e-3, 3)} ms", flush=True)
    return {
        "at_once": at_once,
        "filling": filling,
        "bytes": n_bytes,
        "seconds": {call: {str(n): taken[f"{call} {n}"] for n in sizes} for call in CALLS},
    }


def fill(path: Path, n: int) -> list[str]:
    """Makes a store of ``n`` entries and returns the keys of those that are whole: all of them, or about WHOLE."""
    from lloco_integrations.store.codec import encode
    from lloco_integrations.store.keys import make_key
    from lloco_integrations.store.meta import StoreMeta
    from lloco_integrations.store.sqlite import SqliteBackend

    backend = SqliteBackend(path)
    secret = backend.load_meta(StoreMeta.new("exact")).secret
    every = -(-n // WHOLE)
    summary, now, whole = small_summary(), time.time(), []
    for start in range(0, n, ROWS):
        rows = []
        for i in range(start, min(start + ROWS, n)):
            key = make_key(secret, COMPRESSOR, f"text {i}")
            if i % every == 0:
                value, info = encode(key, summary, "exact", now)
                whole.append(key)
            rows.append((key, value, info))
        backend.put(rows)
    backend.close()
    return whole


def small_summary() -> SummaryEmbeddings:
    """One vector ``(1, WIDTH)`` for four tokens."""
    import torch

    return SummaryEmbeddings(torch.ones(1, WIDTH, dtype=torch.float16), 4, COMPRESSOR, window=4)


def store_functions(store: SummaryStore, keys: Sequence[str], at_once: int, turns: int) -> dict[str, Callable[[], object]]:
    """What is timed for one store, by name; each may be called ``turns`` times. Deletes remove what was put: the size stays."""
    rng = random.Random(0)
    read, described = (iter([rng.sample(keys, at_once) for _ in range(turns)]) for _ in range(2))
    new = [(f"new text {i}", small_summary()) for i in range(at_once)]
    new_keys = [store.key(COMPRESSOR, text) for text, _ in new]
    return {
        "get_many": lambda: store.get_many(next(read)),
        "info_many": lambda: store.info_many(next(described)),
        "put_many": lambda: store.put_many(new),
        "delete_many": lambda: store.delete_many(new_keys),
    }


def compressing(model: LLoCOModel, lengths: Sequence[int], repeats: int) -> dict[str, Any]:
    """Seconds of compressing one document, by its tokens; the documents are the example corpus, one after the other, cut."""
    from lloco_integrations.examples import load_documents

    running = itertools.cycle([token for document in load_documents() for token in model.text_ids(document.text)])
    documents = {length: list(itertools.islice(running, length)) for length in lengths}
    model.compress_ids([documents[min(lengths)]])  # the first pass is slower than those after it
    taken = interleaved({str(n): partial(model.compress_ids, [ids]) for n, ids in documents.items()}, repeats, warm=0)
    for n, value in taken.items():
        print(f"compressing {n} tokens: {shown(value)} s", flush=True)
    return {"seconds": taken}


def answering(name: str, folder: Path, counts: Sequence[int], new_tokens: int, questions: int) -> dict[str, Any]:
    """Seconds of a short answer by adapters loaded: the first under each adapter, later ones, and those under none."""
    from lloco_integrations.models import load_model

    paths = save_adapters(name, folder, max(counts))
    params = GenerationParams(max_new_tokens=new_tokens)
    numbers = itertools.count(1)
    functions: dict[str, Callable[[], object]] = {}
    first = {}
    for n in counts:
        some = dict(list(paths.items())[:n])
        model = load_model(name, adapters=some)
        model.backend.ends = []  # every answer has as many tokens
        asking(model, [NO_ADAPTER], numbers, params)()  # the first pass is slower than those after it
        functions[f"none {n}"] = asking(model, [NO_ADAPTER], numbers, params)
        if n:
            ask = asking(model, list(some), numbers, params)
            first[str(n)] = spread([_seconds(ask) for _ in some])
            functions[f"adapter {n}"] = ask
            print(f"{n} adapters, first use of each: {shown(first[str(n)])} s", flush=True)
    taken = interleaved(functions, questions)
    for which, value in taken.items():
        print(f"{which}: {shown(value)} s", flush=True)
    return {
        "new_tokens": new_tokens,
        "rank": RANK,
        "bytes": sum(file.stat().st_size for file in folder.glob("*/*.safetensors")) // max(1, len(paths)),
        "first": first,
        "adapter": {str(n): taken[f"adapter {n}"] for n in counts if n},
        "none": {str(n): taken[f"none {n}"] for n in counts},
    }


def save_adapters(name: str, folder: Path, count: int) -> dict[str, str]:
    """``count`` random LoRAs for the decoder of the model ``name``, as names and directories below ``folder``."""
    if not count:
        return {}
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from lloco_integrations.models.load import decoder_directory, no_bars

    names = [f"adapter{i}" for i in range(count)]
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    with no_bars():
        base = AutoModelForCausalLM.from_pretrained(
            decoder_directory(name), dtype=torch.bfloat16, local_files_only=True, trust_remote_code=False
        )
    model = get_peft_model(base, config, adapter_name=names[0], autocast_adapter_dtype=False)
    for one in names[1:]:
        model.add_adapter(one, config, autocast_adapter_dtype=False)
    model.save_pretrained(str(folder))
    return {one: str(folder / one) for one in names}


def asking(model: LLoCOModel, names: Sequence[str], numbers: Iterator[int], params: GenerationParams) -> Callable[[], object]:
    """A function that asks one question, under the next of ``names`` each time."""
    turns = itertools.cycle(names)
    return lambda: model.generate([f"{next(numbers)}. {QUESTION}"], params, adapters=[next(turns)])


def _seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def tables(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """One table for each kind of growth."""
    return {
        "growth entries": _entries_table(report),
        "growth lengths": _lengths_table(report),
        "growth adapters": _adapters_table(report),
    }


def _entries_table(report: Mapping[str, Any]) -> list[str]:
    cell = report["entries"]
    sizes = list(cell["bytes"])
    lines = [f"| entries | file, MB | {', ms | '.join(CALLS)}, ms |", "|--:|--:|--:|--:|--:|--:|"]
    for n in sizes:
        times = " | ".join(shown(cell["seconds"][call][n], 1e-3) for call in CALLS)
        lines.append(f"| {int(n):,} | {cell['bytes'][n] / 1e6:.1f} | {times} |")
    few, many = min(sizes, key=int), max(sizes, key=int)
    grown = ", ".join(f"{call} {cell['seconds'][call][many]['median'] / cell['seconds'][call][few]['median']:.2f}x" for call in CALLS)
    return [
        *lines,
        "",
        f"Each call on {cell['at_once']} entries, drawn at random where it reads; medians [least, greatest] of "
        f"{cell['seconds']['get_many'][few]['n']} calls, SQLite, files in the page cache. From {int(few):,} to {int(many):,} entries: "
        f"{grown}. The target is that these are flat. Entries are tiny (one vector), so that it is the number of them that costs; "
        f"stores were filled in transactions of {ROWS:,} rows, and reads draw from {WHOLE:,} whole entries where there are more.",
        "",
        source(report, f"performance/{RESULT.name}"),
    ]


def _lengths_table(report: Mapping[str, Any]) -> list[str]:
    taken = report["lengths"]["seconds"]
    shortest = min(taken, key=int)
    lines = ["| tokens of the document | seconds | tokens/s | time over that of the shortest | tokens over the shortest |"]
    lines += ["|--:|--:|--:|--:|--:|"]
    for n, value in taken.items():
        lines.append(
            f"| {int(n):,} | {shown(value)} | {int(n) / value['median']:,.0f} | {value['median'] / taken[shortest]['median']:.1f}x | "
            f"{int(n) / int(shortest):g}x |"
        )
    return [
        *lines,
        "",
        f"One document, compressed from its token ids, {report['device']}. It is linear in the length if the last two columns agree: "
        "segments are encoded alone.",
        "",
        source(report, f"performance/{RESULT.name}"),
    ]


def _adapters_table(report: Mapping[str, Any]) -> list[str]:
    cell = report["adapters"]
    lines = [
        "| adapters loaded | first question under each, s | later questions under one, s | under none, s | under one, over none loaded |"
    ]
    lines += ["|--:|--:|--:|--:|--:|"]
    plain = cell["none"].get("0")
    for n, none in cell["none"].items():
        first, later = cell["first"].get(n), cell["adapter"].get(n)
        over = f"{later['median'] / plain['median']:.2f}x" if later and plain else ""
        lines.append(f"| {n} | {shown(first) if first else ''} | {shown(later) if later else ''} | {shown(none)} | {over} |")
    return [
        *lines,
        "",
        f"{cell['new_tokens']} new tokens after a short prompt, batch 1, {report['device']}; random LoRAs of rank {cell['rank']} on all "
        f"linear layers, {cell['bytes'] / 1e6:.1f} MB each, asked in turn. The first question loads the adapter (from the page cache), "
        "later ones find it in memory.",
        "",
        source(report, f"performance/{RESULT.name}"),
    ]


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Milliseconds of each call by entries; the target is the line of the smallest store, drawn on."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for call in CALLS:
        taken = report["entries"]["seconds"][call]
        sizes = [int(n) for n in taken]
        times = [1e3 * value["median"] for value in taken.values()]
        (line,) = axes.plot(sizes, times, marker="o", label=call)
        axes.hlines(times[0], sizes[0], sizes[-1], colors=line.get_color(), linestyles="dotted", linewidth=1)
    axes.plot([], [], color="grey", linestyle="dotted", linewidth=1, label="flat: the target")
    axes.set(xlabel="entries in the store", ylabel=f"ms for {report['entries']['at_once']} entries", xscale="log", yscale="log")
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
