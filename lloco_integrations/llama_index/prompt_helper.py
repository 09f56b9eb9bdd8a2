"""Packs retrieved texts into prompts by what they truly cost, and never cuts a placeholder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.indices.prompt_helper import DEFAULT_PADDING, PromptHelper
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.node_parser.text.token import TokenTextSplitter
from llama_index.core.prompts import BasePromptTemplate, SelectorPromptTemplate
from llama_index.core.prompts.prompt_utils import get_empty_prompt_messages

from lloco_integrations.errors import PromptTooLong
from lloco_integrations.llama_index.calls import to_messages
from lloco_integrations.llama_index.llm import LLoCOLLM
from lloco_integrations.llama_index.packing import pack, split

if TYPE_CHECKING:
    from llama_index.core.llms.llm import LLM
    from llama_index.core.tools import BaseTool


class LLoCOPromptHelper(PromptHelper):
    """A PromptHelper for prompts with placeholders: a placeholder costs its vectors, and it stays whole, single and in order.

    Nodes stay whole, too, unless one alone is too long for a prompt. There is no overlap. What cannot be fitted without cutting
    a placeholder or dropping text raises PromptTooLong: response mode ``simple_summarize`` does not truncate, it refuses.
    See ``install``, which gives one to LlamaIndex's Settings.

    Args:
        llm: whose prompts are packed; None is ``LLoCOLLM()``.
        context_window: positions of prompt and answer; None is the LLM's.
        num_output: positions left for the answer; None is the LLM's.
        chunk_size_limit: most positions of one chunk; None is no limit.
        **kwargs: ``chunk_overlap_ratio`` and ``separator`` are accepted, for LlamaIndex's sake, and not used.
    """

    llm: LLoCOLLM | None = Field(default=None, description="Whose prompts are packed.")

    def __init__(
        self,
        llm: LLoCOLLM | None = None,
        context_window: int | None = None,
        num_output: int | None = None,
        chunk_size_limit: int | None = None,
        **kwargs: Any,
    ) -> None:
        unknown = sorted(set(kwargs) - {"chunk_overlap_ratio", "separator", "class_name"})
        if unknown:
            raise TypeError(f"LLoCOPromptHelper has no argument {', '.join(unknown)}")
        chosen = llm if isinstance(llm, LLoCOLLM) else LLoCOLLM.from_dict(llm) if isinstance(llm, dict) else LLoCOLLM()
        super().__init__(
            context_window=chosen.metadata.context_window if context_window is None else context_window,
            num_output=chosen.max_new_tokens if num_output is None else num_output,
            chunk_overlap_ratio=0.0,
            chunk_size_limit=chunk_size_limit,
            tokenizer=lambda text: [0] * self._cost(text),
        )
        self.llm = chosen

    @classmethod
    def class_name(cls) -> str:
        return "LLoCOPromptHelper"

    def repack(
        self,
        prompt: BasePromptTemplate,
        text_chunks: Sequence[str],
        padding: int = DEFAULT_PADDING,
        llm: LLM | None = None,
        tools: list[BaseTool] | None = None,
    ) -> list[str]:
        """``text_chunks`` in as few texts as fit ``prompt``, in order, joined by blank lines."""
        room = self._get_available_chunk_size(prompt, padding=padding, llm=llm, tools=tools)
        return pack([c.strip() for c in text_chunks if c.strip()], room, self._cost)

    def truncate(
        self,
        prompt: BasePromptTemplate,
        text_chunks: Sequence[str],
        padding: int = DEFAULT_PADDING,
        llm: LLM | None = None,
        tools: list[BaseTool] | None = None,
    ) -> list[str]:
        """``text_chunks`` as they are, if all of them fit ``prompt``. Raises PromptTooLong if they do not: nothing is dropped."""
        if not text_chunks:
            return []
        each = self._get_available_chunk_size(prompt, len(text_chunks), padding, llm, tools)
        cost = sum(map(self._cost, text_chunks))
        if cost > each * len(text_chunks):
            raise PromptTooLong(
                f"the retrieved texts take {cost} positions and the prompt has room for {each * len(text_chunks)}; this response "
                f"mode would drop the rest: retrieve fewer nodes, ask for a coarser ratio, or use another mode (compact)"
            )
        return list(text_chunks)

    def get_text_splitter_given_prompt(
        self,
        prompt: BasePromptTemplate,
        num_chunks: int = 1,
        padding: int = DEFAULT_PADDING,
        llm: LLM | None = None,
        tools: list[BaseTool] | None = None,
    ) -> TokenTextSplitter:
        """A splitter that counts true positions and cuts no placeholder."""
        room = self._get_available_chunk_size(prompt, num_chunks, padding, llm, tools)
        return WholePlaceholders(self._cost, room)

    def _get_available_chunk_size(
        self,
        prompt: BasePromptTemplate,
        num_chunks: int = 1,
        padding: int = DEFAULT_PADDING,
        llm: LLM | None = None,
        tools: list[BaseTool] | None = None,
    ) -> int:
        """Positions that each of ``num_chunks`` may take in ``prompt``. Raises PromptTooLong if there are none."""
        chosen = prompt.select(llm=llm or self.llm) if isinstance(prompt, SelectorPromptTemplate) else prompt
        taken = self._engine().count(to_messages(get_empty_prompt_messages(chosen))).n_positions
        inner = llm.llm if isinstance(llm, StructuredLLM) else llm
        taken += self._cost(getattr(inner, "system_prompt", None) or "")
        described = self._get_tools_from_llm(llm=llm, tools=list(tools or []))
        taken += self._token_counter.estimate_tokens_in_tools([t.metadata.to_openai_tool() for t in described])
        room: int = (self.context_window - taken - self.num_output) // num_chunks - padding
        if room <= 0:
            raise PromptTooLong(
                f"the question and its template take {taken} positions, the answer {self.num_output} and padding {padding}: of the "
                f"window's {self.context_window} nothing is left for {num_chunks} texts; shorten the question or the template, or lower "
                f"max_new_tokens"
            )
        return room if self.chunk_size_limit is None else min(room, self.chunk_size_limit)

    def _engine(self) -> Any:
        assert self.llm is not None
        return self.llm.engine

    def _cost(self, text: str) -> int:
        n: int = self._engine().count(text, templated=False).n_positions if text else 0
        return n


class WholePlaceholders(TokenTextSplitter):
    """Splits text by true positions, between placeholders and words."""

    def __init__(self, cost: Callable[[str], int], chunk_size: int) -> None:
        super().__init__(chunk_size=chunk_size, chunk_overlap=0, tokenizer=lambda text: [0] * cost(text))
        self._cost = cost

    def split_text(self, text: str) -> list[str]:
        return split(text, self.chunk_size, self._cost) if text else [text]
