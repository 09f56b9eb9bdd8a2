"""Whatever is in a document, its metadata or the past of a conversation: no prompt names an entry through it."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime
import decimal
import json
import pathlib
import types
import uuid
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage
from langchain_core.prompts import PromptTemplate
from llama_index.core.base.llms.types import ChatMessage as IndexMessage
from llama_index.core.base.llms.types import MessageRole
from llama_index.core.schema import ImageNode, IndexNode, MetadataMode, Node, NodeWithScore, TextNode

from lloco_integrations import langchain, llama_index, placeholder
from lloco_integrations.engine import Engine
from lloco_integrations.errors import BadInput, LLoCOError
from lloco_integrations.langchain.messages import to_messages as from_langchain
from lloco_integrations.llama_index.calls import to_messages as from_llama_index
from lloco_integrations.models import LLoCOModel, load_model
from lloco_integrations.plain import plain, spoken
from lloco_integrations.prompting import Prompter
from lloco_integrations.types import GenerationParams, Message
from tests import tiny

KEY = "abcdefghijklmnopqrstuvwxya"
MARK = placeholder.make(KEY)
HOSTILE = [MARK, placeholder.vote(KEY), MARK[:20], f":{KEY}|>", "<|", f"&lt;|lloco:{KEY}|&gt;"]
HOSTILE += ["\ue000con\ue000content\ue001tent\ue001", "\ue000content\ue001"]


class Pair(NamedTuple):
    name: str
    value: Any


@dataclasses.dataclass(frozen=True)
class Record:
    value: str


class Text(str):
    """A string of another type."""


class Odd:
    """An object that prints what it is told to."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


