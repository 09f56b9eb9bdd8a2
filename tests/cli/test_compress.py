"""`lloco compress`: what it stores, and what it does not do twice."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lloco_integrations.cli.catalogue import Catalogue
from lloco_integrations.store import SummaryStore
from tests.cli.conftest import Call

pytestmark = pytest.mark.needs("llama_index.core")

Keys = Callable[[], set[str]]


def texts(store_url: str) -> list[str]:
    with Catalogue.open(store_url, create=False) as catalogue:
        return sorted(p.text for p in catalogue.passages())


def test_a_folder(compress: Call, library: Path, stored: Keys, store_url: str) -> None:
    result = compress(library)
    assert result.exit_code == 0, result.output
    assert "3 read" in result.stdout
    assert "passages: 3 compressed" in result.stdout
    assert "tokens/s" in result.stdout
    assert len(stored()) == 3
    assert [t[:4] for t in texts(store_url)] == ["# Br", "Owls", "The "]


def test_a_second_run_costs_nothing(
    compress: Call, library: Path, stored: Keys, no_model: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compress(library).exit_code == 0
    before = stored()
    no_model()
    monkeypatch.setattr("lloco_integrations.cli.scan.passages", None)
    monkeypatch.setattr("lloco_integrations.cli.scan._sha256", None)
    result = compress(library)
    assert result.exit_code == 0, result.output
    assert "3 unchanged" in result.stdout
    assert "nothing to compress, 3 in the store already" in result.stdout
    assert stored() == before


def test_a_touched_file_is_hashed_but_not_read_again(
    compress: Call, library: Path, no_model: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    compress(library)
    os.utime(library / "owls.txt", (1, 1))
    no_model()
    monkeypatch.setattr("lloco_integrations.cli.scan.passages", None)
    assert "3 unchanged" in compress(library).stdout
    monkeypatch.setattr("lloco_integrations.cli.scan._sha256", None)
    assert "3 unchanged" in compress(library).stdout, "the new time was kept"


def test_a_changed_file(compress: Call, library: Path, stored: Keys, store_url: str) -> None:
    compress(library)
    before = stored()
    (library / "owls.txt").write_text("Owls can turn their heads very far.\n")
    result = compress(library)
    assert "1 read, 2 unchanged" in result.stdout
    assert "1 compressed" in result.stdout
    assert "2 in the store" in result.stdout
    assert before < stored()
    assert len(stored()) == 4
    assert not any("hunt" in text for text in texts(store_url))
    assert len(texts(store_url)) == 3


def test_a_deleted_file_leaves_the_catalogue(compress: Call, library: Path, store_url: str, no_model: Callable[[], None]) -> None:
    compress(library)
    no_model()
    (library / "owls.txt").unlink()
    assert "2 unchanged, 1 gone" in compress(library).stdout
    assert len(texts(store_url)) == 2
    (library / "deep" / "tides.txt").unlink()
    result = compress(library / "deep" / "tides.txt")
    assert result.exit_code == 0, "a path that is gone is no error if it was compressed before"
    assert "1 gone" in result.stdout
    assert len(texts(store_url)) == 1


def test_other_paths_are_left_alone(compress: Call, library: Path, store_url: str) -> None:
    compress(library)
    (library / "owls.txt").unlink()
    assert "1 unchanged" in compress(library / "deep").stdout
    assert len(texts(store_url)) == 3, "only what is below the given paths is looked at"


def test_equal_passages_are_stored_once(compress: Call, library: Path, stored: Keys) -> None:
    (library / "copy.txt").write_text((library / "owls.txt").read_text())
    assert "3 compressed" in compress(library, library / "owls.txt").stdout
    assert len(stored()) == 3


def test_what_the_store_lost_is_compressed_again(compress: Call, library: Path, stored: Keys, store_url: str) -> None:
    compress(library)
    before = stored()
    with SummaryStore.open(store_url) as store:
        store.delete_many([min(before)])
    result = compress(library)
    assert "3 unchanged" in result.stdout
    assert "1 compressed" in result.stdout
    assert stored() == before


def damage(store_url: str, change: str) -> str:
    """Damages one entry of a sqlite store and returns its key."""
    with SummaryStore.open(store_url) as store:
        key = min(store.keys())
    with sqlite3.connect(store_url.removeprefix("sqlite:///")) as db:
        db.create_function("flipped", 1, lambda value: value[:-1] + bytes([value[-1] ^ 1]))
        db.execute(f"UPDATE lloco_entries SET {change} WHERE key = ?", (key,))
    db.close()
    return key


CHANGES = ["n_tokens = 999999999", "value = flipped(value)"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_damaged_entry_is_compressed_again(change: str, compress: Call, library: Path, store_url: str) -> None:
    compress(library, "--group", "birds")
    key = damage(store_url, change)
    with SummaryStore.open(store_url) as store:
        assert store.verify() == [key]
    result = compress(library)
    assert result.exit_code == 0, result.output
    assert "1 compressed" in result.stdout
    assert "damaged: 1 entries of the store were damaged" in result.stdout
    with SummaryStore.open(store_url) as store:
        assert store.verify() == []
        (info,) = store.info_many([key])
    assert info is not None
    assert info.group == (None if "n_tokens" in change else "birds"), "kept where it could be believed"
    assert "nothing to compress" in compress(library).stdout


@pytest.mark.parametrize("change", CHANGES)
def test_verify_repairs_what_the_catalogue_knows(
    change: str, compress: Call, lloco: Call, library: Path, store_url: str, tiny_model: str
) -> None:
    compress(library, "--group", "birds")
    key = damage(store_url, change)
    result = lloco("store", "verify", store_url)
    assert result.exit_code == 1
    assert key in result.stdout
    assert "lloco store verify --repair" in result.stderr
    result = lloco("store", "verify", store_url, "--repair", "--model", tiny_model)
    assert result.exit_code == 0, result.output
    assert "1 damaged entries were compressed again" in result.stdout
    assert "All 3 entries are sound" in result.stdout
    assert "nothing to compress" in compress(library).stdout


def test_what_cannot_be_repaired_is_said(
    compress: Call, lloco: Call, library: Path, store_url: str, tiny_model: str, tmp_path: Path
) -> None:
    from tests import tiny

    compress(library)
    key = damage(store_url, CHANGES[1])
    other = tiny.save_mean_pool(tmp_path / "other", seed=7)
    result = lloco("store", "verify", store_url, "--repair", "--model", other)
    assert result.exit_code == 1
    assert key in result.stdout
    assert "0 damaged entries were compressed again" in result.stdout
    assert "No document compressed here with this --model has them" in result.stderr


def test_a_deleted_store_is_filled_again(compress: Call, library: Path, stored: Keys, store_url: str) -> None:
    compress(library)
    for path in Path(store_url.removeprefix("sqlite:///")).parent.glob("store.sqlite*"):
        if not path.name.startswith("store.sqlite.catalogue"):
            path.unlink()
    assert "3 compressed" in compress(library).stdout
    assert len(stored()) == 3


def test_long_files_are_split_and_other_sizes_split_again(lloco: Call, tiny_model: str, tmp_path: Path, store_url: str) -> None:
    path = tmp_path / "long.txt"
    path.write_text(" ".join(f"Sentence number {n} says little." for n in range(100)))
    counts = []
    for size in (64, 128):
        result = lloco("compress", path, "--store", store_url, "--model", tiny_model, "--chunk-size", size, "--chunk-overlap", 0)
        assert "1 read" in result.stdout, result.output
        counts.append(len(texts(store_url)))
    assert counts[0] > counts[1] > 1


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_jsonl(suffix: str, compress: Call, tmp_path: Path, stored: Keys, store_url: str) -> None:
    rows = [{"doc_id": f"d{n}", "title": f"Title {n}", "text": f"The number of this is {n}."} for n in range(5)]
    data = "\n".join(map(json.dumps, rows)).encode()
    path = tmp_path / f"docs{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    assert compress(path).exit_code == 0
    assert len(stored()) == 5
    with Catalogue.open(store_url) as catalogue:
        first = catalogue.passages()[0]
    assert (first.place, first.title, first.text) == ("d0", "Title 0", "The number of this is 0.")


def test_jsonl_as_others_write_it(compress: Call, tmp_path: Path, store_url: str) -> None:
    path = tmp_path / "docs.jsonl"
    rows = [
        '{"doc_id": 7, "text": "One."}',
        '{"text": "Two."}',
        "",
        '{"page_content": "Three.", "metadata": {"title": "T", "id": "x"}, "type": "Document"}',
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
    result = compress(path)
    assert result.exit_code == 0, result.output
    with Catalogue.open(store_url) as catalogue:
        found = [(p.place, p.title, p.text) for p in catalogue.passages()]
    assert found == [("7", "", "One."), ("line 2", "", "Two."), ("x", "T", "Three.")]


def test_a_page_in_the_charset_that_it_declares(compress: Call, tmp_path: Path, store_url: str) -> None:
    pytest.importorskip("markdownify", reason="needs the extra demo (markdownify)")
    pytest.importorskip("lxml", reason="needs the extra demo (lxml)")
    (tmp_path / "a.html").write_bytes("<meta charset=iso-8859-1><title>Café</title><p>“Où?”".encode("cp1252"))
    (tmp_path / "b.html").write_bytes('<meta http-equiv=content-type content="text/html; charset=shift_jis"><p>鳥'.encode("shift_jis"))
    assert compress(tmp_path / "a.html", tmp_path / "b.html").exit_code == 0
    with Catalogue.open(store_url) as catalogue:
        assert [(p.title, p.text) for p in catalogue.passages()] == [("Café", "“Où?”"), ("", "鳥")]


def test_tables_and_mail(compress: Call, tmp_path: Path, store_url: str) -> None:
    (tmp_path / "a.csv").write_text("bird;seen;sea\nGull;9;North\nTern;;South\n")
    (tmp_path / "b.tsv").write_text("1\t2\n3\t4\n")
    (tmp_path / "c.eml").write_bytes(
        b"From: a@b.org\r\nTo: c@d.org\r\nSubject: =?utf-8?q?Caf=C3=A9?=\r\nContent-Type: text/plain; charset=iso-8859-1\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\nWe meet at the caf=E9.\r\n"
    )
    result = compress(tmp_path)
    assert result.exit_code == 0, result.output
    with Catalogue.open(store_url) as catalogue:
        found = [(p.title, p.text) for p in catalogue.passages()]
    assert found == [
        ("", "bird: Gull; seen: 9; sea: North\nbird: Tern; sea: South"),
        ("", "1 | 2\n3 | 4"),
        ("Café", "From: a@b.org\nTo: c@d.org\nSubject: Café\n\nWe meet at the café."),
    ]


def test_excel(compress: Call, tmp_path: Path, store_url: str) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="needs the extra demo (openpyxl)")
    book = openpyxl.Workbook()
    book.active.title = "Birds"
    for row in (["bird", "seen"], ["Gull", 9], [None, None], ["Tern", None]):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    assert compress(tmp_path / "a.xlsx").exit_code == 0
    with Catalogue.open(store_url) as catalogue:
        (found,) = catalogue.passages()
    assert (found.place, found.text) == ("sheet Birds", "bird: Gull; seen: 9\nbird: Tern")


def test_word(compress: Call, tmp_path: Path, store_url: str) -> None:
    for needed in ("mammoth", "markdownify", "lxml"):
        pytest.importorskip(needed, reason=f"needs the extra demo ({needed})")
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    cell = "<w:tc><w:p><w:r><w:t>{}</w:t></w:r></w:p></w:tc>"
    rows = "".join(f"<w:tr>{cell.format(a)}{cell.format(b)}</w:tr>" for a, b in (("bird", "seen"), ("Gull", "9")))
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    parts = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        f'<Override PartName="/word/document.xml" ContentType="{kind}"/></Types>',
        "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r" '
        'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/></Relationships>',
        "word/document.xml": f"<w:document {space}><w:body><w:p><w:r><w:t>Sea birds.</w:t></w:r></w:p><w:tbl>{rows}</w:tbl></w:body></w:document>",
    }
    with zipfile.ZipFile(tmp_path / "a.docx", "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    result = compress(tmp_path / "a.docx")
    assert result.exit_code == 0, result.output
    assert texts(store_url) == ["Sea birds.\n\n| bird | seen |\n| --- | --- |\n| Gull | 9 |"]


def test_html_and_pdf(compress: Call, tmp_path: Path, store_url: str) -> None:
    pytest.importorskip("markdownify", reason="needs the extra demo (markdownify)")
    pytest.importorskip("lxml", reason="needs the extra demo (lxml)")
    pytest.importorskip("llama_index.readers.file")
    (tmp_path / "page.html").write_text(
        "<html><head><title>A page</title><style>p {}</style></head><body><script>var x = 1</script>"
        "<p>One <b>bold</b> word.</p><table><tr><td>left</td><td>right</td></tr></table></body></html>"
    )
    (tmp_path / "paper.pdf").write_bytes(pdf("Whales sing under water"))
    result = compress(tmp_path / "page.html", tmp_path / "paper.pdf")
    assert result.exit_code == 0, result.output
    assert "2 read" in result.stdout
    with Catalogue.open(store_url) as catalogue:
        page, paper = catalogue.passages()
    assert (page.title, page.text) == ("A page", "One bold word.\n\n| left | right |\n| --- | --- |")
    assert (paper.place, paper.text) == ("page 1", "Whales sing under water")


def test_a_store_in_a_folder_and_with_int8(lloco: Call, tiny_model: str, library: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/vectors"
    result = lloco("compress", library, "--store", url, "--model", tiny_model, "--storage", "int8")
    assert result.exit_code == 0, result.output
    with SummaryStore.open(url, create=False) as store:
        assert store.storage == "int8"
        assert store.stats().entries == 3
    assert (tmp_path / "vectors.catalogue").exists()


def test_the_default_store(lloco: Call, tiny_model: str, library: Path, lloco_home: Path) -> None:
    assert lloco("compress", library, "--model", tiny_model).exit_code == 0
    assert (lloco_home / "store.sqlite").exists()
    assert (lloco_home / "store.sqlite.catalogue").exists()
    assert lloco("store", "verify").exit_code == 0


def test_another_model_compresses_again(compress: Call, lloco: Call, library: Path, store_url: str, tmp_path: Path, stored: Keys) -> None:
    from tests import tiny

    compress(library)
    other = tiny.save_mean_pool(tmp_path / "other", seed=7)
    result = lloco("compress", library, "--store", store_url, "--model", other, "--chunk-size", 64, "--chunk-overlap", 8)
    assert "3 unchanged" in result.stdout
    assert "3 compressed" in result.stdout
    assert len(stored()) == 6


def test_a_model_that_does_not_state_its_fingerprint_is_loaded_once(
    compress: Call, library: Path, monkeypatch: pytest.MonkeyPatch, no_model: Callable[[], None]
) -> None:
    from lloco_integrations.cli import known

    monkeypatch.setattr(known, "fingerprint_of", lambda directory: None)
    assert compress(library).exit_code == 0
    no_model()
    assert "nothing to compress" in compress(library).stdout


def test_damaged_catalogue(compress: Call, library: Path, store_url: str, stored: Keys) -> None:
    compress(library)
    path = Path(store_url.removeprefix("sqlite:///") + ".catalogue")
    path.write_bytes(b"no database at all, and longer than a header " * 9)
    result = compress(library)
    assert result.exit_code == 2
    assert "delete it and compress again" in result.stderr
    path.unlink()
    assert "nothing to compress" in compress(library).stdout, "the store still has them"


def pdf(text: str) -> bytes:
    """A PDF of one page."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
    objects: list[Any] = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, offsets = "%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    return f"{out}xref\n0 6\n0000000000 65535 f \n{table}trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n".encode()
