"""How fast are a store's reads and writes, beside plain files of the same bytes, and how many bytes does a source token take?

    python -m benchmarks.storing    # about a minute; writes two gigabytes into a temporary directory, and deletes them

The example corpus's passages are compressed once; their summaries, again and again under other texts, are the entries. Everything read has
been written and read just before, so it comes from the page cache of the operating system, for stores and plain files alike. Each way reads
the same values (``get_many``, checked and decoded) or the same bytes (plain files, as they are), in the same order, as many at a time as
a question needs. Puts go into new stores and are durable on return; so are the plain files (fsync: of the one file once, of a file an entry
each). The parts of a store's read stand beside it: the bytes as SQLite gives them, and checking and decoding them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.compressing import texts
from benchmarks.provenance import called, device_of, provenance
from benchmarks.scale import stored
from benchmarks.tables import source
from benchmarks.timing import Spread, interleaved, shown
from lloco_integrations.evaluation.report import write
from lloco_integrations.store.backend import Backend, chunks

if TYPE_CHECKING:
    from lloco_integrations.store import SummaryStore
    from lloco_integrations.types import SummaryEmbeddings

RESULT = Path(__file__).parent / "results" / "performance" / "storing.json"
STORAGES = ("exact", "int8")
TARGET = 0.5
"""Share of the speed of a plain file that a store's reads should reach."""
NAMES = {
    "sqlite": "SQLite store",
    "directory": "directory store",
    "files": "plain files, one an entry",
    "file": "**one plain file: the limit**",
    "raw": "part of a store's read: the bytes from SQLite",
    "decode": "part of a store's read: checking and decoding bytes in memory",
    "sha256": "part of that: SHA-256 of the bytes",
}

