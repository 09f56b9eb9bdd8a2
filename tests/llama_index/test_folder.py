"""A folder as nodes: the texts are those that the command line puts into a store."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from llama_index.core import Settings
from llama_index.core.schema import MetadataMode
from typer.testing import CliRunner

from lloco_integrations import Engine
from lloco_integrations.cli import app
from lloco_integrations.errors import BadInput
from lloco_integrations.llama_index import LLoCOLLM, install, read_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "handbook"
    (made / "east").mkdir(parents=True)
    (made / "leave.md").write_text("# Leave\n\n" + "A request for leave of up to three days is approved by the team leader. " * 60)
    (made / "east" / "doors.txt").write_text("The doors of the east wing are closed at nine. " * 40)
    return made


@pytest.mark.usefixtures("llama_index_settings")
def test_what_the_command_line_compressed_is_found(folder: Path, tiny_model: str, store_url: str) -> None:
    done = CliRunner().invoke(app, ["compress", str(folder), "--store", store_url, "--model", tiny_model, "--group", "handbook"])
    assert done.exit_code == 0, done.output
    install(Settings, LLoCOLLM(model=tiny_model, store=store_url, device="cpu"))  # an application counts tokens its own way
    nodes = read_folder(folder, group="handbook")
    assert len(nodes) > 3
    texts = [node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes]
    assert all(one.key is not None for one in Engine(tiny_model, store_url, device="cpu").compress(texts, on_miss="raise"))


def test_nodes_know_where_they_come_from(folder: Path) -> None:
    nodes = read_folder(folder, group="handbook")
    assert {node.metadata["file_name"] for node in nodes} == {"leave.md", "east/doors.txt"} == {node.ref_doc_id for node in nodes}
    assert {node.metadata["group"] for node in nodes} == {"handbook"}
    assert len({node.node_id for node in nodes}) == len(nodes)
    assert "handbook" not in nodes[0].get_content(metadata_mode=MetadataMode.LLM)
    assert all("group" not in node.metadata for node in read_folder(folder / "leave.md"))


def test_what_cannot_be_read(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "photo.png").write_bytes(b"\x89PNG")
    with caplog.at_level(logging.WARNING):
        assert {node.metadata["file_name"] for node in read_folder(folder)} == {"leave.md", "east/doors.txt"}
    assert "photo.png: no reader for .png files" in caplog.text
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no file with text"):
        read_folder(tmp_path / "empty")
    with pytest.raises(BadInput, match="there is no file or folder"):
        read_folder(tmp_path / "nowhere")
