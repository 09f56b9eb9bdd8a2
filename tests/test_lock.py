"""What `make` installs is locked by version and hash, and pyproject.toml promises no more than a lane has run."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCKS = sorted(p for p in (ROOT / "requirements").glob("*.txt") if "--hash=" in p.read_text())
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
STAMP = Path(sys.prefix) / "installed"
HOLDS = STAMP.read_text().strip() if STAMP.exists() else ""
"""What the environment that runs this was made of, as its maker, the Makefile, says."""


def locked(path: Path) -> Iterator[tuple[Requirement, list[str]]]:
    """Every entry with its hashes."""
    for entry in re.split(r"(?<!\\)\n", path.read_text()):
        if entry and not entry.startswith("#"):
            first, *hashes = entry.split(" \\\n")
            yield Requirement(first), [h.strip() for h in hashes]


def versions(path: Path) -> dict[str, str]:
    """By name, those for this Python on this system."""
    here = (r for r, _ in locked(path) if r.marker is None or r.marker.evaluate())
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in here}


def asked(*, extras: bool = True, groups: Iterable[str] = ()) -> list[Requirement]:
    """What pyproject.toml asks for, without what it asks of itself."""
    texts: list[str] = list(PROJECT["project"]["dependencies"])
    if extras:
        texts += [text for extra in PROJECT["project"]["optional-dependencies"].values() for text in extra]
    todo = list(groups)
    while todo:
        for entry in PROJECT["dependency-groups"][todo.pop()]:
            texts += [entry] if isinstance(entry, str) else []
            todo += [] if isinstance(entry, str) else [entry["include-group"]]
    return [r for r in map(Requirement, texts) if canonicalize_name(r.name) != "lloco-integrations"]


def test_there_are_locks() -> None:
    assert {p.name for p in LOCKS} == {"base.txt", "build.txt", "dev.txt", "vllm.txt"}


@pytest.mark.parametrize("path", LOCKS, ids=lambda p: p.name)
def test_every_entry_is_one_release_known_by_its_hashes_wherever_it_comes_from(path: Path) -> None:
    for requirement, hashes in locked(path):
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), f"{requirement} is not one release"
        assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", h) for h in hashes)
    assert not re.search(r"://|^#.* /|--(index|find|extra)", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("dev.txt", asked(groups=["dev", "build"])),
        ("base.txt", asked(extras=False, groups=["test"])),
        ("vllm.txt", asked(extras=False, groups=["vllm"])),
    ],
)
def test_the_lock_has_all_that_is_asked_for(name: str, wanted: list[Requirement]) -> None:
    has = versions(ROOT / "requirements" / name) | versions(ROOT / "requirements" / "torch.txt")
    found = {r: has.get(canonicalize_name(r.name)) for r in wanted}
    wrong = [f"{r} (locked: {release})" for r, release in found.items() if release is None or release not in r.specifier]
    assert not wrong, f"`make lock` was forgotten: {', '.join(wrong)}"


def test_make_installs_nothing_that_is_not_locked() -> None:
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if "-m pip install" in line]
    assert lines
    for line in lines:
        by_hash = "--require-hashes" in line and "--no-deps" in line
        itself = line.endswith("--no-deps --no-build-isolation --editable .")
        assert by_hash or itself or line.endswith(("$(TORCH)", "uv==$(UV_VERSION)")), line


@pytest.mark.skipif(not HOLDS.endswith(".txt"), reason="this environment is not made from a lock")
def test_this_environment_is_the_lock() -> None:
    wanted = versions(ROOT / HOLDS)
    found = {name: version(name) for name in wanted}
    assert found == wanted
    assert version("torch").partition("+")[0] == versions(ROOT / "requirements" / "torch.txt")["torch"]


@pytest.mark.skipif(HOLDS != "lowest-direct", reason="this environment does not hold the oldest of everything")
def test_the_lower_bounds_are_what_the_oldest_lane_runs() -> None:
    wrong = []
    for requirement in asked(groups=["dev"]):
        bound = next((s.version for s in requirement.specifier if s.operator == ">="), None)
        if bound and version(requirement.name).partition("+")[0] not in SpecifierSet(f"=={bound}.*"):
            wrong.append(f"{requirement} (here: {version(requirement.name)})")
    assert not wrong, f"these bounds promise what was not run: {', '.join(wrong)}"
