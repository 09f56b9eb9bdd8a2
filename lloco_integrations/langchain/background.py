"""A blocking iterator, read from a coroutine without blocking the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


async def drain(make: Callable[[], Iterator[T]]) -> AsyncIterator[T]:
    """The items of ``make()``, made and read in a worker thread.

    When the reader is cancelled or stops early, the thread closes the iterator at its next item and ends.
    """
    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[tuple[str, T | Exception | None]] = asyncio.Queue()
    abandoned = threading.Event()

    def send(kind: str, value: T | Exception | None = None) -> None:
        try:
            loop.call_soon_threadsafe(inbox.put_nowait, (kind, value))
        except RuntimeError:  # the loop is closed: nobody listens any more
            abandoned.set()

    def pump() -> None:
        try:
            items = make()
            try:
                for item in items:
                    if abandoned.is_set():
                        return
                    send("item", item)
            finally:
                if (close := getattr(items, "close", None)) is not None:
                    close()
        except Exception as error:
            send("error", error)
        else:
            send("end")

    loop.run_in_executor(None, contextvars.copy_context().run, pump)
    try:
        while True:
            kind, value = await inbox.get()
            if kind == "end":
                return
            if isinstance(value, Exception) and kind == "error":
                raise value
            yield value  # type: ignore[misc]
    finally:
        abandoned.set()
