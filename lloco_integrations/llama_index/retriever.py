"""A retriever that hands on compressed nodes, whatever retriever finds them."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle

from lloco_integrations.llama_index.postprocessor import LLoCOPostprocessor


class LLoCORetriever(BaseRetriever):
    """Retrieves with ``base_retriever`` and compresses what it finds; for chains that take a retriever and no postprocessor.

    Args:
        base_retriever: finds the nodes.
        postprocessor: how to compress them; None makes one of ``options``.
        callback_manager: that of ``base_retriever`` by default.
        **options: arguments of LLoCOPostprocessor, such as ``ratio``, ``token_budget``, ``documents``, ``store`` and ``on_miss``.
    """

    def __init__(
        self,
        base_retriever: BaseRetriever,
        *,
        postprocessor: LLoCOPostprocessor | None = None,
        callback_manager: CallbackManager | None = None,
        **options: Any,
    ) -> None:
        if postprocessor is not None and options:
            raise TypeError(f"give either postprocessor= or {', '.join(options)}")
        self.base_retriever = base_retriever
        self.postprocessor = postprocessor or LLoCOPostprocessor(**options)
        super().__init__(callback_manager=callback_manager or getattr(base_retriever, "callback_manager", None))

    @classmethod
    def from_retriever(cls, retriever: BaseRetriever, **options: Any) -> LLoCORetriever:
        """As the constructor."""
        return cls(retriever, **options)

    def _get_prompt_modules(self) -> dict[str, Any]:
        return {"base_retriever": self.base_retriever}

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self.postprocessor.postprocess_nodes(self.base_retriever.retrieve(query_bundle), query_bundle)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        nodes = await self.base_retriever.aretrieve(query_bundle)
        return await self.postprocessor.apostprocess_nodes(nodes, query_bundle)
