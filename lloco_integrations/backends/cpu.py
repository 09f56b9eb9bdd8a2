"""What makes a decoder answer faster on a CPU, with the same results: weights laid out once for the kernels that read them, and attention that
suits a single query.

Both change how something is computed and nothing else. ``docs/performance.md`` says what each gives, and what was tried and did not help.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ATTENTION = "lloco_cpu"
_LARGEST = 2 << 30
"""Bytes of weights over which a decoder is not packed: packed weights are a second copy."""


def prepare(model: PreTrainedModel) -> None:
    """Make ``model`` fast on a CPU, in place; does nothing on another device. Parameters, names and gradients stay as they are."""
    if model.device.type != "cpu":
        return
    if getattr(model.config, "_attn_implementation", None) == "sdpa":
        _register()
        model.set_attn_implementation(_ATTENTION)
    linears = [module for module in model.modules() if type(module) is nn.Linear and module.weight.dtype == torch.bfloat16]
    if _can_pack() and sum(module.weight.nbytes for module in linears) <= _LARGEST:
        for module in linears:
            module.__class__ = PackedLinear


class PackedLinear(nn.Linear):
    """A Linear in bfloat16 that keeps its weight in oneDNN's own layout besides, once it has been used without gradients.

    torch lays a weight out anew at each call, which for one row takes as long as the product itself. Results are the same to the bit. A
    weight that has changed since is laid out anew.
    """

    _packed: tuple[tuple[int, int], torch.Tensor] | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As nn.Linear."""
        weight = self.weight
        if (
            torch.is_grad_enabled()
            or weight.is_inference()
            or weight.device.type != "cpu"
            or {input.dtype, weight.dtype} != {torch.bfloat16}
        ):
            return functional.linear(input, weight, self.bias)  # of an inference tensor nobody knows whether it has changed
        state = (weight.data_ptr(), weight._version)
        if self._packed is None or self._packed[0] != state:
            self._packed = state, _pack(weight)
        return _packed_product(input, self._packed[1], self.bias)

    def __getstate__(self) -> dict[str, Any]:
        """Copies lay their own weights out."""
        return {name: value for name, value in self.__dict__.items() if name != "_packed"}


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' interface of attention: ``query (batch, heads, length, head_dim)`` -> ``(batch, length, heads, head_dim)``.

    For a single query, torch's kernel would read keys and values again for each of the heads that share them. So the heads of a group are
    given to it as the queries of one head.
    """
    batch, heads, length, width = query.shape
    groups = key.shape[1]
    if length > 1 or heads == groups or (attention_mask is not None and attention_mask.shape[1] > 1):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    grouped = query.reshape(batch, groups, heads // groups, width)
    made = functional.scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling)
    return made.reshape(batch, 1, heads, width), None


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_ATTENTION, attention)
    AttentionMaskInterface.register(_ATTENTION, sdpa_mask)


@functools.cache
def _can_pack() -> bool:
    """Whether this torch, on this CPU, has a layout of its own and computes the same with it: tried once, for the functions are torch's own."""
    on: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    rows, weight = torch.arange(64, **on).view(2, 32).bfloat16(), torch.arange(512, **on).view(16, 32).bfloat16()
    try:
        return torch.equal(_packed_product(rows, _pack(weight), None), functional.linear(rows, weight))
    except Exception:  # of any kind: then weights stay as they are
        return False


def _pack(weight: torch.Tensor) -> torch.Tensor:
    ops: Any = torch.ops.mkldnn
    made: torch.Tensor = ops._reorder_linear_weight(weight.detach(), 1)
    return made


def _packed_product(rows: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    made: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
    return made
