"""torch as this package expects it, whatever the caller has set in its thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def undisturbed(*, inference: bool = True) -> Iterator[None]:
    """Inside: no autocast, tensors on the CPU unless they are told otherwise, and no gradients.

    ``inference`` False makes usual tensors, also where the caller is in inference mode: for what stays, such as weights. torch's default
    dtype belongs to the whole process, and any thread that loads a model changes it for a while: so it is not touched here, and every tensor
    of this package is made with a dtype of its own.
    """
    import torch

    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(inference))
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", "cuda" if torch.cuda.is_available() else "cpu"}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
