"""Who may read a store's files, and whose store a relative address means."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from lloco_integrations.cli.catalogue import Catalogue, location
from lloco_integrations.engine import Engine
from lloco_integrations.models import load
from lloco_integrations.store import SummaryStore
from lloco_integrations.types import SummaryEmbeddings

Summary = Callable[..., SummaryEmbeddings]
posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")


def mode(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


@posix
@pytest.mark.parametrize(
    "address", ["sqlite:///{}/new/deep/s.sqlite", "file://{}/new/deep/s", "cache::sqlite:///{0}/new/c.sqlite::file://{0}/new/s"]
)
def test_a_new_store_and_its_catalogue_are_for_their_user_only(address: str, tmp_path: Path, summary: Summary) -> None:
    url = address.format(tmp_path)
    with SummaryStore.open(url) as store, Catalogue.open(store.url) as catalogue:
        (key,) = store.put_many([("a", summary(1))])
        store.get_many([key])
        catalogue.keep_fingerprint("a", "b")
        modes = {str(p.relative_to(tmp_path)): mode(p) for p in (tmp_path / "new").rglob("*")}
        assert {m for name, m in modes.items() if (tmp_path / name).is_file()} == {"0o600"}, modes
        assert {m for name, m in modes.items() if (tmp_path / name).is_dir()} <= {"0o700"}, modes
        assert mode(tmp_path / "new") == "0o700"


@posix
def test_a_shared_directory_stays_shared(tmp_path: Path, summary: Summary) -> None:
    root = tmp_path / "s"
    with SummaryStore.open(f"file://{root}") as store:
        (root / "lloco-store.json").chmod(0o664)
        store.put_many([("a", summary(1))])
        (entry,) = root.rglob("*.safetensors")
        assert (mode(entry), mode(entry.parent)) == ("0o664", "0o775")
        store._keep_meta(store._meta)
        assert mode(root / "lloco-store.json") == "0o664"


@posix
def test_a_copied_catalogue_is_for_its_user_only(tmp_path: Path) -> None:
    from lloco_integrations.cli.store import _copy_catalogue

    source, copied = f"sqlite:///{tmp_path}/a.sqlite", f"sqlite:///{tmp_path}/b.sqlite"
    Catalogue.open(source).close()
    _copy_catalogue(source, copied)
    assert mode(location(copied)) == "0o600"


@pytest.mark.parametrize("address", ["s.sqlite", "sqlite:///s.sqlite", "file://s", "cache::c.sqlite::sqlite:///s.sqlite", Path("s.sqlite")])
def test_a_relative_address_is_that_of_the_folder_it_was_given_in(
    address: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = []
    engines = []
    for tenant in ("a", "b"):
        (tmp_path / tenant).mkdir()
        monkeypatch.chdir(tmp_path / tenant)
        engines.append(Engine("no-model", address))
        urls.append(engines[-1].store.url)
        assert f"/{tenant}/" in urls[-1]
        assert Engine("no-model", address).store is engines[-1].store
    assert [engine.store.url for engine in engines] == urls, "and stays that when the folder is left"


def test_the_default_store_follows_a_relative_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLOCO_HOME", "home")
    for tenant in ("a", "b"):
        (tmp_path / tenant).mkdir()
        monkeypatch.chdir(tmp_path / tenant)
        assert f"/{tenant}/" in Engine("no-model").store.url


def test_models_and_adapters_of_relative_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "load_model", lambda name, **_: str(Path(name).absolute()))
    monkeypatch.setattr(load, "_shared", {})
    for tenant in ("a", "b"):
        (tmp_path / tenant / "mine").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / tenant)
        assert load.shared_model("mine") == str(tmp_path / tenant / "mine")
        engine = Engine("mine", "memory://x", {"g": "mine", "hub": "owner/name"})
        assert engine.adapters == {"g": str(tmp_path / tenant / "mine"), "hub": "owner/name"}
