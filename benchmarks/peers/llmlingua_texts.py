"""LLMLingua's texts for a file of questions, at the positions that each ratio leaves.

    python -m venv llmlingua-venv
    llmlingua-venv/bin/pip install -r benchmarks/peers/llmlingua-requirements.txt
    llmlingua-venv/bin/pip install --no-deps llama-index-core   # only for the tokenizer file in it, where there is no network
    llmlingua-venv/bin/python -m benchmarks.peers.llmlingua_texts --in questions.jsonl --out 'texts@{ratio}.jsonl' --ratio 4 8 --model DIR

--in has lines {"id", "context", "question"} (benchmarks/peers/questions.py makes them). --out gets lines with
  id, text                            what `lloco eval --texts` reads
  origin_positions, positions         tokens of the context and of the text, counted by the model's tokenizer
  origin_tokens, compressed_tokens    the same by LLMLingua's own count, which is that of gpt-3.5-turbo
  requested                           what LLMLingua was asked for, to come near origin_positions / ratio
  seconds                             what LLMLingua takes for this text: the one try that made it, with the pass over the whole text
  source, ratio, ranking              what the text was made from and how
Stop it whenever you like: the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from benchmarks.peers.prepare_model import patched_copy
from benchmarks.peers.texts import SLACK, Fitted, Item, Out, digest, fit, read_items

LONGEST_WINDOW = 200  # LLMLingua's own default


def window(n_tokens: int) -> int:
    """The size of LLMLingua's windows that leaves the fewest tokens of the text in an unfinished one, which is not compressed."""
    if n_tokens <= LONGEST_WINDOW:
        return n_tokens
    return min(range(LONGEST_WINDOW, LONGEST_WINDOW // 2, -1), key=lambda size: n_tokens % size)


class LLMLingua:
    """LLMLingua with a small causal LM, on the CPU. ``aware``: rank tokens by what the question makes of them (LongLLMLingua)."""

    def __init__(self, model: Path, aware: bool) -> None:
        use_tokenizer_of_llama_index()
        from llmlingua import PromptCompressor  # type: ignore[import-not-found]

        self.inner: Any = PromptCompressor(str(model), device_map="cpu", model_config={"trust_remote_code": False})
        self.aware = aware
        self._first_pass: tuple[object, Any, float] = (None, None, 0.0)
        self._spared = 0.0
        self._get_ppl = self.inner.get_ppl
        self.inner.get_ppl = self._ppl

    def count(self, text: str) -> int:
        """Tokens of ``text`` by the model's tokenizer."""
        return len(self.inner.tokenizer(text, add_special_tokens=False).input_ids)

    def own_count(self, text: str) -> int:
        """Tokens of ``text`` as LLMLingua reports them."""
        return len(self.inner.oai_tokenizer.encode(text, disallowed_special=()))

    def compress(self, item: Item, requested: int, n_tokens: int) -> str:
        """``item.context``, of ``n_tokens``, with ``requested`` of them kept or thereabouts."""
        options: dict[str, Any] = {}
        if self.aware:
            options = {"rank_method": "longllmlingua", "condition_in_question": "after_condition", "condition_compare": True}
        made = self.inner.compress_prompt(
            context=[item.context],
            instruction="",
            question=item.question,
            target_token=requested,
            iterative_size=window(n_tokens),
            concate_question=False,  # the prompt that the text is put into asks the question
            **options,
        )
        return str(made["compressed_prompt"])

    def fit(self, item: Item, ratio: int) -> Fitted:
        """A text of ``item.context`` at ``ratio``."""
        n_tokens = self.count(item.context)
        target = math.ceil(n_tokens / ratio)
        if target >= n_tokens:
            return Fitted(item.context, n_tokens, n_tokens, 0.0)
        seconds: dict[int, float] = {}

        def compress(requested: int) -> str:
            self._spared, began = 0.0, time.perf_counter()
            text = self.compress(item, requested, n_tokens)
            seconds[requested] = time.perf_counter() - began + self._spared
            return text

        made = fit(compress, self.count, target)
        return replace(made, seconds=round(seconds[made.requested], 3))

    def _ppl(self, *args: Any, **options: Any) -> Any:
        """``get_ppl``. Each compression begins with a pass over the whole text, the same for all ratios and tries: the last one is kept, with
        its seconds, which count for each text that is made from it."""
        if self.aware or options["past_key_values"] is not None or options["end"] is not None:
            return self._get_ppl(*args, **options)
        key = args[2].numpy().tobytes()
        if self._first_pass[0] == key:
            self._spared += self._first_pass[2]
        else:
            began = time.perf_counter()
            self._first_pass = (key, self._get_ppl(*args, **options)[0], time.perf_counter() - began)
        return self._first_pass[1].clone(), None  # the keys and values of this pass are not used


def use_tokenizer_of_llama_index() -> None:
    """Where llama-index-core is installed, tiktoken finds gpt-3.5-turbo's tokenizer in it instead of downloading it."""
    try:
        cache = Path(str(distribution("llama-index-core").locate_file("llama_index/core/_static/tiktoken_cache")))
    except PackageNotFoundError:
        return
    if cache.is_dir():
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(cache))


def add(item: Item, out: Out, ratio: int, source: str, compressor: LLMLingua) -> None:
    """Compress ``item.context``, unless ``out`` holds a text of the same ``source``, and write the line."""
    same = next((row for row in out.done.values() if row["source"] == source), None)
    if same is None:
        made = compressor.fit(item, ratio)
        same = {
            "text": made.text,
            "origin_positions": compressor.count(item.context),
            "positions": made.positions,
            "origin_tokens": compressor.own_count(item.context),
            "compressed_tokens": compressor.own_count(made.text),
            "requested": made.requested,
            "seconds": made.seconds,
            "source": source,
        }
    out.add({"id": item.id, **{key: value for key, value in same.items() if key != "id"}})


def summary(out: Out, ratio: int) -> str:
    """The ratio that was reached over all texts and of single ones."""
    rows = [row for row in out.done.values() if row["positions"]]
    real = [row["origin_positions"] / row["positions"] for row in rows]
    long = sum(row["positions"] > (1 + SLACK) * math.ceil(row["origin_positions"] / ratio) for row in rows)
    total = sum(row["origin_positions"] for row in rows) / sum(row["positions"] for row in rows)
    own = sum(row["origin_tokens"] for row in rows) / sum(row["compressed_tokens"] for row in rows)
    return (
        f"{out.path}: {len(out.done)} texts, {total:.2f}x of {ratio}x asked for ({min(real):.2f}x to {max(real):.2f}x); "
        f"{own:.2f}x by LLMLingua's count; {long} more than a tenth too long"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in", dest="items", type=Path, required=True, help="JSONL of {id, context, question}")
    parser.add_argument("--out", required=True, help="JSONL; with several ratios {ratio} in the name stands for each")
    parser.add_argument("--ratio", type=int, nargs="+", required=True, help="source tokens per position")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face directory of the small causal LM")
    parser.add_argument("--question-aware", action="store_true", help="LongLLMLingua's ranking; a text for each question, not each context")
    args = parser.parse_args()
    if min(args.ratio) < 1 or (len(args.ratio) > 1 and "{ratio}" not in args.out):
        parser.error("--ratio takes whole numbers from 1; several need {ratio} in --out")
    items = read_items(args.items)
    ranking = "longllmlingua" if args.question_aware else "llmlingua"
    with contextlib.ExitStack() as stack:
        outs = {
            ratio: stack.enter_context(Out(Path(args.out.replace("{ratio}", str(ratio))), {"ratio": ratio, "ranking": ranking}))
            for ratio in args.ratio
        }
        sources = {item.id: digest(item.context, item.question) if args.question_aware else digest(item.context) for item in items}
        for out in outs.values():
            out.check(sources)
        waiting = [item for item in items if any(item.id not in out.done for out in outs.values())]
        print(f"{len(items)} questions, {len(waiting)} to do", file=sys.stderr, flush=True)
        if waiting:
            compressor = LLMLingua(patched_copy(args.model, Path(stack.enter_context(tempfile.TemporaryDirectory()))), args.question_aware)
        for number, item in enumerate(waiting, 1):
            began = time.perf_counter(), time.process_time()
            for ratio, out in outs.items():
                if item.id not in out.done:
                    add(item, out, ratio, sources[item.id], compressor)
            rows = [out.done[item.id] for out in outs.values()]
            print(
                f"{number}/{len(waiting)} {item.id}: {rows[0]['origin_positions']} positions to {', '.join(str(r['positions']) for r in rows)}; "
                f"{time.perf_counter() - began[0]:.1f} s, {time.process_time() - began[1]:.1f} s of the processor",
                file=sys.stderr,
                flush=True,
            )
        for ratio, out in outs.items():
            print(summary(out, ratio))


if __name__ == "__main__":
    main()
