"""Compression by several workers, on one machine or on a cluster, over Ray Data.

The texts become a Ray dataset of batches. Each worker is an actor that holds the compressor: it compresses a batch, puts it into the
store, and returns counts. Ray starts a killed worker again and gives it its batch again; what the store holds by then is left alone, so
that in the end each text is stored once. Vectors never pass through Ray.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lloco_integrations.errors import IncompatibleSummary, LLoCOError, StoreError
from lloco_integrations.ray_cluster import SHARED_STORE, check_reach, connected, explained, require_ray, share
from lloco_integrations.store.backend import shown

if TYPE_CHECKING:
    from lloco_integrations.engine import Engine
    from lloco_integrations.store import SummaryStore

_BATCH_CHARACTERS = 4 * 8192
"""Of a batch, padding included: about what a compressor takes in one forward pass."""
_MOST_BLOCKS = 10_000
"""Ray keeps books on every block; beyond this many, a block holds several batches."""
_DEATHS = 3
"""Workers that may die in a row while they load the model, before it is given up."""


@dataclass(frozen=True)
class Done:
    """What was compressed: texts, their source tokens, and the workers that did it."""

    texts: int
    tokens: int
    workers: int


@dataclass(frozen=True)
class Task:
    """What a worker must know. ``probe``: the store's key of an empty text, by which it knows the store again; ``fingerprint``: of the
    compressor it must have, None for any."""

    model: str
    store_url: str
    probe: str
    fingerprint: str | None
    device: str
    group: str | None
    threads: int


def compress_on_ray(
    texts: Sequence[str],
    store: SummaryStore,
    *,
    model: str = "smollm2-135m",
    device: str = "auto",
    group: str | None = None,
    fingerprint: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Done:
    """Compresses ``texts`` into ``store``, equal ones once; what it holds already costs a look only.

    Args:
        store: one that every worker can open by its URL.
        model: a preset, a hub id, or a directory that is at the same place for every worker.
        group: the adapter group of the texts, as for Engine.compress.
        fingerprint: that of the compressor; a worker that loads another one stops the work. None takes what ``model`` is.
        workers: actors; None is one for each GPU, else one. CPUs are shared out among them.
        address: of a running Ray cluster; None uses the one this process is connected to, else starts Ray here for as long as it takes.
        progress: called with (texts, source tokens) that were just stored.

    Raises MissingExtra without Ray, StoreError for a store that workers cannot reach, BadInput for more workers than Ray has room for,
    and what a worker raises: all that was stored until then stays.
    """
    ray = require_ray()
    check_reach(store.url, [])
    rows = _batches(list(dict.fromkeys(texts)))
    if not rows:
        return Done(0, 0, 0)
    with connected(ray, address):
        nodes = ray.nodes()
        check_reach(store.url, nodes)
        each = share(nodes, workers, device)
        n_workers = min(each.workers, len(rows))
        task = Task(_found_anywhere(model), store.url, store.key("", ""), fingerprint, device, group, each.cpus)
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS))
        mapped = dataset.map_batches(
            Worker,
            fn_constructor_args=(task,),
            compute=ray.data.ActorPoolStrategy(size=n_workers),
            batch_size=1,  # a row is a batch of texts
            batch_format="pyarrow",
            num_cpus=each.cpus,
            num_gpus=each.gpus or None,
        )
        # Actors are restarted and their batches repeated without limit: Ray Data's default, and the argument that says so is deprecated.
        mapped.context.max_consecutive_actor_init_deaths = _DEATHS
        mapped.context.raise_original_map_exception = True
        mapped.context.enable_progress_bars = False
        mapped.context.print_on_execution_start = False
        n_texts = n_tokens = 0
        with explained():
            for counts in mapped.iter_batches(batch_size=None, batch_format="numpy"):
                some, tokens = int(counts["texts"].sum()), int(counts["tokens"].sum())
                n_texts, n_tokens = n_texts + some, n_tokens + tokens
                if progress:
                    progress(some, tokens)
    return Done(n_texts, n_tokens, n_workers)


class Worker:
    """An actor of Ray's: compressor and store, opened once. A refusal is kept for the first batch: Ray would take one that is raised
    here for a death, and try again."""

    def __init__(self, task: Task) -> None:
        self._group = task.group
        self._refusal: LLoCOError | None = None
        try:
            self._engine = _engine(task)
        except LLoCOError as refusal:
            self._refusal = refusal

    def __call__(self, batch: Any) -> dict[str, Any]:
        """Stores the texts of ``batch``, a pyarrow table with a list of texts a row; returns counts, one a row."""
        import numpy as np

        if self._refusal is not None:
            raise self._refusal
        counts = []
        for texts in batch["texts"].to_pylist():
            made = self._engine.compress(texts, groups=[self._group] * len(texts))
            counts.append((len(made), sum(some.n_tokens for some in made)))
        columns = np.array(counts, dtype=np.int64)
        return {"texts": columns[:, 0], "tokens": columns[:, 1]}


def _engine(task: Task) -> Engine:
    """Model and store of a worker. Raises an LLoCOError if one of them is not what the task means."""
    import torch

    from lloco_integrations.engine import Engine
    from lloco_integrations.store import SummaryStore

    torch.set_num_threads(task.threads)
    store = SummaryStore.open(task.store_url, create=False)
    if store.key("", "") != task.probe:
        raise StoreError(f"{socket.gethostname()} has another store at {shown(task.store_url)}; {SHARED_STORE}")
    engine = Engine(task.model, store, device=task.device)
    if task.fingerprint not in (None, engine.model.fingerprint):
        raise IncompatibleSummary(
            f"a worker loaded compressor {engine.model.fingerprint[:16]} as {task.model!r} on {socket.gethostname()}, and "
            f"{str(task.fingerprint)[:16]} is wanted; give all machines the same model and the same version of this package"
        )
    return engine


def _found_anywhere(model: str) -> str:
    """``model`` by a name that does not depend on the folder where a worker is started."""
    from lloco_integrations.models.presets import PRESETS
    from lloco_integrations.paths import located

    return model if model in PRESETS else located(model)


def _batches(texts: Sequence[str]) -> list[dict[str, list[str]]]:
    """Rows of the dataset, each a batch of texts of about one length, the longest first."""
    from lloco_integrations.compressors.base import buckets

    return [{"texts": [texts[i] for i in some]} for some in buckets([len(text) for text in texts], None, _BATCH_CHARACTERS)]
