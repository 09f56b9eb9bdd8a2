"""Focus beside what people use, at equal positions: F1, positions, seconds a query and the share of choosing what to show.

    python -m benchmarks.focus --json benchmarks/results/focus.json

Every row reads the same retrieved passages (``--top-k`` of at most 150 tokens, found with MiniLM), or the same whole document, with the
same decoder and the same prompt; rows differ in what is shown. A row at 8x may take one position for 8 tokens of all texts together.
Resumable: a set's row that is in the file is not asked again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.provenance import called, device_of, provenance
from benchmarks.tables import fill, interval
from lloco_integrations import Engine, GenerationParams, embedding, placeholder
from lloco_integrations.evaluation.datasets import Document, Question, read_documents, read_questions
from lloco_integrations.evaluation.metrics import bootstrap, f1
from lloco_integrations.evaluation.retrieval import cut
from lloco_integrations.show.policy import FocusRecipe
from lloco_integrations.training.templates import PLAIN

SHORT = ("squad_paragraph.dev", "squadshifts_new_wiki.test", "narrativeqa_summary.dev", "fairytaleqa.dev", "examples")
LONG = ("squality.dev", "qmsum.dev", "leval_natural_question.test", "loogle_sample.test", "financebench_full.test")
RATIOS = (8, 16, 30)
MIXED = "focus:text_share=0.75,finest=8,coarsest=32"
WHOLE = ("none", "text")
"""Rows that do not depend on a ratio."""
PEERS = ("none", "text", "cut", "fewer", "optimizer", "filter", "vectors", MIXED, "focus")
ROOT = Path(__file__).parent.parent
PAGE, README, PLOT = ROOT / "docs" / "elastic.md", ROOT / "README.md", ROOT / "docs" / "focus.png"
PASSAGE_TOKENS = 150
MOST_PASSAGES = 6000


@dataclass(frozen=True)
class Asked:
    """A question and the texts that are read for it, best first, with their scores."""

    question: Question
    texts: list[str]
    scores: list[float]


class Bench:
    """One model, one embedding model, and the ways of showing texts."""

    def __init__(self, model: str, recipe: FocusRecipe | None = None, dtype: str = "auto") -> None:
        self.engine = Engine(model, "memory://", dtype=dtype)
        self.embedder = embedding.load()
        self.recipe = recipe
        self._models: dict[str, Any] = {}

    def tokens(self, text: str) -> int:
        return len(self.engine.model.text_ids(placeholder.neutralise(text))) if text.strip() else 0

    def cost(self, content: str) -> int:
        return self.engine.count(content, templated=False).n_positions if content.strip() else 0

    def shown(self, row: str, asked: Asked, budget: int, ratio: int) -> str:
        """What ``row`` shows of the texts."""
        kind, _, options = row.partition(":")
        how: Callable[[Asked, int, int], str] = getattr(self, f"_{kind}")
        if options:
            recipe = FocusRecipe(**{k: float(v) if k == "text_share" else int(v) for k, v in (o.split("=") for o in options.split(","))})
            return self._focused(asked, budget, recipe)
        return how(asked, budget, ratio)

    def _none(self, asked: Asked, budget: int, ratio: int) -> str:
        return ""

    def _text(self, asked: Asked, budget: int, ratio: int) -> str:
        whole = "\n\n".join(placeholder.neutralise(t) for t in asked.texts)
        return self._first(whole, self.engine.model.window - 600)

    def _first(self, text: str, most: int) -> str:
        prompter = self.engine.model.prompter
        assert prompter is not None
        ids = prompter.text_ids(text)
        return text if len(ids) <= most else prompter.text_of(ids[:most])

    def _cut(self, asked: Asked, budget: int, ratio: int) -> str:
        return self._first("\n\n".join(placeholder.neutralise(t) for t in asked.texts), budget)

    def _fewer(self, asked: Asked, budget: int, ratio: int) -> str:
        taken: list[str] = []
        for text in asked.texts if len(asked.texts) > 1 else self._passages(asked):
            if taken and self.cost("\n\n".join([*taken, text])) > budget:
                break
            taken.append(placeholder.neutralise(text))
        return self._first("\n\n".join(taken), budget)

    def _passages(self, asked: Asked) -> list[str]:
        """The passages of a whole document, best first."""
        found = cut(asked.texts[0], self.tokens, PASSAGE_TOKENS)
        scores = self._vectors(found) @ self.embedder.embed_question(asked.question.question)
        return [found[i] for i in np.argsort(-scores, kind="stable")]

    def _vectors(self, texts: Sequence[str]) -> Any:
        key = str(hash(tuple(texts)))
        if key not in self._models:
            self._models[key] = self.embedder.embed(texts)
        return self._models[key]

    def _optimizer(self, asked: Asked, budget: int, ratio: int) -> str:
        """LlamaIndex's SentenceEmbeddingOptimizer, at the share of sentences that is 1 / ratio."""
        from llama_index.core.postprocessor import SentenceEmbeddingOptimizer
        from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
        from llama_index.embeddings.huggingface import HuggingFaceEmbedding

        if "llama" not in self._models:
            self._models["llama"] = HuggingFaceEmbedding(str(embedding.model_directory()))
        made = SentenceEmbeddingOptimizer(embed_model=self._models["llama"], percentile_cutoff=1 / ratio)
        nodes = [NodeWithScore(node=TextNode(text=t), score=s) for t, s in zip(asked.texts, asked.scores, strict=True)]
        out = made.postprocess_nodes(nodes, QueryBundle(asked.question.question))
        return self._first("\n\n".join(placeholder.neutralise(n.node.get_content()) for n in out), budget)

    def _filter(self, asked: Asked, budget: int, ratio: int) -> str:
        """LangChain's EmbeddingsFilter over sentences: as many of the nearest as the budget holds, in its order."""
        import sentencex
        from langchain_classic.retrievers.document_compressors import EmbeddingsFilter
        from langchain_core.documents import Document as LangChainDocument
        from langchain_huggingface import HuggingFaceEmbeddings

        if "langchain" not in self._models:
            self._models["langchain"] = HuggingFaceEmbeddings(model_name=str(embedding.model_directory()))
        sentences = [LangChainDocument(s.strip()) for t in asked.texts for s in sentencex.segment("en", t) if s.strip()]
        ranked = EmbeddingsFilter(embeddings=self._models["langchain"], k=len(sentences)).compress_documents(
            sentences, asked.question.question
        )
        taken: list[str] = []
        for found in ranked:
            if taken and self.cost(" ".join([*taken, found.page_content])) > budget:
                break
            taken.append(placeholder.neutralise(found.page_content))
        return self._first(" ".join(taken), budget)

    def _focus(self, asked: Asked, budget: int, ratio: int) -> str:
        return self._focused(asked, budget, self.recipe)

    def _focused(self, asked: Asked, budget: int, recipe: FocusRecipe | None) -> str:
        model = self.engine.model
        before = model.focus
        if recipe is not None:
            model.focus = vars(recipe)
        try:
            made = self.engine.show(
                asked.texts, question=asked.question.question, token_budget=budget, scores=asked.scores, embedder=self.embedder
            )
        finally:
            model.focus = before
        return "\n\n".join(s.content for s in made if s is not None)

    def _vectors_row(self, asked: Asked, budget: int, ratio: int) -> str:
        fit = next((r for r in self.engine.model.spec.ratios if r >= ratio), self.engine.model.spec.ratios[-1])
        return "\n\n".join(c.content for c in self.engine.compress(asked.texts, ratio=fit))

    def ask(self, row: str, asked: Sequence[Asked], ratio: int, batch: int, max_new_tokens: int = 24) -> dict[str, Any]:
        """Every question in one row."""
        kind = "vectors_row" if row == "vectors" else row
        contents, choosing, budgets = [], [], []
        for one in asked:
            budgets.append(math.ceil(sum(map(self.tokens, one.texts)) / ratio))
            self.shown(kind, one, budgets[-1], ratio)  # once before: what is kept of a text is not made again
            began = time.perf_counter()
            contents.append(self.shown(kind, one, budgets[-1], ratio))
            choosing.append(time.perf_counter() - began)
        began = time.perf_counter()
        answers = []
        for at in range(0, len(asked), batch):
            prompts = [PLAIN.fill(c, a.question.question) for c, a in zip(contents[at : at + batch], asked[at : at + batch], strict=True)]
            answers += self.engine.generate(prompts, GenerationParams(max_new_tokens=max_new_tokens))
        seconds = (time.perf_counter() - began) / len(asked)
        scores = [100 * f1(a.text, one.question.answers) for a, one in zip(answers, asked, strict=True)]
        positions = [self.cost(c) for c in contents]
        return {
            "f1": vars(bootstrap(scores)),
            "positions": sum(positions) / len(positions),
            "over_budget": sum(p > b for p, b in zip(positions, budgets, strict=True)) if row not in (*WHOLE, "vectors") else 0,
            "choosing_seconds": sum(choosing) / len(choosing),
            "answering_seconds": seconds,
            "answers": [
                {"id": one.question.id, "f1": round(s, 1), "positions": p, "answer": a.text}
                for one, s, p, a in zip(asked, scores, positions, answers, strict=True)
            ],
        }


