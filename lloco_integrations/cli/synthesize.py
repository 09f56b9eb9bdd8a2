"""``lloco synthesize``: questions and answers for documents that have none."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from lloco_integrations.cli.options import SHOWN, DeviceOption, ModelOption, printable, report_skipped
from lloco_integrations.cli.screen import LongWork
from lloco_integrations.errors import BadInput

if TYPE_CHECKING:
    from lloco_integrations.evaluation.datasets import Document
    from lloco_integrations.training.questions.check import Check
    from lloco_integrations.training.questions.llm import Ask
    from lloco_integrations.training.synthesize import Summary


def command(
    docs: Annotated[Path, typer.Option(help="Folder or file: text, Markdown, HTML, PDF, JSONL with {doc_id, text} a line.")],
    out: Annotated[Path, typer.Option(help="Where the questions go: {id, doc_id, question, answers} a line.")],
    llm: Annotated[
        str | None,
        typer.Option(help="module:name of a LlamaIndex LLM, a LangChain model or a function that asks.  [default: rules, no LLM]"),
    ] = None,
    per_document: Annotated[int, typer.Option(min=1, help="Questions made about a document, at most.")] = 20,
    check: Annotated[bool, typer.Option(help="Keep only what --model can answer from the text and not without it.")] = True,
    seed: Annotated[int, typer.Option(help="Of the choice among questions as good as each other.")] = 0,
    model: ModelOption = "smollm2-135m",
    device: DeviceOption = "auto",
) -> None:
    """Write questions about documents, whose answers stand in them word for word, for lloco finetune to learn from.

    An interrupted run goes on where it was. A document is named by its doc_id in a JSONL file, else by its path below --docs.
    """
    from lloco_integrations.cli.scan import require
    from lloco_integrations.partial import path_for
    from lloco_integrations.training.synthesize import check_out, synthesize

    check_out(out)
    require([docs], None)
    found, skipped = read(docs, {out, path_for(out)})
    report_skipped(skipped)
    if not found:
        raise BadInput(
            f"none of the {len(skipped)} files found could be used" if skipped else f"found no documents in {printable(str(docs))}"
        )
    ask = load_llm(llm) if llm is not None else None
    columns = (TextColumn("{task.description:<24.24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with LongWork(*columns) as bar:
        task = bar.add_task("loading" if check else "", total=None)
        made = synthesize(
            found,
            out,
            per_document=per_document,
            seed=seed,
            ask=ask,
            llm=llm,
            check=_check(model, device) if check else None,
            progress=lambda doc, done, total: bar.update(task, description=printable(doc), completed=done, total=total),
        )
    _report(made, out)


def read(path: Path, but: set[Path]) -> tuple[list[Document], list[tuple[str, str]]]:
    """The documents below ``path`` without the files ``but``, and the files that are left out, each with the reason.

    Raises BadInput for two documents of one id, naming their files.
    """
    from lloco_integrations.reading import Unusable, documents, files_under

    found: list[Document] = []
    skipped: list[tuple[str, str]] = []
    homes: dict[str, Path] = {}
    leave_out = {p.absolute() for p in but}
    for file in files_under(path, lambda left_out, reason: skipped.append((str(left_out), str(reason)))):
        if file.absolute() in leave_out:
            continue
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        try:
            if any("\ud800" <= character <= "\udfff" for character in name):
                raise Unusable("its name is not UTF-8; rename it")
            some = documents(file, name)
        except Unusable as reason:
            skipped.append((str(file), str(reason)))
            continue
        for document in some:
            if document.doc_id in homes:
                raise BadInput(
                    f"two documents have the doc_id {document.doc_id!r}, in {homes[document.doc_id]} and {file}; give each its own"
                )
            homes[document.doc_id] = file
        found += some
    return found, skipped


def load_llm(name: str) -> Ask:
    """The LLM that ``module:name`` is, or that it makes, as a function from prompt to text. Modules in this folder are found, too.

    Raises BadInput for a name that cannot be imported, and for what is no LLM.
    """
    from lloco_integrations.training.questions.llm import as_ask

    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise BadInput(f"--llm {name!r} is not module:name; write for example --llm my_llms:llm for the object llm in my_llms.py")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise BadInput(f"--llm {name!r}: the module {module!r} has no {attribute!r}; name an object or a function in it") from None
    except Exception as error:  # the module is the user's: it may raise anything
        raise BadInput(f"--llm {name!r} cannot be imported: {type(error).__name__}: {error}; check the name and where you are") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    return as_ask(found, f"--llm {name!r}")


def _check(model: str, device: str) -> Check:
    from lloco_integrations.models import load_model
    from lloco_integrations.training.questions.check import Check

    return Check(load_model(model, device=device))


def _report(made: Summary, out: Path) -> None:
    barren = ", ".join(map(printable, made.barren[:SHOWN])) + (f" and {len(made.barren) - SHOWN:,} more" * (len(made.barren) > SHOWN))
    if barren:
        typer.echo(f"no question about {barren}", err=True)
    counts = made.counts
    dropped = counts.made - counts.kept
    reasons = ((counts.unanswerable, "could not be answered from the text"), (counts.guessable, "can be guessed without it"))
    said = f"{counts.kept:,} questions about {made.n_documents - len(made.barren):,} documents in {printable(str(out))}"
    if dropped:
        said += f"; {dropped:,} were dropped: {', '.join(f'{n:,} {why}' for n, why in reasons if n)}"
    typer.echo(said)
    if counts.unusable:
        typer.echo(
            f"{counts.unusable:,} of the LLM's could not be used: no question with a short answer that stands in the text word for word"
        )
