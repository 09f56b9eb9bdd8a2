"""Locks that a fork does not leave locked for ever: the thread that held one is not there in the child.

A fork waits until whoever holds such a lock lets go of it or pauses, so that no child is born while another thread is inside torch or a
tokenizer. (Stores have their own, in ``store.forks``: they close what must not be inherited.)
"""

from __future__ import annotations

import functools
import os
import threading
import time
from weakref import WeakSet

PATIENCE = 30.0
"""Seconds that a fork waits, at most."""
_A_MOMENT = 0.001

_all: WeakSet[ForkLock] = WeakSet()
_stopped: list[ForkLock] = []


class ForkLock:
    """A reentrant lock. ``wait``: whether a fork waits for its holder; the child has a new one in any case."""

    def __init__(self, *, wait: bool = True) -> None:
        self._wait = wait
        self._forking = False
        self._new()
        _all.add(self)
        _register()

    def _new(self) -> None:
        self._lock = threading.RLock()
        self._busy = threading.Lock()  # held while the holder must not be disturbed
        self._owner: int | None = None
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As RLock's: whether it was got at once, or within ``timeout`` seconds; negative ones are no limit."""
        if not self._lock.acquire(blocking, timeout):
            return False
        self._depth += 1
        if self._depth == 1:
            self._owner = threading.get_ident()
            self._go_on()
        return True

    def release(self) -> None:
        """Let go of it once."""
        self._depth -= 1
        if self._depth == 0:
            self._owner = None
            self._busy.release()
        self._lock.release()

    def pause(self) -> None:
        """Let a fork that waits have its way; for the holder, where nothing is under way."""
        if self._forking:
            self._busy.release()
            self._go_on()

    def _go_on(self) -> None:
        while self._forking:
            time.sleep(_A_MOMENT)
        self._busy.acquire()

    def __enter__(self) -> ForkLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def before_fork(self) -> bool:
        """Stop the holder, unless that is this thread itself. Whether it was stopped."""
        if not self._wait or self._owner == threading.get_ident():
            return False
        self._forking = True
        if self._busy.acquire(timeout=PATIENCE):
            return True
        self._forking = False
        return False

    def after_fork(self) -> None:
        """In the parent: the holder goes on."""
        self._busy.release()
        self._forking = False

    def in_child(self) -> None:
        """Nobody holds it, unless this thread does."""
        self._forking = False
        if self._owner != threading.get_ident():
            self._new()


@functools.cache
def _register() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_in_child)


def _before() -> None:
    for lock in list(_all):
        if lock.before_fork():
            _stopped.append(lock)


def _after() -> None:
    while _stopped:
        _stopped.pop().after_fork()


def _in_child() -> None:
    _stopped.clear()
    for lock in list(_all):
        lock.in_child()
