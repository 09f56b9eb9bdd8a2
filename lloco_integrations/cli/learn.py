"""``lloco learn``: a folder of documents becomes a store, an adapter and a verdict."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lloco_integrations.cli.options import DeviceOption, ModelOption, printable, store_url
from lloco_integrations.errors import BadInput

STORE, SYNTHESIZED, LESSONS, ADAPTER, SCORECARD = "store.sqlite", "synthesized.jsonl", "questions.jsonl", "adapter", "scorecard.json"


def command(
    folder: Annotated[Path, typer.Argument(help="Folder of documents: text, Markdown, HTML, PDF, JSONL.")],
    out: Annotated[Path, typer.Option(help="Folder for the store, the questions, the adapter and the scorecard.")],
    qa: Annotated[Path | None, typer.Option(help="Questions of your own, JSONL: {id, doc_id, question, answers}.")] = None,
    synthesize: Annotated[bool, typer.Option(help="Write questions from the documents, beside your own or alone.")] = True,
    per_document: Annotated[int, typer.Option(min=1, help="Questions that are written for a document, at most.")] = 20,
    llm: Annotated[str | None, typer.Option(help="module:name of an LLM that writes them; see lloco synthesize.")] = None,
    check: Annotated[bool, typer.Option(help="Keep only questions that the text answers and nothing else does.")] = True,
    group: Annotated[str | None, typer.Option(help="Name of the adapter's group.  [default: the folder's name]")] = None,
    store: Annotated[str | None, typer.Option(help="Store, which groups may share.  [default: store.sqlite in --out]")] = None,
    model: ModelOption = "smollm2-135m",
    epochs: Annotated[float | None, typer.Option(min=0.01, help="Passes over the questions, at most.  [default: the model's]")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Held-out questions for the scorecard.")] = 60,
    seed: Annotated[int, typer.Option(help="Of the questions, the split and the training.")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Compress documents, write questions about them, learn an adapter, and measure it on documents held out.

    Run it again at any time: what is done is kept, and it goes on from there.
    """
    from lloco_integrations.cli import compress, finetune
    from lloco_integrations.cli import synthesize as writing

    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder; name one with documents in it")
    if not synthesize and qa is None:
        raise BadInput("there is nothing to learn from: give questions with --qa, or leave out --no-synthesize")
    if out.resolve().is_relative_to(folder.resolve()):
        raise BadInput(f"--out {out} lies in {folder}, whose files are the documents; name a folder outside of it")
    out.mkdir(parents=True, exist_ok=True)
    name = group or folder.resolve().name
    store = store_url(store or f"sqlite:///{(out / STORE).resolve()}")
    _say(1, "compressing the documents")
    compress.command([folder], store=store, model=model, group=name, device=device)
    _say(2, "writing questions" if synthesize else "taking your questions")
    if synthesize and (out / SYNTHESIZED).exists():
        typer.echo(f"they are in {printable(str(out / SYNTHESIZED))}; delete it to have them written anew, of new documents, too", err=True)
    elif synthesize:
        writing.command(
            docs=folder, out=out / SYNTHESIZED, llm=llm, per_document=per_document, check=check, seed=seed, model=model, device=device
        )
    lessons = _gather(out, qa, out / SYNTHESIZED if synthesize else None)
    _say(3, "learning the adapter, then asking what was held out")
    adapter = out / ADAPTER
    lines = finetune.run(store, lessons, adapter, group=name, model=model, epochs=epochs, limit=limit, seed=seed, device=device)
    (out / SCORECARD).write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n", encoding="utf-8")
    label, where = printable(name), printable(str(adapter))
    typer.echo(
        f"\nUse it:\n\n  names = dict(model={model!r}, store={printable(store)!r})\n"
        f"  llm = LLoCOLLM(**names, adapters={{{label!r}: {where!r}}})\n  nodes = read_folder({printable(str(folder))!r}, group={label!r})\n"
        f"  postprocessor = LLoCOPostprocessor(**names, ratio=8)"
    )


def _gather(out: Path, own: Path | None, written: Path | None) -> Path:
    """All questions in one file; of the written ones those that ask what nobody asked yet."""
    from lloco_integrations.evaluation.datasets import read_lines, read_questions

    rows = []
    asked: set[tuple[str, str]] = set()
    for source in (own, written):
        if source is not None:
            read_questions(source)  # says what is wrong with it
            found = [((str(row["doc_id"]), " ".join(str(row["question"]).casefold().split())), row) for row, _ in read_lines(source)]
            rows += [row for key, row in found if key not in asked]
            asked |= {key for key, _ in found}
    path = out / LESSONS
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def _say(number: int, what: str) -> None:
    typer.echo(f"[{number} of 3] {what}", err=True)
