"""``lloco compress``: files and folders into the store, each passage once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from lloco_integrations.cli.options import (
    DeviceOption,
    ModelOption,
    StoreOption,
    printable,
    report_skipped,
    store_url,
)
from lloco_integrations.cli.screen import LongWork
from lloco_integrations.reading import CHUNK_OVERLAP, CHUNK_SIZE
from lloco_integrations.store import Damage, EntryInfo

if TYPE_CHECKING:
    from lloco_integrations.cli.catalogue import Catalogue
    from lloco_integrations.cli.scan import Scan
    from lloco_integrations.engine import Engine
    from lloco_integrations.store import SummaryStore

_BATCH_TEXTS = 32
_BATCH_TOKENS = 8192


class How(StrEnum):
    local = "local"
    ray = "ray"


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Files and folders: text, Markdown, HTML, PDF, Word, Excel, CSV, e-mail, JSONL."),
    ],
    store: StoreOption = None,
    model: ModelOption = "smollm2-135m",
    chunk_size: Annotated[int, typer.Option(min=1, help="Tokens of a passage, at most, as LlamaIndex counts them.")] = CHUNK_SIZE,
    chunk_overlap: Annotated[int, typer.Option(min=0, help="Tokens that neighbouring passages share.")] = CHUNK_OVERLAP,
    storage: Annotated[str | None, typer.Option(help="How a new store keeps vectors: exact, or int8 (half the size or less).")] = None,
    group: Annotated[str | None, typer.Option(help="Adapter group that the documents are in; what is stored already moves to it.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 2 if a file or folder had to be skipped.")] = False,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Also read linked folders, and linked files that lie elsewhere.")
    ] = False,
    device: DeviceOption = "auto",
    engine: Annotated[
        How, typer.Option(help="In this process, or by several workers over Ray Data, on this machine or a cluster.")
    ] = How.local,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers of --engine ray; else one for each GPU, or one.")] = None,
    ray_address: Annotated[
        str | None, typer.Option(envvar="RAY_ADDRESS", show_envvar=True, help="A running Ray cluster; else Ray is started here.")
    ] = None,
) -> None:
    """Compress documents into the store. Run it again at any time: only what is new or changed costs something."""
    from lloco_integrations import distributed, ray_cluster
    from lloco_integrations.cli import known
    from lloco_integrations.cli.catalogue import Catalogue, location
    from lloco_integrations.cli.scan import require, scan
    from lloco_integrations.engine import Engine
    from lloco_integrations.errors import BadInput
    from lloco_integrations.reading import Splitting
    from lloco_integrations.store import SummaryStore

    url = store_url(store)
    splitting = Splitting(chunk_size, chunk_overlap)
    if chunk_overlap >= chunk_size:
        raise BadInput(f"--chunk-overlap {chunk_overlap} must be smaller than --chunk-size {chunk_size}")
    if engine is How.ray:
        ray_cluster.require_ray()
        ray_cluster.check_reach(url, [])
    elif workers is not None:
        raise BadInput(f"--workers is for --engine ray; add that, or leave --workers {workers} out")
    if location(url).exists():
        with Catalogue.open(url) as existing:
            require(paths, existing)
            fingerprint, files = known.fingerprint_and_files(Engine(model, url, device=device), existing)
    else:
        require(paths, None)
        fingerprint, files = known.fingerprint_and_files(Engine(model, url, device=device), None)
    with SummaryStore.open(url, storage=storage) as opened, Catalogue.open(url) as catalogue, _progress() as progress:
        if files is not None:
            catalogue.keep_fingerprint(files, fingerprint)
        task = progress.add_task("reading files", total=None, unit="")
        result = scan(
            catalogue,
            paths,
            splitting,
            lambda done, total: progress.update(task, completed=done, total=total),
            follow_links=follow_links,
        )
        texts = _texts(catalogue, paths)
        missing, moved, damaged = _missing(opened, fingerprint, texts, group)
        here = Engine(model, opened, device=device)
        done = (0, 0.0)
        if missing and engine is How.ray:
            task = progress.add_task("starting the workers", total=len(missing), unit="passages")
            began = time.monotonic()
            spread = distributed.compress_on_ray(
                missing,
                opened,
                model=model,
                device=device,
                group=group,
                fingerprint=fingerprint,
                workers=workers,
                address=ray_address,
                progress=lambda n, _: progress.update(task, advance=n, description="compressing"),
            )
            done = spread.tokens, spread.tokens / (time.monotonic() - began)
        elif missing:
            done = _compress(here, missing, group, progress)
        if moved:
            here.compress(list(moved), groups=list(moved.values()))
        catalogue.forget_vectors()
    _report(result, len(texts), len(missing), *done)
    if damaged:
        typer.echo(f"damaged: {damaged:,} entries of the store were damaged, and are compressed again")
    if moved and group is not None:
        typer.echo(f"group: {len(moved):,} passages were moved to {printable(group)}")
    if not texts and not result.gone:
        raise BadInput(f"none of the {len(result.skipped)} files found could be used" if result.skipped else "found no files to compress")
    if strict and result.skipped:
        raise BadInput(f"{len(result.skipped)} files were skipped (--strict)")


def _texts(catalogue: Catalogue, paths: Sequence[Path]) -> list[str]:
    """The distinct passages of everything below ``paths``."""
    from lloco_integrations.cli.scan import absolute

    return list(dict.fromkeys(text for path in paths for text in catalogue.texts_under(absolute(path))))


def _missing(store: SummaryStore, fingerprint: str, texts: Sequence[str], group: str | None) -> tuple[list[str], dict[str, str], int]:
    """The texts that the store does not hold soundly, those whose entries must be put into another group, and how many are damaged.

    Damaged entries are deleted; their group is kept if the description is sound.
    """
    names = {store.key(fingerprint, text): text for text in texts}
    held = dict(zip(names, store.sound_many(list(names)), strict=True))
    damaged = {key: found.group for key, found in held.items() if isinstance(found, Damage)}
    if damaged:
        store.delete_many(list(damaged))
    missing = [text for key, text in names.items() if not isinstance(held[key], EntryInfo)]
    if group is None:
        return missing, {names[key]: kept for key, kept in damaged.items() if kept is not None}, len(damaged)
    others = (key for key, found in held.items() if isinstance(found, EntryInfo) and found.group != group)
    return missing, {names[key]: group for key in others}, len(damaged)


def _compress(engine: Engine, texts: Sequence[str], group: str | None, progress: LongWork) -> tuple[int, float]:
    """Compresses ``texts`` batch by batch, each durable before the next. Returns tokens done and tokens a second."""
    task = progress.add_task("loading the model", total=None, unit="")
    model = engine.model
    sizes = [len(model.text_ids(text)) for text in texts]
    if model.spec.kind == "autocompressor" and max(sizes) < model.spec.segment_length:
        progress.console.print(
            f"note: {engine.model_name} spends the same number of vectors on every passage up to {model.spec.segment_length} tokens; "
            f"--chunk-size {model.spec.segment_length} gives more tokens per vector",
            highlight=False,
        )
    progress.reset(task, description="compressing", total=sum(sizes), unit="tokens")
    for batch in _batches(texts, sizes):
        engine.compress(batch, groups=[group] * len(batch), progress=lambda n: progress.advance(task, n))
    elapsed = progress.tasks[-1].elapsed or 0.0
    return sum(sizes), sum(sizes) / elapsed if elapsed else 0.0


def _batches(texts: Sequence[str], sizes: Sequence[int]) -> Iterator[list[str]]:
    batch: list[str] = []
    tokens = 0
    for i in sorted(range(len(texts)), key=lambda i: -sizes[i]):
        if batch and (len(batch) == _BATCH_TEXTS or tokens + sizes[i] > _BATCH_TOKENS):
            yield batch
            batch, tokens = [], 0
        batch.append(texts[i])
        tokens += sizes[i]
    if batch:
        yield batch


def _report(result: Scan, passages: int, compressed: int, tokens: int, rate: float) -> None:
    report_skipped(result.skipped)
    counts = ((result.read, "read"), (result.unchanged, "unchanged"), (len(result.gone), "gone"), (len(result.skipped), "skipped"))
    files = ", ".join(f"{n:,} {what}" for n, what in counts if n) or "none"
    typer.echo(f"files: {files}")
    if compressed:
        speed = f", {tokens:,} tokens at {rate:,.0f} tokens/s" if rate else ""
        typer.echo(f"passages: {compressed:,} compressed{speed}, {passages - compressed:,} in the store already")
    else:
        typer.echo(f"passages: nothing to compress, {passages:,} in the store already")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed, unit = task.finished_speed or task.speed, task.fields.get("unit")
        return Text(f"{speed:,.0f} {unit}/s" if speed and unit else "")


def _progress() -> LongWork:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    return LongWork(*columns)
