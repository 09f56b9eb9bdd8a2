"""A folder as nodes, cut as the command line cuts it."""

from __future__ import annotations

import logging
from pathlib import Path

from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode

from lloco_integrations.errors import BadInput
from lloco_integrations.reading import CHUNK_OVERLAP, CHUNK_SIZE, READABLE, Splitting, Unusable, files_under, passages

_log = logging.getLogger(__name__)


def read_folder(
    folder: str | Path,
    *,
    group: str | None = None,
    chunk_size: int = CHUNK_SIZE,
    chunk_overlap: int = CHUNK_OVERLAP,
    follow_links: bool = False,
) -> list[TextNode]:
    """The files below ``folder`` (see ``reading.READABLE``) as nodes with the texts that ``lloco compress`` and ``lloco learn`` make of them.

    So what these have put into a store is found there. LlamaIndex's own readers and splitter cut elsewhere: they count metadata, and count with
    whatever tokenizer the application has set.

    Args:
        folder: a folder, or one file.
        group: the adapter group of the texts; in the metadata as ``group``, and not shown to any model.
        chunk_size: tokens of a passage, at most, as LlamaIndex counts them by default.
        chunk_overlap: tokens that neighbouring passages share.
        follow_links: also read linked folders, and linked files that lie elsewhere.

    Returns nodes with ``file_name`` (the path below ``folder``) in their metadata, and as the id of their source. A file that cannot be read is
    left out with a warning. Raises BadInput if there is no such folder, or nothing in it.
    """
    root = Path(folder).expanduser()
    if not root.exists():
        raise BadInput(f"there is no file or folder {str(folder)!r}; check the path")
    splitter = Splitting(chunk_size, chunk_overlap).splitter()
    nodes = []
    for path in files_under(root, _say, follow_links=follow_links):
        name = path.relative_to(root).as_posix() if root.is_dir() else path.name
        try:
            cut = passages(path, splitter)
        except Unusable as reason:
            _say(path, reason)
            continue
        for i, piece in enumerate(cut):
            nodes.append(_node(name, i, piece.text, group))
    if not nodes:
        raise BadInput(f"{str(folder)!r} holds no file with text in it; give a folder of files that have a reader ({READABLE})")
    return nodes


def _say(path: Path, reason: Unusable) -> None:
    _log.warning("left out %s: %s", path, reason)


def _node(name: str, i: int, text: str, group: str | None) -> TextNode:
    metadata = {"file_name": name, **({"group": group} if group is not None else {})}
    node = TextNode(
        id_=f"{name}#{i}", text=text, metadata=metadata, excluded_llm_metadata_keys=["group"], excluded_embed_metadata_keys=["group"]
    )
    node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=name)
    return node
