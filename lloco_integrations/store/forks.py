"""Closing database connections before a fork.

SQLite keeps its file locks in tables of the process. A child that inherits them believes it holds locks that it does
not, and loses what it writes once the parent closes. So nothing is open while a process forks; both sides reopen later.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """Something that must not be in use while the process forks."""

    def before_fork(self) -> None:
        """Waits until idle, lets go of handles, and blocks other threads."""

    def after_fork(self) -> None:
        """Lets threads in again; called in parent and child."""


_all: WeakSet[Forkable] = WeakSet()
_held: list[Forkable] = []
_gate = threading.RLock()


def track(thing: Forkable) -> None:
    """Calls ``thing``'s hooks around every fork for as long as it lives."""
    _register()
    _all.add(thing)


@functools.cache
def _register() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)


def _before() -> None:
    _gate.acquire()
    for thing in list(_all):
        thing.before_fork()
        _held.append(thing)


def _after() -> None:
    while _held:
        _held.pop().after_fork()
    _gate.release()
