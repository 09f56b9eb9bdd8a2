"""HTML -> text, with tables as Markdown tables. lxml parses (optional end tags, damage, depth), markdownify writes."""

from __future__ import annotations

import codecs
import re
import warnings
from importlib import import_module
from typing import Any

from lloco_integrations.errors import BadInput, MissingExtra

MOST_TAGS = 500_000
"""Of a page. A page of a few megabytes has some 50,000."""
_DEPTH = 100
_MOST_CELLS = 100_000
_UNSEEN = ["script", "style", "noscript", "template", "title", "iframe", "object", "datalist"]
_BLOCKS = (
    "address aside body center details dialog fieldset figure footer form header hgroup legend main nav option optgroup search summary"
)
_INLINE = "a b code del em i kbd s samp strong video audio"
_CHARSETS = re.compile(
    r"utf-?8|(windows-|cp)(125[0-8]|874)|ibm866|iso-?8859-\d{1,2}|latin-?\d|(us-)?ascii|koi8-[ru]|macintosh|gbk|gb2312|gb18030|"
    r"big5(-hkscs)?|euc-(jp|kr)|iso-2022-jp|shift[_-]jis|sjis|ks_c_5601-1987",
    re.IGNORECASE,
)
_AS_WINDOWS = ("ascii", "iso8859-1")  # what declares these is written in Windows' code page, as browsers read it
_DECLARED = re.compile(
    rb"""<meta[^>]{0,500}?charset\s*=\s*["']?\s*([\w.:-]{1,40})|^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{1,40})""", re.I
)


def charset(data: bytes) -> str | None:
    """The codec of the charset that a page declares in its first 4,096 bytes, as browsers understand the name; None if it declares none.

    Raises BadInput for a charset that pages may not have.
    """
    match = _DECLARED.search(data[:4096])
    if match is None:
        return None
    name = (match[1] or match[2]).decode("ascii", "replace")
    if name.lower().replace("-", "") in ("utf16", "utf16le", "utf16be"):
        return "utf-8"  # a page whose declaration can be read as ASCII is not in UTF-16
    try:
        if not _CHARSETS.fullmatch(name):
            raise LookupError
        codec = codecs.lookup(name).name
    except LookupError:
        raise BadInput(f"it declares the charset {name!r}, which is not one of pages; convert it to UTF-8") from None
    return "cp1252" if codec in _AS_WINDOWS else codec


