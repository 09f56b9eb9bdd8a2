"""Ray itself: whether it is there, where it runs, what it has, and what it says when something goes wrong. Loaded when it is used."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from lloco_integrations.errors import BadInput, LLoCOError, MissingExtra, StoreError
from lloco_integrations.store.backend import shown

_log = logging.getLogger(__name__)

SHARED_STORE = "give a store that all workers reach: s3://bucket/prefix or another fsspec URL, or file:///directory on a shared disk"


@dataclass(frozen=True)
class Share:
    """How many workers, and what each gets."""

    workers: int
    cpus: int
    gpus: int


def require_ray() -> Any:
    """The module ``ray`` with ``ray.data`` loaded. Raises MissingExtra."""
    try:
        ray = import_module("ray")
        import_module("ray.data")
    except ImportError as error:
        raise MissingExtra(f'the engine ray needs Ray Data ({error}): pip install "lloco_integrations[ray]"') from error
    return ray


def check_reach(url: str, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Raises StoreError if a worker on one of ``nodes`` (as ``ray.nodes()`` has them) could not open the store at ``url``."""
    place = url.rpartition("::")[2]  # behind its caches
    if place.startswith(("memory:", "object:")):
        raise StoreError(f"the store {shown(url)} lives in this process, where workers cannot reach it; {SHARED_STORE}")
    others = {str(node["NodeManagerHostname"]) for node in nodes if node["Alive"]} - {socket.gethostname()}
    if place.startswith("sqlite:") and others:
        raise StoreError(
            f"the store {shown(url)} is a file of this machine, and Ray has workers on {', '.join(sorted(others))}; {SHARED_STORE}"
        )


def share(nodes: Sequence[Mapping[str, Any]], workers: int | None, device: str) -> Share:
    """Workers and what each gets of ``nodes`` (as ``ray.nodes()`` has them): a GPU and a CPU, or as many CPUs as go round.

    Raises BadInput for more workers than fit, or no GPU where ``device`` wants one.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(int(r.get("GPU", 0)) for r in resources) if device == "auto" or device.startswith("cuda") else 0
    if gpus:
        wanted = workers or gpus
        if wanted > gpus:
            raise BadInput(f"{wanted} workers need a GPU each, and Ray has {gpus} GPUs; use fewer workers, or the device cpu")
        return Share(wanted, 1, 1)
    if device.startswith("cuda"):
        raise BadInput(f"the device is {device}, and Ray knows of no GPU; use the device cpu or auto, or add machines with GPUs")
    wanted, cpus = workers or 1, [int(r.get("CPU", 0)) for r in resources]
    if wanted > sum(cpus):
        raise BadInput(f"{wanted} workers need a CPU each, and Ray has {sum(cpus)} CPUs; use fewer workers, or add machines")
    return Share(wanted, max(n for n in range(1, max(cpus) + 1) if sum(c // n for c in cpus) >= wanted), 0)


@contextmanager
def connected(ray: Any, address: str | None) -> Iterator[None]:
    """Ray as this process is connected to it, else at ``address``, else started here; only what was started is stopped."""
    spoken = _log.isEnabledFor(logging.INFO)
    logging.getLogger("ray.data").setLevel(logging.INFO if spoken else logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not spoken:  # else it warns of every actor that it can restart
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            logging_level=logging.INFO if spoken else logging.ERROR,
            log_to_driver=spoken,
        )
    except Exception as error:  # of several kinds, a plain Exception among them
        where = f"cannot connect to Ray at {address}" if address else "cannot start Ray on this machine"
        remedy = "check the address (ray status), or leave it out to start Ray on this machine" if address else "LLOCO_DEBUG=1 tells more"
        raise LLoCOError(f"{where}: {error}; {remedy}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def explained() -> Iterator[None]:
    """Raises what a worker raised on purpose as it was, without Ray's wrapping."""
    try:
        yield
    except Exception as error:
        inner: BaseException | None = error
        while inner is not None:
            within = getattr(inner, "cause", None)  # Ray's wrapping is of the wrapped error's class, too
            if isinstance(inner, LLoCOError) and within is None:
                raise inner from (error if inner is not error else None)
            inner = within or inner.__cause__
        raise
