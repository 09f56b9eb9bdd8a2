"""Office formats -> pieces of text: CSV, Excel, Word, e-mail. Rows of a table keep the names of their columns beside them."""

from __future__ import annotations

import csv
import email
import email.policy
import io
import re
import zipfile
from collections.abc import Iterable, Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from lloco_integrations.errors import BadInput, MissingExtra
from lloco_integrations.reading import LARGEST, Piece, Unusable, utf8

_MOST_CELLS = 5_000_000
_SHOWN = ("From", "To", "Cc", "Date", "Subject")


def read(path: Path, kind: str) -> list[Piece]:
    """The texts of a file of ``kind`` (.csv, .tsv, .xlsx, .docx or .eml). Raises Unusable, MissingExtra, or what a reader stumbles over."""
    if kind == ".xlsx":
        return _excel(path)
    if kind == ".docx":
        return _word(path)
    if kind == ".eml":
        return _mail(path)
    return [Piece(_records(_csv(utf8(path.read_bytes()), kind)))]


def _csv(text: str, kind: str) -> Iterable[Sequence[str]]:
    try:
        dialect: Any = csv.excel_tab if kind == ".tsv" else csv.Sniffer().sniff(text[:8192], ",;\t|")
    except csv.Error:
        dialect = csv.excel
    return csv.reader(io.StringIO(text, newline=""), dialect)


def _records(rows: Iterable[Sequence[str]]) -> str:
    """A line for each row: ``column: cell; column: cell`` where the first row has names, else ``cell | cell``. Blank rows are left out."""
    names: Sequence[str] | None = None
    lines = []
    first = True
    for row in rows:
        cells = [" ".join(cell.split()) for cell in row]
        if not any(cells):
            continue
        if first:
            first = False
            if len(cells) > 1 and all(cells) and len(set(cells)) == len(cells) and not any(re.fullmatch(r"[-+.,\d]+", c) for c in cells):
                names = cells
                continue
        if names is None or len(cells) > len(names):
            lines.append(" | ".join(cells))
        else:
            lines.append("; ".join(f"{name}: {cell}" for name, cell in zip(names, cells, strict=False) if cell))
    return "\n".join(lines) if lines or names is None else " | ".join(names)


def _excel(path: Path) -> list[Piece]:
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise MissingExtra('reading Excel needs openpyxl: pip install "lloco_integrations[demo]"') from error
    _check_archive(path)
    book = load_workbook(path, read_only=True, data_only=True)
    try:
        return [Piece(_records(_cells(sheet)), place=f"sheet {sheet.title}") for sheet in book.worksheets]
    finally:
        book.close()


def _cells(sheet: Any) -> Iterable[list[str]]:
    count = 0
    for row in sheet.iter_rows(values_only=True):
        count += len(row)
        if count > _MOST_CELLS:
            raise Unusable(f"more than {_MOST_CELLS:,} cells in sheet {sheet.title!r}; split it")
        yield ["" if cell is None else str(cell) for cell in row]


def _word(path: Path) -> list[Piece]:
    from lloco_integrations.markup import text_of

    try:
        import mammoth
    except ImportError as error:
        raise MissingExtra('reading Word needs mammoth: pip install "lloco_integrations[demo]"') from error
    _check_archive(path)
    with path.open("rb") as file:
        page = mammoth.convert_to_html(file, convert_image=mammoth.images.img_element(lambda image: {})).value
    return [Piece(text_of(page)[0])]


def _mail(path: Path) -> list[Piece]:
    """The headers that a reader sees, and the body: its plain text, else its HTML. Attachments are left out."""
    from lloco_integrations.markup import text_of

    message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    headers = [f"{name}: {' '.join(str(message[name]).split())}" for name in _SHOWN if message[name]]
    if not headers:
        raise Unusable("no e-mail: it has none of the headers From, To, Date and Subject")
    body = message.get_body(("plain", "html"))
    text = ""
    if body is not None:
        text = str(body.get_content())
        text = text_of(text)[0] if body.get_content_subtype() == "html" else text
    return [Piece("\n".join(headers) + "\n\n" + text.strip(), title=" ".join(str(message["Subject"] or "").split()))]


def _check_archive(path: Path) -> None:
    """Raises BadInput for an archive that unpacks to more than a file may have."""
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > LARGEST:
        raise BadInput(f"{size:,} bytes, unpacked, more than the {LARGEST:,} that a file may have; split it")
