"""Where do answers from summaries go wrong: in finding the place among the vectors, or in unpacking it?

    LLOCO_DATA=../shared/data python -m benchmarks.unpacking [--weights FOLDER] [--json OUT]

Documents of squad_paragraph.dev of up to 300 tokens, the plain prompt. Each question whose answer stands word for word in its document is
asked of the whole document, and of the 32 tokens around the answer, which leave little to find. Quotes are the 32 tokens after eight given
ones, out of the whole document. Of the whole document it is also told how the loss is spread over an answer's tokens, each read after the
right ones before it, and what the decoder expects in place of a later token.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from benchmarks.provenance import provenance
from benchmarks.tables import fill, source
from lloco_integrations import placeholder
from lloco_integrations.evaluation.report import write
from lloco_integrations.models.load import resolve_dtype
from lloco_integrations.prompting import Prompter
from lloco_integrations.training.base import load_base_model
from lloco_integrations.training.contexts import Context, load_contexts
from lloco_integrations.training.data import Batch, context_key, share_prefix
from lloco_integrations.training.export import start_from
from lloco_integrations.training.templates import PLAIN, QUOTE
from lloco_integrations.training.trainee import MeanPoolTrainee

if TYPE_CHECKING:
    from lloco_integrations.evaluation.datasets import Question

RESULT = Path(__file__).parent / "results" / "unpacking.json"
PAGE = Path(__file__).parent.parent / "docs" / "training.md"
SHIPPED = Path(__file__).parent.parent / "lloco_integrations" / "models" / "weights" / "smollm2-135m"
READS = {"none": None, "raw": 1, "4x": 4, "8x": 8}
AROUND = 32
COARSEST = 8
LEAD, QUOTED = 8, 32
INSTEAD = ("right", "same vector", "document", "elsewhere")


class Prompt(NamedTuple):
    """What is shown, what is asked, and what is to be said; token ids but for the question."""

    shown: tuple[int, ...]
    question: str
    target: tuple[int, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    report = measure(args.weights, args.documents)
    write(report, args.json)
    if args.json == RESULT:
        fill(PAGE, "unpacking", "\n".join(table(report)))


def measure(weights: Path, documents: int) -> dict[str, Any]:
    device = torch.device("cpu")
    model, tokenizer = load_base_model("smollm2-135m", device, resolve_dtype("auto", device))
    prompter = Prompter(tokenizer, chat=True)
    folder = Path(os.environ.get("LLOCO_DATA", "../shared/data"))
    pair = (folder / "squad_paragraph.dev.docs.jsonl.gz", folder / "squad_paragraph.dev.qa.jsonl.gz")
    short = [c for c in load_contexts([pair], prompter.text_ids, 1 << 20) if len(c.ids) <= 300]
    chosen = short[:: max(1, len(short) // documents)][:documents]
    trainee = MeanPoolTrainee(model, encoder_layers=json.loads((weights / "recipe.json").read_text())["encoder_layers"])
    start_from(trainee, weights)
    trainee.eval()
    end = model.config.eos_token_id
    answers, around = [], []
    for context in chosen:
        for question in context.questions[:3]:
            if (at := _place(context, question, prompter.text_ids)) is None:
                continue
            target = (*prompter.text_ids(question.answers[0]), end)
            low = max(0, at - AROUND // 2) // COARSEST * COARSEST
            answers.append(Prompt(context.ids, question.question, target))
            around.append(Prompt(context.ids[low : low + AROUND], question.question, target))
    quotes = [_quote(c, turn, prompter) for c in chosen for turn in range(2) if len(c.ids) >= LEAD + QUOTED]
    losses: dict[str, dict[str, float]] = {"around": {}, "whole": {}, "quotes": {}}
    tokens: dict[str, dict[str, float]] = {}
    instead: dict[str, dict[str, float]] = {}
    later = 0
    for name, ratio in READS.items():
        for task, prompts in (("around", around), ("quotes", quotes)):
            losses[task][name] = fmean(-p for one, logits in _read(trainee, prompts, ratio, prompter) for p in _right(one, logits))
        place: dict[str, list[float]] = {"first": [], "later": [], "end": []}
        shares: list[list[float]] = []
        for one, logits in _read(trainee, answers, ratio, prompter):
            first, *rest, last = (-p for p in _right(one, logits))
            place["first"].append(first)
            place["later"] += rest
            place["end"].append(last)
            shares += _expected(one, logits.softmax(-1), max(ratio or 0, READS["4x"] or 0))
        tokens[name] = {where: fmean(some) for where, some in place.items()}
        losses["whole"][name] = fmean(loss for some in place.values() for loss in some)
        instead[name] = dict(zip(INSTEAD, map(fmean, zip(*shares, strict=True)), strict=True))
        later = len(shares)
        print(name, {task: round(row[name], 3) for task, row in losses.items()}, tokens[name], instead[name], flush=True)
    return {
        "what": str(__doc__).splitlines()[0],
        **provenance(),
        "command": "python -m benchmarks.unpacking",
        "documents": len(chosen),
        "questions": len(answers),
        "quotes": len(quotes),
        "later_tokens": later,
        "losses": losses,
        "tokens": tokens,
        "instead": instead,
    }


def _place(context: Context, question: Question, text_ids: Callable[[str], list[int]]) -> int | None:
    """Where the answer's tokens begin in the document, None if they are not there."""
    for answer in question.answers:
        for wanted in (tuple(text_ids(" " + answer)), tuple(text_ids(answer))):
            starts = range(len(context.ids) - len(wanted) + 1)
            if (found := next((i for i in starts if context.ids[i : i + len(wanted)] == wanted), None)) is not None:
                return found
    return None


