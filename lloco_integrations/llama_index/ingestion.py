"""Compression as a step of LlamaIndex's IngestionPipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.schema import BaseNode, MetadataMode, TransformComponent

from lloco_integrations.engine import DEFAULT_MODEL
from lloco_integrations.llama_index.postprocessor import groups_of, is_text
from lloco_integrations.llama_index.wiring import Wired

_COMPUTED = ("fingerprint", "store_id")


class LLoCOCompress(Wired, TransformComponent):
    """Compresses the texts of nodes into the store, and returns the nodes as they are. Put it after the splitter.

    Nothing is added to the nodes: document stores, vector stores and ingestion caches give back plain TextNodes, and embeddings
    are made of the text. LLoCOPostprocessor finds the summaries by the text.

    The pipeline caches by the nodes' texts and ``to_dict()``, which names the compressor and the store: a changed compressor, or a
    new or emptied-and-remade store, is never a cache hit. A hit can still meet a store from which entries were deleted; then
    LLoCOPostprocessor compresses them again when they are retrieved (``on_miss="compress"``, its default), or run the pipeline
    once with ``disable_cache=True``: what the store holds is not compressed again.

    Args:
        model: preset, model directory or hub id.
        store: see Wired.
        group_key: metadata key that names the adapter group of a text; kept in the store.
        show_progress: a progress bar while compressing.
        device: see LLoCOLLM.
        dtype: see LLoCOLLM.
    """

    group_key: str = Field(default="group", description="Metadata key of the adapter group.")
    show_progress: bool = Field(default=False, description="Whether to show a progress bar.")

    def __init__(
        self,
        model: Any = DEFAULT_MODEL,
        store: Any = None,
        group_key: str = "group",
        show_progress: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, store=store, group_key=group_key, show_progress=show_progress, device=device, dtype=dtype, **kwargs)

    @classmethod
    def class_name(cls) -> str:
        return "LLoCOCompress"

    @property
    def fingerprint(self) -> str:
        """The compressor's; loads the model."""
        return self.engine.model.fingerprint

    @property
    def store_id(self) -> str:
        """Names the store by its secret, which it does not tell: another store at the same address has another."""
        return self.engine.store.key(self.fingerprint, "")

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """The fields, and what the pipeline's cache must depend on: ``fingerprint`` and ``store_id``. Loads the model."""
        data = super().to_dict(**kwargs)
        del data["show_progress"]
        return {**data, "fingerprint": self.fingerprint, "store_id": self.store_id}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> LLoCOCompress:
        return super().from_dict({k: v for k, v in data.items() if k not in _COMPUTED}, **kwargs)

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        wanted = [node for node in nodes if is_text(node) and node.get_content(MetadataMode.NONE).strip()]
        if wanted:
            texts = [node.get_content(MetadataMode.NONE) for node in wanted]
            self.engine.compress(texts, groups=groups_of(wanted, self.group_key), progress=self.show_progress)
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        return await asyncio.to_thread(self.__call__, nodes, **kwargs)
