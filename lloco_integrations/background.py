"""An iterator that blocks, as an async generator that does not."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")

_END = object()


@contextmanager
def ended(items: Iterator[T]) -> Iterator[Iterator[T]]:
    """``items``, which are closed at the end of the block if they can be: a stream that is left early stops what makes it."""
    try:
        yield items
    finally:
        if (close := getattr(items, "close", None)) is not None:
            close()


async def in_background(make: Callable[[], Iterator[T]]) -> AsyncGenerator[T, None]:
    """What ``make()`` yields, produced in a thread of its own. Leaving the generator early stops the thread at its next item."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[tuple[Any, BaseException | None]] = asyncio.Queue()
    abandoned = threading.Event()

    def tell(item: Any, error: BaseException | None = None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(arrived.put_nowait, (item, error))

    def work() -> None:
        try:
            with ended(make()) as items:
                for item in items:
                    tell(item)
                    if abandoned.is_set():
                        break
        except BaseException as error:
            tell(_END, error)
        else:
            tell(_END)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name="lloco-stream", daemon=True).start()
    try:
        while True:
            item, error = await arrived.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        abandoned.set()
