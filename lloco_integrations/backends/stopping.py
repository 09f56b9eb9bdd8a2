"""Stop strings: ending generation at them, and cutting them off."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import StoppingCriteria

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class StopStrings(StoppingCriteria):
    """Ends each row of a batch at its first stop string, and all of them when ``cancelled`` is set."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, stop: Sequence[str], cancelled: threading.Event | None = None) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(s for s in stop if s) if tokenizer is not None else ()
        self._tail = max((len(s.encode()) for s in self._stop), default=0) + 8
        self._cancelled = cancelled

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Bool ``(rows,)``: which rows are done. ``input_ids (rows, new tokens)``."""
        rows = input_ids.shape[0]
        if self._cancelled is not None and self._cancelled.is_set():
            return torch.ones(rows, dtype=torch.bool, device=input_ids.device)
        done = [False] * rows
        if self._stop and self._tokenizer is not None:
            tails = self._tokenizer.batch_decode(input_ids[:, -self._tail :], skip_special_tokens=True)
            done = [any(s in tail for s in self._stop) for tail in tails]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


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
