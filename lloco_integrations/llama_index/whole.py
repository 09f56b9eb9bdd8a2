"""From passages to the documents that they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llama_index.core.schema import BaseNode, MetadataMode, NodeRelationship, NodeWithScore, TextNode
from llama_index.core.storage.docstore import BaseDocumentStore

from lloco_integrations.errors import BadInput
from lloco_integrations.show import groups

Documents = BaseDocumentStore | Mapping[str, BaseNode | str] | Callable[[str], BaseNode | str | None]
"""Where whole documents are found by their ids (the ``ref_doc_id`` of their passages)."""


def whole_documents(nodes: Sequence[NodeWithScore], documents: Documents, most: int | None) -> list[NodeWithScore]:
    """The ``most`` documents that ``nodes`` vote for, best first, each with the score of its best passage.

    The passages become CHILD relationships of a copy of the document. A node that comes from no document stands for itself. Raises
    BadInput for an id that ``documents`` does not have, and if no node comes from a document.
    """
    if nodes and all(n.node.ref_doc_id is None for n in nodes):
        raise BadInput("documents= is given, but no node names the document it comes from (ref_doc_id); leave documents= out")
    ranked = sorted(nodes, key=lambda n: float("inf") if n.score is None else -n.score)
    found = groups.documents([n.node.ref_doc_id or n.node.node_id for n in ranked])
    out = []
    for name, ranks in list(found.items())[:most]:
        passages = [ranked[rank] for rank in ranks]
        best = passages[0]
        if best.node.ref_doc_id is None:
            out.append(best)
            continue
        node = _document(name, best.node, documents)
        node.relationships = {
            **node.relationships,
            NodeRelationship.CHILD: [p.node.as_related_node_info() for p in passages],
        }
        out.append(NodeWithScore(node=node, score=best.score))
    return out


def _document(name: str, passage: BaseNode, documents: Documents) -> TextNode:
    """A copy of the document ``name`` as a node; a document that is only a text has the metadata of its ``passage``."""
    found: Any
    if isinstance(documents, BaseDocumentStore):
        found = documents.get_document(name, raise_error=False)
    else:
        found = documents.get(name) if isinstance(documents, Mapping) else documents(name)
    if found is None:
        raise BadInput(
            f"documents= has no document {name!r}, from which the passage {passage.node_id!r} comes; add it (for example with "
            f"docstore.add_documents), or leave documents= out"
        )
    if isinstance(found, str):
        hidden = {"excluded_llm_metadata_keys": [*passage.excluded_llm_metadata_keys]}
        return TextNode(id_=name, text=found, metadata=dict(passage.metadata), **hidden)
    fields = {key: getattr(found, key) for key in TextNode.model_fields if key != "text" and hasattr(found, key)}
    return TextNode(**fields, text=found.get_content(MetadataMode.NONE))
