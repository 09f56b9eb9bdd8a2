"""What does a question cost besides the model: importing the package, the engine's own work, the plugin inside a LlamaIndex query?

    python -m benchmarks.overhead
    python -m benchmarks.overhead --model DIR --repeats 1 --import-repeats 1 --plugins --queries 1 --embedding mock    # a smoke run

Imports: each statement in a fresh interpreter, in turn, all files read before. Engine: answers of one token from prompts of a few summaries,
each prompt asked once only, so that nothing is kept of an earlier one; the parts by calling the public pieces on prompts of the same lengths.
Plugin: a LlamaIndex query beside its retrieval and beside ``model.generate`` on the prompt that the query sent, in turn, after a first turn
that does not count; so a backend that keeps prompts knows this one in both.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from benchmarks.provenance import device_of, provenance
from benchmarks.tables import source
from benchmarks.timing import Spread, interleaved, shown
from lloco_integrations import Engine, GenerationParams, LLoCOModel, placeholder
from lloco_integrations.evaluation.report import write
from lloco_integrations.examples import load_documents, load_questions
from lloco_integrations.training.templates import PLAIN
from lloco_integrations.types import Generation, Message, ResolvedPrompt

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "performance" / "overhead.json"
PACKAGES = ("torch", "transformers", "lloco_integrations", "llama-index-core", "langchain-core")

BARE, PACKAGE = "pass", "import lloco_integrations"
PLUGINS = {
    "llama_index": ("import lloco_integrations.llama_index", "import llama_index.core"),
    "langchain": ("import lloco_integrations.langchain", "import langchain_core"),
}
"""The plugin, and the framework alone."""
LANGCHAIN_PARTS = "from langchain_core import language_models as m, vectorstores; m.BaseLLM, m.BaseChatModel"
"""``import langchain_core`` loads next to nothing; these are the classes that a plugin builds on, loaded when they are named."""
IMPORT_TARGET, PLUGIN_TARGET = 0.3, 5.0
"""Seconds beyond a bare interpreter; percent of a query."""

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--import-repeats", type=int, default=7)
    parser.add_argument(
        "--plugins", nargs="*", default=list(PLUGINS), choices=PLUGINS, help="whose imports are timed; none leaves them out"
    )
    parser.add_argument("--repeats", type=int, default=15, help="of a prompt of summaries")
    parser.add_argument("--summaries", type=int, default=4, help="in a prompt")
    parser.add_argument("--passage-tokens", type=int, default=200)
    parser.add_argument("--ratio", type=int, default=8)
    parser.add_argument("--queries", type=int, default=3, help="LlamaIndex queries; 0 leaves them out")
    parser.add_argument("--query-repeats", type=int, default=9)
    parser.add_argument("--query-tokens", type=int, default=16, help="of an answer to a LlamaIndex query")
    parser.add_argument("--embedding", default="minilm", choices=("minilm", "mock"), help="mock: one vector for all texts")
    args = parser.parse_args()
    report = measure(args)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    write(report, args.json)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of imports, of the engine's parts, and of LlamaIndex queries."""
    imports = import_seconds(args.plugins, args.import_repeats)
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store.sqlite")
        engine = Engine(args.model, store, device=args.device)
        try:
            passages = passages_of(engine.model, args.passage_tokens)
            parts = engine_seconds(engine, passages, args)
            pipeline = pipeline_of(store, passages, args) if args.queries else None
            queries = [query_seconds(pipeline, query, args) for query in queries_of(args.queries)] if pipeline else []
        finally:
            engine.store.close()
    return {
        "what": str(__doc__).splitlines()[0],
        **provenance(PACKAGES),
        "command": "python -m benchmarks.overhead",
        "model": Path(args.model).name if Path(args.model).is_dir() else args.model,
        "fingerprint": engine.model.fingerprint,
        "device": device_of(engine.model),
        "sizes": {name: getattr(args, name) for name in ("summaries", "passage_tokens", "ratio", "query_tokens", "embedding")},
        "imports": imports,
        "engine": parts,
        "queries": queries,
    }


