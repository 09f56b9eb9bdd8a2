"""Whatever a file holds: an LLoCOError that says so, or success; nothing else. Bounded in time, and the same every run."""

from __future__ import annotations

import gzip
import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hypothesis", reason="needs pip install hypothesis")

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lloco_integrations.cli.catalogue import Catalogue, location
from lloco_integrations.errors import BadInput, DamagedEntry, LLoCOError, ModelNotFound, StoreError
from lloco_integrations.evaluation.datasets import read_documents, read_lines, read_questions
from lloco_integrations.models.directory import check_files, read_manifest
from lloco_integrations.reading import Unusable, pieces
from lloco_integrations.store.codec import check, decode, encode
from lloco_integrations.store.header import HEAD_BYTES, read_header
from lloco_integrations.store.meta import StoreMeta
from lloco_integrations.store.seal import Seal
from lloco_integrations.types import SummaryEmbeddings

KEY = "abcdefghijklmnopqrstuvwxya"
SEAL, OPEN = Seal(bytes(range(32))), Seal(bytes(range(32)), legacy=True)
some = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=6), v, max_size=3), max_leaves=8)


def changed(table: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """``table`` with some of its values, at the top or one below, replaced by anything, or gone."""
    paths = [(k,) for k in table] + [(k, j) for k, v in table.items() if isinstance(v, dict) for j in v]
    change = st.tuples(st.sampled_from(paths), values, st.booleans())

    def apply(changes: list[tuple[tuple[str, ...], Any, bool]]) -> dict[str, Any]:
        made = json.loads(json.dumps(table))
        for path, value, gone in changes:
            inner = made
            for name in path[:-1]:
                inner = inner.get(name) if isinstance(inner, dict) else None
            if isinstance(inner, dict):
                if gone:
                    inner.pop(path[-1], None)
                else:
                    inner[path[-1]] = value
        return made

    return st.lists(change, min_size=1, max_size=3).map(apply)


def encoded(n: int = 2) -> bytes:
    import torch

    return encode(KEY, SummaryEmbeddings(torch.arange(n * 4.0).reshape(n, 4), 9, "fp", 4, "g"), "exact", 1.0, SEAL)[0]


VALUE = encoded()
LENGTH = int.from_bytes(VALUE[:8], "little")
TABLE = json.loads(VALUE[8 : 8 + LENGTH])


@some
@given(st.binary(max_size=200) | st.binary(max_size=80).map(lambda b: VALUE[:8] + b), st.sampled_from([SEAL, OPEN]))
@example((8000).to_bytes(8, "little") + b"[" * 8000, SEAL)
@example((5008).to_bytes(8, "little") + b'{"a": ' + b"1" * 5000 + b"}}", SEAL)
def test_any_bytes_as_a_value(data: bytes, seal: Seal) -> None:
    for call in (read_header, check, decode):
        with pytest.raises(DamagedEntry):
            call(KEY, data, seal)


@some
@given(changed(TABLE), st.sampled_from([SEAL, OPEN]))
def test_any_header(table: dict[str, Any], seal: Seal) -> None:
    text = json.dumps(table).encode()
    data = len(text).to_bytes(8, "little") + text + VALUE[8 + LENGTH :]
    for call in (read_header, check, decode):
        try:
            call(KEY, data, seal)
        except DamagedEntry:
            continue
        assert table == TABLE or call is read_header, "only the very header fits its mark"


@some
@given(changed(TABLE))
def test_any_header_that_somebody_vouched_for(table: dict[str, Any]) -> None:
    from lloco_integrations.store.header import head_mark

    meta = table.get("__metadata__")
    if isinstance(meta, dict):
        table = {**table, "__metadata__": {**meta, "seal": head_mark(SEAL, KEY, meta)}}
    text = json.dumps(table).encode()
    data = (len(text).to_bytes(8, "little") + text + VALUE[8 + LENGTH :])[:HEAD_BYTES]
    try:
        found = read_header(KEY, data, SEAL)
    except DamagedEntry:
        return
    assert found.info.n_vectors * found.info.hidden_size == 8, "the shape is that of the bytes"


@some
@given(
    st.binary(max_size=60)
    | values.map(lambda v: json.dumps(v).encode())
    | changed(json.loads(StoreMeta.new("exact").to_json())).map(json.dumps)
)
@example(b"[" * 100_000)
@example(b'{"lloco_store": ' + b"1" * 5000 + b"}")
@example(b'{"lloco_store": 1e999}')
def test_any_meta_data_of_a_store(text: bytes | str) -> None:
    try:
        meta = StoreMeta.from_json(text, "x")
    except StoreError:
        return
    assert StoreMeta.from_json(meta.to_json(), "x") == meta


MANIFEST = {
    "format": 1,
    "spec": {"fingerprint": "f", "kind": "mean_pool", "hidden_size": 8, "segment_length": 64, "ratios": [4, 8], "placement": "inline"},
    "name": "m",
    "bidirectional": True,
    "chat": False,
    "source": "s",
    "base": "b",
    "files": {"a": "0"},
}


@some
@given(st.binary(max_size=60) | values.map(lambda v: json.dumps(v).encode()) | changed(MANIFEST).map(lambda v: json.dumps(v).encode()))
@example(b"[" * 100_000)
@example(json.dumps({**MANIFEST, "name": "x"}).encode().replace(b'"x"', b"1" * 5000))
def test_any_manifest(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "lloco.json").write_bytes(data)
        with suppress(ModelNotFound):
            check_files(Path(folder), read_manifest(Path(folder)))


@some
@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda b: b"SQLite format 3\0" + b))
def test_any_catalogue(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/s.sqlite"
        location(url).write_bytes(data)
        try:
            with Catalogue.open(url) as catalogue:
                catalogue.passages()
        except StoreError:
            pass


lines = (
    values.map(json.dumps)
    | st.dictionaries(st.sampled_from(["doc_id", "id", "text", "page_content", "title", "metadata", "question", "answers"]), values).map(
        json.dumps
    )
    | st.text(max_size=20)
)


@some
@given(
    st.lists(lines, max_size=4).map(lambda some: "\n".join(some).encode("utf-8", "surrogatepass")) | st.binary(max_size=60), st.booleans()
)
@example(b'{"doc_id": "a", "text": "b", "x": ' + b"[" * 100_000, False)
@example(b'{"doc_id": "a", "text": "\\ud800"}', False)
def test_any_jsonl(data: bytes, packed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.jsonl.gz" if packed else "a.jsonl")
        path.write_bytes(gzip.compress(data) if packed and len(data) % 3 else data)
        for read in (read_documents, read_questions, lambda path: list(read_lines(path, 40))):
            try:
                read(path)
            except BadInput:
                continue
        try:
            for piece in pieces(path):
                (piece.text + piece.title + piece.place).encode("utf-8")
        except Unusable:
            pass


@some
@given(st.sampled_from([".txt", ".md", ".html", ".csv", ".tsv", ".eml", ".docx", ".xlsx", ".jsonl", ".jsonl.gz"]), st.binary(max_size=200))
def test_any_file_is_read_or_left_out_with_a_reason(suffix: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_bytes(data)
        with suppress(Unusable):
            for piece in pieces(path):
                piece.text.encode("utf-8")


TAGS = [
    "<table>",
    "<tr>",
    "<td>",
    "<td rowspan=3>",
    "<td colspan=4>",
    "</table>",
    "<p>",
    "<li>",
    "<ul>",
    "<ol>",
    "<b>",
    "</b>",
    "<pre>",
    "x",
    "|",
    "&",
]


@some
@given(
    st.lists(
        st.sampled_from(TAGS),
        max_size=40,
    )
)
def test_any_nesting_of_tags(tags: list[str]) -> None:
    for needed in ("lxml", "markdownify"):
        pytest.importorskip(needed, reason=f"needs the extra demo ({needed})")
    from lloco_integrations.markup import text_of

    page = "".join(tags)
    try:
        text, _ = text_of(page)
    except LLoCOError:
        return
    assert text.count("x") >= page.count("x"), "nothing is lost"
