"""What does a whole question cost, and how right is its answer, beside what people would use instead?

    python -m benchmarks.rivals                                          # without LLMLingua
    python -m benchmarks.rivals --llmlingua-python VENV/bin/python       # its environment: benchmarks/peers/README.md
    python -m benchmarks.rivals --model DIR --documents 2 --questions 2 --document-tokens 500 --max-new-tokens 2 --frameworks   # a smoke run

One document, one question, one greedy answer; all rows answer each question in turn. Each document is asked about once before any is asked
again, so that what an engine keeps of a document shows only in the second question. Summaries are compressed beforehand, and LLMLingua's texts
are made beforehand, in a process of its own; the seconds of both are measured, and added in a column of their own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.peers.texts import Out
from benchmarks.provenance import device_of, provenance
from benchmarks.rivals_table import FRAMEWORKS, tables
from benchmarks.timing import interleaved
from lloco_integrations import Engine, GenerationParams, LLoCOModel
from lloco_integrations.evaluation.cases import Case, choose
from lloco_integrations.evaluation.datasets import Document, Question
from lloco_integrations.evaluation.metrics import f1
from lloco_integrations.evaluation.report import write
from lloco_integrations.examples import load_documents, load_questions
from lloco_integrations.placeholder import neutralise
from lloco_integrations.training.templates import PLAIN

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "performance" / "rivals.json"
PACKAGES = ("torch", "transformers", "lloco_integrations", "llama-index-core", "llama-index-llms-huggingface", "langchain-huggingface")


@dataclass(frozen=True)
class Asked:
    """A question about a document. ``turn``: how many were asked about that document before."""

    document: Document
    question: Question
    turn: int = 0


Ask = Callable[[Asked], tuple[str, int]]
"""A whole query: the answer, and the positions of its prompt."""


@dataclass(frozen=True)
class Rival:
    """A row of the table. ``documents``: ids of those that it can be asked about, None is all."""

    name: str
    ask: Ask
    documents: frozenset[str] | None = None

    def answers(self, asked: Asked) -> bool:
        return self.documents is None or asked.document.doc_id in self.documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--documents", type=int, default=8, help="spread over the example corpus")
    parser.add_argument("--questions", type=int, default=16, help="spread over the documents")
    parser.add_argument("--document-tokens", type=int, help="only the first so many tokens of each document")
    parser.add_argument("--ratios", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=1, help="of each question; over 1, an engine may know the prompt already")
    parser.add_argument("--frameworks", nargs="*", default=FRAMEWORKS, choices=FRAMEWORKS, help="none leaves them out")
    parser.add_argument("--llmlingua-python", help="of LLMLingua's environment; without it these rows are left out")
    parser.add_argument("--llmlingua-documents", type=int, default=8, help="how many of the documents LLMLingua compresses")
    parser.add_argument("--llmlingua-ratios", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--llmlingua-seconds", type=float, default=240, help="after which LLMLingua is stopped, and has what it has")
    args = parser.parse_args()
    report = measure(args)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    write(report, args.json)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Every row's answers to every question, with seconds, positions and F1; seconds of compressing for each document."""
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(args.model, str(Path(folder) / "store.sqlite"), device=args.device)
        try:
            return measured(args, engine, Path(folder))
        finally:
            engine.store.close()


