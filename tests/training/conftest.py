from __future__ import annotations

from pathlib import Path

import pytest

from tests.training import houses


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Documents and questions about twelve houses."""
    return houses.write(tmp_path)
