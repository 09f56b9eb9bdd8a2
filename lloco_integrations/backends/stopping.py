"""Stop strings: ending generation at them, and cutting them off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from lloco_integrations.errors import LLoCOError
from lloco_integrations.types import Generation, ResolvedPrompt, Usage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Finite(LogitsProcessor):
    """Refuses to choose a token among scores that are no numbers: the answer would be empty, or noise."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``scores (rows, vocabulary)`` as they are. Raises LLoCOError for a row whose best is NaN or infinite."""
        if not bool(torch.isfinite(scores.amax(-1)).all()):
            raise LLoCOError(
                "the decoder computed scores that are no numbers; the adapter, or a summary in the prompt, has values that are too large: "
                "learn the adapter again, or compress the document again"
            )
        return scores


class Pauses(StoppingCriteria):
    """Calls ``pause`` after each token, and ends nothing."""

    def __init__(self, pause: Callable[[], None]) -> None:
        self._pause = pause

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Bool ``(rows,)``, none of them true."""
        self._pause()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


class StopStrings(StoppingCriteria):
    """Ends each row of a batch at its first stop string, and all of them when ``cancelled`` is set."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, stop: Sequence[str], cancelled: threading.Event | None = None) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(s for s in stop if s) if tokenizer is not None else ()
        self._tail = max((len(s.encode()) for s in self._stop), default=0) + 8
        self._cancelled = cancelled

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants the answers any more."""
        return self._cancelled is not None and self._cancelled.is_set()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Bool ``(rows,)``: which rows are done. ``input_ids (rows, new tokens)``."""
        rows = input_ids.shape[0]
        if self.cancelled:
            return torch.ones(rows, dtype=torch.bool, device=input_ids.device)
        done = [False] * rows
        if self._stop and self._tokenizer is not None:
            tails = self._tokenizer.batch_decode(input_ids[:, -self._tail :], skip_special_tokens=True)
            done = [any(s in tail for s in self._stop) for tail in tails]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


class Unfolding:
    """The text of an answer that grows token by token.

    ``decode``: ids -> text. ``shown`` is what has been given out.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str]) -> None:
        self.ids: list[int] = []
        self.shown = ""
        self._decode = decode
        self._stop = stop

    def add(self, ids: Sequence[int]) -> str:
        """What can be shown after ``ids`` that could not be before: nothing that may still change."""
        self.ids += ids
        text = self.whole()[0]
        safe = text[: safe_length(text, self._stop)]
        if not safe.startswith(self.shown):
            return ""
        more, self.shown = safe[len(self.shown) :], safe
        return more

    def whole(self) -> tuple[str, bool]:
        """All of it, before its first stop string, and whether there was one."""
        return cut_at_stop(self._decode(self.ids), self._stop)


def finished(
    prompt: ResolvedPrompt, ids: list[int], reason: str, decode: Callable[[list[int]], str], stop: Sequence[str], adapter: str | None
) -> Generation:
    """The answer of an engine that has stopped by itself; ``reason`` is the engine's."""
    text, _ = cut_at_stop(decode(ids), stop)
    usage = Usage(prompt.n_positions, len(ids), prompt.source_tokens)
    return Generation(text, "length" if reason == "length" else "stop", usage, adapter)


def text_of(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The text of an answer's ``ids``, without special tokens."""
    text: Any = tokenizer.decode(ids, skip_special_tokens=True)
    return str(text)


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """``text`` before its first stop string, and whether there was one."""
    found = [at for s in stop if s and (at := text.find(s)) >= 0]
    return (text[: min(found)], True) if found else (text, False)


def safe_length(text: str, stop: Sequence[str]) -> int:
    """How much of ``text`` can be shown now: not what may be the beginning of a stop string or of an unfinished character."""
    length = len(text)
    while length and text[length - 1] == "\ufffd":
        length -= 1
    for s in stop:
        for n in range(min(len(s) - 1, length), 0, -1):
            if text.endswith(s[:n], 0, length):
                length -= n
                break
    return length
