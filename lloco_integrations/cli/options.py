"""Options that several commands share, and the store they name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import typer

from lloco_integrations.errors import BadInput
from lloco_integrations.secret import shown

SHOWN = 20
"""Lines of a list, at most."""

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store", help="Address such as sqlite:///path, file:///directory, s3://bucket/prefix or redis://host; else the default."
    ),
]
ModelOption = Annotated[str, typer.Option("--model", help="A preset (see lloco models list), a directory, or a hub id.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]


def store_url(target: str | None) -> str:
    """The address of the store that ``--store`` names, in full; nothing is opened or made.

    Raises StoreError for an address that cannot hold a store, BadInput for one that would be gone with this process.
    """
    from lloco_integrations.store.opening import open_backend, uncached

    url = open_backend(target).url
    if uncached(url).startswith("memory:"):
        raise BadInput(f"{shown(url)} would be gone when this command ends; name a store that stays, such as sqlite:///path")
    return url


def report_skipped(skipped: Sequence[tuple[str, str]]) -> None:
    """The files that were left out, each with the reason, on the error stream; of many, the first."""
    for path, reason in skipped[:SHOWN]:
        typer.echo(f"skipped {printable(path)}: {printable(reason)}", err=True)
    if len(skipped) > SHOWN:
        typer.echo(f"... and {len(skipped) - SHOWN:,} more", err=True)


def printable(text: str) -> str:
    """``text`` without control characters, so that neither a document nor a file name can steer the terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)
