"""The step between retriever and LLM that puts placeholders in place of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from llama_index.core import MockEmbedding, Settings
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr, field_serializer
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, ImageNode, IndexNode, MetadataMode, Node, NodeWithScore, QueryBundle, TextNode

from lloco_integrations import placeholder
from lloco_integrations.embedding import Embedder, Wrapped
from lloco_integrations.engine import DEFAULT_MODEL, Focus, OnMiss, asked_of
from lloco_integrations.errors import BadInput
from lloco_integrations.llama_index.node import LLoCONode
from lloco_integrations.llama_index.whole import Documents, whole_documents
from lloco_integrations.llama_index.wiring import Wired
from lloco_integrations.plain import plain
from lloco_integrations.show.forms import Shown


class LLoCOPostprocessor(Wired, BaseNodePostprocessor):
    """Hands on copies of the nodes in whose LLM view a placeholder stands for the text. Put it last, after rerankers.

    Order, ids, scores, metadata and the text that sources show are kept. Whatever text stays raw is neutralised in the LLM view.
    Images and other nodes that are not plain text are handed on as they are. So are nodes that are LLoCO nodes already, unless there is a
    budget to spend: then their texts are shown anew.

    The question decides how a budget of positions is spent on what was retrieved: the sentences that fit it best stand as text, slices of
    the summaries around them as far as the model's vectors earn it (docs/elastic.md). A node of which nothing is shown is left out. What
    is shown as text is in the metadata of a node as ``lloco_shown``, pairs of characters from, up to, which no model sees.

    Args:
        model: preset, model directory or hub id; the LLM must read the same compressor's summaries.
        store: see Wired; the same as the LLM's.
        ratio: all texts together take one position for so many of their tokens, but enough to show something; None is the model's own,
            8 for the default model. With ``focus="none"``, source tokens per vector of each text: one of the model's ratios, None is the
            finest.
        token_budget: most positions that all texts may take together, metadata lines included, in place of ``ratio``.
        focus: "question", or "none": each text in one form, whatever is asked; so it is, too, where the question is not known.
        embed_model: ranks sentences, beside their words: a LlamaIndex embedding model, or None for words alone. The default is the
            application's own, if ``Settings.embed_model`` is set, else MiniLM if sentence-transformers is installed. A model given here is
            in copies and pickles, but not in ``to_dict()``, which names the default in its place.
        documents: where whole documents are found by the ``ref_doc_id`` of nodes: a docstore, a mapping, or a function. The nodes then
            vote for their documents, and these are handed on in their place (the nodes are their CHILD relationships).
        max_documents: most documents to hand on; None is all that have a vote.
        on_miss: for a text whose summary is wanted and not in the store: "compress" it now, hand on its "text", or "raise".
        group_key: metadata key that names the adapter group of a text: where nodes are of several groups, the LLM answers with the
            adapter of the one with most score.
        show_progress: a progress bar while compressing.
        device: see LLoCOLLM.
        dtype: see LLoCOLLM.
    """

    ratio: int | None = Field(default=None, ge=1, description="Source tokens for each position.")
    token_budget: int | None = Field(default=None, ge=1, description="Most positions of all texts together.")
    focus: Focus = Field(default="question", description="question or none.")
    embed_model: Any = Field(default="auto", repr=False, description="Ranks sentences; auto, None or an embedding model.")
    max_documents: int | None = Field(default=None, ge=1, description="Most whole documents.")
    on_miss: OnMiss = Field(default="compress", description="compress, text or raise.")
    group_key: str = Field(default="group", description="Metadata key of the adapter group.")
    show_progress: bool = Field(default=False, description="Whether to show a progress bar.")

    _documents: Documents | None = PrivateAttr(default=None)

    def __init__(
        self,
        model: Any = DEFAULT_MODEL,
        store: Any = None,
        ratio: int | None = None,
        on_miss: OnMiss = "compress",
        group_key: str = "group",
        show_progress: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        token_budget: int | None = None,
        focus: Focus = "question",
        embed_model: BaseEmbedding | Literal["auto"] | None = "auto",
        documents: Documents | None = None,
        max_documents: int | None = None,
        **kwargs: Any,
    ) -> None:
        if token_budget is not None and ratio is not None:
            raise BadInput("token_budget decides what each text costs; leave ratio out, or leave token_budget out")
        if not (embed_model is None or embed_model == "auto" or isinstance(embed_model, BaseEmbedding)):
            raise BadInput(
                f"embed_model is {embed_model!r}; give a LlamaIndex embedding model (resolve_embed_model makes one of a name), None for "
                f"words alone, or leave it out"
            )
        super().__init__(
            model=model,
            store=store,
            ratio=ratio,
            on_miss=on_miss,
            group_key=group_key,
            show_progress=show_progress,
            device=device,
            dtype=dtype,
            token_budget=token_budget,
            focus=focus,
            embed_model=embed_model,
            max_documents=max_documents,
            **kwargs,
        )
        self._documents = documents

    @field_serializer("embed_model")
    def _named(self, embed_model: Any) -> str | None:
        return None if embed_model is None else "auto"

    @classmethod
    def class_name(cls) -> str:
        return "LLoCOPostprocessor"

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        if self._documents is not None:
            nodes = whole_documents(nodes, self._documents, self.max_documents)
        question = asked_of(query_bundle.query_str if query_bundle is not None else None, self.focus)
        spent = self.token_budget is not None or question is not None  # one budget for all: what was shown before counts, too
        fresh = [i for i, n in enumerate(nodes) if is_text(n.node) and (spent or not _done(n.node))]
        shown = dict(zip(fresh, self._shown([nodes[i] for i in fresh], question), strict=True))
        out = []
        for i, scored in enumerate(nodes):
            if i not in shown:
                node = scored.node if _done(scored.node) else _harmless(scored.node)
                out.append(scored if node is scored.node else scored.model_copy(update={"node": node}))
            elif (content := shown[i]) is not None:
                out.append(scored.model_copy(update={"node": LLoCONode.showing(scored.node, content, marked=question is not None)}))
        return out

    def _shown(self, nodes: Sequence[NodeWithScore], question: str | None) -> Sequence[Shown | None]:
        """What the LLM sees in place of the text of each of ``nodes``; None is nothing at all."""
        if not nodes:
            return []
        engine, extra = self.engine, None
        if self.token_budget is not None:
            frames = [LLoCONode.from_node(n.node, "").get_content(MetadataMode.LLM) for n in nodes]
            extra = [engine.count(frame, templated=False).n_positions if frame else 0 for frame in frames]
        return engine.show(
            [n.node.get_content(MetadataMode.NONE) for n in nodes],
            question=question,
            focus=self.focus,
            ratio=self.ratio,
            token_budget=self.token_budget,
            scores=[n.score for n in nodes],
            extra=extra,
            groups=groups_of([n.node for n in nodes], self.group_key),
            on_miss=self.on_miss,
            embedder=embedder_of(self.embed_model),
            progress=self.show_progress,
        )


def embedder_of(embed_model: BaseEmbedding | Literal["auto"] | None) -> Embedder | Literal["auto"] | None:
    """``embed_model`` as what ranks spans; "auto" is the application's own, where one is set."""
    chosen = Settings._embed_model if embed_model == "auto" else embed_model
    if chosen is None or isinstance(chosen, MockEmbedding):
        return "auto" if embed_model == "auto" else None
    model = chosen.model_name if chosen.model_name not in ("", "unknown") else id(chosen)
    return Wrapped(f"llama_index:{chosen.class_name()}:{model}", chosen.get_text_embedding_batch, chosen.get_query_embedding)


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
