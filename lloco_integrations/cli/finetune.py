"""``lloco finetune``: learn an adapter on documents that are in the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lloco_integrations.cli.options import DeviceOption, ModelOption, StoreOption, store_url

if TYPE_CHECKING:
    from accelerate import Accelerator
    from rich.table import Table

    from lloco_integrations.cli.catalogue import Catalogue
    from lloco_integrations.evaluation.before_after import Line
    from lloco_integrations.models import LLoCOModel
    from lloco_integrations.store import SummaryStore
    from lloco_integrations.training.finetune import FinetuneConfig
    from lloco_integrations.training.lessons import Lessons, Passage


def command(
    qa: Annotated[Path, typer.Option(help="Questions, JSONL or JSONL.gz: {id, doc_id, question, answers}.")],
    adapter: Annotated[Path, typer.Option(help="Directory for the adapter, in PEFT format.")],
    store: StoreOption = None,
    group: Annotated[str | None, typer.Option(help="Group that the adapter is for; its documents were compressed with --group.")] = None,
    model: ModelOption = "smollm2-135m",
    epochs: Annotated[float | None, typer.Option(min=0.01, help="Passes over the questions, at most.  [default: the model's]")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.  [default: the model's]")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="LoRA rank.  [default: the model's]")] = None,
    validation: Annotated[float, typer.Option(help="Share of the documents that is held out to stop in time.")] = 0.15,
    limit: Annotated[int, typer.Option(min=1, help="Held-out questions for the scorecard at the end.")] = 60,
    seed: Annotated[int, typer.Option(help="Of the split, the order and the adapter's start.")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Learn an adapter for the documents in a store from questions about them; summaries are read, never made again.

    A question's doc_id is the document's doc_id in a JSONL file that was compressed, or the end of a file's path. On several GPUs: accelerate
    launch -m lloco_integrations.cli finetune ...
    """
    run(store_url(store), qa, adapter, group, model, epochs, lr, rank, validation, limit, seed, device)


def run(
    url: str,
    qa: Path,
    adapter: Path,
    group: str | None,
    model: str,
    epochs: float | None = None,
    lr: float | None = None,
    rank: int | None = None,
    validation: float = 0.15,
    limit: int = 60,
    seed: int = 0,
    device: str = "auto",
) -> list[Line]:
    """Learn the adapter and show what it changed; of several processes, the first one shows, and the others return nothing."""
    from dataclasses import replace

    from accelerate import Accelerator

    from lloco_integrations.cli.catalogue import Catalogue
    from lloco_integrations.evaluation.datasets import read_questions
    from lloco_integrations.models import load_model
    from lloco_integrations.store import SummaryStore
    from lloco_integrations.training.finetune import FinetuneConfig
    from lloco_integrations.training.lessons import prepare

    questions = read_questions(qa)
    with Catalogue.open(url, create=False) as catalogue, SummaryStore.open(url, create=False) as opened:
        documents = documents_of(catalogue, {q.doc_id for q in questions})
        team = Accelerator(cpu=device == "cpu")
        loaded = load_model(model, device=str(team.device) if team.num_processes > 1 else device)
        lessons = prepare(loaded, opened, documents, questions, group=group, validation=validation, seed=seed)
        config = FinetuneConfig.of(loaded)
        lora = config.lora if rank is None else replace(config.lora, rank=rank, alpha=2 * rank)
        config = replace(
            config, lora=lora, seed=seed, epochs=config.epochs if epochs is None else epochs, lr=config.lr if lr is None else lr
        )
        train(loaded, opened, lessons, adapter, config, group, team)
        return scorecard(loaded, opened, lessons, adapter, config, limit) if team.is_main_process else []


