"""`lloco compress` where something is wrong: one line that says what, and the rest goes on."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lloco_integrations.engine import Engine
from tests.cli.conftest import Call

pytestmark = pytest.mark.needs("llama_index.core")

_GZ = gzip.compress(b"".join(b'{"doc_id": "%d", "text": "b %d"}\n' % (n, n * n) for n in range(200)))
_NEEDS = {".pdf": "llama_index.readers.file", ".html": "markdownify", ".docx": "mammoth", ".xlsx": "openpyxl"}
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
    "textless.jsonl": (b'{"doc_id": "a", "body": "b"}\n', "line 1: 'text' must be a string"),
    "deep.jsonl": (b'{"doc_id": "a", "text": "b", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "JSON that cannot be read"),
    "digits.jsonl": (b'{"doc_id": "a", "text": "b", "x": ' + b"1" * 5000 + b"}\n", "JSON that cannot be read"),
    "cut.jsonl.gz": (_GZ[: len(_GZ) // 2], "cannot read"),
    "flipped.jsonl.gz": (_GZ[:20] + bytes([_GZ[20] ^ 255]) + _GZ[21:], "cannot read"),
    "bomb.jsonl.gz": (gzip.compress(b'{"doc_id": "a", "text": "' + b"b" * 2**25 + b'"}', 1), "unpacked; split it"),
    "cut.docx": (b"PK\x03\x04 and no more", "cannot be read"),
    "cut.xlsx": (b"PK\x03\x04 and no more", "cannot be read"),
    "no.eml": (b"just some words", "no e-mail"),
    "charset.html": (b"<meta charset=hex><p>x", "the charset 'hex'"),
    "wrong-charset.html": (b"<meta charset=shift_jis><p>\x81", "declares the charset shift_jis, in which byte 0x81 at offset 27"),
    "plain.jsonl.gz": (b'{"doc_id": "a", "text": "b"}\n', "cannot read"),
}


@pytest.mark.parametrize("name", FILES)
def test_an_unusable_file_is_skipped_with_its_reason(name: str, compress: Call, library: Path, stored: Callable[[], set[str]]) -> None:
    if needed := _NEEDS.get(Path(name).suffix):
        pytest.importorskip(needed, reason=f"needs the extra demo ({needed})")
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


@pytest.mark.parametrize("blank", [" ", "\n", "\t \n", "\N{NO-BREAK SPACE}"])
def test_a_text_of_a_million_blanks(blank: str, compress: Call, library: Path, stored: Callable[[], set[str]]) -> None:
    (library / "gap.txt").write_text("One end" + blank * 1_000_000 + "the other end")
    result = compress(library)
    assert result.exit_code == 0, result.output
    assert "4 read" in result.stdout
    assert len(stored()) == 4


def test_whatever_a_reader_raises_stops_one_file_only(compress: Call, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lloco_integrations import reading

    read = reading._read

    def stumbling(path: Path) -> object:
        if path.name == "bread.md":
            raise RecursionError("too deep")
        return read(path)

    monkeypatch.setattr(reading, "_read", stumbling)
    result = compress(library)
    assert result.exit_code == 0
    assert "bread.md: cannot be read (RecursionError: too deep)" in result.stderr
    assert "2 read, 1 skipped" in result.stdout


def test_a_large_file(compress: Call, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lloco_integrations.reading.LARGEST", 60)
    (library / "large.txt").write_text("x" * 61)
    result = compress(library)
    assert "large.txt: 61 bytes, more than the 60" in result.stderr
    assert "3 read, 1 skipped" in result.stdout


def test_links_are_followed_only_when_asked(compress: Call, library: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "secret.txt").write_text("The password is under the mat.")
    (outside / "folder" / "diary.txt").write_text("Nobody should read this.")
    (outside / "folder" / "round").symlink_to(outside / "folder")
    (library / "secret.txt").symlink_to(outside / "secret.txt")
    (library / "linked").symlink_to(outside / "folder")
    (library / "deep" / "up").symlink_to(library)
    (library / "deep" / "owls.txt").symlink_to(library / "owls.txt")
    result = compress(library)
    assert result.exit_code == 0
    assert "4 read, 3 skipped" in result.stdout, "a link within the folder leads to what is read anyway"
    assert "secret.txt: a link that leads out of the folder" in result.stderr
    assert result.stderr.count("a link to a folder") == 2
    assert compress(library, "--strict").exit_code == 2
    result = compress(library, "--follow-links", "--strict")
    assert result.exit_code == 0, result.output
    assert "2 read, 4 unchanged" in result.stdout
    assert "skipped" not in result.output
    assert "3 gone" not in compress(outside / "secret.txt").output, "a link, or a file, that is named is read"


def test_an_unreadable_folder_is_named_and_its_files_are_kept(
    compress: Call, library: Path, monkeypatch: pytest.MonkeyPatch, stored: Callable[[], set[str]]
) -> None:
    compress(library)
    scandir = os.scandir

    def denied(path: str = ".") -> object:
        if os.fspath(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", denied)
        result = compress(library)
        assert result.exit_code == 0
        assert "deep: the folder cannot be read: Permission denied" in result.stderr
        assert "2 unchanged, 1 skipped" in result.stdout
        assert "gone" not in result.stdout
        assert "3 in the store" in result.stdout
        assert compress(library, "--strict").exit_code == 2
    assert "3 unchanged" in compress(library).stdout


def test_a_file_that_cannot_be_opened_now_is_not_forgotten(compress: Call, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compress(library)
    (library / "owls.txt").touch()

    def failing(path: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("lloco_integrations.cli.scan._sha256", failing)
    result = compress(library)
    assert "owls.txt: cannot be read: Input/output error" in result.stderr
    assert "2 unchanged, 1 skipped" in result.stdout
    assert "3 in the store" in result.stdout


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
