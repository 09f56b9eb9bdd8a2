"""What every backend offers."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from lloco_integrations.errors import BadInput, LLoCOError
from lloco_integrations.types import Generation, GenerationChunk, GenerationParams, ResolvedPrompt


class Backend(ABC):
    """Runs the decoder on resolved prompts. Safe to call from several threads."""

    @property
    @abstractmethod
    def window(self) -> int:
        """Positions that prompt and answer share. A server is asked once; raises ServerError if it cannot be."""

    ends: list[int]
    """Ids that end an answer; none for a model that has no such token."""

    max_adapters: int = 8
    """Adapters kept in memory; what is over that is dropped, least recently used first, and loaded again when it is wanted."""

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[ResolvedPrompt],
        params: GenerationParams,
        adapters: Sequence[str | None] | None = None,
        cancelled: threading.Event | None = None,
    ) -> list[Generation]:
        """One Generation a prompt, in order; the whole batch in one go, each prompt under its own adapter.

        ``adapters``: directories or hub ids, None for the decoder alone; each is loaded when it is first used. ``cancelled``: ends the
        generation soon after it is set.

        Raises PromptTooLong, IncompatibleAdapter, and LLoCOError for whatever goes wrong underneath, and if it was cancelled.
        """

    @abstractmethod
    def stream(self, prompt: ResolvedPrompt, params: GenerationParams, adapter: str | None = None) -> Iterator[GenerationChunk]:
        """The answer in pieces; the last chunk has ``final``. Nothing is generated before the first piece is asked for, and abandoning the
        iterator stops the generation."""


def unwanted() -> LLoCOError:
    """The error for a batch that was cancelled."""
    return LLoCOError("the answers are not wanted any more; their generation was ended")


def one_each(adapters: Sequence[str | None] | None, n_prompts: int) -> list[str | None]:
    """``adapters`` as a list, None for each prompt where there are none. Raises BadInput unless there is one for each."""
    paths: list[str | None] = list(adapters) if adapters is not None else [None] * n_prompts
    if len(paths) != n_prompts:
        raise BadInput(f"{len(paths)} adapters for {n_prompts} prompts; give one for each, None for no adapter")
    return paths
