"""Key-value caches of what prompts begin with, so that a second question about the same documents does not read them again."""

from __future__ import annotations

import hashlib
import inspect
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from lloco_integrations.types import ResolvedPrompt

SHORTEST = 64
"""Positions from which on a beginning is read by itself and kept: below, reading it again costs less than a pass of its own."""
DEFAULT_BYTES = 512 << 20


@dataclass(frozen=True)
class Prefix:
    """What a decoder has read: for each layer keys and values ``(1, heads, n_positions, head_dim)``."""

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @property
    def n_positions(self) -> int:
        return int(self.layers[0][0].shape[2])

    @property
    def nbytes(self) -> int:
        return sum(key.nbytes + value.nbytes for key, value in self.layers)


class Prefixes:
    """Prefixes by key, at most ``limit`` bytes of them; the least recently used goes first. Not thread-safe: for the backend's lock."""

    def __init__(self, limit: int = DEFAULT_BYTES) -> None:
        self.limit = limit
        self._held: OrderedDict[bytes, Prefix] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes that are held now."""
        return sum(prefix.nbytes for prefix in self._held.values())

    def get(self, key: bytes) -> Prefix | None:
        """The prefix of ``key``, if it is still held."""
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def put(self, key: bytes, prefix: Prefix) -> None:
        """Keep ``prefix``, unless it is larger than all that may be held."""
        if prefix.nbytes > self.limit:
            return
        self._held[key] = prefix
        self.bound(self.limit)

    def bound(self, limit: int) -> None:
        """Hold at most ``limit`` bytes from now on."""
        self.limit = limit
        while self._held and self.nbytes > limit:
            self._held.popitem(last=False)


def context(prompt: ResolvedPrompt) -> int:
    """How many of ``prompt``'s pieces are read by themselves: those up to its last summary that is there whatever is asked. 0 if that is too
    little to be worth it, or all."""
    last = max((i for i, piece in enumerate(prompt.pieces[: prompt.n_shared]) if isinstance(piece, torch.Tensor)), default=-1)
    rest = sum(len(piece) for piece in prompt.pieces[last + 1 :])
    return last + 1 if rest and prompt.n_positions - rest >= SHORTEST else 0


def key(pieces: Sequence[list[int] | torch.Tensor], *parts: object) -> bytes:
    """A hash of ``pieces``, to the bit, and of ``parts``."""
    made = hashlib.blake2b(repr(parts).encode(), digest_size=16)
    for piece in pieces:
        if isinstance(piece, list):
            made.update(b"ids" + array("q", [len(piece), *piece]).tobytes())
        else:
            made.update(f"{piece.dtype}{tuple(piece.shape)}".encode())
            made.update(piece.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return made.digest()


def keeps_all(config: PretrainedConfig) -> bool:
    """Whether a decoder's cache keeps every position in every layer: one with a sliding window cannot be continued from a part."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


def batched(prefixes: Sequence[Prefix | None], config: PretrainedConfig) -> Any:
    """A transformers cache that holds ``prefixes`` as the rows of a batch, with zeros before those that are shorter; None if all are."""
    from transformers import DynamicCache

    longest = max((prefix.n_positions for prefix in prefixes if prefix), default=0)
    if not longest:
        return None
    some = next(prefix for prefix in prefixes if prefix)
    cache = DynamicCache(config=config)
    for i, like in enumerate(some.layers):
        rows = []
        for half, tensor in enumerate(like):
            row = tensor.new_zeros(len(prefixes), tensor.shape[1], longest, tensor.shape[3])
            for j, prefix in enumerate(prefixes):
                if prefix:
                    row[j, :, longest - prefix.n_positions :] = prefix.layers[i][half][0]
            rows.append(row)
        cache.update(rows[0], rows[1], i)
    return cache


def argument(cache: Any, model: PreTrainedModel) -> dict[str, Any]:
    """``cache`` as the keyword argument under which ``model`` takes it, in its forward pass and in ``generate``; nothing for None.

    It was ``past_key_values`` until transformers renamed it ``cache``: 5.24 warns of the old name, 5.40 (forward) and 6.0 (``generate``) drop
    it. The model is asked, not the version: code that comes with a checkpoint may still use the old one.
    """
    if cache is None:
        return {}
    return {"cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values": cache}


def taken(cache: Any) -> Prefix:
    """What ``cache``, of one row, has read."""
    return Prefix(tuple((layer.keys, layer.values) for layer in cache.layers))
