"""``lloco eval``: the scorecard."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from lloco_integrations.cli.options import DeviceOption, ModelOption, printable
from lloco_integrations.cli.screen import LongWork, screen
from lloco_integrations.errors import BadInput

if TYPE_CHECKING:
    from lloco_integrations.evaluation.scorecard import Settings


def command(
    docs: Annotated[list[Path], typer.Option(help="Documents, JSONL or JSONL.gz: {doc_id, text}. May be repeated, one --qa for each.")],
    qa: Annotated[list[Path], typer.Option(help="Questions: {id, doc_id, question, answers, choices?, answer_index?}.")],
    out: Annotated[Path, typer.Option("--json", help="Where the report goes; unfinished results are kept beside it.")],
    methods: Annotated[
        str,
        typer.Option(
            help="Some of none, raw, raw+lora, truncate (the text's beginning), sentences (the best for the question, as text alone), "
            "retrieve (the best passages), lloco (summaries), lloco+adapter, lloco+retrieve (summaries of the best passages), focus (the best "
            "sentences between slices of summaries, as the model's recipe spends the positions)."
        ),
    ] = "none,raw,raw+lora,truncate,sentences,lloco,focus",
    ratio: Annotated[
        str | None,
        typer.Option(
            help="The document's tokens per position, where a row has it: summaries at those that the model gives, the others at any, such "
            "as 30.  [default: 4,8,16,32]"
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture of the report: .png, .svg or .pdf.")] = None,
    texts: Annotated[list[str] | None, typer.Option(help="NAME=FILE, another compressor's texts: {id: question id, text}.")] = None,
    adapter: Annotated[str | None, typer.Option(help="Folder of a LoRA on the decoder, for lloco+adapter.")] = None,
    raw_adapter: Annotated[str | None, typer.Option(help="Folder of a LoRA on the base, trained on raw text.")] = None,
    none_adapter: Annotated[str | None, typer.Option(help="Folder of a LoRA on the base, trained without context.")] = None,
    reuse: Annotated[
        Path | None, typer.Option(help="Earlier report of the same questions: its rows that do not depend on our weights are taken over.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions, spread over the documents.  [default: all]")] = None,
    seed: Annotated[int, typer.Option(help="Of the choice of questions and of the intervals.")] = 0,
    model: ModelOption = "smollm2-135m",
    base: Annotated[str | None, typer.Option(help="The model without our LoRAs.  [default: what --model was made from]")] = None,
    template: Annotated[str, typer.Option(help="Prompt; one that shows the context before the question.")] = "plain",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer, at most.")] = 24,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions in one forward pass.")] = 8,
    device: DeviceOption = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
) -> None:
    """Measure on your own documents and questions what summaries keep, at which cost, against the honest alternatives."""
    from lloco_integrations.evaluation.readers import AdapterPaths
    from lloco_integrations.evaluation.scorecard import Settings

    settings = Settings(
        docs=tuple(docs),
        qa=tuple(qa),
        out=out,
        methods=tuple(m.strip() for m in methods.split(",") if m.strip()),
        ratios=None if ratio is None else _ratios(ratio),
        texts=_texts(texts or []),
        adapters=AdapterPaths(adapter, raw_adapter, none_adapter),
        limit=limit,
        seed=seed,
        model=model,
        base=base,
        template=template,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        reuse=reuse,
    )
    run(settings, plot, shlex.join(["lloco", *sys.argv[1:]]))


def run(settings: Settings, picture: Path | None, command: str) -> None:
    """Measure, write the report and the picture, and show the table and the verdict."""
    from lloco_integrations.evaluation import plot, report, scorecard, table

    if picture is not None:
        plot.check(picture)
        scorecard.check_writable(picture)
    made: dict[str, object] = {}

    def finish(outcome: scorecard.Outcome) -> None:
        made.update(report.build(outcome, command))
        if picture is not None:
            plot.plot(made, picture)
        report.write(made, settings.out)

    columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with LongWork(*columns) as bar:
        task = bar.add_task("loading", total=None)
        scorecard.measure(settings, finish, lambda row, done, all_: bar.update(task, description=row, completed=done, total=all_))
    console = screen()
    console.print(table.table(made, console.width))
    for note in table.notes(made):
        typer.echo(printable(note))
    typer.echo(
        f"\n{printable(str(made['verdict']))}\n\nThe report is in {settings.out}" + (f", the picture in {picture}" if picture else "")
    )


def _ratios(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise BadInput(f"--ratio {text!r} is not a list of whole numbers such as 4,8,16,32") from error


def _texts(given: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not (name.strip() and equals and path):
            raise BadInput(f"--texts {one!r} is not NAME=FILE; write for example --texts llmlingua=shortened.jsonl")
        if name.strip() in found:
            raise BadInput(f"--texts names {name.strip()!r} twice; give each file its own name")
        found[name.strip()] = Path(path)
    return found
