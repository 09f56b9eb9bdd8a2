"""AdamW over float32 copies of parameters that may be bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class MasterAdamW:
    """AdamW whose weights live in float32; after each step they are copied into the model's parameters."""

    def __init__(self, parameters: dict[str, nn.Parameter], lr: dict[str, float], weight_decay: float) -> None:
        self.parameters = parameters
        self.master = {n: p.detach().float().clone() for n, p in parameters.items()}
        groups = [{"params": [m], "lr": lr[n]} for n, m in self.master.items()]
        self.adam = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True)
        self.lr = [lr[n] for n in self.master]

    def step(self, factor: float, clip: float, sum_up: Callable[[torch.Tensor], torch.Tensor] | None = None) -> float:
        """One update at ``factor`` times the learning rates, gradients clipped to the norm ``clip``, which is returned as it was.

        ``sum_up`` adds a flat tensor up over all processes: each has the gradient of its share of the batch.
        """
        for name, parameter in self.parameters.items():
            grad = parameter.grad
            self.master[name].grad = torch.zeros_like(self.master[name]) if grad is None else grad.float()
            parameter.grad = None
        if sum_up is not None:
            grads = [m.grad for m in self.master.values() if m.grad is not None]
            whole = sum_up(torch.cat([g.flatten() for g in grads]))
            for grad, part in zip(grads, torch.split(whole, [g.numel() for g in grads]), strict=True):
                grad.copy_(part.view_as(grad))
        norm = float(nn.utils.clip_grad_norm_(self.master.values(), clip))
        for group, lr in zip(self.adam.param_groups, self.lr, strict=True):
            group["lr"] = lr * factor
        self.adam.step()
        self.copy_to_model()
        return norm

    def copy_to_model(self) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.master[name])

    def state(self) -> dict[str, torch.Tensor]:
        """Everything needed to go on: weights and both moments, float32, by parameter name."""
        state = {f"weight/{n}": m for n, m in self.master.items()}
        for name, master in self.master.items():
            for key, value in self.adam.state.get(master, {}).items():
                state[f"{key}/{name}"] = value
        return state

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Put back what ``state`` returned."""
        for name, master in self.master.items():
            master.copy_(state[f"weight/{name}"])
            moments = {k: state[f"{k}/{name}"].clone() for k in ("step", "exp_avg", "exp_avg_sq") if f"{k}/{name}" in state}
            if moments:
                self.adam.state[master] = moments
        self.copy_to_model()
