"""Files -> pieces of text -> passages, for the command line and for applications that read the same files. LlamaIndex cuts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lloco_integrations.errors import BadInput, LLoCOError, MissingExtra

if TYPE_CHECKING:
    from lloco_integrations.evaluation.datasets import Document

CHUNK_SIZE, CHUNK_OVERLAP = 256, 32
"""Of a passage, in tokens, unless a command is told otherwise."""
READER = 2
"""Raised when the same file gives other passages than before; catalogued files are then read again."""

LARGEST = 256 * 2**20
"""Bytes of a file, unpacked."""
LARGEST_PAGE = 32 * 2**20
"""Bytes of an HTML file."""

_MOST_PACKED = 100
"""Times that text may grow when it is unpacked: what grows more was made to."""

_TEXT = ("", ".txt", ".text", ".md", ".markdown", ".rst")
_HTML = (".html", ".htm", ".xhtml")
_JSONL = (".jsonl", ".jsonl.gz")
_OFFICE = (".csv", ".tsv", ".xlsx", ".docx", ".eml")
READABLE = ".txt .md .rst .html .pdf .docx .xlsx .csv .eml .jsonl .jsonl.gz"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_GAP = re.compile(r"\s{101,}")
_LINE = re.compile(r"line \d+")


class Unusable(Exception):
    """A file that is left out, and why; the others go on."""


class Unreachable(Unusable):
    """A file or folder that cannot be looked at now; what is known of it still holds."""


LeftOut = Callable[[Path, Unusable], None]


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


def files_under(path: Path, left_out: LeftOut, *, follow_links: bool = False) -> Iterator[Path]:
    """``path`` itself, or the files below it in the order of their names, without hidden ones.

    ``left_out`` is called for each folder that cannot be read and, unless ``follow_links``, for each link to a folder and each link to a file
    that is not below ``path``. Links that lead round in a circle are followed once.
    """
    if not path.is_dir():
        yield path
        return
    root = os.path.realpath(path)
    been = {root}

    def unreadable(error: OSError) -> None:
        left_out(Path(os.fsdecode(error.filename)), Unreachable(f"the folder cannot be read: {error.strerror or error}"))

    def entered(folder: str) -> bool:
        if not os.path.islink(folder):
            return True
        if not follow_links:
            left_out(Path(folder), Unusable("a link to a folder; name the folder, or follow links (--follow-links)"))
            return False
        target = os.path.realpath(folder)
        if target in been or (root + os.sep).startswith(target.rstrip(os.sep) + os.sep):
            return False
        been.add(target)
        return True

    for folder, folders, names in os.walk(path, onerror=unreadable, followlinks=follow_links):
        folders[:] = [f for f in sorted(folders) if not f.startswith(".") and entered(os.path.join(folder, f))]
        for name in sorted(names):
            file = os.path.join(folder, name)
            if name.startswith("."):
                continue
            if not follow_links and os.path.islink(file) and not os.path.realpath(file).startswith(root.rstrip(os.sep) + os.sep):
                left_out(Path(file), Unusable("a link that leads out of the folder; name the file, or follow links (--follow-links)"))
                continue
            yield Path(file)


def check_kind(path: Path) -> None:
    """Raises Unusable for a file that no reader is for, without opening it."""
    with _explaining():
        if not path.is_file():
            raise Unusable("not a regular file")
    if _kind(path) not in (*_TEXT, *_HTML, *_JSONL, *_OFFICE, ".pdf"):
        raise Unusable(f"no reader for {_kind(path)} files (there are readers for {READABLE})")


def passages(path: Path, splitter: Any) -> list[Piece]:
    """The passages of a file, in order. Raises Unusable, saying why, for a file that gives none."""
    found = pieces(path)
    try:
        cut = [replace(p, text=text) for p in found if p.text.strip() for text in splitter.split_text(p.text) if text.strip()]
    except Exception as error:  # a text of one kind of mark over and over may be too much for its patterns
        raise Unusable(f"cannot be cut into passages ({_said(error)})") from error
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
        ids = [f"{name}, {piece.place}" if _LINE.fullmatch(piece.place) else piece.place for piece in found]
        return [Document(doc_id, piece.title, piece.text) for doc_id, piece in zip(ids, found, strict=True)]
    return [Document(name, found[0].title, "\n\n".join(piece.text for piece in found))]


def pieces(path: Path) -> list[Piece]:
    """The texts of a file as they are, before they are cut. Raises Unusable, saying why, for a file that cannot be read."""
    check_kind(path)
    with _explaining():
        size = path.stat().st_size
        if size == 0:
            raise Unusable("empty file")
        largest = LARGEST_PAGE if _kind(path) in _HTML else LARGEST
        if size > largest:
            raise Unusable(f"{size:,} bytes, more than the {largest:,} that such a file may have; split it")
        return [Piece(_clean(p.text), _clean(p.title), _clean(p.place)) for p in _read(path)]


@contextmanager
def _explaining() -> Iterator[None]:
    """Whatever one file makes a reader stumble over becomes the reason why that file is left out."""
    try:
        yield
    except Unusable:
        raise
    except OSError as error:
        raise Unreachable(f"cannot be read: {error.strerror or error}") from error
    except LLoCOError as error:
        raise Unusable(str(error)) from error
    except Exception as error:  # readers of other people's formats raise anything, RecursionError and MemoryError among it
        raise Unusable(f"cannot be read ({_said(error)})") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _no_text(path: Path) -> Unusable:
    return Unusable("no text in it (scanned pages?)" if _kind(path) == ".pdf" else "nothing but blanks")


def _read(path: Path) -> Sequence[Piece]:
    kind = _kind(path)
    if kind in _JSONL:
        return _jsonl(path)
    if kind == ".pdf":
        return _pdf(path)
    if kind in _OFFICE:
        from lloco_integrations import office

        return office.read(path, kind)
    data = path.read_bytes()
    return [_html(data)] if kind in _HTML else [Piece(utf8(data))]


def _kind(path: Path) -> str:
    return ".jsonl.gz" if path.name.lower().endswith(".jsonl.gz") else path.suffix.lower()


def utf8(data: bytes) -> str:
    """``data`` as text. Raises Unusable, saying where, for what is not UTF-8."""
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


def _html(data: bytes) -> Piece:
    from lloco_integrations.markup import charset, text_of

    declared = None if data.startswith(b"\xef\xbb\xbf") else charset(data)
    if declared in (None, "utf-8"):
        text, title = text_of(utf8(data))
        return Piece(text, title)
    try:
        text, title = text_of(data.decode(declared))
    except UnicodeDecodeError as error:
        raise Unusable(
            f"it declares the charset {declared}, in which byte 0x{data[error.start]:02x} at offset {error.start} is nothing"
        ) from error
    return Piece(text, title)


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
    """``text`` of each line, or LangChain's ``page_content``; ``doc_id`` or ``id`` and ``title`` are wanted, not needed."""
    from lloco_integrations.evaluation.datasets import read_lines

    found = []
    packed = _MOST_PACKED * path.stat().st_size if path.suffix == ".gz" else LARGEST
    for number, (row, at) in enumerate(read_lines(path, min(LARGEST, max(2**24, packed))), 1):
        metadata: dict[str, Any] = row["metadata"] if isinstance(row.get("metadata"), dict) else {}
        text = row.get("text", row.get("page_content"))
        if not isinstance(text, str):
            raise Unusable(f"{at}: 'text' must be a string, not {str(text)[:60]!r}")
        names = (row.get("doc_id"), row.get("id"), metadata.get("doc_id"), metadata.get("id"))
        place = next((str(name) for name in names if isinstance(name, (str, int)) and str(name).strip()), f"line {number}")
        title = row.get("title") or metadata.get("title")
        found.append(Piece(text, title if isinstance(title, str) else "", place))
    return found


def _clean(text: str) -> str:
    """``text`` without what no tokenizer or database takes: lone surrogates and NUL, which PDF readers produce, and gaps without end."""
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\0", " ")
    return _GAP.sub(lambda gap: "\n\n" if "\n" in gap[0] else " ", text)
