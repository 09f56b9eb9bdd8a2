"""``lloco store``: look into a store of summary embeddings, check it, and clear it up."""

from __future__ import annotations

import time
from itertools import islice
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lloco_integrations.errors import BadInput, DamagedEntry
from lloco_integrations.store import EntryInfo, SummaryStore, Totals

app = typer.Typer(help="The store of summary embeddings: what it holds, whether it is sound, what may go.", no_args_is_help=True)

_DAY = 86400.0
_SHOWN = 20
StoreOption = Annotated[
    str | None,
    typer.Option("--store", help="Address such as sqlite:///path, file:///directory or s3://bucket/prefix; else the default."),
]


@app.command()
def stats(store: StoreOption = None) -> None:
    """Totals of a store, also per compressor."""
    with _open(store) as opened:
        found = opened.stats()
        table = Table(title=Text(f"{opened.url} ({opened.storage})"))
    for name in ("compressor", "entries", "vectors", "source tokens", "ratio", "size"):
        table.add_column(name, justify="left" if name == "compressor" else "right")
    for fingerprint, totals in sorted(found.by_fingerprint.items()):
        table.add_row(Text(fingerprint), *_row(totals))
    table.add_section()
    table.add_row("all", *_row(found))
    console = Console()
    console.print(table)
    if found.unreadable:
        console.print(f"{found.unreadable} entries are damaged; list them with: lloco store verify")


@app.command("ls")
def list_entries(
    store: StoreOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many entries.")] = 100,
    group: Annotated[str | None, typer.Option(help="Only entries of this group.")] = None,
) -> None:
    """The entries of a store. Keys are capabilities: whoever has one can read the entry."""
    table = Table()
    for name in ("key", "vectors", "tokens", "window", "group", "compressor", "size", "stored"):
        numeric = name in ("vectors", "tokens", "window", "size")
        table.add_column(name, justify="right" if numeric else "left", no_wrap=name == "key")
    with _open(store) as opened:
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
    console = Console()
    console.print(table)
    if len(shown) > limit:
        console.print(f"There are more than {limit}; show them with --limit.")


@app.command()
def verify(store: StoreOption = None) -> None:
    """Read and check every entry. Lists damaged ones and exits with 1 if there are any."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with _open(store) as opened, Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("checking", total=None)
        damaged = opened.verify(lambda done, total: progress.update(task, completed=done, total=total))
        count = opened.stats().entries
    for key in damaged:
        typer.echo(key)
    if damaged:
        typer.echo(
            f"{len(damaged)} damaged entries. Delete them with: lloco store gc --damaged --yes, then compress their texts again.",
            err=True,
        )
        raise typer.Exit(1)
    typer.echo(f"All {count:,} entries are sound.")


@app.command()
def gc(
    store: StoreOption = None,
    damaged: Annotated[bool, typer.Option("--damaged", help="Damaged entries.")] = False,
    older_than: Annotated[float | None, typer.Option(min=0, help="Entries stored more than so many days ago.")] = None,
    group: Annotated[str | None, typer.Option(help="Entries of this group.")] = None,
    foreign: Annotated[bool, typer.Option("--foreign", help="Entries of compressors other than those kept.")] = False,
    keep: Annotated[list[str] | None, typer.Option(help="A fingerprint that --foreign keeps; repeat for several.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only say what would be deleted.")] = False,
) -> None:
    """Delete entries that meet every condition given (damaged ones in any case with --damaged)."""
    if foreign != bool(keep):
        raise BadInput("--foreign needs --keep FINGERPRINT, and --keep needs --foreign; see lloco store stats for fingerprints")
    if not (damaged or foreign or older_than is not None or group is not None):
        raise BadInput("say what may go: --damaged, --older-than DAYS, --group NAME, or --foreign --keep FINGERPRINT")
    age = None if older_than is None else older_than * _DAY
    kept = keep if foreign else None
    with _open(store) as opened:
        if yes:
            count = opened.gc(fingerprint_keep=kept, older_than=age, group=group, damaged=damaged)
            typer.echo(f"Deleted {count:,} entries.")
            return
        doomed = opened.find_garbage(fingerprint_keep=kept, older_than=age, group=group, damaged=damaged)
    for key in doomed[:_SHOWN]:
        typer.echo(key)
    if len(doomed) > _SHOWN:
        typer.echo(f"... and {len(doomed) - _SHOWN:,} more")
    typer.echo(f"Would delete {len(doomed):,} entries. Repeat with --yes to delete them.")


def _open(store: str | None) -> SummaryStore:
    """An existing store: looking at a mistyped address must not make one."""
    return SummaryStore.open(store, create=False)


def _info(store: SummaryStore, key: str) -> EntryInfo | DamagedEntry | None:
    try:
        return store.info_many([key])[0]
    except DamagedEntry as error:
        return error


def _row(totals: Totals) -> tuple[str, ...]:
    ratio = f"{totals.source_tokens / totals.vectors:.1f}" if totals.vectors else "-"
    return f"{totals.entries:,}", f"{totals.vectors:,}", f"{totals.source_tokens:,}", ratio, decimal(totals.nbytes)