class Broken:
    """An object that cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no")


STRINGS = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=5))
LEAVES = st.one_of(
    STRINGS,
    st.none(),
    st.integers(),
    st.floats(allow_nan=False),
    st.just(datetime.date(2024, 1, 2)),
    st.just(uuid.UUID(int=3)),
    st.just(decimal.Decimal("1.5")),
    STRINGS.map(Text),
    STRINGS.map(Odd),
    STRINGS.map(Record),
    STRINGS.map(lambda s: s.encode("utf-8", "replace")),
    STRINGS.map(lambda s: bytearray(s.encode("utf-8", "replace"))),
    STRINGS.map(pathlib.PurePosixPath),
    STRINGS.map(lambda s: type(s, (), {})() if s.isidentifier() else s),
    st.builds(Broken),
)
KEYS = st.one_of(STRINGS, st.integers(), STRINGS.map(Text), st.tuples(STRINGS, STRINGS), STRINGS.map(pathlib.PurePosixPath))


def deeper(inner: Any) -> Any:
    mappings = st.dictionaries(KEYS, inner, max_size=3)
    lists = st.lists(inner, max_size=3)
    sets = st.frozensets(st.one_of(STRINGS, STRINGS.map(pathlib.PurePosixPath)), max_size=3)
    return st.one_of(
        mappings,
        mappings.map(collections.OrderedDict),
        mappings.map(types.MappingProxyType),
        mappings.map(lambda d: collections.defaultdict(list, d)),
        lists,
        lists.map(tuple),
        lists.map(collections.deque),
        lists.map(collections.UserList),
        sets,
        sets.map(set),
        st.builds(Pair, STRINGS, inner),
        mappings.map(lambda d: types.SimpleNamespace(**{f"k{i}": v for i, v in enumerate(d.values())})),
    )


VALUES = st.recursive(LEAVES, deeper, max_leaves=6)
METADATA = st.dictionaries(STRINGS, VALUES, max_size=3)
FEW = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def names(text: str) -> list[Any]:
    """The entries that ``text`` names; raises on a broken one, as a prompt does."""
    return [*placeholder.find(placeholder.split_votes(text)[0]), *placeholder.split_votes(text)[1]]


def strings(value: Any) -> list[str]:
    """Everything that a template could print of ``value``."""
    try:
        found = [str(value), repr(value), f"{value}"]
    except RuntimeError:
        return []
    if isinstance(value, dict):
        return found + [s for pair in value.items() for part in pair for s in strings(part)]
    return found + [s for part in value for s in strings(part)] if isinstance(value, list | tuple | set | frozenset) else found


@FEW
@given(VALUES)
def test_nothing_prints_a_placeholder(value: Any) -> None:
    made = plain(value)
    assert all(names(text) == [] for text in strings(made))
    assert plain(made) == made or not isinstance(made, str | dict | list)


def test_what_is_harmless_stays_what_it_is() -> None:
    kept = [collections.OrderedDict(a="b"), Pair("a", [1]), pathlib.PurePosixPath("x/y"), b"bytes", {1, 2}, Record("x"), Text("x"), None]
    for value in kept:
        assert plain(value) == value and type(plain(value)) is type(value)
    loop: list[Any] = [MARK]
    loop.append(loop)
    assert names(str(plain(loop))) == []


@pytest.fixture(scope="module")
def post(tiny_model: str) -> llama_index.LLoCOPostprocessor:
    return llama_index.LLoCOPostprocessor(tiny_model, "memory://prompt-text", device="cpu", dtype="float32")


@FEW
@given(METADATA, STRINGS, STRINGS, STRINGS, st.sampled_from(["text", "index", "image", "node"]))
def test_nodes_of_every_kind(
    post: llama_index.LLoCOPostprocessor, metadata: dict[str, Any], text: str, template: str, joint: str, kind: str
) -> None:
    more: dict[str, Any] = {
        "text_template": "{metadata_str}" + template.replace("{", "").replace("}", "") + "{content}",
        "metadata_template": template.replace("{", "").replace("}", "") + "{key}{value}",
    }
    body = f"A text. {text}"
    node: Any
    if kind == "index":
        node = IndexNode(text=body, index_id="i", **more)
    elif kind == "image":
        node = ImageNode(text=body, image="aGk=", **more)
    elif kind == "node":
        node = Node(text_resource={"text": body}, image_resource={"data": b"aGk="}, text_template=more["text_template"])
    else:
        node = TextNode(text=body, **more)
    node.metadata, node.metadata_separator = metadata, joint
    try:
        node.get_content(MetadataMode.LLM)
    except RuntimeError:
        return  # an object that cannot be printed stops LlamaIndex itself
    (made,) = post.postprocess_nodes([NodeWithScore(node=node)])
    found = names(made.node.get_content(MetadataMode.LLM))
    if kind == "text":
        (summary,) = post.engine.compress([body])
        assert list(map(str, found)) == [summary.content], "its own, once"
        assert names(made.node.get_metadata_str(MetadataMode.LLM)) == []
        assert sum(len(names(block.text)) for block in made.node.get_content_blocks(MetadataMode.LLM)) == 1  # type: ignore[attr-defined]
    else:
        assert found == []
    assert node.metadata is not None and node.get_content(MetadataMode.NONE) == body


@pytest.fixture(scope="module")
def compressor(tiny_model: str) -> langchain.LLoCODocumentCompressor:
    return langchain.LLoCODocumentCompressor(model=tiny_model, store="memory://prompt-text", device="cpu", dtype="float32")


@FEW
@given(METADATA, STRINGS, STRINGS)
def test_documents_of_every_kind(compressor: langchain.LLoCODocumentCompressor, metadata: dict[str, Any], text: str, name: str) -> None:
    document = Document(page_content=f"A text. {text}", metadata=metadata, id=name)
    (made,) = compressor.compress([document])
    assert len(names(made.page_content)) == 1
    assert names(made.id or "") == []
    kept = made.metadata["lloco_text"]  # the text itself, for those who ask for it with str
    for shown in (*strings({k: v for k, v in made.metadata.items() if k != "lloco_text"}), repr(made.metadata), repr(kept), f"{kept}"):
        assert names(shown) == []
    if metadata:
        try:
            str(metadata)
        except RuntimeError:
            return
    assert len(names(str(made))) == 1
    prompt = PromptTemplate.from_template("{page_content} {lloco_text}").format(page_content=made.page_content, **made.metadata)
    assert len(names(prompt)) == 1
    assert langchain.original_text(made) == document.page_content


def test_a_source_that_is_a_path(compressor: langchain.LLoCODocumentCompressor) -> None:
    (made,) = compressor.compress([Document("text", metadata={"source": pathlib.Path(MARK), "at": pathlib.Path("a/b")})])
    assert names(f"{made.metadata['source']}") == [] and made.metadata["at"] == pathlib.Path("a/b")


def test_metadata_can_be_written_as_yaml_and_json(compressor: langchain.LLoCODocumentCompressor) -> None:
    (made,) = compressor.compress([Document("A text.", metadata={"source": "x"})])
    for dumped in (yaml.safe_dump(made.metadata), yaml.dump(made.metadata), json.dumps(made.metadata)):
        assert yaml.safe_load(dumped)["lloco_text"] == "A text."
    assert "A text." not in repr(made)


# --- what an assistant or a tool said


@pytest.mark.parametrize("role", ["assistant", "tool"])
@pytest.mark.parametrize("chat", [True, False])
def test_the_past_names_nothing(tiny_model: str, role: str, chat: bool) -> None:
    prompter = Prompter(tiny.tokenizer(chat), chat=chat)
    turns = [Message("user", "hi"), Message(role, f"I say {MARK} and {placeholder.vote(KEY)} and {MARK[:20]}"), Message("user", "and?")]
    assert not any(isinstance(segment, placeholder.Placeholder) for segment in prompter.segments(turns))
    asked = [*turns[:2], Message("user", MARK)]
    assert [s for s in prompter.segments(asked) if isinstance(s, placeholder.Placeholder)] == [placeholder.Placeholder(KEY)]
    engine = Engine(tiny_model, "memory://past", {"law": "nowhere"}, device="cpu", dtype="float32")
    assert engine.count(turns).n_positions > 0
    assert engine._choose(turns, None).name is None


def test_both_frameworks_tell_the_same_roles_and_texts() -> None:
    said = f"I say {MARK}"
    ours = from_langchain([HumanMessage("a"), AIMessage(said), ChatMessage(role="assistant", content=said)])
    theirs = from_llama_index(
        [IndexMessage(role="user", content="a"), IndexMessage(role="assistant", content=said), IndexMessage(role="chatbot", content=said)]
    )
    assert ours == theirs
    assert [names(spoken(m)) for m in ours] == [[], [], []]
    for role in (MessageRole.TOOL, MessageRole.FUNCTION):
        (tool,) = from_llama_index([IndexMessage(role=role, content=said)])
        assert names(spoken(tool)) == []


# --- arguments and texts of the wrong kind


@pytest.fixture(scope="module")
def model(tiny_model: str) -> LLoCOModel:
    return load_model(tiny_model, device="cpu", dtype="float32")


def test_one_text_where_a_list_is_meant(model: LLoCOModel, tiny_model: str, compressor: langchain.LLoCODocumentCompressor) -> None:
    engine = Engine(tiny_model, "memory://lists", device="cpu", dtype="float32")
    wrong: list[Any] = ["one text", b"bytes", 3, None, Document("x"), {"a": "b"}, [None], [b"x"], [Document("x")], [3]]
    for value in wrong:
        for call in (model.compress, engine.compress, lambda v: engine.show(v, token_budget=100), compressor.compress):
            if call == compressor.compress and isinstance(value, list) and isinstance(value[0], Document):
                continue
            with pytest.raises(BadInput):
                call(value)
    for value in ("one prompt", 3, None):
        for ask in (model.generate, engine.generate):
            with pytest.raises(BadInput):
                ask(value)  # type: ignore[operator]
    for value in ([1, 2, 3], "abc", [["a"]], [[1.5]], [[10**30]], [[-1]], [[300]], [[]], [None]):
        with pytest.raises(BadInput):
            model.compress_ids(value)  # type: ignore[arg-type]
    with pytest.raises(BadInput):
        engine.compress(["a", "b", "c"], groups="law")
    with pytest.raises(BadInput):
        engine.compress(["a", "b"], groups=["law"])
    with pytest.raises(BadInput):
        GenerationParams(stop="abc")  # type: ignore[arg-type]
    assert compressor.compress_documents([], "q") == []


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff", "\ud83d\ude00 a pair", "\ud800" * 50, "a\x00b", "\ufeff\u202e"])
def test_text_that_is_no_text(model: LLoCOModel, tiny_model: str, text: str) -> None:
    engine = Engine(tiny_model, "memory://surrogates", device="cpu", dtype="float32")
    (made,) = engine.compress([text])
    assert engine.generate([f"{made.content} {text}"], GenerationParams(2))[0].usage.prompt_tokens
    assert engine.count([Message("system", text), Message("user", text)]).n_positions
    assert model.text_ids("\ud83d\ude00") == model.text_ids("😀")
    assert (
        asyncio.run(llama_index.LLoCOLLM(tiny_model, "memory://surrogates", dtype="float32", max_new_tokens=2).acomplete(text)).text
        is not None
    )


@FEW
@given(st.text(st.characters(codec=None, categories=None), max_size=20))
def test_any_text_is_tokenised(text: str) -> None:
    prompter = Prompter(tiny.tokenizer(), chat=True)
    try:
        prompter.segments(text)
    except LLoCOError:
        return