def measured(args: argparse.Namespace, engine: Engine, folder: Path) -> dict[str, Any]:
    model, params = engine.model, GenerationParams(max_new_tokens=args.max_new_tokens)
    asked, unasked = questions(model, args.documents, args.questions, args.document_tokens)
    documents = {a.document.doc_id: a.document for a in asked}
    left_out: dict[str, str] = {}
    lingua = llmlingua(args, list(documents.values())[: args.llmlingua_documents], folder, left_out)
    everything = [*documents.values(), unasked.document]
    engine.compress([d.text for d in everything])
    rivals = [*ours(engine, args.ratios, everything, params), *frameworks(args, model, [*asked, unasked], left_out)]
    for ratio, rows in lingua.items():
        texts = {key: row["text"] for key, row in rows.items()}
        rivals.append(Rival(f"llmlingua@{ratio}", by_text(engine, texts, params), frozenset(texts)))
    for rival in rivals:
        if rival.answers(unasked):
            rival.ask(unasked)  # the first pass takes longer than those after it
    found: dict[str, list[dict[str, Any]]] = {rival.name: [] for rival in rivals}
    compressing: dict[str, Any] = {}
    for one in asked:
        answers, seconds = in_turn(model, [r for r in rivals if r.answers(one)], one, args.repeats)
        if one.turn == 0:
            compressing[one.document.doc_id] = seconds["compressing"]
        for name, (text, positions) in answers.items():
            found[name].append(result(model, one, text, positions, seconds[name]))
        told = ", ".join(f"{name} {seconds[name]['median']:.2f}" for name in answers)
        print(f"{one.document.doc_id}, {one.question.id}, seconds: {told}", flush=True)
    return {
        "what": str(__doc__).splitlines()[0],
        **provenance([package for package in PACKAGES if installed(package)]),
        "command": "python -m benchmarks.rivals" + (" --llmlingua-python VENV/bin/python" if args.llmlingua_python else ""),
        "model": Path(args.model).name if Path(args.model).is_dir() else args.model,
        "fingerprint": model.fingerprint,
        "device": device_of(model),
        "max_new_tokens": args.max_new_tokens,
        "documents": {key: len(model.text_ids(document.text)) for key, document in documents.items()},
        "compressing": compressing,
        "llmlingua": {f"llmlingua@{ratio}": {k: row["seconds"] for k, row in rows.items()} for ratio, rows in lingua.items()},
        "left_out": left_out,
        "rows": found,
    }


def in_turn(model: LLoCOModel, rivals: Sequence[Rival], asked: Asked, repeats: int) -> tuple[dict[str, tuple[str, int]], dict[str, Any]]:
    """Each row's answer and positions, and its seconds; on a document's first turn, the seconds of "compressing" it, too."""
    answers: dict[str, tuple[str, int]] = {}

    def asking(rival: Rival) -> Callable[[], object]:
        return lambda: answers.update({rival.name: rival.ask(asked)})

    functions = {rival.name: asking(rival) for rival in rivals}
    if asked.turn == 0:
        functions["compressing"] = lambda: model.compress([asked.document.text])
    return answers, interleaved(functions, repeats, warm=0)


def result(model: LLoCOModel, asked: Asked, text: str, positions: int, seconds: Mapping[str, float]) -> dict[str, Any]:
    score = 100 * f1(text, asked.question.answers)
    tokens = len(model.text_ids(text)) if text.strip() else 0
    about = {"id": asked.question.id, "document": asked.document.doc_id, "turn": asked.turn}
    return {**about, "positions": positions, "seconds": seconds, "f1": round(score, 2), "answer": text, "answer_tokens": tokens}


