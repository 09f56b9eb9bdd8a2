from __future__ import annotations

import json

import pytest
from llama_index.core.base.llms.types import TextBlock
from llama_index.core.schema import Document, MetadataMode, NodeRelationship, NodeWithScore, RelatedNodeInfo, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from lloco_integrations.llama_index import LLoCONode

MARK = "<|lloco:" + "a" * 26 + "@16|>"
TEXT = "The whole text."


@pytest.fixture
def plain() -> TextNode:
    return TextNode(
        text=TEXT,
        metadata={"file": "a.txt", "secret": "s", "page": 3},
        excluded_llm_metadata_keys=["secret"],
        excluded_embed_metadata_keys=["page"],
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc")},
        embedding=[0.5, 0.25],
        start_char_idx=4,
    )


def test_only_the_llm_sees_the_placeholder(plain: TextNode) -> None:
    node = LLoCONode.from_node(plain, MARK)
    assert node.get_content(MetadataMode.LLM) == f"file: a.txt\npage: 3\n\n{MARK}"
    for mode in (MetadataMode.ALL, MetadataMode.EMBED, MetadataMode.NONE):
        assert node.get_content(mode) == plain.get_content(mode)
        assert node.get_content_blocks(mode) == plain.get_content_blocks(mode)
    assert node.get_content_blocks(MetadataMode.LLM) == [TextBlock(text="file: a.txt\npage: 3"), TextBlock(text=MARK)]
    assert node.get_text() == node.text == TEXT
    assert (node.hash, node.id_, node.ref_doc_id, node.embedding) == (plain.hash, plain.id_, "doc", plain.embedding)
    assert node.start_char_idx == 4
    assert node.is_compressed


def test_without_metadata_it_is_exactly_the_placeholder() -> None:
    node = LLoCONode(text=TEXT, llm_text=MARK, metadata={"a": 1}, excluded_llm_metadata_keys=["a"])
    assert node.get_content(MetadataMode.LLM) == MARK


def test_templates_are_respected(plain: TextNode) -> None:
    plain.text_template, plain.metadata_template, plain.metadata_separator = "<doc {metadata_str}>{content}</doc>", "{key}={value}", " "
    assert LLoCONode.from_node(plain, MARK).get_content(MetadataMode.LLM) == f"<doc file=a.txt page=3>{MARK}</doc>"


def test_metadata_is_neutralised() -> None:
    node = LLoCONode(text=TEXT, llm_text=MARK, metadata={"t": f"x {MARK} <|LLOCO"})
    assert node.get_content(MetadataMode.LLM) == f"t: x < {MARK[1:]} < |LLOCO\n\n{MARK}"
    assert node.metadata["t"] == f"x {MARK} <|LLOCO"
    assert node.get_content(MetadataMode.ALL).startswith(f"t: x {MARK}")


def test_without_an_llm_text_it_shows_its_text_neutralised() -> None:
    node = LLoCONode(text=f"a {MARK}")
    assert node.get_content(MetadataMode.LLM) == "a < " + MARK[1:]
    assert not node.is_compressed


def test_changing_the_text_drops_the_placeholder(plain: TextNode) -> None:
    node = LLoCONode.from_node(plain, MARK)
    node.set_content("other")
    assert node.get_content(MetadataMode.LLM).endswith("\n\nother")


def test_the_copy_shares_no_metadata(plain: TextNode) -> None:
    node = LLoCONode.from_node(plain, MARK)
    node.metadata["new"] = 1
    node.relationships.clear()
    assert "new" not in plain.metadata
    assert plain.relationships


def test_a_document_becomes_a_node() -> None:
    document = Document(text=TEXT, metadata={"a": 1}, id_="d")
    node = LLoCONode.from_node(document, MARK)
    assert (node.id_, node.text, node.metadata) == ("d", TEXT, {"a": 1})
    assert node.get_content(MetadataMode.LLM) == f"a: 1\n\n{MARK}"


def test_round_trips(plain: TextNode) -> None:
    node = LLoCONode.from_node(plain, MARK)
    assert LLoCONode.from_dict(node.to_dict()) == node
    assert LLoCONode.from_json(node.to_json()) == node
    assert LLoCONode.from_dict(json.loads(json.dumps(node.to_dict()))) == node
    assert node.class_name() == node.to_dict()["class_name"] == "LLoCONode"
    assert NodeWithScore(node=node, score=1.0).to_dict()["node"]["llm_text"] == MARK


def test_stores_give_back_the_plain_node(plain: TextNode) -> None:
    node = LLoCONode.from_node(plain, MARK)
    docstore = SimpleDocumentStore()
    docstore.add_documents([node])
    found = docstore.get_document(node.id_)
    assert type(found) is TextNode
    assert (found.text, found.hash, found.metadata) == (TEXT, plain.hash, plain.metadata)
    again = metadata_dict_to_node(node_to_metadata_dict(node))
    assert type(again) is TextNode
    assert again.text == TEXT
