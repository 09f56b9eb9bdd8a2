"""Where and with what a figure was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version


def provenance(packages: Sequence[str] = ("torch", "transformers", "peft", "lloco_integrations")) -> dict[str, object]:
    """The date, the machine, Python's version and those of ``packages``, for a report."""
    return {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
    }
