"""``lloco store``: look into a store of summary embeddings, check it, and clear it up."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import islice
from typing import Annotated

import typer
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lloco_integrations.cli.options import DeviceOption, ModelOption, StoreOption
from lloco_integrations.cli.screen import LongWork, screen
from lloco_integrations.errors import BadInput, DamagedEntry
from lloco_integrations.paths import make_private, touch_private
from lloco_integrations.store import Damage, EntryInfo, SummaryStore, Totals
from lloco_integrations.store.backend import shown
from lloco_integrations.store.opening import open_backend, uncached

app = typer.Typer(help="The store of summary embeddings: what it holds, whether it is sound, what may go, a copy.", no_args_is_help=True)

_DAY = 86400.0
_SHOWN = 20
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
AddressArgument = Annotated[str | None, typer.Argument(metavar="[ADDRESS]", help="The same as --store.", show_default=False)]


@app.command()
def stats(address: AddressArgument = None, store: StoreOption = None) -> None:
    """Totals of a store, also per compressor."""
    with _open(address, store) as opened:
        found = opened.stats()
        table = Table(title=Text(f"{shown(opened.url)} ({opened.storage})"))
    for name in ("compressor", "entries", "vectors", "source tokens", "ratio", "size"):
        table.add_column(name, justify="left" if name == "compressor" else "right")
    for fingerprint, totals in sorted(found.by_fingerprint.items()):
        table.add_row(Text(fingerprint), *_row(totals))
    table.add_section()
    table.add_row("all", *_row(found))
    console = screen()
    console.print(table)
    if found.unreadable:
        console.print(f"{found.unreadable} entries are damaged; list them with: lloco store verify")


@app.command("ls")
def list_entries(
    address: AddressArgument = None,
    store: StoreOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many entries.")] = 100,
    group: Annotated[str | None, typer.Option(help="Only entries of this group.")] = None,
) -> None:
    """The entries of a store. Keys are capabilities: whoever has one can read the entry."""
    table = Table()
    for name in ("key", "vectors", "tokens", "window", "group", "compressor", "size", "stored"):
        numeric = name in ("vectors", "tokens", "window", "size")
        table.add_column(name, justify="right" if numeric else "left", no_wrap=name == "key")
    with _open(address, store) as opened:
        keys = opened.keys()
        rows = ((key, info) for key in keys if (info := _info(opened, key)) is not None)
        wanted = ((key, info) for key, info in rows if group is None or (isinstance(info, EntryInfo) and info.group == group))
        shown = list(islice(wanted, limit + 1))
    for key, info in shown[:limit]:
        if isinstance(info, DamagedEntry):
            table.add_row(key, "damaged")
            continue
        stored = time.strftime("%Y-%m-%d %H:%M", time.localtime(info.created))
        cells = (f"{info.n_vectors:,}", f"{info.n_tokens:,}", str(info.window or "-"), info.group or "-")
        table.add_row(key, *map(Text, cells), Text(info.fingerprint[:12]), decimal(info.nbytes), stored)
    console = screen()
    console.print(table)
    if len(shown) > limit:
        console.print(f"There are more than {limit}; show them with --limit.")


@app.command()
def verify(
    address: AddressArgument = None,
    store: StoreOption = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Compress damaged entries again, and bring a store of an earlier version to this version's format."),
    ] = False,
    model: ModelOption = "smollm2-135m",
    device: DeviceOption = "auto",
) -> None:
    """Read and check every entry. Lists damaged ones and exits with 1 if there are any.

    --repair compresses those again whose texts were compressed with --model by lloco compress on this machine.
    """
    with _open(address, store) as opened, _progress() as progress:
        if repair and (renewed := opened.upgrade()):
            typer.echo(f"{renewed:,} entries of an earlier version were written anew.")
        damaged = opened.verify(_counting(progress, "checking"))
        if repair and damaged:
            healed = _repair(opened, damaged, model, device)
            typer.echo(f"{len(healed):,} damaged entries were compressed again.")
            damaged = [key for key in damaged if key not in healed]
            opened.upgrade()
        count = opened.stats().entries
    for key in damaged:
        typer.echo(key)
    if damaged:
        remedy = (
            "No document compressed here with this --model has them. Delete them with: lloco store gc --damaged --yes"
            if repair
            else "Compress those again whose documents are known with: lloco store verify --repair; delete them with: lloco store gc "
            "--damaged --yes, then compress their texts again."
        )
        typer.echo(f"{len(damaged)} damaged entries. {remedy}", err=True)
        raise typer.Exit(1)
    typer.echo(f"All {count:,} entries are sound.")


def _repair(store: SummaryStore, damaged: Sequence[str], model: str, device: str) -> set[str]:
    """Compresses again what is damaged and in the catalogue; returns the keys. The model is loaded only if there is something to do."""
    from lloco_integrations.cli.known import fingerprint_and_files
    from lloco_integrations.engine import Engine

    texts = _catalogued(store)
    if not texts:
        return set()
    engine = Engine(model, store, device=device)
    fingerprint, _ = fingerprint_and_files(engine, None)
    wanted = set(damaged)
    known = {key: text for text in texts if (key := store.key(fingerprint, text)) in wanted}
    kept = dict(zip(known, store.sound_many(list(known)), strict=True))
    store.delete_many(list(known))
    groups = [found.group if isinstance(found := kept[key], Damage) else None for key in known]
    engine.compress(list(known.values()), groups=groups)
    return set(known)


@app.command()
def gc(
    address: AddressArgument = None,
    store: StoreOption = None,
    damaged: Annotated[bool, typer.Option("--damaged", help="Damaged entries.")] = False,
    older_than: Annotated[float | None, typer.Option(min=0, help="Entries stored more than so many days ago.")] = None,
    group: Annotated[str | None, typer.Option(help="Entries of this group.")] = None,
    foreign: Annotated[bool, typer.Option("--foreign", help="Entries of compressors other than those kept.")] = False,
    keep: Annotated[list[str] | None, typer.Option(help="A fingerprint that --foreign keeps; repeat for several.")] = None,
    unreachable: Annotated[
        bool, typer.Option("--unreachable", help="Entries that no document in the catalogue of lloco compress on this machine refers to.")
    ] = False,
    max_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The oldest entries, until the store fits: 500MB, 2GiB, or a number of bytes.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only say what would be deleted.")] = False,
) -> None:
    """Delete entries that meet every condition given (damaged ones in any case with --damaged)."""
    if foreign != bool(keep):
        raise BadInput("--foreign needs --keep FINGERPRINT, and --keep needs --foreign; see lloco store stats for fingerprints")
    if not (damaged or foreign or unreachable or older_than is not None or group is not None or max_bytes is not None):
        raise BadInput(
            "say what may go: --damaged, --older-than DAYS, --group NAME, --unreachable, --max-bytes SIZE, or --foreign --keep FINGERPRINT"
        )
    age = None if older_than is None else older_than * _DAY
    limit = None if max_bytes is None else _size(max_bytes)
    with _open(address, store) as opened:
        reachable = _reachable(opened) if unreachable else None
        doomed = opened.find_garbage if not yes else opened.gc
        found = doomed(
            fingerprint_keep=keep if foreign else None, older_than=age, group=group, keep_keys=reachable, max_bytes=limit, damaged=damaged
        )
        left = opened.stats().nbytes if yes and limit is not None else 0
    if isinstance(found, int):
        typer.echo(f"Deleted {found:,} entries.")
        if limit is not None and left > limit:
            typer.echo(f"{decimal(left)} are left, more than {decimal(limit)}: the others do not meet the other conditions.")
        return
    for key in found[:_SHOWN]:
        typer.echo(key)
    if len(found) > _SHOWN:
        typer.echo(f"... and {len(found) - _SHOWN:,} more")
    typer.echo(f"Would delete {len(found):,} entries. Repeat with --yes to delete them.")
    if unreachable and found:
        typer.echo("What pipelines or other machines put into this store counts as unreachable: this machine's catalogue does not know it.")


@app.command()
def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Address of the store to copy.")],
    destination: Annotated[str, typer.Argument(metavar="DST", help="Address of an empty place, or of an earlier copy of the same store.")],
) -> None:
    """Copy a store to another place: all keys stay valid. Run it again to go on, or to bring a copy up to date."""
    with _open(source, None) as opened, _progress() as progress:
        report = opened.copy_to(destination, progress=_counting(progress, "copying"))
        _copy_catalogue(opened.url, open_backend(destination).url)
    typer.echo(f"Copied {report.copied:,} entries, {report.present:,} were there already.")
    for key in report.damaged:
        typer.echo(key)
    if report.damaged:
        typer.echo(f"{len(report.damaged)} damaged entries were left out. Compress their texts again into {shown(destination)}.", err=True)
        raise typer.Exit(1)


def _copy_catalogue(source: str, destination: str) -> None:
    """What ``lloco compress`` knows of the store here, for the copy, unless that has a catalogue already."""
    from lloco_integrations.cli.catalogue import explaining, location

    old, new = location(uncached(source)), location(uncached(destination))
    if not old.exists() or new.exists():
        return
    half = new.with_name(f"{new.name}.tmp-{os.getpid()}")
    with explaining(new):
        make_private(new.parent)
        touch_private(half)
        try:
            with closing(sqlite3.connect(old)) as db, closing(sqlite3.connect(half)) as copied:
                db.backup(copied)
            os.replace(half, new)
        finally:
            half.unlink(missing_ok=True)


def _catalogues(store: SummaryStore) -> list[str]:
    """The addresses under which ``lloco compress`` on this machine may have put documents into ``store``."""
    from lloco_integrations.cli.catalogue import location

    bare = uncached(store.url)
    return [url for url in dict.fromkeys((store.url, bare)) if location(url).exists()]


def _catalogued(store: SummaryStore) -> set[str]:
    """The texts of all passages that were compressed into ``store`` from here."""
    from lloco_integrations.cli.catalogue import Catalogue

    texts: set[str] = set()
    for url in _catalogues(store):
        with Catalogue.open(url, create=False) as catalogue:
            texts.update(passage.text for passage in catalogue.passages())
    return texts


def _reachable(store: SummaryStore) -> Callable[[set[str]], set[str]]:
    """The keys that the catalogue's passages have under the fingerprints asked for. Raises StoreError if there is no catalogue."""
    from lloco_integrations.cli.catalogue import Catalogue

    for url in _catalogues(store) or [uncached(store.url)]:
        Catalogue.open(url, create=False).close()
    return lambda fingerprints: {store.key(fingerprint, text) for text in _catalogued(store) for fingerprint in fingerprints}


