"""The step between retriever and LLM that puts placeholders in place of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, ImageNode, IndexNode, MetadataMode, Node, NodeWithScore, QueryBundle, TextNode

from lloco_integrations import placeholder
from lloco_integrations.engine import DEFAULT_MODEL, OnMiss
from lloco_integrations.llama_index.node import LLoCONode
from lloco_integrations.llama_index.wiring import Wired


class LLoCOPostprocessor(Wired, BaseNodePostprocessor):
    """Hands on copies of the nodes in whose LLM view a placeholder stands for the text. Put it last, after rerankers.

    Order, ids, scores, metadata and the text that sources show are kept. Whatever text stays raw is neutralised in the LLM view.
    Nodes that are LLoCO nodes already are handed on as they are, and so are images and other nodes that are not plain text.

    Args:
        model: preset, model directory or hub id; the LLM must read the same compressor's summaries.
        store: see Wired; the same as the LLM's.
        ratio: source tokens per vector, one of the model's; None is the finest.
        on_miss: for a text that the store does not hold: "compress" it now, hand on its "text", or "raise".
        keep_text_top_n: this many nodes of the best score keep their text.
        group_key: metadata key that names the adapter group of a text.
        show_progress: a progress bar while compressing.
        device: see LLoCOLLM.
        dtype: see LLoCOLLM.
    """

    ratio: int | None = Field(default=None, description="Source tokens per vector.")
    on_miss: OnMiss = Field(default="compress", description="compress, text or raise.")
    keep_text_top_n: int = Field(default=0, ge=0, description="How many of the best nodes keep their text.")
    group_key: str = Field(default="group", description="Metadata key of the adapter group.")
    show_progress: bool = Field(default=False, description="Whether to show a progress bar.")

    def __init__(
        self,
        model: Any = DEFAULT_MODEL,
        store: Any = None,
        ratio: int | None = None,
        on_miss: OnMiss = "compress",
        keep_text_top_n: int = 0,
        group_key: str = "group",
        show_progress: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model=model,
            store=store,
            ratio=ratio,
            on_miss=on_miss,
            keep_text_top_n=keep_text_top_n,
            group_key=group_key,
            show_progress=show_progress,
            device=device,
            dtype=dtype,
            **kwargs,
        )

    @classmethod
    def class_name(cls) -> str:
        return "LLoCOPostprocessor"

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        raw = self._kept_as_text(nodes)
        fresh = [i for i, n in enumerate(nodes) if i not in raw and is_text(n.node) and not _done(n.node)]
        texts = [nodes[i].node.get_content(MetadataMode.NONE) for i in fresh]
        groups = groups_of([nodes[i].node for i in fresh], self.group_key)
        shown = {}
        if texts:
            made = self.engine.compress(texts, on_miss=self.on_miss, ratio=self.ratio, groups=groups, progress=self.show_progress)
            shown = {i: c.content for i, c in zip(fresh, made, strict=True)}
        out = []
        for i, scored in enumerate(nodes):
            node = scored.node
            if i in shown:
                node = LLoCONode.from_node(node, shown[i])
            elif not _done(node):
                node = _as_raw_text(node) if is_text(node) else _harmless(node)
            out.append(scored if node is scored.node else scored.model_copy(update={"node": node}))
        return out

    def _kept_as_text(self, nodes: Sequence[NodeWithScore]) -> set[int]:
        """Positions of the best nodes: highest score first, then first come; a missing score is the lowest."""
        texts = [i for i, n in enumerate(nodes) if is_text(n.node)]
        score = {i: float("-inf") if (s := nodes[i].score) is None else s for i in texts}
        return set(sorted(texts, key=lambda i: (-score[i], i))[: self.keep_text_top_n])


def is_text(node: BaseNode) -> bool:
    """Whether ``node`` is text and nothing else: not an image, not a reference to another object."""
    if isinstance(node, TextNode):
        return not isinstance(node, ImageNode | IndexNode)
    return (
        isinstance(node, Node)
        and node.text_resource is not None
        and not (node.image_resource or node.audio_resource or node.video_resource)
    )


def groups_of(nodes: Sequence[BaseNode], key: str) -> list[str | None]:
    """The adapter group that each node's metadata name."""
    values = [node.metadata.get(key) for node in nodes]
    return [None if value is None else str(value) for value in values]


def _done(node: BaseNode) -> bool:
    return isinstance(node, LLoCONode) and node.llm_text is not None


def _as_raw_text(node: BaseNode) -> LLoCONode:
    return LLoCONode.from_node(node, placeholder.neutralise(node.get_content(MetadataMode.NONE)))


def _harmless(node: BaseNode) -> BaseNode:
    """``node`` itself, or, if the LLM would see anything like a placeholder in it, a neutralised copy."""
    seen = node.get_content(MetadataMode.LLM)
    if placeholder.neutralise(seen) == seen:
        return node
    copy = node.model_copy()
    copy.set_content(placeholder.neutralise(node.get_content(MetadataMode.NONE)))
    copy.metadata = {k: placeholder.neutralise(v) if isinstance(v, str) else v for k, v in node.metadata.items()}
    return copy
