"""A disk that is really full: puts stop while there is room to delete in, and gc gives room back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from lloco_integrations.errors import StoreError
from lloco_integrations.store import SummaryStore, sqlite
from lloco_integrations.types import SummaryEmbeddings

_FILL = """
import os, sys
import torch
from lloco_integrations.errors import StoreError
from lloco_integrations.store import SummaryStore
from lloco_integrations.types import SummaryEmbeddings

url, close, others = sys.argv[1], sys.argv[2] == "closed", sys.argv[3] == "others"
store, keys = SummaryStore.open(url), []
try:
    while True:
        keys += store.put_many([(str(n), SummaryEmbeddings(torch.full((32, 576), float(n)), 256, "f")) for n in range(len(keys), len(keys) + 4)])
except StoreError as error:
    assert "no room left" in str(error)
assert all(store.get_many(keys))
if close:
    store.close()
if others:
    try:
        with open(os.path.join(os.path.dirname(store._backend.path), "filler"), "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
    except OSError:
        pass
assert store.gc(max_bytes=100_000) == len(keys) - 1
assert os.path.getsize(store._backend.path) < 200_000
assert store.verify() == []
(left,) = store.keys()
assert float(store.get_many([left])[0].vectors[0, 0]) == keys.index(left)
store.put_many([("new", SummaryEmbeddings(torch.ones(2, 8), 8, "f"))])
print("gave back", len(keys))
"""


@pytest.mark.parametrize(
    ("size", "state", "who"), [("4m", "open", "we"), ("4m", "closed", "we"), ("16m", "open", "we"), ("16m", "open", "others")]
)
def test_gc_frees_a_full_disk(size: str, state: str, who: str, tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size={size} none {tmp_path}"
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-Urm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system of its own (unshare -Urm)")
    (tmp_path.parent / "fill.py").write_text(_FILL)
    run = f"{mount} && exec {sys.executable} {tmp_path.parent}/fill.py sqlite:///{tmp_path}/s.sqlite {state} {who}"
    done = subprocess.run([unshare, "-Urm", "sh", "-c", run], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "gave back" in done.stdout


def test_puts_leave_room_to_delete_in(tmp_path: Path, summary: Callable[..., SummaryEmbeddings], monkeypatch: pytest.MonkeyPatch) -> None:
    with SummaryStore.open(tmp_path / "s.sqlite") as store:
        (key,) = store.put_many([("a", summary(1))])
        with monkeypatch.context() as patched:
            patched.setattr(sqlite.shutil, "disk_usage", lambda path: SimpleNamespace(free=sqlite._RESERVE))
            with pytest.raises(StoreError, match=r"no room left.*Everything acknowledged"):
                store.put_many([("b", summary(2))])
            assert store.delete_many([key]) == 1
        assert len(store.put_many([("b", summary(2))])) == 1
