"""What commands show: tables, and how far long work is; at a terminal, and where there is none."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn, TaskID

SECONDS = 30.0
"""Between two lines about long work, where there is no terminal."""
_WIDE = 250


def screen() -> Console:
    """Standard output. Where it is a file or a pipe, a table is as wide as what it holds, unless COLUMNS says otherwise."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDE)


class LongWork(Progress):
    """rich's Progress on standard error: a bar at a terminal, gone when it is done; elsewhere, such as in a log file, a line now and then.

    A task's field ``now`` says more, such as the loss.
    """

    def __init__(self, *columns: ProgressColumn, quiet: bool = False) -> None:
        console = Console(stderr=True, quiet=quiet)
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._said = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """As in rich."""
        super().update(task_id, **changes)
        if self.console.is_terminal or time.monotonic() - self._said < SECONDS:
            return
        self._said = time.monotonic()
        task = next(task for task in self.tasks if task.id == task_id)
        parts = [f"{task.description}:", f"{task.completed:,.0f}" + (f" of {task.total:,.0f}" if task.total else "")]
        parts += [now] if (now := task.fields.get("now")) else []
        self.console.print(" ".join(parts), highlight=False, markup=False, soft_wrap=True)
