"""Who wins when retrieved texts disagree: the group whose adapter answers, and the documents that their passages point to.

A prompt travels through the frameworks as text, so the scores of its texts are gone when it arrives. Where texts of several groups
stand side by side, their placeholders therefore carry a weight.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lloco_integrations.errors import IncompatibleAdapter
from lloco_integrations.placeholder import Placeholder
from lloco_integrations.store.info import EntryInfo
from lloco_integrations.types import NO_ADAPTER

K = TypeVar("K", bound=Hashable)

_FULL = 1000


def weights(groups: Sequence[str | None], scores: Sequence[float | None]) -> list[int | None]:
    """The weight of each text's placeholder: its share of the best score, in thousandths; None for all if they are of one group.

    If a score is missing, or none is positive, the first text counts 1000, the second half of that, the third a third.
    """
    if len({g for g in groups if g is not None}) < 2:
        return [None] * len(groups)
    known = [s for s in scores if s is not None]
    best = max(known, default=0.0)
    if len(known) < len(scores) or not best > 0:
        return [_FULL // rank for rank in range(1, len(groups) + 1)]
    return [round(_FULL * max(s, 0.0) / best) for s in known]


def shares(marks: Sequence[Placeholder], infos: Iterable[EntryInfo | None]) -> dict[str, float]:
    """The share of each group in a prompt with ``marks``, the largest first; ``infos`` describe their entries.

    A text counts its placeholder's weight; if no placeholder has one, its source tokens. It counts once, however many slices of it are
    shown. Texts without a group do not count.
    """
    weighed = any(mark.weight is not None for mark in marks)
    counted: dict[str, tuple[str, int]] = {}
    for mark, info in zip(marks, infos, strict=True):
        if info is not None and info.group is not None:
            value = (mark.weight or 0) if weighed else info.n_tokens
            counted[mark.key] = (info.group, max(value, counted.get(mark.key, ("", 0))[1]))
    sums: dict[str, float] = defaultdict(float)
    for group, value in counted.values():
        sums[group] += value
    total = sum(sums.values())
    ordered = sorted(sums.items(), key=lambda item: -item[1])
    return {group: value / total for group, value in ordered} if total else {}


@dataclass(frozen=True)
class Choice:
    """An adapter by name and place (both None: the decoder alone), and the shares of the groups that led to it."""

    name: str | None
    path: str | None
    groups: Mapping[str, float]


def choose(adapters: Mapping[str, str], groups: Mapping[str, float], name: str | None = None) -> Choice:
    """The adapter ``name``, or that of the first of ``groups`` (see ``shares``), or the one named "default", or none.

    Raises IncompatibleAdapter for a name that ``adapters`` does not have; "none" is the decoder alone.
    """
    if name is None:
        first = next(iter(groups), NO_ADAPTER)
        name = first if first in adapters else "default" if "default" in adapters else NO_ADAPTER
    if name == NO_ADAPTER:
        return Choice(None, None, groups)
    if name not in adapters:
        known = ", ".join(sorted(adapters)) or "none"
        raise IncompatibleAdapter(f"no adapter is named {name!r} (known: {known}); pass adapters={{{name!r}: path}}")
    return Choice(name, adapters[name], groups)


def documents(ids: Sequence[K]) -> Mapping[K, list[int]]:
    """The documents that passages belong to, the best first, each with the ranks of its passages; ``ids`` names the document of each
    passage, best passage first.

    A passage of rank 1, 2, 3, ... gives its document 1, 1/2, 1/3, ... votes, so scores of any scale and sign will do.
    """
    ranks: dict[K, list[int]] = defaultdict(list)
    for rank, name in enumerate(ids):
        ranks[name].append(rank)
    return dict(sorted(ranks.items(), key=lambda item: -sum(1 / (rank + 1) for rank in item[1])))
