"""HTML as text: shapes of ordinary pages that plain extraction glues, drops or shifts, and pages that were made to hurt."""

from __future__ import annotations

import re
import time

import pytest

pytest.importorskip("bs4", reason="needs the extra demo (beautifulsoup4)")
pytest.importorskip("lxml", reason="needs the extra demo (lxml)")
pytest.importorskip("markdownify", reason="needs the extra demo (markdownify)")

from lloco_integrations import markup
from lloco_integrations.errors import BadInput, MissingExtra
from lloco_integrations.markup import charset, text_of

SHAPES = {
    "nested list without end tags": (
        "<ul><li>Fruit<ul><li>Apple<li>Pear</ul><li>Bread</ul>",
        "- Fruit\n  - Apple\n  - Pear\n- Bread",
    ),
    "table without end tags": (
        "<table><tr><td>Gull<td>9<tr><td>Tern<td>11</table>",
        "| Gull | 9 |\n| --- | --- |\n| Tern | 11 |",
    ),
    "table with caption, head and foot": (
        "<table><caption>Birds</caption><thead><tr><th>Bird<th>Seen</thead><tbody><tr><td>Gull<td>9</tbody><tfoot><tr><td>all<td>9</tfoot></table>",
        "Birds\n\n| Bird | Seen |\n| --- | --- |\n| Gull | 9 |\n| all | 9 |",
    ),
    "empty cell": (
        "<table><tr><th>a<th>b<th>c<tr><td>1<td><td>3</table>",
        "| a | b | c |\n| --- | --- | --- |\n| 1 |  | 3 |",
    ),
    "cell over two columns": (
        "<table><tr><th>k<th>x<th>y<tr><td colspan=2>wide<td>z</table>",
        "| k | x | y |\n| --- | --- | --- |\n| wide |  | z |",
    ),
    "cell over two rows": (
        "<table><tr><th>sea<th>bird<th>n<tr><td rowspan=2>North<td>Gull<td>9<tr><td>Tern<td>11</table>",
        "| sea | bird | n |\n| --- | --- | --- |\n| North | Gull | 9 |\n| North | Tern | 11 |",
    ),
    "cell over two rows and columns": (
        "<table><tr><td rowspan=2 colspan=2>A<td>1<tr><td>2</table>",
        "| A |  | 1 |\n| --- | --- | --- |\n| A |  | 2 |",
    ),
    "pipe and blocks in cells": (
        "<table><tr><th>cmd<th>does<tr><td>a|b<td><p>pipes</p><ul><li>x<li>y</ul></table>",
        "| cmd | does |\n| --- | --- |\n| a\\|b | pipes - x - y |",
    ),
    "table in a table": (
        "<table><tr><td>Menu<td><table><tr><td>B<td>C</table><tr><td>Foot</table>",
        "Menu\n\n| B | C |\n| --- | --- |\n\nFoot",
    ),
    "preformatted": (
        "<p>Code:</p><pre>def f():\n    if x:\n        return 1\n</pre>",
        "Code:\n\n```\ndef f():\n    if x:\n        return 1\n```",
    ),
    "header, main, footer": ("<header>Top</header><main>Body</main><footer>Foot</footer>", "Top\n\nBody\n\nFoot"),
    "nav, article, aside": (
        "<nav><a href=/>Home</a> <a href=/b>Birds</a></nav><article><div>one</div><div>two</div></article><aside>side</aside>",
        "Home Birds\n\none\n\ntwo\n\nside",
    ),
    "definitions": ("<dl><dt>Owl<dd>of the night<dt>Gull<dd>of the sea</dl>", "Owl\n:   of the night\n\nGull\n:   of the sea"),
    "paragraphs without end tags": ("<p>One.<p>Two.<p>Three.", "One.\n\nTwo.\n\nThree."),
    "inline tags": ("<p>H<sub>2</sub>O and <b>bo</b>ld <i>word</i>, <a href='https://x.org'>a link</a>.</p>", "H2O and bold word, a link."),
    "entities": ("<p>Caf&eacute; &lt;tag&gt; &amp;&nbsp;more &#8364;5 my_name 2*3*4</p>", "Café <tag> & more €5 my_name 2*3*4"),
    "what is not shown": (
        "<style>p{}</style><script>var x=1</script><p>text</p><noscript>no</noscript><template>t</template><p hidden>h</p><!-- c -->",
        "text",
    ),
    "headings": ("<h1>Title</h1>para<h2>Sub</h2><p>next", "# Title\n\npara\n\n## Sub\n\nnext"),
    "line breaks and rules": ("<p>One<br>Two<br/>Three<hr>Four", "One\nTwo\nThree\n\nFour"),
    "figure and address": (
        "<figure><img src=a.png alt='a map'><figcaption>The map</figcaption></figure><address>12 Road<br>Town</address><p>x",
        "a map\n\nThe map\n\n12 Road\nTown\n\nx",
    ),
    "form": (
        "<form><label>Colour</label><select><option>Red<option>Blue</select><button>Send</button><button>Clear</button></form>",
        "Colour\n\nRed\n\nBlue\n\n Send  Clear",
    ),
    "details and quote": (
        "<details><summary>More</summary>Rest</details><blockquote>Quote</blockquote><p>end",
        "More\n\nRest\n\n> Quote\n\nend",
    ),
    "numbered list": ("<ol start=3><li>Third<li>Fourth</ol><p>After", "3. Third\n4. Fourth\n\nAfter"),
    "xhtml": (
        '<?xml version="1.0" encoding="UTF-8"?><html xmlns="http://www.w3.org/1999/xhtml"><body><p>One<br/>Two</p></body></html>',
        "One\nTwo",
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_ordinary_pages(name: str) -> None:
    page, expected = SHAPES[name]
    assert text_of(page) == (expected, "")


def test_the_title_is_given_apart() -> None:
    assert text_of("<html><head><title> A\n page </title></head><body><p>x</p></body></html>") == ("x", "A page")


@pytest.mark.parametrize(
    "page",
    [
        "<div>" * 20_000 + "end",
        "".join(f"<p>word {i} <b>bold <i>it" for i in range(6000)) + "end",
        "<ul><li>a<table><tr><td>b" * 4000 + "end",
        "<font>a" * 20_000 + "end",
        "<ol>" + "<li>a" * 10_000 + "</ol>end",
        "<table><thead>" + "<tr><td>a" * 5000 + "</table>end",
        "<p " + "a=b " * 50_000 + ">end",
        "<ul><li>a</ul><!-- c -->" * 4000 + "end",
        "<<<<>>>&&&;" * 10_000 + "end",
    ],
    ids=["depth", "inline", "mixed", "font", "list", "thead", "attributes", "comments", "marks"],
)
def test_pages_with_unclosed_tags_take_seconds(page: str) -> None:
    began = time.process_time()
    text, _ = text_of(page)
    assert "end" in text
    assert time.process_time() - began < 15


def test_pages_that_grow_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    row = "<tr>" + "<td rowspan=60000>x" * 3000
    with pytest.raises(BadInput, match="100,000 others"):
        text_of("<table>" + row + "<tr><td>y" * 3000 + "</table>")
    assert text_of("<table><tr><td colspan=999999>x<tr><td>1<td>2</table>")[0].count("|") == 9
    monkeypatch.setattr(markup, "MOST_TAGS", 5)
    with pytest.raises(BadInput, match="tags"):
        text_of("<p>" * 6)


@pytest.mark.parametrize(
    ("head", "codec"),
    [
        (b"<meta charset=utf-8>", "utf-8"),
        (b"<meta charset='ISO-8859-1'>", "cp1252"),
        (b'<META http-equiv="Content-Type" content="text/html; charset=Shift_JIS">', "shift_jis"),
        (b'<?xml version="1.0" encoding="windows-1251"?>', "cp1251"),
        (b"<meta charset=utf-16>", "utf-8"),
        (b"<p>charset=koi8-r</p>", None),
    ],
)
def test_the_declared_charset(head: bytes, codec: str | None) -> None:
    assert charset(head) == codec


@pytest.mark.parametrize("name", [b"unicode_escape", b"rot13", b"hex", b"utf-7", b"nonsense", b"iso-8859-99"])
def test_charsets_that_no_page_has(name: bytes) -> None:
    with pytest.raises(BadInput, match=re.escape(name.decode())):
        charset(b"<meta charset=" + name + b">")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "markdownify", None)
    with pytest.raises(MissingExtra, match="lloco_integrations\\[demo\\]"):
        text_of("<p>x")