def text_of(html: str) -> tuple[str, str]:
    """The text of a page and its title.

    Blocks stand on lines of their own, headings begin with ``#``, tables are Markdown tables (a cell that spans several rows or columns
    keeps the others in their columns), ``<pre>`` keeps its blanks. What a browser does not show is left out, and so are addresses of links.

    Raises BadInput for a page of more than MOST_TAGS tags or a table whose spans make more cells than can be meant, MissingExtra without
    lxml, beautifulsoup4 and markdownify.
    """
    try:
        import_module("lxml")
        from bs4 import BeautifulSoup

        converter = _converter()
    except ImportError as error:
        raise MissingExtra('reading HTML needs beautifulsoup4, lxml and markdownify: pip install "lloco_integrations[demo]"') from error
    tags = html.count("<")
    if tags > MOST_TAGS:
        raise BadInput(f"{tags:,} tags, more than the {MOST_TAGS:,} that a page may have; split it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pages that look like XML, or like an address
        soup: Any = BeautifulSoup(re.sub(r"^\s*<\?xml[^>]*\?>", "", html), "lxml")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    for unseen in [*soup(_UNSEEN), *soup.select("[hidden]")]:
        unseen.extract()
    _flatten(soup)
    for table in soup("table"):
        _square(table)
    for numbered in soup("ol"):
        start = str(numbered.get("start", "1"))
        for n, item in enumerate(numbered.find_all("li", recursive=False), int(start) if re.fullmatch(r"\d{1,9}", start) else 1):
            item["lloco-number"] = str(n)
    text = converter.convert_soup(soup).replace("\xa0", " ")
    lines = (line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n"), title


def _flatten(soup: Any) -> None:
    """Takes out comments, and turns what lies deeper than a page that is meant to be read has it into its words: writing is recursive."""
    from bs4.element import PreformattedString

    depth = {id(soup): 0}
    bottom = []
    for node in list(soup.descendants):
        if isinstance(node, PreformattedString):
            node.extract()
        elif hasattr(node, "children"):
            depth[id(node)] = depth[id(node.parent)] + 1
            if depth[id(node)] == _DEPTH:
                bottom.append(node)
    for node in bottom:
        if node.find(True) is not None:
            words = node.get_text("\n", strip=True)
            node.clear()
            node.append(words)


def _square(table: Any) -> None:
    """Brings a table to one cell a row and column: what spans rows stands in each, what spans columns is followed by empty cells.

    A table that holds tables is there for the layout: its cells become blocks.
    """
    rows = [row for row in table("tr") if row.find_parent("table") is table]
    if table.find("table") is not None:
        for part in [*rows, *(cell for row in rows for cell in _cells(row))]:
            part.name = "div"
        table.name = "div"
        return
    for row in rows[:1]:
        row["lloco-first"] = ""
    cells = [_cells(row) for row in rows]
    width = max(map(len, cells), default=0)
    made = 0
    hanging: dict[int, tuple[int, Any]] = {}  # column -> rows that its cell still spans, and the cell
    for row, some in zip(rows, cells, strict=True):
        column = 0
        waiting = list(some)
        last = None
        while waiting or column in hanging:
            if column in hanging:
                left, cell = hanging.pop(column)
                copied = cell.__copy__()
                last = _follow(row, last, copied)
                made += 1
                if left > 1:
                    hanging[column] = left - 1, cell
                column += 1
                continue
            cell = last = waiting.pop(0)
            across, down = _span(cell, "colspan", width), _span(cell, "rowspan", len(rows))
            if down > 1:
                for at in range(column, column + across):
                    hanging[at] = down - 1, cell if at == column else _blank(cell)
            for _ in range(across - 1):
                last = _follow(row, last, _blank(cell))
            made += across - 1
            column += across
            if made > _MOST_CELLS:
                raise BadInput(f"a table whose spanning cells make more than {_MOST_CELLS:,} others; remove it")


def _cells(row: Any) -> list[Any]:
    return [part for part in row.children if part.name in ("td", "th")]


def _span(cell: Any, name: str, most: int) -> int:
    value = str(cell.attrs.pop(name, "1")).strip()
    return max(1, min(most, int(value))) if re.fullmatch(r"\d{1,6}", value) else 1


def _blank(cell: Any) -> Any:
    copied = cell.__copy__()
    copied.clear()
    return copied


def _follow(row: Any, last: Any, cell: Any) -> Any:
    if last is None:
        row.insert(0, cell)
    else:
        last.insert_after(cell)
    return cell


def _converter() -> Any:
    """markdownify's, for Markdown as far as it is structure: no emphasis, no addresses, no escapes."""
    base: Any = import_module("markdownify").MarkdownConverter

    def pre(self: Any, tag: Any, text: str, parent_tags: set[str]) -> str:
        return f" {text.strip()} " if "_inline" in parent_tags else str(base.convert_pre(self, tag, text, parent_tags))

    ways = {
        **dict.fromkeys(_INLINE.split(), _kept),
        **dict.fromkeys(_BLOCKS.split(), base.convert_div),
        "menu": base.convert_ul,
        "pre": pre,
        "img": _image,
        "hr": _rule,
        "button": _button,
        "li": _item,
        "td": _cell,
        "th": _cell,
        "tr": _row,
    }
    made = type("Plain", (base,), {f"convert_{tag}": way for tag, way in ways.items()})
    return made(heading_style="ATX", escape_asterisks=False, escape_underscores=False)


# Each is told the text of what the tag holds, and the names of the tags around it; "_inline" is among them in headings and cells.


def _kept(self: Any, tag: Any, text: str, parent_tags: set[str]) -> str:
    return text


def _image(self: Any, tag: Any, text: str, parent_tags: set[str]) -> str:
    return str(tag.get("alt") or "")


def _rule(self: Any, tag: Any, text: str, parent_tags: set[str]) -> str:
    return " " if "_inline" in parent_tags else "\n\n"


def _button(self: Any, tag: Any, text: str, parent_tags: set[str]) -> str:
    return f" {text.strip()} "


def _item(self: Any, tag: Any, text: str, parent_tags: set[str]) -> str:
    bullet = f"{tag['lloco-number']}. " if tag.has_attr("lloco-number") else "- "
    if "_inline" in parent_tags:
        return f" {bullet}{text.strip()} "
    return f"{bullet}{text.strip()}".replace("\n", "\n" + " " * len(bullet)) + "\n"


def _cell(self: Any, tag: Any, text: str, parent_tags: set[str]) -> str:
    return " " + " ".join(text.split()).replace("|", r"\|") + " |"


def _row(self: Any, tag: Any, text: str, parent_tags: set[str]) -> str:
    cells = len(_cells(tag))
    line = "|" + text.strip("\n") + "\n" if cells else ""
    return line + ("|" + " --- |" * cells + "\n" if cells and tag.has_attr("lloco-first") else "")
