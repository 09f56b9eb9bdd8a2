"""Where this package keeps what it makes or fetches: the default store and the materialised presets."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

PRIVATE = 0o600
"""Of files that hold texts, or a secret that names them."""


def make_private(folder: Path) -> None:
    """Makes ``folder`` and what it lacks above, each for this user only; what is there keeps its mode."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)


def touch_private(path: Path) -> None:
    """An empty file for this user only, unless something is there."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE))


def located(name: str) -> str:
    """``name`` as an absolute path if it is a folder as seen from here, so that it means the same after a change of directory."""
    path = os.path.abspath(os.path.expanduser(name))
    return path if os.path.isdir(path) else name


def home() -> Path:
    """The folder of this package: the environment variable ``LLOCO_HOME``, else the user's cache folder for "lloco".

    The folder is not made here.
    """
    named = os.environ.get("LLOCO_HOME", "").strip()
    if named:
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("lloco", appauthor=False))