def load(name: str, limit: int) -> tuple[list[Document], list[Question]]:
    """A set's documents and ``limit`` of its questions, drawn with a fixed seed."""
    if name == "examples":
        from lloco_integrations.examples import load_documents, load_questions

        documents = [Document(d.doc_id, "", d.text) for d in load_documents()]
        questions = [Question(f"q{i}", q.doc_id, q.question, tuple(q.answers)) for i, q in enumerate(load_questions("heldout"))]
    else:
        folder = Path(os.environ.get("LLOCO_DATA", "../shared/data"))
        documents = list(read_documents(folder / f"{name}.docs.jsonl.gz"))
        questions = [q for q in read_questions(folder / f"{name}.qa.jsonl.gz") if q.answers]
    return documents, random.Random(0).sample(questions, min(limit, len(questions)))


def retrieved(bench: Bench, documents: Sequence[Document], questions: Sequence[Question], top_k: int) -> list[Asked]:
    """Each question with the passages of all documents that are nearest to it."""
    wanted = {q.doc_id for q in questions}
    ordered = sorted(documents, key=lambda d: d.doc_id not in wanted)
    passages: list[str] = []
    for document in ordered:
        if len(passages) >= MOST_PASSAGES and document.doc_id not in wanted:
            break
        passages += cut(document.text, bench.tokens, PASSAGE_TOKENS)
    vectors = bench.embedder.embed(passages)
    found = []
    for question in questions:
        scores = vectors @ bench.embedder.embed_question(question.question)
        best = np.argsort(-scores, kind="stable")[:top_k]
        found.append(Asked(question, [passages[i] for i in best], [float(scores[i]) for i in best]))
    return found


