"""torch as this package expects it, whatever the caller has set in its thread."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_log = logging.getLogger(__name__)


@contextmanager
def undisturbed(*, inference: bool = True) -> Iterator[None]:
    """Inside: no autocast, tensors on the CPU unless they are told otherwise, and no gradients.

    ``inference`` False makes usual tensors, also where the caller is in inference mode: for what stays, such as weights. torch's default
    dtype belongs to the whole process, and any thread that loads a model changes it for a while: so it is not touched here, and every tensor
    of this package is made with a dtype of its own.
    """
    import torch

    _mind_the_fork()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(inference))
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", "cuda" if torch.cuda.is_available() else "cpu"}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


_threads = {"used": False, "gone": False}
"""Whether torch computed with several threads in this process, and whether it did in the one that this was forked from."""


def _mind_the_fork() -> None:
    """torch's threads do not survive a fork, and it would wait for them for ever: a child goes on with one."""
    import torch

    if _threads["gone"]:
        _threads["gone"] = False
        torch.set_num_threads(1)
        _log.warning("this process was forked after torch had computed with several threads, and goes on with one; start it with spawn")
    _threads["used"] = torch.get_num_threads() > 1
    _register()


@functools.cache
def _register() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    _threads["gone"], _threads["used"] = _threads["used"], False