def questions(model: LLoCOModel, n_documents: int, n_questions: int, n_tokens: int | None) -> tuple[list[Asked], Asked]:
    """Held-out questions, the first of each document before the second of any; and one about a document that is not among them, if any."""
    by_document: dict[str, list[Question]] = {}
    for q in load_questions("heldout"):
        by_document.setdefault(q.doc_id, []).append(Question(q.id, q.doc_id, q.question, q.answers))
    documents = [first_tokens(model, Document(d.doc_id, d.title, d.text), n_tokens) for d in load_documents()]
    cases = [Case(document, tuple(by_document[document.doc_id])) for document in documents if document.doc_id in by_document]
    n = min(n_documents, len(cases))
    some = [cases[i * len(cases) // n] for i in range(n)]
    other = next((case for case in cases if case not in some), cases[0])
    asked = [Asked(case.document, q, turn) for case in choose(some, n_questions, seed=0) for turn, q in enumerate(case.questions)]
    return sorted(asked, key=lambda a: a.turn), Asked(other.document, other.questions[0])


def first_tokens(model: LLoCOModel, document: Document, n_tokens: int | None) -> Document:
    """``document`` with its first ``n_tokens``; None is all of them."""
    assert model.prompter is not None
    return document if n_tokens is None else replace(document, text=model.prompter.text_of(model.text_ids(document.text)[:n_tokens]))


def ours(engine: Engine, ratios: Sequence[int], documents: Sequence[Document], params: GenerationParams) -> list[Rival]:
    """The rows of our engine: summaries, the whole text, and the text cut to the positions of each ratio."""
    whole = {d.doc_id: d.text for d in documents}
    rivals = [Rival(f"ours@{ratio}", by_summary(engine, ratio, params)) for ratio in ratios]
    rivals.append(Rival("text", by_text(engine, whole, params)))
    return [*rivals, *(Rival(f"cut@{ratio}", by_text(engine, cut(engine.model, documents, ratio), params)) for ratio in ratios)]


def cut(model: LLoCOModel, documents: Sequence[Document], ratio: int) -> dict[str, str]:
    """The beginning of each document, by its id: what the scorecard's row ``truncate`` shows."""
    from lloco_integrations.evaluation.contexts import Shown
    from lloco_integrations.evaluation.methods import Row

    assert model.prompter is not None
    texts: dict[str, str] = {}
    for document in documents:
        ((context, _),) = Shown(model).contexts(Row(f"truncate@{ratio}", "truncate", ratio), Case(document, ()))
        assert isinstance(context.content, list)
        texts[document.doc_id] = model.prompter.text_of(context.content)
    return texts


def by_summary(engine: Engine, ratio: int, params: GenerationParams) -> Ask:
    """Finds the document's summary in the store and asks."""

    def ask(asked: Asked) -> tuple[str, int]:
        (summary,) = engine.compress([asked.document.text], on_miss="raise", ratio=ratio)
        return answered(engine, summary.content, asked.question, params)

    return ask


def by_text(engine: Engine, texts: Mapping[str, str], params: GenerationParams) -> Ask:
    """Shows the document's text in ``texts``, by its id, and asks."""
    return lambda asked: answered(engine, neutralise(texts[asked.document.doc_id]), asked.question, params)


def answered(engine: Engine, context: str, question: Question, params: GenerationParams) -> tuple[str, int]:
    (made,) = engine.generate([PLAIN.fill(context, question.question)], params)
    return made.text, made.usage.prompt_tokens


def frameworks(args: argparse.Namespace, model: LLoCOModel, asked: Sequence[Asked], left_out: dict[str, str]) -> list[Rival]:
    """The frameworks' own classes on the whole text: the same decoder's files, dtype and prompt. ``left_out`` is told which are missing."""
    from lloco_integrations.models.load import decoder_directory, no_bars

    load = {"llama-index": llama_index, "langchain": langchain}
    prompts = {one.question.id: prompt(model, one) for one in asked}
    left_out.update((name, "not asked for") for name in FRAMEWORKS if name not in args.frameworks)
    rivals = []
    for name in args.frameworks:
        try:
            with no_bars():
                complete = load[name](model, decoder_directory(args.model), args.max_new_tokens)
        except ImportError as error:
            left_out[name] = f"{error.name} cannot be imported"
            continue
        rivals.append(Rival(name, by_prompt(complete, prompts)))
    return rivals


def prompt(model: LLoCOModel, asked: Asked) -> tuple[str, int]:
    """The prompt that our engine makes of the whole text, as one string, and its tokens by the decoder's tokenizer."""
    tokenizer: Any = model.tokenizer
    messages = PLAIN.fill(neutralise(asked.document.text), asked.question.question)
    text = messages[0].content
    if model.prompter is not None and model.prompter.chat:
        turns = [{"role": m.role, "content": m.content} for m in messages]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return text, len(tokenizer(text)["input_ids"])


def by_prompt(complete: Callable[[str], str], prompts: Mapping[str, tuple[str, int]]) -> Ask:
    """Asks with the whole prompt of the question."""

    def ask(asked: Asked) -> tuple[str, int]:
        text, positions = prompts[asked.question.id]
        return complete(text), positions

    return ask


def llama_index(model: LLoCOModel, directory: Path, max_new_tokens: int) -> Callable[[str], str]:
    """LlamaIndex's HuggingFaceLLM, greedy."""
    llm = import_module("llama_index.llms.huggingface").HuggingFaceLLM(
        model_name=str(directory),
        tokenizer_name=str(directory),
        device_map=model.decoder.device.type,
        context_window=model.window,
        max_new_tokens=max_new_tokens,
        model_kwargs={"dtype": model.decoder.dtype},
        generate_kwargs={"do_sample": False},
    )
    return lambda text: str(llm.complete(text, formatted=True).text)


def langchain(model: LLoCOModel, directory: Path, max_new_tokens: int) -> Callable[[str], str]:
    """LangChain's HuggingFacePipeline, greedy."""
    llm = import_module("langchain_huggingface").HuggingFacePipeline.from_model_id(
        model_id=str(directory),
        task="text-generation",
        device_map=model.decoder.device.type,
        model_kwargs={"dtype": model.decoder.dtype},
        pipeline_kwargs={"max_new_tokens": max_new_tokens, "do_sample": False, "return_full_text": False},
    )
    return lambda text: str(llm.invoke(text))


def llmlingua(
    args: argparse.Namespace, documents: Sequence[Document], folder: Path, left_out: dict[str, str]
) -> dict[int, dict[str, dict[str, Any]]]:
    """Ratio -> document's id -> the line that LLMLingua's command wrote for it; ``left_out`` is told what there is not."""
    if not args.llmlingua_python:
        left_out["llmlingua"] = "no --llmlingua-python was given"
        return {}
    lines = [json.dumps({"id": d.doc_id, "context": d.text, "question": ""}) for d in documents]
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [args.llmlingua_python, "-m", "benchmarks.peers.llmlingua_texts", "--model", str(scorer(args.model, folder / "scorer"))]
    command += ["--in", str(folder / "in.jsonl"), "--out", str(folder / "out@{ratio}"), "--ratio", *map(str, args.llmlingua_ratios)]
    try:
        subprocess.run(command, cwd=ROOT, timeout=args.llmlingua_seconds, check=True)
    except subprocess.TimeoutExpired:
        left_out["llmlingua, some documents"] = f"not done within {args.llmlingua_seconds:g} s"
    except (OSError, subprocess.CalledProcessError) as error:
        left_out["llmlingua"] = f"its command failed: {type(error).__name__}"
        return {}
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for ratio in args.llmlingua_ratios:
        with Out(folder / f"out@{ratio}", {"ratio": ratio, "ranking": "llmlingua"}) as out:
            found[ratio] = dict(out.done)
    both = set.intersection(*(set(rows) for rows in found.values()))
    return {ratio: {key: rows[key] for key in rows if key in both} for ratio, rows in found.items()} if both else {}


def scorer(name: str, folder: Path) -> Path:
    """The directory of the small model that ranks LLMLingua's words: the preset's base, or the decoder of another model."""
    from lloco_integrations.models.load import decoder_directory, no_bars
    from lloco_integrations.models.materialise import load_base
    from lloco_integrations.models.presets import PRESETS

    preset = PRESETS.get(name)
    if preset is None or preset.wheel is None:
        return decoder_directory(name)
    with no_bars():
        for part in load_base(preset):
            part.save_pretrained(folder)
    return folder


def installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


__all__ = ["main", "measure", "tables"]


if __name__ == "__main__":
    main()