def documents_of(catalogue: Catalogue, wanted: set[str]) -> dict[str, list[Passage]]:
    """The compressed passages of each document, by the names that questions use: the doc_id of a JSONL line, or the end of a file's path.

    Documents that are not ``wanted`` are named by their whole path. Raises BadInput for a name that two files answer to.
    """
    from lloco_integrations.errors import BadInput
    from lloco_integrations.training.lessons import Passage

    found: dict[str, list[Passage]] = {}
    owners: dict[str, str] = {}
    for passage in catalogue.passages():
        jsonl = passage.path.lower().endswith((".jsonl", ".jsonl.gz"))
        path = passage.path.replace("\\", "/")
        parts = path.split("/")
        names = [passage.place] if jsonl else ["/".join(parts[-n:]) for n in range(1, len(parts))] + [path]
        for name in [n for n in names if n in wanted] or [passage.place if jsonl else path]:
            if owners.setdefault(name, passage.path) != passage.path and name in wanted:
                raise BadInput(
                    f"two documents answer to {name!r}: {owners[name]} and {passage.path}; name them by more of their paths in the questions"
                )
            found.setdefault(name, []).append(Passage(passage.text, passage.title))
    return found


def train(
    model: LLoCOModel,
    store: SummaryStore,
    lessons: Lessons,
    adapter: Path,
    config: FinetuneConfig,
    group: str | None,
    team: Accelerator | None = None,
) -> None:
    """Train, with a progress bar."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    from lloco_integrations.cli.screen import LongWork
    from lloco_integrations.training.finetune import finetune

    quiet = team is not None and not team.is_main_process
    console = Console(stderr=True, quiet=quiet)
    n_held = sum(len(c.questions) for c in lessons.validation)
    whose = "of other documents" if lessons.held_out == "documents" else "about the same documents"
    console.print(
        f"learning from {lessons.n_questions:,} questions about {lessons.n_documents:,} documents; {n_held:,} questions {whose} are held out",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    columns = (TextColumn("learning"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[now]}"))
    with LongWork(*columns, quiet=quiet) as bar:
        task = bar.add_task("learning", total=None, now="")

        def show(done: int, steps: int, row: dict[str, float]) -> None:
            bar.update(task, completed=done, total=steps, now=f"loss {row['loss']:.3f}")

        card = finetune(model, store, lessons, adapter, config, group=group, accelerator=team, progress=show)
    console.print(
        f"the adapter of step {card.steps} did best on what was held out; it is in {adapter}", highlight=False, markup=False, soft_wrap=True
    )


def scorecard(model: LLoCOModel, store: SummaryStore, lessons: Lessons, adapter: Path, config: FinetuneConfig, limit: int) -> list[Line]:
    """Show what the adapter changed on held-out questions."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

    from lloco_integrations.cli.screen import LongWork, screen
    from lloco_integrations.evaluation.before_after import before_after, verdict

    columns = (TextColumn("asking"), BarColumn(), MofNCompleteColumn())
    with LongWork(*columns) as bar:
        task = bar.add_task("asking", total=None)
        ratios = sorted(config.ratios(model))
        lines = before_after(
            model, store, lessons, str(adapter), ratios, limit=limit, progress=lambda n, all_: bar.update(task, completed=n, total=all_)
        )
    screen().print(_table(lines))
    typer.echo(verdict(lines))
    return lines


def _table(lines: list[Line]) -> Table:
    from rich import box
    from rich.table import Table

    made = Table(title="held-out questions, each about its own passage; 95 % intervals", box=box.SIMPLE, padding=(0, 1))
    made.add_column("reads", no_wrap=True)
    for column in ("positions", "F1 before", "after", "nats", "after"):
        made.add_column(column, justify="right", no_wrap=True)
    for line in lines:
        after = "" if line.adapted_f1 is None else str(line.adapted_f1)
        nats = "" if line.adapted_nll is None else f"{line.adapted_nll:.2f}"
        made.add_row(line.name, f"{line.positions:.0f}", str(line.f1), after, f"{line.nll:.2f}", nats)
    return made