def whole(documents: Sequence[Document], questions: Sequence[Question]) -> list[Asked]:
    """Each question with its whole document."""
    texts = {d.doc_id: d.text for d in documents}
    return [Asked(q, [texts[q.doc_id]], [1.0]) for q in questions]


ROWS = {
    "none": "no context",
    "text": "all the text",
    "cut": "the text, cut",
    "fewer": "fewer passages, whole",
    "optimizer": "LlamaIndex `SentenceEmbeddingOptimizer`",
    "filter": "LangChain `EmbeddingsFilter` over sentences",
    "llmlingua": "LongLLMLingua with the question",
    "vectors": "summaries of everything, no focus",
    MIXED: "focus, a quarter of the budget as vectors at 8x to 32x",
    "focus": "**focus**",
}
CELLS = [("none", 1), ("text", 1), *((row, ratio) for ratio in RATIOS for row in ROWS if row not in WHOLE)]
RIGHT = 50.0
"""An answer counts as right from this F1 on: half of its words and of the expected ones agree."""


def pooled(report: dict[str, Any], sets: Sequence[str], row: str, ratio: int) -> dict[str, Any] | None:
    """One row over all of ``sets`` together, each set weighing the same: F1 with an interval, right answers of 100, positions."""
    found = [report["sets"].get(name, {}).get(_key(row, ratio)) for name in sets]
    if not all(found) or not found:
        return None
    scores = [[answer["f1"] for answer in one["answers"]] for one in found]
    rng = random.Random(0)
    means = sorted(sum(sum(rng.choices(some, k=len(some))) / len(some) for some in scores) / len(scores) for _ in range(1000))
    return {
        "mean": sum(sum(some) / len(some) for some in scores) / len(scores),
        "low": means[25],
        "high": means[974],
        "right": 100 * sum(sum(score >= RIGHT for score in some) / len(some) for some in scores) / len(scores),
        "positions": sum(one["positions"] for one in found) / len(found),
    }


