"""Files -> pieces of text -> passages, for the command line and for applications that read the same files. LlamaIndex cuts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lloco_integrations.errors import BadInput, MissingExtra

if TYPE_CHECKING:
    from lloco_integrations.evaluation.datasets import Document

CHUNK_SIZE, CHUNK_OVERLAP = 256, 32
"""Of a passage, in tokens, unless a command is told otherwise."""
READER = 1
"""Raised when the same file gives other passages than before; catalogued files are then read again."""

_TEXT = ("", ".txt", ".text", ".md", ".markdown", ".rst")
_HTML = (".html", ".htm", ".xhtml")
_JSONL = (".jsonl", ".jsonl.gz")
READABLE = ".txt .md .rst .html .pdf .jsonl .jsonl.gz"
_BLOCKS = ["p", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "pre", "blockquote", "dt", "dd", "title"]
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class Unusable(Exception):
    """A file that is left out, and why; the others go on."""


@dataclass(frozen=True)
class Piece:
    """Text of a file. ``place``: where in the file (page, document id); ``title``: of the document, if it has one."""

    text: str
    title: str = ""
    place: str = ""


@dataclass(frozen=True)
class Splitting:
    """How texts are cut into passages, in tokens as LlamaIndex counts them."""

    chunk_size: int
    chunk_overlap: int

    def __str__(self) -> str:
        return f"{self.chunk_size}/{self.chunk_overlap}/{READER}"

    def splitter(self) -> Any:
        """LlamaIndex's SentenceSplitter. Raises BadInput for sizes it refuses."""
        try:
            import llama_index.core
            from llama_index.core.node_parser import SentenceSplitter
            from llama_index.core.utils import get_tokenizer
        except ImportError as error:
            raise MissingExtra('reading documents needs LlamaIndex: pip install "lloco_integrations[demo]"') from error
        held = llama_index.core.global_tokenizer
        llama_index.core.global_tokenizer = None
        try:
            tokenizer = get_tokenizer()  # LlamaIndex's own, whatever an application has set: the same file gives the same passages
        finally:
            llama_index.core.global_tokenizer = held
        try:
            return SentenceSplitter(chunk_size=self.chunk_size, chunk_overlap=self.chunk_overlap, tokenizer=tokenizer)
        except ValueError as error:
            raise BadInput(f"chunk_size {self.chunk_size}, chunk_overlap {self.chunk_overlap}: {error}") from error


def files_under(path: Path) -> Iterator[Path]:
    """``path`` itself, or the files below it in the order of their names, without hidden ones."""
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def check_kind(path: Path) -> None:
    """Raises Unusable for a file that no reader is for, without opening it."""
    if not path.is_file():
        raise Unusable("not a regular file")
    if _kind(path) not in (*_TEXT, *_HTML, *_JSONL, ".pdf"):
        raise Unusable(f"no reader for {_kind(path)} files (there are readers for {READABLE})")


def passages(path: Path, splitter: Any) -> list[Piece]:
    """The passages of a file, in order. Raises Unusable, saying why, for a file that gives none."""
    cut = [replace(p, text=text) for p in pieces(path) if p.text.strip() for text in splitter.split_text(p.text) if text.strip()]
    if not cut:
        raise _no_text(path)
    return cut


def documents(path: Path, name: str) -> list[Document]:
    """The documents of a file: the lines of a JSONL file, else one, called ``name``, all pages of a PDF in it.

    Raises Unusable, saying why, for a file that gives none.
    """
    from lloco_integrations.evaluation.datasets import Document

    found = [piece for piece in pieces(path) if piece.text.strip()]
    if not found:
        raise _no_text(path)
    if _kind(path) in _JSONL:
        return [Document(piece.place, piece.title, piece.text) for piece in found]
    return [Document(name, found[0].title, "\n\n".join(piece.text for piece in found))]


def pieces(path: Path) -> list[Piece]:
    """The texts of a file as they are, before they are cut. Raises Unusable, saying why, for a file that cannot be read."""
    check_kind(path)
    try:
        if path.stat().st_size == 0:
            raise Unusable("empty file")
        return [replace(piece, text=_clean(piece.text)) for piece in _read(path)]
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror or error}") from error


def _no_text(path: Path) -> Unusable:
    return Unusable("no text in it (scanned pages?)" if _kind(path) == ".pdf" else "nothing but blanks")


def _read(path: Path) -> Sequence[Piece]:
    kind = _kind(path)
    if kind in _JSONL:
        return _jsonl(path)
    if kind == ".pdf":
        return _pdf(path)
    text = _utf8(path.read_bytes())
    return [_html(text) if kind in _HTML else Piece(text)]


def _kind(path: Path) -> str:
    return ".jsonl.gz" if path.name.lower().endswith(".jsonl.gz") else path.suffix.lower()


def _utf8(data: bytes) -> str:
    if data.startswith(_UTF16):
        raise Unusable("UTF-16 text; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)")
    nul = data.find(b"\0")
    if nul >= 0:
        raise Unusable(f"binary file (a NUL at byte {nul})")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start + (len(data) - len(error.object))
        line = data.count(b"\n", 0, at) + 1
        raise Unusable(
            f"not UTF-8: byte 0x{data[at]:02x} at offset {at} (line {line}); convert it (iconv -f LATIN1 -t UTF-8, if it is Latin-1)"
        ) from error


def _html(text: str) -> Piece:
    try:
        from bs4 import BeautifulSoup
    except ImportError as error:
        raise Unusable('reading HTML needs beautifulsoup4: pip install "lloco_integrations[demo]"') from error
    soup: Any = BeautifulSoup(text, "html.parser")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    for tag in soup(["script", "style", "noscript", "template", "title"]):
        tag.decompose()
    for tag in soup(["br", "hr"]):
        tag.replace_with("\n")
    for tag in soup(["td", "th"]):
        tag.append(" ")
    for tag in soup(_BLOCKS):
        tag.append("\n")
    lines = (" ".join(line.split()) for line in soup.get_text().splitlines())
    return Piece(re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip(), title=title)


def _pdf(path: Path) -> list[Piece]:
    try:
        import_module("pypdf")
        from llama_index.core import SimpleDirectoryReader

        pdf_reader: Any = import_module("llama_index.readers.file").PDFReader()
    except ImportError as error:
        raise Unusable('reading PDF needs llama-index-readers-file: pip install "lloco_integrations[demo]"') from error
    try:
        reader = SimpleDirectoryReader(input_files=[path], file_extractor={".pdf": pdf_reader}, raise_on_error=True)
        pages = reader.load_data()
    except Exception as error:  # pypdf raises whatever a damaged file makes it stumble over
        cause = error.__cause__ or error
        last = getattr(cause, "last_attempt", None)
        cause = (last.exception() if last is not None else None) or cause
        raise Unusable(f"the PDF cannot be read ({type(cause).__name__}: {cause})") from error
    return [Piece(page.text, place=f"page {page.metadata.get('page_label', number)}") for number, page in enumerate(pages, 1)]


def _jsonl(path: Path) -> list[Piece]:
    from lloco_integrations.evaluation.datasets import read_documents

    try:
        return [Piece(d.text, title=_clean(d.title), place=_clean(d.doc_id)) for d in read_documents(path)]
    except BadInput as error:
        raise Unusable(str(error)) from error


def _clean(text: str) -> str:
    """``text`` without what no tokenizer or database takes: lone surrogates and NUL, which PDF readers produce."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", " ")
