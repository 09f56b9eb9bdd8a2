"""`lloco compress` where something is wrong: one line that says what, and the rest goes on."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lloco_integrations.engine import Engine
from tests.cli.conftest import Call

pytestmark = pytest.mark.needs("llama_index.core")

FILES = {
    "empty.txt": (b"", "empty file"),
    "blanks.md": (b" \n\t\n  ", "nothing but blanks"),
    "binary.txt": (b"abc\x00\x01\x02def", "binary file (a NUL at byte 3)"),
    "latin.txt": (b"First line.\nA caf\xe9 in Paris.\n", "not UTF-8: byte 0xe9 at offset 17 (line 2)"),
    "latin-with-mark.txt": (b"\xef\xbb\xbfcaf\xe9", "not UTF-8: byte 0xe9 at offset 6 (line 1)"),
    "windows.txt": ("text".encode("utf-16"), "UTF-16"),
    "photo.png": (b"\x89PNG", "no reader for .png files"),
    "broken.pdf": (b"%PDF-1.4 and no more", "the PDF cannot be read"),
    "broken.jsonl": (b'{"doc_id": "a", "text": "b"}\n{"doc_id": 3', "line 2: not valid JSON"),
    "unnamed.jsonl": (b'{"text": "b"}\n', "line 1: 'doc_id' must be"),
    "plain.jsonl.gz": (b'{"doc_id": "a", "text": "b"}\n', "cannot read"),
}


@pytest.mark.parametrize("name", FILES)
def test_an_unusable_file_is_skipped_with_its_reason(name: str, compress: Call, library: Path, stored: Callable[[], set[str]]) -> None:
    if name.endswith(".pdf"):
        pytest.importorskip("llama_index.readers.file")
    content, reason = FILES[name]
    (library / name).write_bytes(content)
    result = compress(library)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("skipped")]
    assert name in line
    assert reason in line
    assert "3 read, 1 skipped" in result.stdout
    assert len(stored()) == 3
    result = compress(library, "--strict")
    assert result.exit_code == 2
    assert "error: 1 files were skipped" in result.stderr


def test_a_file_that_becomes_unusable_is_forgotten(compress: Call, library: Path) -> None:
    compress(library)
    (library / "owls.txt").write_bytes(b"")
    assert "2 unchanged, 1 skipped" in compress(library).stdout
    assert "2 in the store" in compress(library).stdout


def test_nothing_usable_at_all(compress: Call, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    result = compress(tmp_path / "empty.txt")
    assert result.exit_code == 2
    assert "empty file" in result.stderr
    assert "none of the 1 files" in result.stderr
    (tmp_path / "nothing").mkdir()
    result = compress(tmp_path / "nothing")
    assert result.exit_code == 2
    assert "found no files" in result.stderr


def test_hidden_files_are_not_looked_at(compress: Call, library: Path) -> None:
    (library / ".hidden").write_text("not for you")
    (library / ".git").mkdir()
    (library / ".git" / "config.txt").write_text("nor this")
    assert "3 read" in compress(library).stdout


def test_a_name_that_is_not_utf8(compress: Call, library: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(library) + b"/caf\xe9.txt")).write_text("text")
    except OSError:
        pytest.skip("this file system takes no such name")
    result = compress(library)
    assert result.exit_code == 0
    assert "its name is not UTF-8" in result.stderr


def test_many_skipped_files_do_not_flood(compress: Call, library: Path) -> None:
    for number in range(25):
        (library / f"{number}.png").touch()
    result = compress(library)
    lines = result.stderr.splitlines()
    assert len([line for line in lines if line.startswith("skipped ")]) == 20
    assert lines[-1] == "... and 5 more"
    assert "25 skipped" in result.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "no-such-model"], "'no-such-model' is neither a preset (smollm2-135m"),
        (["--chunk-size", "10", "--chunk-overlap", "10"], "must be smaller"),
        (["--store", "memory://x"], "would be gone"),
        (["--store", "ftp"], "is not the address of a store"),
        (["--storage", "zip"], "storage 'zip' is not one of"),
        (["nowhere.txt"], "there is no file or folder 'nowhere.txt'"),
    ],
)
def test_bad_words_make_no_store(
    words: list[str], said: str, lloco: Call, library: Path, tiny_model: str, store_url: str, tmp_path: Path, lloco_home: Path
) -> None:
    given = [*words]
    given += [] if "--store" in words else ["--store", store_url]
    given += [] if "--model" in words else ["--model", tiny_model]
    result = lloco("compress", library, *given)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("store*"))
    assert not lloco_home.exists()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that an unprivileged user can reach, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="lloco-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_read_only_store(lloco: Call, tiny_model: str, folder: Path, library: Path, embedder: object) -> None:
    url = f"sqlite:///{folder}/s.sqlite"
    shutil.copytree(library, folder / "library")
    common = ("--store", url, "--model", tiny_model)
    assert lloco("compress", folder / "library", *common).exit_code == 0
    assert Engine(tiny_model, url).model
    (folder / "library" / "new.txt").write_text("Something new.")
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        result = lloco("compress", folder / "library", *common)
        answer = lloco("ask", "Who hunts at night?", *common, "--max-new-tokens", 3)
    finally:
        os.seteuid(user)
    assert result.exit_code == 2
    assert "write permission" in result.stderr
    assert "Traceback" not in result.output
    assert answer.exit_code == 0, answer.output
    assert "owls.txt" in answer.stdout
