"""Texts with placeholders into pieces of limited cost, without cutting a placeholder. Knows nothing of LlamaIndex."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from lloco_integrations import placeholder
from lloco_integrations.errors import PromptTooLong
from lloco_integrations.placeholder import Placeholder

_JOIN = "\n\n"
_WORD = re.compile(r"\S+\s*|\s+")

Cost = Callable[[str], int]


def pack(texts: Sequence[str], room: int, cost: Cost) -> list[str]:
    """``texts`` in order, joined by blank lines to pieces that cost at most ``room``; only a text that is too long alone is split.

    Raises PromptTooLong for a placeholder that alone is too long, PlaceholderError for a broken one.
    """
    joined = _JOIN.join(texts)
    if not texts or cost(joined) <= room:
        return [joined] if texts else []
    parts = [(part, cost(part)) for text in texts for part in split(text, room, cost)]
    return _greedy(parts, room, _JOIN, cost(_JOIN))


def split(text: str, room: int, cost: Cost) -> list[str]:
    """``text`` in pieces that cost at most ``room``, cut between words and placeholders.

    Its votes go with every piece, so that each tells the groups; what they say is not shown is told once, by the last piece.

    Raises PromptTooLong for a placeholder that costs more, PlaceholderError for a broken one.
    """
    if cost(text) <= room:
        return [text]
    plain, votes = placeholder.split_votes(text)
    atoms: list[tuple[str, int]] = []
    for part in placeholder.split(plain):
        if isinstance(part, Placeholder):
            n = cost(str(part))
            if n > room:
                raise PromptTooLong(
                    f"the summary of one text takes {n} positions and the prompt has room for {room}; ask for a coarser ratio, or "
                    f"split documents into smaller chunks"
                )
            atoms.append((str(part), n))
        else:
            atoms.extend(atom for word in _WORD.findall(part) for atom in _fitting(word, room, cost))
    pieces = [piece for joined in _greedy(atoms, room, "", 0) if (piece := joined.strip())]
    groups = "".join(placeholder.vote(vote.key, vote.weight) for vote in votes)
    told = "".join(placeholder.vote(vote.key, vote.weight, vote.omitted) for vote in votes)
    return [piece + (told if i == len(pieces) - 1 else groups) for i, piece in enumerate(pieces)]


def _fitting(word: str, room: int, cost: Cost) -> Iterator[tuple[str, int]]:
    """``word``, halved until each piece fits or is a single character."""
    n = cost(word)
    if n <= room or len(word) < 2:
        yield word, n
    else:
        middle = len(word) // 2
        yield from _fitting(word[:middle], room, cost)
        yield from _fitting(word[middle:], room, cost)


def _greedy(parts: Sequence[tuple[str, int]], room: int, joint: str, joint_cost: int) -> list[str]:
    """Neighbours joined as long as their costs add up to at most ``room``."""
    pieces: list[list[str]] = []
    taken = 0
    for part, n in parts:
        if pieces and taken + joint_cost + n <= room:
            pieces[-1].append(part)
            taken += joint_cost + n
        else:
            pieces.append([part])
            taken = n
    return [joint.join(piece) for piece in pieces]
