"""A node that shows the LLM something else than its text."""

from __future__ import annotations

import secrets
from typing import Any

from llama_index.core.base.llms.types import TextBlock
from llama_index.core.bridge.pydantic import Field
from llama_index.core.schema import BaseNode, MetadataMode, TextNode

from lloco_integrations import placeholder
from lloco_integrations.show.forms import Shown

SHOWN_KEY = "lloco_shown"
"""Metadata entry of what the LLM sees as text: pairs of characters from, up to. Neither the LLM nor an embedding model sees it."""


class LLoCONode(TextNode):
    """A TextNode whose LLM view holds ``llm_text`` (a placeholder, or neutralised text) in place of its text.

    Every other view, and with it the id, the hash, embeddings, rerankers and citations, is that of the text. A document store or
    vector store gives back a plain TextNode with the same text; the postprocessor finds its summary again by that text.
    """

    llm_text: str | None = Field(default=None, description="What the LLM sees in place of the text; None is the text, neutralised.")

    @classmethod
    def class_name(cls) -> str:
        return "LLoCONode"

    @classmethod
    def from_node(cls, node: BaseNode, llm_text: str | None = None) -> LLoCONode:
        """A copy of ``node`` with everything a TextNode has; ``node`` is left as it is."""
        fields = {name: getattr(node, name) for name in TextNode.model_fields if name != "text" and hasattr(node, name)}
        return cls(**fields, text=node.get_content(MetadataMode.NONE), llm_text=llm_text)

    @classmethod
    def showing(cls, node: BaseNode, shown: Shown, *, marked: bool = False) -> LLoCONode:
        """As ``from_node``, with ``shown`` as the LLM's view. ``marked``: put what of it is text under ``lloco_shown`` into the metadata."""
        made = cls.from_node(node, shown.content)
        made.metadata = {k: v for k, v in made.metadata.items() if k != SHOWN_KEY}  # of what was shown before
        hidden = [SHOWN_KEY] if marked else []
        made.excluded_llm_metadata_keys = [k for k in made.excluded_llm_metadata_keys if k != SHOWN_KEY] + hidden
        made.excluded_embed_metadata_keys = [k for k in made.excluded_embed_metadata_keys if k != SHOWN_KEY] + hidden
        if marked:
            made.metadata[SHOWN_KEY] = [list(stretch) for stretch in shown.as_text]
        return made

    @property
    def hash(self) -> str:
        """That of the node this one was made from: what the LLM sees does not count."""
        plain = {name: getattr(self, name) for name in TextNode.model_fields if name not in ("metadata", "text")}
        return TextNode(**plain, text=self.text, metadata={k: v for k, v in self.metadata.items() if k != SHOWN_KEY}).hash

    @property
    def is_compressed(self) -> bool:
        """Whether the LLM sees a placeholder."""
        return self.llm_text is not None and placeholder.count(self.llm_text) > 0

    def get_content(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> str:
        if metadata_mode != MetadataMode.LLM:
            return super().get_content(metadata_mode)
        metadata = self.get_metadata_str(MetadataMode.LLM).strip()
        shown = self._shown()
        if not metadata:
            return shown
        mark = f"\ue000{secrets.token_hex(16)}\ue001"  # which no document can know
        frame = self.text_template.format(content=mark, metadata_str=metadata).strip()
        return placeholder.neutralise(frame).replace(mark, shown)

    def get_metadata_str(self, mode: MetadataMode = MetadataMode.ALL) -> str:
        text: str = super().get_metadata_str(mode)
        return placeholder.neutralise(text) if mode == MetadataMode.LLM else text

    def get_content_blocks(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> list[Any]:
        if metadata_mode != MetadataMode.LLM:
            return list(super().get_content_blocks(metadata_mode))
        metadata = self.get_metadata_str(MetadataMode.LLM).strip()
        return [*([TextBlock(text=metadata)] if metadata else []), TextBlock(text=self._shown())]

    def set_content(self, value: str) -> None:
        """Changes the text. The LLM sees the new text, neutralised, until the node is compressed again."""
        self.text = value
        self.llm_text = None

    def _shown(self) -> str:
        return placeholder.neutralise(self.text) if self.llm_text is None else self.llm_text
