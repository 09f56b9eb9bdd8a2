"""``lloco demo``: questions answered through LlamaIndex and LangChain from what they point to, beside the same model reading all the text."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lloco_integrations.secret import shown

if TYPE_CHECKING:
    from lloco_integrations.engine import Engine

SHOWN = 12
RIGHT = 50.0
"""An answer of this F1 or more is called right."""


@dataclass(frozen=True)
class Asked:
    """A question with its right answers; none where the user asks."""

    text: str
    answers: tuple[str, ...] = ()


@dataclass
class Tally:
    """What one way of answering took and gave, over all questions."""

    f1: list[float] = field(default_factory=list)
    seconds: float = 0.0
    positions: int = 0


def command(
    docs: Annotated[Path | None, typer.Option(help="A folder of your own documents in place of the example corpus.")] = None,
    ask: Annotated[list[str] | None, typer.Option(help="A question of your own; may be repeated.")] = None,
    questions: Annotated[int, typer.Option(min=1, help="How many held-out questions about the example corpus to ask.")] = SHOWN,
    ratio: Annotated[int, typer.Option(min=1, help="Tokens of the retrieved passages for each position that they take in the prompt.")] = 8,
    top_k: Annotated[int, typer.Option(min=1, help="Passages that are retrieved for a question.")] = 8,
    focus: Annotated[
        str,
        typer.Option(help="question: its sentences stand as text, the rest as vectors or not at all; none: summaries at one ratio."),
    ] = "question",
    model: Annotated[str, typer.Option(help="Preset, model directory or hub id.")] = "smollm2-135m",
    adapter: Annotated[
        str | None, typer.Option(help="Directory of an adapter, such as lloco learn makes, to read what is compressed.")
    ] = None,
    store: Annotated[str | None, typer.Option(help="Where summary embeddings are kept; default: the cache folder.")] = None,
) -> None:
    """Answer questions about documents from what the questions point to and, beside it, from all the text."""
    from lloco_integrations.engine import Engine
    from lloco_integrations.errors import BadInput
    from lloco_integrations.show.policy import FocusRecipe

    if docs is not None and not ask:
        raise BadInput('--docs needs at least one --ask "question"')
    if focus not in ("question", "none"):
        raise BadInput(f"--focus is {focus!r}; use question or none")
    console = Console()
    asked = [Asked(q) for q in ask or ()] or _held_out(questions)
    texts = _passages(docs)
    with console.status(f"loading {model} (the first time: downloading 93 MB and building it, about a minute)"):
        engine = Engine(model, store, {"default": adapter} if adapter else {})
        name = engine.model.name
    if focus == "none":
        _compress(console, engine, texts, ratio)
    elif FocusRecipe.of(engine.model.focus).finest or not engine.model.spec.is_elastic:  # else no vectors are shown: no need to wait
        _compress(console, engine, texts, None)
    with console.status("embedding the passages with all-MiniLM-L6-v2"):
        ways = _ways(engine, texts, focus, ratio, top_k)
    tallies = {way: Tally() for way in ways}
    for number, question in enumerate(asked, 1):
        console.print(Text(f"\n{number}. {question.text}", style="bold"))
        if question.answers:
            console.print(Text(f"   right answer: {question.answers[0]}", style="green"))
        for way, answer in ways.items():
            _report(console, way, question, tallies[way], answer)
    _totals(console, tallies, f"{name}, {ratio}x, {len(asked)} questions, top {top_k} passages", len(asked))
    if said := _in_words(tallies):
        console.print(f"\n{said}", highlight=False, soft_wrap=True)


def _held_out(n: int) -> list[Asked]:
    """``n`` of the example corpus's held-out questions, spread over the documents."""
    from lloco_integrations.examples import load_questions

    found = load_questions("heldout")
    step = max(1, len(found) // n)
    return [Asked(q.question, q.answers) for q in found[::step][:n]]


def _passages(docs: Path | None) -> list[tuple[str, str]]:
    """``(source, text)`` of each passage."""
    from lloco_integrations.errors import BadInput
    from lloco_integrations.evaluation.retrieval import paragraphs

    if docs is None:
        from lloco_integrations.examples import load_documents

        return [(d.doc_id, p) for d in load_documents() for p in paragraphs(d.text)]
    if not docs.is_dir():
        raise BadInput(f"--docs {docs} is not a folder")
    from llama_index.core import SimpleDirectoryReader
    from llama_index.core.node_parser import SentenceSplitter

    try:
        loaded = SimpleDirectoryReader(str(docs), recursive=True).load_data()
    except ValueError as error:
        raise BadInput(f"--docs {docs}: {error}") from error
    nodes = SentenceSplitter(chunk_size=200, chunk_overlap=0).get_nodes_from_documents(loaded)
    found = [(str(n.metadata.get("file_name", docs)), n.get_content().strip()) for n in nodes]
    return [(source, text) for source, text in found if text]


def _compress(console: Console, engine: Engine, texts: list[tuple[str, str]], ratio: int | None) -> None:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    total = sum(len(engine.model.text_ids(t)) for _, t in texts)
    began = time.perf_counter()
    columns = (TextColumn("compressing"), BarColumn(), TextColumn("{task.completed:.0f} of {task.total:.0f} tokens"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total)
        done = engine.compress([t for _, t in texts], ratio=ratio, progress=lambda n: bar.advance(task, n))
        bar.update(task, completed=total)
    vectors = sum(c.n_positions for c in done)
    console.print(
        f"{len(texts)} passages, {total} tokens -> {vectors} summary vectors in {time.perf_counter() - began:.1f} s, in {shown(engine.store.url)}"
    )


def _ways(engine: Engine, texts: list[tuple[str, str]], focus: str, ratio: int, top_k: int) -> dict[str, Any]:
    """Each way of answering: question -> (answer, positions, sources)."""
    from langchain_classic.chains.combine_documents import create_stuff_documents_chain
    from langchain_classic.chains.retrieval import create_retrieval_chain
    from langchain_core.documents import Document
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.vectorstores import InMemoryVectorStore
    from langchain_huggingface import HuggingFaceEmbeddings
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    from lloco_integrations.embedding import model_directory
    from lloco_integrations.langchain import ChatLLoCO, LLoCORetriever
    from lloco_integrations.llama_index import LLoCOLLM, LLoCOPostprocessor

    names: dict[str, Any] = {"model": engine.model_name, "store": engine.store_target}
    nodes = [TextNode(text=t, metadata={"source": s}, excluded_llm_metadata_keys=["source"]) for s, t in texts]
    embed_model = HuggingFaceEmbedding(str(model_directory()))
    index = VectorStoreIndex(nodes, embed_model=embed_model)
    llm = LLoCOLLM(**names, adapters=engine.adapters, max_new_tokens=32)
    how: dict[str, Any] = {"focus": focus, "ratio": ratio}
    processor = LLoCOPostprocessor(**names, **how, embed_model=embed_model)
    short = index.as_query_engine(llm=llm, similarity_top_k=top_k, node_postprocessors=[processor])
    raw = index.as_query_engine(llm=LLoCOLLM(**names, max_new_tokens=32), similarity_top_k=top_k)

    vectors = InMemoryVectorStore(HuggingFaceEmbeddings(model_name=str(model_directory())))
    vectors.add_documents([Document(t, metadata={"source": s}) for s, t in texts])
    prompt = ChatPromptTemplate.from_template("{context}\n\nQuestion: {input}\nAnswer:")
    chain = create_retrieval_chain(
        LLoCORetriever(**names, **how, vectorstore=vectors, k=top_k),
        create_stuff_documents_chain(ChatLLoCO(**names, adapters=engine.adapters, max_tokens=32), prompt),
    )
    meter = _Meter()
    what = "focus" if focus == "question" else "summaries"
    return {
        f"LlamaIndex, {what}": lambda q: meter.llama_index(short, q),
        f"LangChain, {what}": lambda q: meter.langchain(chain, q),
        "LlamaIndex, all text": lambda q: meter.llama_index(raw, q),
    }


class _Meter:
    """Runs engines and chains, and hears from the frameworks' own events how many positions the prompts took."""

    def __init__(self) -> None:
        from langchain_core.callbacks import UsageMetadataCallbackHandler
        from llama_index.core.instrumentation.event_handlers import BaseEventHandler
        from llama_index.core.instrumentation.events.llm import LLMChatEndEvent
        from llama_index_instrumentation import get_dispatcher

        seen: list[int] = []

        class Listener(BaseEventHandler):
            def handle(self, event: Any, **kwargs: Any) -> None:
                if isinstance(event, LLMChatEndEvent) and event.response is not None and isinstance(event.response.raw, dict):
                    seen.append(event.response.raw["usage"]["prompt_tokens"])

        get_dispatcher().add_event_handler(Listener())
        self._seen = seen
        self._handler = UsageMetadataCallbackHandler

    def llama_index(self, engine: Any, question: str) -> tuple[str, int, list[str]]:
        self._seen.clear()
        response = engine.query(question)
        sources = [f"{n.node.metadata.get('source', '')}" for n in response.source_nodes]
        return str(response), sum(self._seen), sources

    def langchain(self, chain: Any, question: str) -> tuple[str, int, list[str]]:
        usage = self._handler()
        result = chain.invoke({"input": question}, config={"callbacks": [usage]})
        positions = sum(u["input_tokens"] for u in usage.usage_metadata.values())
        return result["answer"], positions, [str(d.metadata.get("source", "")) for d in result["context"]]


def _report(console: Console, way: str, question: Asked, tally: Tally, answer: Any) -> None:
    from lloco_integrations.evaluation.metrics import f1

    began = time.perf_counter()
    text, positions, sources = answer(question.text)
    seconds = time.perf_counter() - began
    tally.seconds += seconds
    tally.positions += positions
    scored = ""
    if question.answers:
        tally.f1.append(100 * f1(text, question.answers))
        scored = f"F1 {tally.f1[-1]:3.0f}, "
    detail = f"({scored}{positions} positions, {seconds:.1f} s; {', '.join(dict.fromkeys(sources))})"
    line = Text.assemble(f"   {way:>21}: ", (" ".join(text.split()), "cyan"), "  ", (detail, "dim"))
    console.print(line, soft_wrap=True)


def _totals(console: Console, tallies: dict[str, Tally], title: str, n: int) -> None:
    from lloco_integrations.evaluation.metrics import bootstrap

    table = Table(title=title, caption="positions and seconds are means over the questions")
    for column in ("way", "F1 [95 %]", "positions", "seconds"):
        table.add_column(column, justify="left" if column == "way" else "right", no_wrap=True)
    for way, tally in tallies.items():
        table.add_row(way, str(bootstrap(tally.f1)) if tally.f1 else "-", f"{tally.positions / n:.0f}", f"{tally.seconds / n:.2f}")
    console.print()
    console.print(table)


def _in_words(tallies: dict[str, Tally]) -> str:
    """How many answers were right in each way, and in how many positions of the prompt; nothing where right answers are not known."""
    said = []
    for way, tally in tallies.items():
        if tally.f1:
            right, n = sum(f1 >= RIGHT for f1 in tally.f1), len(tally.f1)
            said.append(f"{way}: {right} of {n} right in {tally.positions / n:.0f} positions")
    return f"{'; '.join(said)} (right: F1 of {RIGHT:.0f} or more)." if said else ""