def difference(report: dict[str, Any], sets: Sequence[str], one: str, other: str, ratio: int) -> tuple[float, float, float] | None:
    """How much more F1 ``one`` has than ``other``, paired by question, each set weighing the same: mean and 95 % interval."""
    pairs = []
    for name in sets:
        rows = [report["sets"].get(name, {}).get(_key(row, ratio)) for row in (one, other)]
        if not all(rows):
            return None
        pairs.append([a["f1"] - b["f1"] for a, b in zip(rows[0]["answers"], rows[1]["answers"], strict=True)])  # type: ignore[index]
    rng = random.Random(0)
    means = sorted(sum(sum(rng.choices(some, k=len(some))) / len(some) for some in pairs) / len(pairs) for _ in range(1000))
    return sum(sum(some) / len(some) for some in pairs) / len(pairs), means[25], means[974]


def tables(report: dict[str, Any]) -> dict[str, list[str]]:
    """The page's tables, by the names of their places."""
    short = [name for name in SHORT if name in report["sets"]]
    whole = measured(report)
    long = [name for name in LONG if name in report["sets"]]
    made = {"focus over passages": summary(report, whole), "focus by set": by_set(report, short)}
    if long:
        made["focus over documents"] = by_set(report, long)
    return made


def measured(report: dict[str, Any]) -> list[str]:
    """The sets over passages of which every usual row is there."""
    return [name for name in SHORT if {"text", "focus 30x", "cut 30x"} <= set(report["sets"].get(name, {}))]


def summary(report: dict[str, Any], sets: Sequence[str]) -> list[str]:
    """All rows over ``sets`` together."""
    lines = ["| what the model reads | positions | right answers of 100 | F1 [95 %] |", "|---|---|---|---|"]
    for row, ratio in CELLS:
        found = pooled(report, sets, row, ratio)
        if found is not None:
            label = ROWS[row] if row in WHOLE else f"{ROWS[row]}, {ratio}x"
            lines.append(f"| {label} | {found['positions']:.0f} | {found['right']:.0f} | {interval(found)} |")
    return lines


def brief(report: dict[str, Any]) -> list[str]:
    """The README's table: what matters of ``summary``."""
    sets = measured(report)
    lines = ["| what the model reads | positions | right answers of 100 |", "|---|---|---|"]
    for row, ratio in [("none", 1), ("text", 1), *((row, ratio) for ratio in RATIOS for row in ("focus", "filter", "cut"))]:
        found = pooled(report, sets, row, ratio)
        if found is not None:
            label = ROWS[row] if row in WHOLE else f"{ROWS[row]}, {ratio}x"
            lines.append(f"| {label} | {found['positions']:.0f} | {found['right']:.0f} |")
    return lines


def by_set(report: dict[str, Any], sets: Sequence[str]) -> list[str]:
    """F1 of each row in each of ``sets``, positions beside it."""
    lines = [f"| what the model reads | {' | '.join(sets)} |", f"|---|{'---|' * len(sets)}"]
    for row, ratio in CELLS:
        cells = []
        for name in sets:
            found = report["sets"][name].get(_key(row, ratio))
            cells.append(f"{interval(found['f1'])} in {found['positions']:.0f}" if found else "")
        if any(cells):
            lines.append(f"| {ROWS[row] if row in ('none', 'text') else f'{ROWS[row]}, {ratio}x'} | {' | '.join(cells)} |")
    return lines


