"""The step between retriever and LLM that puts placeholders in place of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, ImageNode, IndexNode, MetadataMode, Node, NodeWithScore, QueryBundle, TextNode

from lloco_integrations import placeholder
from lloco_integrations.engine import DEFAULT_MODEL, OnMiss
from lloco_integrations.errors import BadInput
from lloco_integrations.forms import Compressed
from lloco_integrations.llama_index.node import LLoCONode
from lloco_integrations.llama_index.whole import Documents, whole_documents
from lloco_integrations.llama_index.wiring import Wired
from lloco_integrations.plain import plain


class LLoCOPostprocessor(Wired, BaseNodePostprocessor):
    """Hands on copies of the nodes in whose LLM view a placeholder stands for the text. Put it last, after rerankers.

    Order, ids, scores, metadata and the text that sources show are kept. Whatever text stays raw is neutralised in the LLM view.
    Nodes that are LLoCO nodes already are handed on as they are, and so are images and other nodes that are not plain text.

    Args:
        model: preset, model directory or hub id; the LLM must read the same compressor's summaries.
        store: see Wired; the same as the LLM's.
        ratio: source tokens per vector, one of the model's; None is the finest.
        token_budget: most positions that all texts may take together, metadata lines included, in place of ``ratio`` and
            ``keep_text_top_n``: the best nodes are shown as text or finely, the tail coarsely, and what has no room even so is left
            out, with a warning in the log.
        documents: where whole documents are found by the ``ref_doc_id`` of nodes: a docstore, a mapping, or a function. The nodes then
            vote for their documents, and these are handed on in their place (the nodes are their CHILD relationships).
        max_documents: most documents to hand on; None is all that have a vote.
        on_miss: for a text that the store does not hold: "compress" it now, hand on its "text", or "raise".
        keep_text_top_n: this many nodes of the best score keep their text.
        group_key: metadata key that names the adapter group of a text: where nodes are of several groups, the LLM answers with the
            adapter of the one with most score.
        show_progress: a progress bar while compressing.
        device: see LLoCOLLM.
        dtype: see LLoCOLLM.
    """

    ratio: int | None = Field(default=None, description="Source tokens per vector.")
    token_budget: int | None = Field(default=None, ge=1, description="Most positions of all texts together.")
    max_documents: int | None = Field(default=None, ge=1, description="Most whole documents.")
    on_miss: OnMiss = Field(default="compress", description="compress, text or raise.")
    keep_text_top_n: int = Field(default=0, ge=0, description="How many of the best nodes keep their text.")
    group_key: str = Field(default="group", description="Metadata key of the adapter group.")
    show_progress: bool = Field(default=False, description="Whether to show a progress bar.")

    _documents: Documents | None = PrivateAttr(default=None)

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
        token_budget: int | None = None,
        documents: Documents | None = None,
        max_documents: int | None = None,
        **kwargs: Any,
    ) -> None:
        if token_budget is not None and (ratio is not None or keep_text_top_n):
            raise BadInput("token_budget decides what each text costs; leave ratio and keep_text_top_n out, or leave token_budget out")
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
            token_budget=token_budget,
            max_documents=max_documents,
            **kwargs,
        )
        self._documents = documents

    @classmethod
    def class_name(cls) -> str:
        return "LLoCOPostprocessor"

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        if self._documents is not None:
            nodes = whole_documents(nodes, self._documents, self.max_documents)
        budgeted = self.token_budget is not None
        fresh = [i for i, n in enumerate(nodes) if is_text(n.node) and (budgeted or not _done(n.node))]
        shown = dict(zip(fresh, self._shown([nodes[i] for i in fresh]), strict=True))
        out = []
        for i, scored in enumerate(nodes):
            if i not in shown:
                node = scored.node if _done(scored.node) else _harmless(scored.node)
                out.append(scored if node is scored.node else scored.model_copy(update={"node": node}))
            elif (content := shown[i]) is not None:
                out.append(scored.model_copy(update={"node": LLoCONode.from_node(scored.node, content.content)}))
        return out

    def _shown(self, nodes: Sequence[NodeWithScore]) -> Sequence[Compressed | None]:
        """What the LLM sees in place of the text of each of ``nodes``; None is nothing at all."""
        if not nodes:
            return []
        engine, texts = self.engine, [n.node.get_content(MetadataMode.NONE) for n in nodes]
        groups, scores = groups_of([n.node for n in nodes], self.group_key), [n.score for n in nodes]
        if self.token_budget is None:
            raw = self._kept_as_text(nodes)
            return engine.compress(
                texts, on_miss=self.on_miss, ratio=self.ratio, groups=groups, scores=scores, raw=raw, progress=self.show_progress
            )
        frames = [LLoCONode.from_node(n.node, "").get_content(MetadataMode.LLM) for n in nodes]
        extra = [engine.count(frame, templated=False).n_positions if frame else 0 for frame in frames]
        return engine.fit(
            texts, self.token_budget, scores=scores, extra=extra, on_miss=self.on_miss, groups=groups, progress=self.show_progress
        )

    def _kept_as_text(self, nodes: Sequence[NodeWithScore]) -> set[int]:
        """Positions of the best nodes: highest score first, then first come; a missing score is the lowest."""
        score = [float("-inf") if n.score is None else n.score for n in nodes]
        return set(sorted(range(len(nodes)), key=lambda i: (-score[i], i))[: self.keep_text_top_n])


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


def _harmless(node: BaseNode) -> BaseNode:
    """``node`` itself, or, if the LLM would see anything like a placeholder in it, a neutralised copy."""
    seen = node.get_content(MetadataMode.LLM)
    if placeholder.neutralise(seen) == seen:
        return node
    copy = node.model_copy()
    copy.set_content(placeholder.neutralise(node.get_content(MetadataMode.NONE)))
    copy.metadata = plain(node.metadata)
    for name in ("text_template", "metadata_template", "metadata_separator"):
        if hasattr(copy, name):
            setattr(copy, name, placeholder.neutralise(getattr(copy, name)))
    if placeholder.neutralise(shown := copy.get_content(MetadataMode.LLM)) != shown:  # what is harmless by parts may not be as a whole
        copy.set_content(placeholder.neutralise(seen))
        copy.excluded_llm_metadata_keys = [*copy.metadata]
    return copy