def import_seconds(plugins: Iterable[str], repeats: int) -> dict[str, Spread]:
    """Statement -> seconds of an interpreter that does nothing else."""
    statements = [BARE, PACKAGE, *(statement for plugin in plugins for statement in PLUGINS[plugin])]
    if "langchain" in plugins:
        statements.append(LANGCHAIN_PARTS)

    def running(statement: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", statement], cwd=ROOT, check=True)

    found = interleaved({statement: running(statement) for statement in statements}, repeats)
    for statement, seconds in found.items():
        print(f"{statement}: {shown(seconds)} s", flush=True)
    return found


def passages_of(model: LLoCOModel, n_tokens: int) -> list[str]:
    """The example corpus in passages of ``n_tokens``; what is left over of a document is left out."""
    assert model.prompter is not None
    ids = [model.text_ids(document.text) for document in load_documents()]
    return [model.prompter.text_of(some[at : at + n_tokens]) for some in ids for at in range(0, len(some) - n_tokens + 1, n_tokens)]


def engine_seconds(engine: Engine, passages: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of ``engine.generate`` for one token, and of its parts; positions of a prompt."""
    model, params = engine.model, GenerationParams(max_new_tokens=1)
    turns = args.repeats + 1
    prompts = prompts_of(engine, passages, args.summaries, args.ratio, 3 * turns)
    first, second, third = prompts[:turns], prompts[turns : 2 * turns], prompts[2 * turns :]
    keys = [[mark.key for mark in placeholder.find(prompt[0].content)] for prompt in second]
    resolved = [model.resolve(prompt, engine.store) for prompt in third]
    rows = [embedded(model, prompt) for prompt in resolved]
    functions = {
        "whole": on_each(lambda prompt: engine.generate([prompt], params), first),
        "resolve": on_each(lambda prompt: model.resolve(prompt, engine.store), second),
        "segments": on_each(segments_by(model), second),
        "find": on_each(lambda prompt: list(placeholder.find(prompt[0].content)), second),
        "read": on_each(engine.store.get_many, keys),
        "count": on_each(engine.count, second),
        "backend": on_each(lambda prompt: model.backend.generate([prompt], params), resolved),
        "forward": on_each(lambda some: forward(model, some), rows),
    }
    seconds = interleaved(functions, args.repeats)
    for name, value in seconds.items():
        print(f"engine, {name}: {shown(value, 0.001)} ms", flush=True)
    return {"positions": median(prompt.n_positions for prompt in resolved), "seconds": seconds}


def prompts_of(engine: Engine, passages: Sequence[str], summaries: int, ratio: int, n: int) -> list[list[Message]]:
    """``n`` prompts that begin with different passages, as far as there are so many, and ask the same."""
    question = load_questions("heldout")[0].question
    needed = list(dict.fromkeys(passages[: n + summaries]))
    content = {text: made.content for text, made in zip(needed, engine.compress(needed, ratio=ratio), strict=True)}
    shown = [[needed[(i + j) % len(needed)] for j in range(summaries)] for i in range(n)]
    return [PLAIN.fill("\n\n".join(content[text] for text in texts), question) for texts in shown]


def on_each(function: Callable[[T], object], values: Sequence[T]) -> Callable[[], object]:
    """``function`` on the next of ``values`` with each call."""
    rest = iter(values)
    return lambda: function(next(rest))


def segments_by(model: LLoCOModel) -> Callable[[Sequence[Message]], object]:
    """Finding placeholders, the chat template, and tokenising."""
    assert model.prompter is not None
    return model.prompter.segments


def embedded(model: LLoCOModel, prompt: ResolvedPrompt) -> Any:
    """``inputs_embeds (1, n_positions, hidden_size)`` of ``prompt``."""
    import torch

    embedding: Any = model.decoder.get_input_embeddings()
    weight = embedding.weight
    with torch.inference_mode():
        rows = [embedding(torch.tensor(p, device=weight.device)) if isinstance(p, list) else p.to(weight) for p in prompt.pieces]
        return torch.cat(rows)[None]


def forward(model: LLoCOModel, embeds: Any) -> int:
    """The decoder's bare pass, up to the most likely next token: what one token costs at the least."""
    import torch

    decoder: Any = model.decoder
    with torch.inference_mode():
        return int(decoder(inputs_embeds=embeds, use_cache=True, logits_to_keep=1).logits[0, -1].argmax())


@dataclass(frozen=True)
class Pipeline:
    """A LlamaIndex query engine over our plugin, and its parts."""

    llm: Any
    retriever: Any
    post: Any
    query_engine: Any


def queries_of(n: int) -> list[str]:
    """Questions about the first ``n`` documents that want long answers."""
    return [f"Repeat what the text says about {document.title}, word for word." for document in load_documents()[:n]]


def pipeline_of(store: str, passages: Sequence[str], args: argparse.Namespace) -> Pipeline:
    """Over an index of ``passages``; nothing in LlamaIndex's Settings is changed."""
    from llama_index.core import VectorStoreIndex
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.response_synthesizers import get_response_synthesizer
    from llama_index.core.schema import TextNode

    from lloco_integrations.llama_index import LLoCOLLM, LLoCOPostprocessor, LLoCOPromptHelper

    llm = LLoCOLLM(args.model, store, device=args.device, max_new_tokens=args.query_tokens)
    post = LLoCOPostprocessor(args.model, store, ratio=args.ratio, device=args.device)
    index = VectorStoreIndex([TextNode(text=text) for text in passages], embed_model=embed_model(args.embedding))
    retriever = index.as_retriever(similarity_top_k=args.summaries)
    synthesizer = get_response_synthesizer(llm=llm, prompt_helper=LLoCOPromptHelper(llm))
    return Pipeline(llm, retriever, post, RetrieverQueryEngine(retriever, synthesizer, node_postprocessors=[post]))


def query_seconds(pipeline: Pipeline, query: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the whole query, of retrieving, of the postprocessor, and of the model on the same prompt."""
    engine, params = pipeline.llm.engine, GenerationParams(max_new_tokens=args.query_tokens)
    prompt, answer = heard(pipeline.llm, lambda: pipeline.query_engine.query(query))
    nodes = pipeline.retriever.retrieve(query)

    def direct() -> Generation:
        made: list[Generation] = engine.model.generate([prompt], params, store=engine.store)
        return made[0]

    made = direct()
    functions: dict[str, Callable[[], object]] = {
        "query": lambda: pipeline.query_engine.query(query),
        "direct": direct,
        "retrieve": lambda: pipeline.retriever.retrieve(query),
        "postprocess": lambda: pipeline.post.postprocess_nodes(nodes),
    }
    seconds = interleaved(functions, args.query_repeats)
    print(f"{query} " + ", ".join(f"{name} {shown(value, digits=3)} s" for name, value in seconds.items()), flush=True)
    usage = {"positions": made.usage.prompt_tokens, "answer_tokens": made.usage.completion_tokens}
    return {"query": query, **usage, "same_answer": made.text == answer, "seconds": seconds}


def heard(llm: Any, ask: Callable[[], object]) -> tuple[Any, str]:
    """The prompt that ``llm`` got while ``ask`` ran, as the engine's messages or text, and the answer."""
    from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
    from llama_index.core.callbacks.schema import EventPayload

    from lloco_integrations.llama_index.calls import to_messages

    listener, before = LlamaDebugHandler(print_trace_on_end=False), llm.callback_manager
    llm.callback_manager = CallbackManager([listener])
    try:
        answer = str(ask())
    finally:
        llm.callback_manager = before
    sent = listener.get_llm_inputs_outputs()[0][0].payload or {}
    return to_messages(sent[EventPayload.MESSAGES]) if EventPayload.MESSAGES in sent else sent[EventPayload.PROMPT], answer


def embed_model(name: str) -> Any:
    """LlamaIndex's embedding: MiniLM as the demo uses it, or one that gives all texts the same vector."""
    if name == "mock":
        from llama_index.core.embeddings import MockEmbedding

        return MockEmbedding(embed_dim=8)
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    from lloco_integrations.embedding import model_directory

    return HuggingFaceEmbedding(str(model_directory()))


def tables(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """The tables of imports, of the engine's parts and of the plugin."""
    told = source(report, f"performance/{RESULT.name}")
    made = {"imports": import_table(report), "engine": engine_table(report)}
    if report["queries"]:
        made["plugin"] = plugin_table(report)
    return {f"overhead {name}": [*lines, "", told] for name, lines in made.items()}


def import_table(report: Mapping[str, Any]) -> list[str]:
    imports = report["imports"]
    bare = imports[BARE]["median"]
    lines = ["| statement | seconds | beyond a bare interpreter | beyond the framework alone |", "|---|---:|---:|---:|"]
    alone = dict(PLUGINS.values())
    for statement, seconds in imports.items():
        beyond = f"{seconds['median'] - imports[alone[statement]]['median']:+.2f}" if statement in alone else ""
        lines.append(f"| `{statement}` | {shown(seconds)} | {seconds['median'] - bare:.2f} | {beyond} |")
    own = imports[PACKAGE]["median"] - bare
    note = f"Median [least, greatest] of {imports[BARE]['n']}. The package alone takes {own:.2f} s (target: under {IMPORT_TARGET} s)."
    if LANGCHAIN_PARTS in imports:
        parts = imports[PLUGINS["langchain"][0]]["median"] - imports[LANGCHAIN_PARTS]["median"]
        note += f" `import langchain_core` loads next to nothing: beyond the parts that its plugins build on, ours takes {parts:+.2f} s."
    return [*lines, "", note]


def engine_table(report: Mapping[str, Any]) -> list[str]:
    seconds = report["engine"]["seconds"]
    at = {name: value["median"] for name, value in seconds.items()}
    assembling = at["resolve"] - at["segments"] - at["read"]
    lines = ["| | ms | % of the whole |", "|---|---:|---:|"]
    named = {
        "`engine.generate`, one token": "whole",
        "the backend's run": "backend",
        "of it, the decoder's bare pass": "forward",
        "`model.resolve`: from messages to vectors and ids": "resolve",
        "of it, template, finding placeholders, tokenising": "segments",
        "of that, finding placeholders": "find",
        "of it, reading the store": "read",
    }
    lines += [f"| {label} | {shown(seconds[name], 0.001)} | {percent(at[name], at['whole'])} |" for label, name in named.items()]
    lines.append(f"| of it, the rest: assembling | {1000 * assembling:.2f} | {percent(assembling, at['whole'])} |")
    rest = at["whole"] - at["backend"] - at["resolve"]
    lines.append(f"| neither: the whole less both | {1000 * rest:.2f} | {percent(rest, at['whole'])} |")
    sizes = report["sizes"]
    note = (
        f"Median [least, greatest] of {seconds['whole']['n']} prompts of {report['engine']['positions']:,.0f} positions: "
        f"{sizes['summaries']} summaries of {sizes['passage_tokens']} tokens at {sizes['ratio']}x, and a question; {report['device']}. "
        f"What is not the backend takes {percent(at['resolve'], at['whole'])} % by its parts and "
        f"{percent(at['whole'] - at['backend'], at['whole'])} % as the difference of two long times; the backend takes "
        f"{at['backend'] / at['forward']:.2f} times the bare pass. `engine.count`, which answers need not, takes {1000 * at['count']:.2f} ms."
    )
    return [*lines, "", note]


def plugin_table(report: Mapping[str, Any]) -> list[str]:
    lines = ["| positions | answer, tokens | query, s | retrieval, s | model directly, s | plugin and LlamaIndex, % |", "|" + "---:|" * 6]
    overheads = {key: [overhead(query["seconds"], key) for query in report["queries"]] for key in ("median", "low")}
    for query, share in zip(report["queries"], overheads["median"], strict=True):
        seconds = query["seconds"]
        cells = [shown(seconds["query"]), shown(seconds["retrieve"], digits=3), shown(seconds["direct"])]
        lines.append(f"| {query['positions']} | {query['answer_tokens']} | {' | '.join(cells)} | {share:.1f} |")
    post = median(1000 * query["seconds"]["postprocess"]["median"] for query in report["queries"])
    sizes = report["sizes"]
    note = (
        f"{len(report['queries'])} queries, each {report['queries'][0]['seconds']['query']['n']} times: {sizes['summaries']} passages of "
        f"{sizes['passage_tokens']} tokens at {sizes['ratio']}x, embedding {sizes['embedding']}; {report['device']}. What is neither "
        f"retrieval nor the model takes {median(overheads['median']):.1f} % of a query by medians, {median(overheads['low']):.1f} % by the "
        f"least times (target: at most {PLUGIN_TARGET:g} %), of which the postprocessor {post:.1f} ms."
    )
    differing = sum(not query["same_answer"] for query in report["queries"])
    return [*lines, "", note + (f" {differing} direct answers differ from the query's." if differing else "")]


def overhead(seconds: Mapping[str, Spread], key: str) -> float:
    """Percent of a query that is neither retrieval nor the model."""
    query = seconds["query"][key]
    return 100 * (query - seconds["retrieve"][key] - seconds["direct"][key]) / query


def percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}"


if __name__ == "__main__":
    main()