def plot(report: dict[str, Any], path: Path) -> None:
    """F1 against positions, mean of the sets over passages."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    sets = measured(report)
    figure, axes = plt.subplots(figsize=(7.5, 4.4))
    styles = {"focus": ("#c2410c", 2.4), MIXED: ("#f59e0b", 1.6)}
    for row, label in ROWS.items():
        found = [pooled(report, sets, row, ratio) for ratio in ((1,) if row in WHOLE else RATIOS)]
        points = [point for point in found if point is not None]
        if not points:
            continue
        if row in WHOLE:
            axes.axhline(points[0]["mean"], color="grey", linestyle=":" if row == "none" else "--", linewidth=1)
            axes.annotate(f"{label} ({points[0]['positions']:.0f} positions)", (20, points[0]["mean"] + 0.6), fontsize=8, color="grey")
            continue
        colour, width = styles.get(row, (None, 1.1))
        xs, ys = [p["positions"] for p in points], [p["mean"] for p in points]
        axes.plot(xs, ys, marker="o", markersize=4, color=colour, linewidth=width, label=label.replace("`", "").replace("*", ""))
    axes.set(xscale="log", xlabel="positions in the prompt for all retrieved passages", ylabel="F1, mean of the sets")
    axes.set_xticks([25, 50, 100, 200], ["25", "50", "100", "200"])
    axes.set_xticks([], minor=True)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", default=[*SHORT, *LONG])
    parser.add_argument("--rows", nargs="*", default=list(PEERS), help="also focus:text_share=0.7,finest=8, which is that recipe")
    parser.add_argument("--ratios", nargs="*", type=int, default=list(RATIOS))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--top-k", type=int, default=8)
    parser.add_argument("--limit", type=int, default=100, help="questions a set")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--page", action="store_true", help="write the tables and the plot into docs/elastic.md and README.md, and measure nothing"
    )
    args = parser.parse_args()
    if args.page:
        report = json.loads(args.json.read_text())
        for place, lines in tables(report).items():
            fill(PAGE, place, "\n".join(lines))
        fill(README, "focus over passages", "\n".join(brief(report)))
        plot(report, PLOT)
        return
    report: dict[str, Any] = json.loads(args.json.read_text()) if args.json.exists() else {"sets": {}}
    bench = Bench(args.model, dtype=args.dtype)
    report |= {
        "what": __doc__.splitlines()[0],
        "model": called(args.model),
        "fingerprint": bench.engine.model.fingerprint,
        "recipe": vars(FocusRecipe.of(bench.engine.model.focus)),
        "device": device_of(bench.engine.model),
        "top_k": args.top_k,
        **provenance(("torch", "transformers", "lloco_integrations", "llama-index-core", "langchain-classic", "sentencex", "bm25s")),
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    for name in args.sets:
        documents, questions = load(name, args.limit)
        rows = report["sets"].setdefault(name, {})
        cells = [(row, ratio) for row in args.rows for ratio in ([1] if row in WHOLE else args.ratios)]
        todo = [(row, ratio) for row, ratio in cells if _key(row, ratio) not in rows]
        if not todo:
            continue
        asked = whole(documents, questions) if name in LONG else retrieved(bench, documents, questions, args.top_k)
        for row, ratio in todo:
            batch = args.batch if row != "text" else max(1, args.batch // (8 if name in LONG else 2))
            made = rows[_key(row, ratio)] = bench.ask(row, asked, ratio, batch)
            args.json.write_text(json.dumps(report, indent=1) + "\n")
            print(
                f"{name} {_key(row, ratio):>36}  F1 {interval(made['f1'])}  positions {made['positions']:.0f}  "
                f"choosing {made['choosing_seconds']:.3f} s, answering {made['answering_seconds']:.2f} s",
                flush=True,
            )


def _key(row: str, ratio: int) -> str:
    return row if row in WHOLE else f"{row} {ratio}x"


if __name__ == "__main__":
    main()