def _size(text: str) -> int:
    """``500MB``, ``1.5 GiB``, ``1000``: bytes. Raises BadInput."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if match is None or match[2] not in _UNITS:
        raise BadInput(f"--max-bytes {text!r} is not a size; write 500MB, 2GiB, or a number of bytes")
    return int(float(match[1]) * _UNITS[match[2]])


def _progress() -> LongWork:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return LongWork(*columns)


def _counting(progress: LongWork, what: str) -> Callable[[int, int], None]:
    task = progress.add_task(what, total=None)
    return lambda done, total: progress.update(task, completed=done, total=total)


def _open(address: str | None, store: str | None) -> SummaryStore:
    """An existing store, named either way: looking at a mistyped address must not make one."""
    if address and store and address != store:
        raise BadInput(f"two stores are named, {shown(address)} and --store {shown(store)}; name one")
    return SummaryStore.open(address or store, create=False)


def _info(store: SummaryStore, key: str) -> EntryInfo | DamagedEntry | None:
    try:
        return store.info_many([key])[0]
    except DamagedEntry as error:
        return error


def _row(totals: Totals) -> tuple[str, ...]:
    ratio = f"{totals.source_tokens / totals.vectors:.1f}" if totals.vectors else "-"
    return f"{totals.entries:,}", f"{totals.vectors:,}", f"{totals.source_tokens:,}", ratio, decimal(totals.nbytes)
