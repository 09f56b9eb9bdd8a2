"""``lloco ask``: a question, answered from what it points to in the passages that fit it best."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from lloco_integrations.cli.options import DeviceOption, ModelOption, StoreOption, printable, store_url
from lloco_integrations.cli.screen import LongWork

if TYPE_CHECKING:
    from lloco_integrations.cli.catalogue import Catalogue, Passage
    from lloco_integrations.embedding import Embedder
    from lloco_integrations.show.forms import Shown
    from lloco_integrations.types import Message, Usage

_BATCH = 64


@dataclass(frozen=True)
class Found:
    """A passage and how well it fits the question (cosine)."""

    passage: Passage
    score: float


def command(
    question: Annotated[str, typer.Argument(help="What to ask about the documents that were compressed.")],
    store: StoreOption = None,
    model: ModelOption = "smollm2-135m",
    ratio: Annotated[
        int | None, typer.Option(min=1, help="Tokens of the passages for each position of the prompt; else the model's own, 8.")
    ] = None,
    token_budget: Annotated[int | None, typer.Option(min=1, help="Positions for all passages together, in place of --ratio.")] = None,
    focus: Annotated[
        str, typer.Option(help="question: its sentences stand as text, the rest as vectors or not at all; none: one ratio for all.")
    ] = "question",
    top_k: Annotated[int, typer.Option(min=1, help="Passages to read.")] = 8,
    adapter: Annotated[str | None, typer.Option(help="Directory or hub id of a LoRA learnt for these documents.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the answer, at most.")] = 128,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Answer a question from what was compressed into the store, with the sources."""
    from lloco_integrations import embedding
    from lloco_integrations.cli.catalogue import Catalogue
    from lloco_integrations.engine import Engine
    from lloco_integrations.errors import BadInput
    from lloco_integrations.store import SummaryStore
    from lloco_integrations.store.backend import shown
    from lloco_integrations.types import GenerationParams

    if not question.strip():
        raise BadInput("the question is empty; ask something")
    url = store_url(store)
    with Catalogue.open(url, create=False) as catalogue, SummaryStore.open(url, create=False) as opened:
        engine = Engine(model, opened, {"default": adapter} if adapter else {}, device=device)
        embedder = embedding.load(device)
        found = search(catalogue, embedder, question, top_k)
        if not found:
            raise BadInput(f"no document is left in {shown(url)}; begin with: lloco compress PATH")
        parts = engine.show(
            [f.passage.text for f in found],
            question=question,
            focus=focus,  # type: ignore[arg-type]  # checked there
            ratio=ratio,
            token_budget=token_budget,
            scores=[f.score for f in found],
            embedder=embedder,
        )
        answer = ""
        for chunk in engine.stream(prompt(found, parts, question), GenerationParams(max_new_tokens=max_new_tokens)):
            answer += chunk.delta
            if not as_json:
                typer.echo(printable(chunk.delta), nl=False)
            if chunk.final is not None:
                usage = chunk.final.usage
    if as_json:
        typer.echo(json.dumps(_as_dict(question, answer, found, parts, usage), ensure_ascii=False))
    else:
        _show(found, parts, usage)


def search(catalogue: Catalogue, embedder: Embedder, question: str, top_k: int) -> list[Found]:
    """The ``top_k`` passages of different text that fit ``question`` best, best first. Passages are embedded once and kept."""
    import numpy as np

    passages = list({p.text: p for p in reversed(catalogue.passages())}.values())[::-1]
    if not passages:
        return []
    vectors = catalogue.vectors(embedder.name)
    todo = [p for p in passages if p.digest not in vectors]
    with LongWork(quiet=not todo) as bar:
        task = bar.add_task("indexing passages for search", total=len(todo))
        for at in range(0, len(todo), _BATCH):
            some = todo[at : at + _BATCH]
            rows = embedder.embed([p.searchable for p in some])
            fresh = [(p.digest, row.astype("<f4").tobytes()) for p, row in zip(some, rows, strict=True)]
            vectors.update(fresh)
            catalogue.keep_vectors(embedder.name, fresh)
            bar.update(task, completed=at + len(some))
    matrix = np.stack([np.frombuffer(vectors[p.digest], dtype="<f4") for p in passages])
    scores = matrix @ embedder.embed_question(question)
    best = np.argsort(-scores, kind="stable")[:top_k]
    return [Found(passages[i], float(scores[i])) for i in best]


def prompt(found: Sequence[Found], parts: Sequence[Shown | None], question: str) -> list[Message]:
    """The conversation: titles and what stands for each passage, if anything does; the question."""
    from lloco_integrations.placeholder import neutralise
    from lloco_integrations.training.templates import PLAIN

    titles = [f"title: {neutralise(f.passage.title)}\n\n" if f.passage.title else "" for f in found]
    context = "\n\n".join(title + part.content for title, part in zip(titles, parts, strict=True) if part is not None)
    return PLAIN.fill(context, neutralise(question))


def _show(found: Sequence[Found], parts: Sequence[Shown | None], usage: Usage) -> None:
    typer.echo("\n\nSources, with what was read as text between >> and <<")
    left_out = []
    for number, (one, part) in enumerate(zip(found, parts, strict=True), 1):
        where = f"{number}. {printable(_where(one.passage))} (score {one.score:.2f})"
        if part is None:
            left_out.append(where)
            continue
        typer.echo(f"\n{where}{'' if part.as_text else ', read as vectors'}")
        typer.echo("\n".join(f"   {line}" for line in printable(marked(one.passage.text, part.as_text)).splitlines()))
    if left_out:
        typer.echo("\nFound, and not read: " + "; ".join(left_out))
    read = [part for part in parts if part is not None]
    positions, tokens = sum(p.n_positions for p in read), sum(p.n_tokens for p in read)
    typer.echo(
        f"\n{tokens:,} tokens of these sources stood in {positions:,} positions ({tokens / max(1, positions):.1f}x); "
        f"the whole prompt took {usage.prompt_tokens:,} positions in place of {usage.source_tokens:,}"
    )


def marked(text: str, as_text: Sequence[tuple[int, int]]) -> str:
    """``text`` with marks around the stretches that were read as text."""
    for start, stop in reversed(as_text):
        text = f"{text[:start]}>>{text[start:stop]}<<{text[stop:]}"
    return text


def _where(passage: Passage) -> str:
    path = passage.path
    with suppress(ValueError):  # on another drive of Windows
        relative = os.path.relpath(path)
        path = path if relative.startswith("..") else relative
    return ", ".join(part for part in (path, passage.place, passage.title) if part)


def _as_dict(question: str, answer: str, found: Sequence[Found], parts: Sequence[Shown | None], usage: Usage) -> dict[str, object]:
    sources = [
        {
            "path": one.passage.path,
            "place": one.passage.place,
            "title": one.passage.title,
            "score": round(one.score, 4),
            "text": one.passage.text,
            "tokens": part.n_tokens if part is not None else None,
            "positions": part.n_positions if part is not None else 0,
            "read_as_text": [list(stretch) for stretch in part.as_text] if part is not None else [],
        }
        for one, part in zip(found, parts, strict=True)
    ]
    return {"question": question, "answer": answer, "sources": sources, "usage": usage.as_dict()}
