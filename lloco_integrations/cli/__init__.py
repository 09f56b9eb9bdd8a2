"""The command line ``lloco``. One command a file; torch and the frameworks are imported inside the commands, so ``--help`` is quick."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lloco_integrations import __version__
from lloco_integrations.cli import ask, compress, demo, eval, finetune, learn, models, pretrain, serve, store, synthesize
from lloco_integrations.errors import LLoCOError

__all__ = ["app", "main"]

INTERRUPTED = 130
_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}


class _Group(TyperGroup):
    """Errors raised on purpose become one line and exit code 2; Ctrl-C becomes one line and 130."""

    def invoke(self, ctx: Any) -> Any:  # click's Context, or that of typer's own copy of click
        try:
            return super().invoke(ctx)
        except LLoCOError as error:
            if os.environ.get("LLOCO_DEBUG", "") not in ("", "0"):
                raise
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("\nstopped; the work done so far is kept, and the same command goes on from there", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Group,
    name="lloco",
    help="Answer questions about long documents from summary embeddings, made once, in place of their text.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lloco {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the libraries underneath say.")] = False,
) -> None:
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    else:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        if not sys.warnoptions:
            warnings.simplefilter("ignore")


app.command("compress")(compress.command)
app.command("ask")(ask.command)
app.add_typer(models.app, name="models")
app.add_typer(store.app, name="store")
app.command("demo")(demo.command)
app.command("pretrain")(pretrain.command)
app.command("learn")(learn.command)
app.command("finetune")(finetune.command)
app.command("synthesize")(synthesize.command)
app.command("eval")(eval.command)
app.command("serve")(serve.command)


def main() -> None:
    """Entry point of the script ``lloco``. What a stream cannot show, as in a Windows code page, becomes a question mark, and no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="lloco")