Items = Sequence[tuple[str, "SummaryEmbeddings"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--entries", type=int, default=1000, help="to read")
    parser.add_argument("--written", type=int, default=128, help="entries to write, of those")
    parser.add_argument("--passages", type=int, default=32, help="of the example corpus, which the entries are made of")
    parser.add_argument("--batch", type=int, default=8, help="entries in one get_many")
    parser.add_argument("--repeats", type=int, default=5, help="of reading and of writing")
    args = parser.parse_args()
    report = measure(args.model, args.entries, args.written, args.passages, args.batch, args.repeats)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    write(report, args.json)


def measure(name: str, entries: int, written: int, passages: int, batch: int, repeats: int) -> dict[str, Any]:
    """Bytes of both storages at every ratio, and seconds of reading and of writing them."""
    from lloco_integrations.models import load_model

    model = load_model(name, dtype="bfloat16")
    sources = texts(passages)
    summaries = model.compress(sources)
    items = [(f"entry {i}", summaries[i % len(summaries)]) for i in range(entries)]
    report: dict[str, Any] = {
        "what": str(__doc__).splitlines()[0],
        **provenance(),
        "command": "python -m benchmarks.storing",
        "model": called(name),
        "fingerprint": model.fingerprint,
        "device": device_of(model),
        "entries": {
            "read": entries,
            "written": min(written, entries),
            "at_a_time": batch,
            "vectors": sum(summary.n_vectors for _, summary in items),
            "tokens": sum(summary.n_tokens for _, summary in items),
            "width": int(summaries[0].vectors.shape[1]),
            "dtype": str(summaries[0].vectors.dtype).removeprefix("torch."),
        },
        "text": {"bytes": sum(len(text.encode()) for text in sources), "tokens": sum(summary.n_tokens for summary in summaries)},
        "sizes": {},
        "reading": {},
        "writing": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        report["sizes"] = sizes(Path(folder) / "sizes", items[:written], model.spec.ratios)
    for storage in STORAGES:
        with tempfile.TemporaryDirectory() as folder:
            report["reading"][storage] = reading(Path(folder), storage, items, batch, repeats)
        with tempfile.TemporaryDirectory() as folder:
            report["writing"][storage] = writing(Path(folder), storage, items[:written], repeats)
    return report


def sizes(folder: Path, items: Items, ratios: Sequence[int]) -> list[dict[str, Any]]:
    """Entries, vectors, tokens and bytes of SQLite stores that hold ``items`` at each of ``ratios``; see ``benchmarks.scale.stored``."""
    found: list[dict[str, Any]] = []
    for ratio in ratios:
        coarse = [(text, summary.coarsen(ratio)) for text, summary in items]
        for storage in STORAGES:
            found.append({"ratio": ratio, "storage": storage, **stored(folder / f"{ratio}{storage}.sqlite", storage, coarse)})
            print(f"{ratio}x, {storage}: {found[-1]['value_bytes'] / found[-1]['tokens']:.1f} bytes a token", flush=True)
    return found


def reading(folder: Path, storage: str, items: Items, batch: int, repeats: int) -> dict[str, Any]:
    """Bytes and seconds of reading all of ``items`` in every way of NAMES."""
    from lloco_integrations.store.codec import decode
    from lloco_integrations.store.sqlite import SqliteBackend

    stores = {kind: opened(kind, folder / kind, storage) for kind in ("sqlite", "directory")}
    keys = {kind: store.put_many(items) for kind, store in stores.items()}
    values = values_of(folder / "directory", keys["directory"])
    lengths = [len(value) for value in values]
    one, each = folder / "one", [folder / f"each{i}" for i in range(len(values))]
    write_one(one, values)
    write_each(each, values)
    raw = SqliteBackend(folder / "sqlite.sqlite")
    seal = stores["directory"]._meta.seal
    taken = interleaved(
        {
            "sqlite": partial(read_store, stores["sqlite"], keys["sqlite"], batch),
            "directory": partial(read_store, stores["directory"], keys["directory"], batch),
            "files": partial(read_each, each, batch),
            "file": partial(read_one, one, lengths, batch),
            "raw": partial(read_raw, raw, keys["sqlite"], batch),
            "decode": lambda: [decode(key, value, seal) for key, value in zip(keys["directory"], values, strict=True)],
            "sha256": lambda: [hashlib.sha256(value).digest() for value in values],
        },
        repeats,
    )
    raw.close()
    for store in stores.values():
        store.close()
    return _told("read", storage, len(items), sum(lengths), taken)


def writing(folder: Path, storage: str, items: Items, repeats: int) -> dict[str, Any]:
    """Bytes and seconds of writing all of ``items`` into something new, in every way of NAMES that writes."""
    with opened("directory", folder / "values", storage) as store:
        values = values_of(folder / "values", store.put_many(items))
    turns = range(repeats + 1)  # the first does not count
    stores = {kind: [opened(kind, folder / f"{kind}{turn}", storage) for turn in turns] for kind in ("sqlite", "directory")}
    empty = {kind: iter(some) for kind, some in stores.items()}
    names = (folder / f"plain{i}" for i in count())
    taken = interleaved(
        {
            "sqlite": lambda: next(empty["sqlite"]).put_many(items),
            "directory": lambda: next(empty["directory"]).put_many(items),
            "files": lambda: write_each([next(names) for _ in values], values),
            "file": lambda: write_one(next(names), values),
        },
        repeats,
    )
    for store in (*stores["sqlite"], *stores["directory"]):
        store.close()
    return _told("written", storage, len(items), sum(map(len, values)), taken)


def opened(kind: str, path: Path, storage: str) -> SummaryStore:
    """A new store: ``sqlite`` is the file PATH.sqlite, ``directory`` the folder PATH."""
    from lloco_integrations.store import SummaryStore

    return SummaryStore.open(f"sqlite:///{path}.sqlite" if kind == "sqlite" else f"file://{path}", storage=storage)


def values_of(folder: Path, keys: Sequence[str]) -> list[bytes]:
    """The bytes that the directory store at ``folder`` holds under ``keys``; every store holds the same."""
    return [(folder / key[:2] / f"{key}.safetensors").read_bytes() for key in keys]


def read_store(store: SummaryStore, keys: Sequence[str], batch: int) -> None:
    """The summaries of ``keys``, ``batch`` in memory at a time."""
    for some in chunks(keys, batch):
        store.get_many(some)


def read_raw(place: Backend, keys: Sequence[str], batch: int) -> None:
    """The values of ``keys``, neither checked nor decoded."""
    for some in chunks(keys, batch):
        place.get(some)


def read_one(path: Path, lengths: Sequence[int], batch: int) -> None:
    """The file's bytes in pieces of ``lengths``."""
    with open(path, "rb") as file:
        for some in chunks(lengths, batch):
            list(map(file.read, some))


def read_each(paths: Sequence[Path], batch: int) -> None:
    """The bytes of all files."""
    for some in chunks(paths, batch):
        list(map(Path.read_bytes, some))


def write_one(path: Path, values: Sequence[bytes]) -> None:
    """All of ``values`` into one new file, durably."""
    with open(path, "xb") as file:
        file.writelines(values)
        file.flush()
        os.fsync(file.fileno())


def write_each(paths: Sequence[Path], values: Sequence[bytes]) -> None:
    """Each of ``values`` into a new file of its own, durably."""
    for path, value in zip(paths, values, strict=True):
        write_one(path, [value])


def _told(done: str, storage: str, entries: int, n_bytes: int, taken: Mapping[str, Spread]) -> dict[str, Any]:
    for which, value in taken.items():
        print(f"{storage}, {which}: {entries} entries {done} at {n_bytes / value['median'] / 1e6:,.0f} MB/s", flush=True)
    return {"entries": entries, "bytes": n_bytes, "seconds": dict(taken)}


def tables(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """Reading, writing, and bytes a token."""
    return {"storing reads": _reading_table(report), "storing writes": _writing_table(report), "storing sizes": _sizes_table(report)}


def _reading_table(report: Mapping[str, Any]) -> list[str]:
    held = report["entries"]
    shares = {
        f"{NAMES[kind]}, {storage}": _share(report["reading"][storage], kind) for storage in STORAGES for kind in ("sqlite", "directory")
    }
    reached = [name for name, share in shares.items() if share >= TARGET]
    found = "; ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return [
        *_rows(report["reading"]),
        "",
        f"{held['read']:,} entries of {held['tokens'] / held['read']:.0f} tokens and {held['vectors'] / held['read']:.0f} vectors on "
        f"average, {held['width']} x {held['dtype']} each, {held['at_a_time']} at a time, all from the page cache; one thread. Speeds are "
        f"of stored bytes, of which int8 has half. The target is {TARGET:.0%} of one plain file, reached by {len(reached)} of "
        f"{len(shares)}: {found}.",
        "",
        source(report, f"performance/{RESULT.name}"),
    ]


def _writing_table(report: Mapping[str, Any]) -> list[str]:
    return [
        *_rows(report["writing"]),
        "",
        f"{report['entries']['written']:,} entries put into new stores, durable on return: SQLite and the directory flush after every 32 "
        "entries, the plain file once, plain files one by one. There is no target.",
        "",
        source(report, f"performance/{RESULT.name}"),
    ]


def _rows(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["| | storage | MB/s | entries/s | of one plain file | of plain files |", "|---|---|--:|--:|--:|--:|"]
    for storage, cell in cells.items():
        for kind, taken in cell["seconds"].items():
            lines.append(
                f"| {NAMES[kind]} | {storage} | {_speed(cell['bytes'] / 1e6, taken)} | {cell['entries'] / taken['median']:,.0f} | "
                f"{_share(cell, kind):.0%} | {_share(cell, kind, 'files'):.0%} |"
            )
    return lines


def _sizes_table(report: Mapping[str, Any]) -> list[str]:
    cells = {(cell["ratio"], cell["storage"]): cell for cell in report["sizes"]}
    exact = report["entries"]["dtype"]
    lines = [
        f"| tokens a vector | exact ({exact}), bytes a token | int8, bytes a token | int8 over exact | file over values, exact | int8 |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for ratio in dict.fromkeys(ratio for ratio, _ in cells):
        both = [cells[ratio, storage] for storage in STORAGES]
        a_token = [cell["value_bytes"] / cell["tokens"] for cell in both]
        over = [f"{cell['file_bytes'] / cell['value_bytes']:.2f}x" for cell in both]
        lines.append(f"| {ratio} | {a_token[0]:.1f} | {a_token[1]:.1f} | {a_token[1] / a_token[0]:.0%} | {over[0]} | {over[1]} |")
    text = report["text"]
    return [
        *lines,
        "",
        f"Bytes a source token as stored, headers and checksums among them; the text itself has {text['bytes'] / text['tokens']:.1f} bytes "
        f"a token (UTF-8). A store keeps the finest ratio, from which the coarser ones are read; their rows are what "
        "keeping only those would take. The file is that of SQLite.",
        "",
        source(report, f"performance/{RESULT.name}"),
    ]


def _share(cell: Mapping[str, Any], kind: str, of: str = "file") -> float:
    """Speed of ``kind`` over that of ``of``."""
    return float(cell["seconds"][of]["median"] / cell["seconds"][kind]["median"])


def _speed(amount: float, taken: Spread) -> str:
    """``amount`` a second with its spread."""
    return shown({"median": amount / taken["median"], "low": amount / taken["high"], "high": amount / taken["low"]}, digits=0)


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Speed of reading as bars, with one plain file and the target over each group."""
    from matplotlib.figure import Figure

    kinds = ("sqlite", "directory", "files")
    bars = [
        (f"{NAMES[kind].replace(', ', chr(10))}\n{storage}", cell["bytes"] / 1e6 / cell["seconds"][kind]["median"])
        for storage, cell in report["reading"].items()
        for kind in kinds
    ]
    limits = [cell["bytes"] / 1e6 / cell["seconds"]["file"]["median"] for cell in report["reading"].values()]
    starts, ends = ([len(kinds) * i + edge for i in range(len(limits))] for edge in (-0.45, len(kinds) - 0.55))
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(bars)), [speed for _, speed in bars], width=0.7, label="reading")
    axes.hlines(limits, starts, ends, colors="black", label="one plain file: the limit")
    target = [TARGET * limit for limit in limits]
    axes.hlines(target, starts, ends, colors="black", linestyles="dashed", label=f"target: {TARGET:.0%} of it")
    axes.set(ylabel="MB/s", ylim=(0, 1.3 * max(limits)))
    axes.set_xticks(range(len(bars)), [label for label, _ in bars], fontsize=8)
    axes.legend(frameon=False, loc="upper left", ncols=3, fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
