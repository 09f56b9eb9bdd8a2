"""``lloco models``: the presets, and their files on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from lloco_integrations.models.presets import Preset

app = typer.Typer(help="The models that have a name: which there are, getting them, where they are.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="Name of a preset.")]


@app.command("list")
def list_presets() -> None:
    """The presets, and which are on this machine."""
    from lloco_integrations.cli.known import directory_of
    from lloco_integrations.models.presets import PRESETS

    table = Table()
    for name in ("name", "about", "licence", "on this machine"):
        table.add_column(name, no_wrap=name == "name")
    for preset in PRESETS.values():
        directory = directory_of(preset.name)
        table.add_row(*map(Text, (preset.name, preset.about, preset.licence, decimal(size(directory)) if directory else "no")))
    Console().print(table)


@app.command()
def pull(name: NameArgument = "smollm2-135m") -> None:
    """Get a preset: download what it is made of and build its directory."""
    preset = _preset(name)
    console = Console(stderr=True)
    with console.status(f"getting {preset.name} ..."):
        directory = _pull(preset)
    typer.echo(f"{preset.name}: {directory} ({decimal(size(directory))})")


@app.command()
def path(name: NameArgument = "smollm2-135m") -> None:
    """Print the directory of a preset, for other tools: its decoder/ is a plain Hugging Face model."""
    from lloco_integrations.cli.known import directory_of
    from lloco_integrations.errors import ModelNotFound

    preset = _preset(name)
    directory = directory_of(preset.name)
    if directory is None:
        raise ModelNotFound(f"{preset.name} is not on this machine yet; get it with: lloco models pull {preset.name}")
    typer.echo(str(directory))


def size(directory: Path) -> int:
    """Bytes of the files below ``directory``."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def _preset(name: str) -> Preset:
    from lloco_integrations.errors import ModelNotFound
    from lloco_integrations.models.presets import PRESETS

    if name not in PRESETS:
        raise ModelNotFound(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def _pull(preset: Preset) -> Path:
    from lloco_integrations.errors import ModelNotFound
    from lloco_integrations.models.materialise import materialised

    if preset.hub_id is None:
        return materialised(preset)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(preset.hub_id))
    except Exception as error:
        raise ModelNotFound(f"{preset.hub_id} cannot be had from the hub: {error}; check the connection and HF_TOKEN") from error
