"""Where this package keeps what it makes or fetches: the default store and the materialised presets."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The folder of this package: the environment variable ``LLOCO_HOME``, else the user's cache folder for "lloco".

    The folder is not made here.
    """
    named = os.environ.get("LLOCO_HOME", "").strip()
    if named:
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("lloco", appauthor=False))