def _quote(context: Context, turn: int, prompter: Prompter) -> Prompt:
    at = random.Random(f"{turn}{context.ids}").randrange(len(context.ids) - LEAD - QUOTED + 1)
    lead = prompter.text_of(context.ids[at : at + LEAD]).strip()
    return Prompt(context.ids, QUOTE.format(lead), context.ids[at + LEAD :][:QUOTED])


@torch.no_grad()
def _read(
    trainee: MeanPoolTrainee, prompts: Sequence[Prompt], ratio: int | None, prompter: Prompter, rows: int = 12
) -> Iterator[tuple[Prompt, torch.Tensor]]:
    """Each prompt with the logits ``(n_target, vocabulary)`` of its target; ``ratio`` None shows no context, 1 its text."""
    for at in range(0, len(prompts), rows):
        some = prompts[at : at + rows]
        lines = []
        for i, one in enumerate(some):
            shown = "" if ratio is None else prompter.text_of(one.shown) if ratio == 1 else placeholder.make(context_key(i))
            lines.append(share_prefix([(prompter.segments(PLAIN.fill(shown, placeholder.neutralise(one.question))), one.target, 1.0)]))
        packed = trainee.packed(Batch(tuple(one.shown for one in some), ratio or 1, tuple(lines)))
        yield from zip(some, trainee.logits(packed).split([len(one.target) for one in some]), strict=True)


def _right(one: Prompt, logits: torch.Tensor) -> list[float]:
    """The log-likelihood of each target token."""
    chosen: list[float] = logits.log_softmax(-1)[torch.arange(len(one.target)), list(one.target)].tolist()
    return chosen


def _expected(one: Prompt, likely: torch.Tensor, window: int) -> Iterator[list[float]]:
    """For each token after an answer's first that follows the one before it in the document, too: the probabilities of the right token,
    of others in its window, of others in the document, and of tokens that are not in the document."""
    for j in range(1, len(one.target) - 1):
        before, token = one.target[j - 1 : j + 1]
        places = [i for i in range(1, len(one.shown)) if one.shown[i - 1 : i + 1] == (before, token)]
        if not places:
            continue
        beside = {t for i in places for t in one.shown[i // window * window :][:window]} - {token}
        rest = set(one.shown) - beside - {token}
        shares = [float(likely[j, list(some)].sum()) for some in ({token}, beside, rest)]
        yield [*shares, 1 - sum(shares)]


def table(report: Mapping[str, Any]) -> list[str]:
    """Nats a token by task, by place in the answer, and what is expected in place of a later token."""
    losses, tokens, instead = report["losses"], report["tokens"], report["instead"]
    rows = {
        "quotes": losses["quotes"],
        f"answers, {AROUND} tokens around them shown": losses["around"],
        "answers, the whole document shown": losses["whole"],
        "of these: the first token": {name: row["first"] for name, row in tokens.items()},
        "later tokens": {name: row["later"] for name, row in tokens.items()},
        "the end": {name: row["end"] for name, row in tokens.items()},
    }
    shares = {
        "the right one": "right",
        "another of the same vector (of four for raw and none)": "same vector",
        "another of the document": "document",
        "one that is not in the document": "elsewhere",
    }
    head = " | ".join(READS) + " |"
    rule = "|---|" + "--:|" * len(READS)
    return [
        "| nats a token | " + head,
        rule,
        *(f"| {what} | " + " | ".join(f"{row[name]:.2f}" for name in READS) + " |" for what, row in rows.items()),
        "",
        "| expected as a later token, % | " + head,
        rule,
        *(f"| {what} | " + " | ".join(f"{100 * instead[name][key]:.0f}" for name in READS) + " |" for what, key in shares.items()),
        "",
        f"{report['questions']} questions and {report['quotes']} quotes from {report['documents']} held-out documents; the second table is of the "
        f"{report['later_tokens']} later tokens that follow the one before them in the document, too. " + source(report, RESULT.name),
    ]


if __name__ == "__main__":
    main()
