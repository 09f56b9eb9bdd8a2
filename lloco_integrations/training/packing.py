"""Rows of segments -> tensors for one decoder pass, and what it says at the targets. Training and inference share this path:
a branch sees exactly its row's prefix and itself, at the positions it would have alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from lloco_integrations.placeholder import Placeholder
from lloco_integrations.prompting import device_of
from lloco_integrations.training.data import Row
from lloco_integrations.training.fused import Layout, fits, run

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Packed:
    """One decoder pass: rows end to end, ``embeds (total, hidden)`` and ``positions (total,)``, ``layout`` says which are whose. For each
    target token: where the position is that predicts it, ``at``, its id, its weight, and its question (all ``(n_targets,)``)."""

    embeds: torch.Tensor
    layout: Layout
    positions: torch.Tensor
    at: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor
    question: torch.Tensor


def pack(
    rows: Sequence[Row],
    token_embeddings: Callable[[torch.Tensor], torch.Tensor],
    vectors: Callable[[Placeholder], torch.Tensor],
) -> Packed:
    """Tensors of ``rows``; gradients flow through the vectors of placeholders."""
    tokens: list[int] = []
    stands: list[torch.Tensor] = []
    shown: list[torch.Tensor] = []
    lengths: list[tuple[int, tuple[int, ...]]] = []
    where: list[tuple[int, int, float, int]] = []
    question = 0
    for row in rows:
        start = len(tokens)
        for segment in row.prefix:
            if isinstance(segment, Placeholder):
                shown.append(vectors(segment))
                stands.append(torch.arange(len(tokens), len(tokens) + len(shown[-1])))
                tokens += [0] * len(shown[-1])
            else:
                tokens += segment
        prefix = len(tokens) - start
        for branch in row.branches:
            first = len(tokens) + len(branch.prompt) - 1
            where += [(first + i, token, branch.weight, question) for i, token in enumerate(branch.target)]
            tokens += [*branch.prompt, *branch.target[:-1]]
            question += 1
        lengths.append((prefix, tuple(len(b.prompt) + len(b.target) - 1 for b in row.branches)))
    device = device_of(token_embeddings)
    embeds = token_embeddings(torch.tensor(tokens, device=device))
    if shown:
        embeds = embeds.index_copy(0, torch.cat(stands).to(device), torch.cat(shown).to(embeds.dtype))
    layout = Layout(tuple(lengths))
    at, target, weight, asked = zip(*where, strict=True)
    weights = torch.tensor(weight, dtype=torch.float32, device=device)
    places, targets, questions = (torch.tensor(column, device=device) for column in (at, target, asked))
    return Packed(embeds, layout, layout.positions().to(device), places, targets, weights, questions)


def hidden_at_targets(packed: Packed, trunk: PreTrainedModel, *, plain: bool = False) -> torch.Tensor:
    """Normed last hidden states ``(n_targets, hidden)`` at the positions that predict the targets: fused where that fits ``trunk``, else, or
    if ``plain``, of padded rows."""
    if not plain and fits(trunk):
        return run(trunk, packed.embeds, packed.layout, packed.positions, packed.at)
    return padded_run(trunk, packed.embeds, packed.layout, packed.positions)[packed.at]


def padded_run(trunk: PreTrainedModel, embeds: torch.Tensor, layout: Layout, positions: torch.Tensor) -> torch.Tensor:
    """What ``run`` gives, of any model: rows padded to the longest, with a mask of their own."""
    lengths, device = layout.lengths, embeds.device
    longest = max(lengths)
    least = torch.finfo(embeds.dtype).min
    attention = torch.full((len(lengths), 1, longest, longest), least, dtype=embeds.dtype, device=device)
    for r, length in enumerate(lengths):
        attention[r, 0, :length, :length] = torch.where(layout.hidden_from(r).to(device), least, 0.0)
    hidden = trunk(
        inputs_embeds=nn.utils.rnn.pad_sequence(list(torch.split(embeds, lengths)), batch_first=True),
        attention_mask=attention,
        position_ids=nn.utils.rnn.pad_sequence(list(torch.split(positions, lengths)), batch_first=True),
        use_cache=False,
    ).last_hidden_state
    return torch.cat([row[:length] for row, length in zip(hidden, lengths, strict=True)])


def weighted_mean(losses: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The scalar that training minimises."""
    return (losses * weight).sum() / weight.sum()
