"""Brings the catalogue up to date with the files: reads only what is new or has changed, forgets what is gone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lloco_integrations.cli.catalogue import Catalogue, FileRecord
from lloco_integrations.errors import BadInput
from lloco_integrations.reading import Splitting, Unreachable, Unusable, check_kind, files_under, passages


@dataclass
class Scan:
    """What a scan found; ``skipped`` holds (path, reason)."""

    unchanged: int = 0
    read: int = 0
    gone: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def usable(self) -> int:
        return self.unchanged + self.read


def absolute(path: Path | str) -> str:
    """As kept in the catalogue: absolute, links not followed."""
    return os.path.abspath(os.path.expanduser(path))


def require(paths: Sequence[Path], catalogue: Catalogue | None) -> None:
    """Raises BadInput for a path that is not there, unless the catalogue knows files below it: then they were deleted."""
    for path in paths:
        if not _encodable(str(path)):
            raise BadInput(f"the name {str(path)!r} is not UTF-8; rename it, or name the folder that holds it")
        known = catalogue is not None and catalogue.paths_under(absolute(path))
        if not os.path.lexists(absolute(path)) and not known:
            raise BadInput(f"there is no file or folder {str(path)!r}; check the path")


def scan(
    catalogue: Catalogue, paths: Sequence[Path], splitting: Splitting, progress: Callable[[int, int], None], *, follow_links: bool = False
) -> Scan:
    """Updates ``catalogue`` for everything below ``paths``. ``progress`` is called with files done and files in all.

    What cannot be looked at now (a folder without permission, a disk that fails) is left out, but not forgotten.
    """
    result = Scan()
    unreachable: list[str] = []

    def left_out(path: Path, reason: Unusable) -> None:
        result.skipped.append((str(path), str(reason)))
        if isinstance(reason, Unreachable):
            unreachable.append(str(path))

    roots = [absolute(path) for path in paths]
    there = (Path(root) for root in roots if os.path.lexists(root))
    found = list(dict.fromkeys(str(file) for root in there for file in files_under(root, left_out, follow_links=follow_links)))
    splitter: list[Any] = []

    def cut(path: Path) -> list[Any]:
        if not splitter:
            splitter.append(splitting.splitter())
        return passages(path, splitter[0])

    for done, path in enumerate(found):
        progress(done, len(found))
        try:
            _one(catalogue, path, str(splitting), cut, result)
        except Unusable as reason:
            left_out(Path(path), reason)
    progress(len(found), len(found))
    unusable = {path for path, _ in result.skipped}
    present = set(found) - unusable
    present.update(known for path in unreachable for known in catalogue.paths_under(path))
    known = dict.fromkeys(path for root in roots for path in catalogue.paths_under(root))
    forgotten = [path for path in known if path not in present]
    result.gone = [path for path in forgotten if path not in unusable]
    if forgotten:
        catalogue.drop(forgotten)
    return result


def _one(catalogue: Catalogue, path: str, splitting: str, cut: Callable[[Path], list[Any]], result: Scan) -> None:
    if not _encodable(path):
        raise Unusable("its name is not UTF-8; rename it")
    file = Path(path)
    check_kind(file)
    try:
        stat = file.stat()
        known = catalogue.file(path)
        if known and (known.size, known.mtime_ns, known.splitting) == (stat.st_size, stat.st_mtime_ns, splitting):
            result.unchanged += 1
            return
        record = FileRecord(path, stat.st_size, stat.st_mtime_ns, _sha256(file), splitting)
    except OSError as error:
        raise Unreachable(f"cannot be read: {error.strerror or error}") from error
    if known and (known.sha256, known.splitting) == (record.sha256, splitting):
        catalogue.keep(record, None)
        result.unchanged += 1
        return
    catalogue.keep(record, cut(file))
    result.read += 1


def _encodable(path: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in path)


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()
