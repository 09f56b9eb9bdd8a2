"""Which compressor a model name stands for, found out without loading it where that is possible."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lloco_integrations.models.presets import PRESETS

if TYPE_CHECKING:
    from lloco_integrations.cli.catalogue import Catalogue
    from lloco_integrations.engine import Engine

MANIFEST = "lloco.json"


def directory_of(name: str) -> Path | None:
    """The directory that ``name`` (preset, directory or hub id) would be loaded from, if it is on this machine; fetches nothing."""
    preset = PRESETS.get(name)
    if preset is not None and preset.wheel is not None:
        from lloco_integrations.models.materialise import found

        return found(preset)
    directory = Path(name).expanduser()
    if preset is None and os.path.isdir(directory):
        return directory
    hub_id = preset.hub_id if preset is not None else name
    if hub_id is None or hub_id.count("/") != 1:
        return None
    with suppress(Exception):  # not there, not complete, or no such name: loading it says which
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(hub_id, local_files_only=True))
    return None


def fingerprint_of(directory: Path) -> str | None:
    """The compressor fingerprint that a model directory states, None where only loading tells."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        return str(json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["spec"]["fingerprint"])
    return None


def identity(directory: Path) -> str:
    """A name for the files of ``directory`` (not below) as they are now; another when one of them was written again."""
    parts = []
    for path in sorted(directory.iterdir()):
        if path.is_file():
            stat = path.stat()
            parts.append([path.name, stat.st_size, stat.st_mtime_ns])
    return hashlib.sha256(json.dumps([str(directory.resolve()), parts]).encode()).hexdigest()


def fingerprint_and_files(engine: Engine, catalogue: Catalogue | None) -> tuple[str, str | None]:
    """The compressor's fingerprint, and a name for the model's files where it should be kept for the next run under that name.

    The model is loaded only if nothing else tells.
    """
    directory = directory_of(engine.model_name)
    if directory is None:
        return engine.model.fingerprint, None
    stated = fingerprint_of(directory)
    if stated is not None:
        return stated, None
    name = identity(directory)
    cached = catalogue.fingerprint(name) if catalogue is not None else None
    return (cached, None) if cached is not None else (engine.model.fingerprint, name)
