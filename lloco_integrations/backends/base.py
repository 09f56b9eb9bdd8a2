"""What every backend offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

from lloco_integrations.types import Generation, GenerationChunk, GenerationParams, ResolvedPrompt


class Backend(ABC):
    """Runs the decoder on resolved prompts. Safe to call from several threads."""

    window: int
    """Positions that prompt and answer share."""

    @abstractmethod
    def generate(
        self, prompts: Sequence[ResolvedPrompt], params: GenerationParams, adapters: Sequence[str | None] | None = None
    ) -> list[Generation]:
        """One Generation a prompt, in order; the whole batch in one go, each prompt under its own adapter (None: none).

        Raises PromptTooLong, IncompatibleAdapter, and LLoCOError for whatever goes wrong underneath.
        """

    @abstractmethod
    def stream(self, prompt: ResolvedPrompt, params: GenerationParams, adapter: str | None = None) -> Iterator[GenerationChunk]:
        """The answer in pieces; the last chunk has ``final``. Abandoning the iterator stops the generation."""

    @abstractmethod
    def add_adapters(self, adapters: Mapping[str, str]) -> None:
        """Make adapters known: name -> directory or hub id; each is loaded when it is first used.

        Raises IncompatibleAdapter if a name is taken by another path.
        """
