"""Rows of segments -> tensors for one decoder pass, and what it says at the targets. Training and inference share this path:
a branch sees exactly its row's prefix and itself, at the positions it would have alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lloco_integrations.placeholder import Placeholder
from lloco_integrations.prompting import device_of
from lloco_integrations.training.data import Row


@dataclass(frozen=True)
class Packed:
    """One decoder pass: ``embeds (rows, length, hidden)``, ``attention (rows, 1, length, length)`` additive, ``positions (rows, length)``,
    and for each target token its row, the position that predicts it, its id and its weight (all ``(n_targets,)``)."""

    embeds: torch.Tensor
    attention: torch.Tensor
    positions: torch.Tensor
    row: torch.Tensor
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
    ids: list[torch.Tensor] = []
    positions, owners, stand_ins = [], [], []
    shown: list[torch.Tensor] = []
    where: list[tuple[int, int, int, float, int]] = []
    question = 0
    for r, row in enumerate(rows):
        tokens: list[int] = []
        stands: list[bool] = []
        for segment in row.prefix:
            if isinstance(segment, Placeholder):
                shown.append(vectors(segment))
                tokens += [0] * len(shown[-1])
                stands += [True] * len(shown[-1])
            else:
                tokens += segment
                stands += [False] * len(segment)
        n_prefix = len(tokens)
        position, owner = list(range(n_prefix)), [0] * n_prefix
        for b, branch in enumerate(row.branches, 1):
            first = len(tokens) + len(branch.prompt) - 1
            where += [(r, first + i, token, branch.weight, question) for i, token in enumerate(branch.target)]
            own = [*branch.prompt, *branch.target[:-1]]
            tokens += own
            position += range(n_prefix, n_prefix + len(own))
            owner += [b] * len(own)
            question += 1
        ids.append(torch.tensor(tokens))
        stand_ins.append(torch.tensor(stands + [False] * (len(tokens) - n_prefix)))
        positions.append(torch.tensor(position))
        owners.append(torch.tensor(owner))
    device = device_of(token_embeddings)
    stacked = token_embeddings(nn.utils.rnn.pad_sequence(ids, batch_first=True).to(device))
    if shown:
        here = nn.utils.rnn.pad_sequence(stand_ins, batch_first=True).to(device)
        stacked = stacked.masked_scatter(here[..., None], torch.cat(shown).to(stacked.dtype))
    owner_ids = nn.utils.rnn.pad_sequence(owners, batch_first=True, padding_value=-1).to(device)
    length = stacked.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    same = owner_ids[:, :, None] == owner_ids[:, None, :]
    seen = causal & (same | (owner_ids[:, None, :] == 0))
    attention = torch.zeros(seen.shape, dtype=stacked.dtype, device=device).masked_fill(~seen, torch.finfo(stacked.dtype).min)
    columns = list(zip(*where, strict=True))
    return Packed(
        embeds=stacked,
        attention=attention[:, None],
        positions=nn.utils.rnn.pad_sequence(positions, batch_first=True).to(device),
        row=torch.tensor(columns[0], device=device),
        at=torch.tensor(columns[1], device=device),
        target=torch.tensor(columns[2], device=device),
        weight=torch.tensor(columns[3], dtype=torch.float32, device=device),
        question=torch.tensor(columns[4], device=device),
    )


def logits_of(packed: Packed, trunk: nn.Module, head: nn.Module) -> torch.Tensor:
    """Logits ``(n_targets, vocabulary)`` float32 at the positions that predict the targets; the head runs on these alone."""
    hidden = trunk(
        inputs_embeds=packed.embeds, attention_mask=packed.attention, position_ids=packed.positions, use_cache=False
    ).last_hidden_state
    logits: torch.Tensor = head(hidden[packed.row, packed.at])
    return logits.float()


def weighted_mean(losses: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The scalar that training minimises."""
    return (losses * weight).sum() / weight.sum()
