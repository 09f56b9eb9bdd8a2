"""A Llama's forward and backward pass for LoRAs over frozen weights, without waste: rows end to end without padding, one product for
queries, keys and values and one for gate and up, attention within each row alone, and a loss whose gradient is made along with it.

It computes what transformers and PEFT compute, to rounding. ``fits`` says for which models; others take the plain path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear, silu

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BLOCK = 128
"""Queries that are scored together: under a causal mask they meet no key after the last of them."""
_KEPT_LENGTH = 1024
"""Rows up to this long keep their attention weights for the backward pass; those of longer ones are computed again."""
_GROUPED, _GROUPED_ON_CPU = (0.25, 1 << 20), (0.05, 256)
"""Rows are padded to attend together while less than this share of the positions is padding, and there are no more than so many: a CPU gains
nothing by it where a row is work enough."""
_LOSS_ROWS = 128
"""Rows of logits that exist at a time."""
_MODELS = {"LlamaModel", "MistralModel"}


@dataclass(frozen=True)
class Layout:
    """Rows that lie end to end. ``rows``: of each, the positions of its prefix and of the branches that follow it, each of which sees the
    prefix and itself. ``causal``: no position sees a later one."""

    rows: tuple[tuple[int, tuple[int, ...]], ...]
    causal: bool = True

    @classmethod
    def of(cls, lengths: Sequence[int], *, causal: bool = True) -> Layout:
        """Rows without branches."""
        return cls(tuple((n, ()) for n in lengths), causal)

    @property
    def lengths(self) -> list[int]:
        """Positions of each row."""
        return [prefix + sum(branches) for prefix, branches in self.rows]

    def positions(self) -> torch.Tensor:
        """Of each position, where it is in its prompt: ``(total,)`` int64; a branch goes on where the prefix ends."""
        return torch.cat(
            [
                torch.arange(first, first + n)
                for prefix, branches in self.rows
                for first, n in ((0, prefix), *((prefix, b) for b in branches))
            ]
        )

    def owners(self, row: int) -> torch.Tensor:
        """Of each position of ``row``, its branch from 1 on, 0 for the prefix: ``(length,)`` int64."""
        prefix, branches = self.rows[row]
        return torch.repeat_interleave(torch.arange(len(branches) + 1), torch.tensor([prefix, *branches]))

    def hidden_from(self, row: int) -> torch.Tensor:
        """Bool ``(length, length)``: True where a query (first axis) must not see a key."""
        owners = self.owners(row)
        seen = (owners[:, None] == owners[None, :]) | (owners[None, :] == 0)
        return ~(seen.tril() if self.causal else seen)


class _Group(NamedTuple):
    """Rows whose attention is one batched product. Of rows of one length in a run, ``first`` is where they begin and ``taken`` is None;
    else ``taken (rows * length,)`` are the positions to take, and of these ``real`` are no padding. ``bias`` is added to scores, minus infinity
    where a key is not to be seen: ``(rows, length, length)``, ``(block, block)`` for the last keys of plain causal rows, or None."""

    rows: int
    length: int
    first: int
    taken: torch.Tensor | None
    real: torch.Tensor | None
    bias: torch.Tensor | None
    causal: bool

    def take(self, x: torch.Tensor) -> torch.Tensor:
        """``(total, width)`` -> ``(rows, length, width)``."""
        some = x[self.first : self.first + self.rows * self.length] if self.taken is None else x.index_select(0, self.taken)
        return some.view(self.rows, self.length, -1)

    def put(self, made: torch.Tensor, out: torch.Tensor) -> None:
        """``(rows, length, width)`` into its places in ``out (total, width)``."""
        flat = made.reshape(self.rows * self.length, -1)
        if self.taken is None or self.real is None:
            out[self.first : self.first + len(flat)] = flat
        else:
            out.index_copy_(0, self.taken[self.real], flat[self.real])

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """(first query, query after the last, number of keys) of each block."""
        step = _BLOCK if self.causal else self.length
        for begin in range(0, self.length, step):
            end = min(begin + step, self.length)
            yield begin, end, end if self.causal else self.length


def _groups(layout: Layout, like: torch.Tensor) -> list[_Group]:
    """Rows of like length together."""
    lengths = layout.lengths
    starts = [0, *accumulate(lengths)]
    waste, most = _GROUPED_ON_CPU if like.device.type == "cpu" else _GROUPED
    groups: list[list[int]] = []
    for r in sorted((i for i, n in enumerate(lengths) if n), key=lambda i: lengths[i]):
        last = groups[-1] if groups else []
        together = sum(lengths[i] for i in last) + lengths[r]
        padded = lengths[r] * (len(last) + 1)
        if last and together >= (1 - waste) * padded and padded <= most:
            last.append(r)
        else:
            groups.append([r])
    return [_group(layout, rows, [starts[r] for r in rows], like) for rows in groups]


def _group(layout: Layout, rows: Sequence[int], starts: Sequence[int], like: torch.Tensor) -> _Group:
    lengths = [layout.lengths[r] for r in rows]
    length = max(lengths)
    branched = any(layout.rows[r][1] for r in rows)
    padded = min(lengths) < length
    blocked = None
    if branched or (padded and not layout.causal):
        blocked = torch.ones(len(rows), length, length, dtype=torch.bool)
        for i, r in enumerate(rows):
            blocked[i, : lengths[i], : lengths[i]] = layout.hidden_from(r)
            blocked[i, lengths[i] :, 0] = False  # padding sees something, or its softmax were not a number
    elif layout.causal:
        blocked = torch.ones(_BLOCK, _BLOCK, dtype=torch.bool).triu(1)
    bias = None if blocked is None else torch.zeros(blocked.shape).masked_fill_(blocked, float("-inf")).to(like.device, like.dtype)
    if len(rows) == 1:
        return _Group(1, length, starts[0], None, None, bias, layout.causal)
    steps = torch.arange(length)
    real = torch.cat([steps < n for n in lengths])
    taken = torch.cat([torch.where(steps < n, steps, 0) + start for n, start in zip(lengths, starts, strict=True)])
    return _Group(len(rows), length, 0, taken.to(like.device), real.nonzero().flatten().to(like.device), bias, layout.causal)


class _Heads(NamedTuple):
    """Heads for queries, heads for keys and values, and their width."""

    queries: int
    keys: int
    width: int

    def split(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``(rows, length, (queries + 2 keys) * width)`` -> q ``(rows * keys, group, length, width)``, k and v ``(rows * keys, length,
        width)``: the heads of a group are queries of one head."""
        rows, length, _ = qkv.shape
        heads = qkv.view(rows, length, -1, self.width).transpose(1, 2)
        q, k, v = torch.split(heads, [self.queries, self.keys, self.keys], dim=1)
        folded = (rows * self.keys, length, self.width)
        return q.reshape(rows * self.keys, -1, length, self.width), k.reshape(folded), v.reshape(folded)

    def join(self, q: torch.Tensor) -> torch.Tensor:
        """q as ``split`` gives it -> ``(rows, length, queries * width)``; k and v likewise, as groups of one."""
        group, length, width = q.shape[1:]
        return q.view(-1, self.keys, group, length, width).permute(0, 3, 1, 2, 4).reshape(-1, length, self.keys * group * width)


def _weights(q: torch.Tensor, k: torch.Tensor, group: _Group, begin: int, end: int) -> torch.Tensor:
    """Attention weights of a block's queries ``q (rows * keys, group * queries, width)`` over its keys ``k``, in the dtype of ``q``."""
    scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5)
    keys = k.shape[1]
    if group.bias is not None and group.bias.ndim == 3:
        scores.view(group.rows, -1, end - begin, keys).add_(group.bias[:, None, begin:end, :keys])
    elif group.bias is not None:
        scores.view(-1, end - begin, keys)[..., begin:].add_(group.bias[: end - begin, : end - begin])
    return scores.softmax(-1, dtype=torch.float32).to(q.dtype)


def _attend(qkv: torch.Tensor, heads: _Heads, groups: Sequence[_Group]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What each position sees: ``(total, queries * width)``; and the attention weights of the blocks of rows that are not long."""
    out = qkv.new_empty(len(qkv), heads.queries * heads.width)
    kept = []
    for group in groups:
        q, k, v = heads.split(group.take(qkv))
        made = torch.empty_like(q)
        for begin, end, keys in group.blocks():
            weights = _weights(q[:, :, begin:end].reshape(len(q), -1, heads.width), k[:, :keys], group, begin, end)
            made[:, :, begin:end] = torch.bmm(weights, v[:, :keys]).view(len(q), -1, end - begin, heads.width)
            if group.length <= _KEPT_LENGTH:
                kept.append(weights)
        group.put(heads.join(made), out)
    return out, kept


def _attend_backward(
    grad: torch.Tensor, qkv: torch.Tensor, heads: _Heads, groups: Sequence[_Group], kept: Sequence[torch.Tensor]
) -> torch.Tensor:
    """The gradient of ``qkv`` from that of what ``_attend`` gave."""
    out = torch.empty_like(qkv)
    scale = heads.width**-0.5
    remembered = iter(kept)
    for group in groups:
        q, k, v = heads.split(group.take(qkv))
        taken = group.take(grad)
        if group.real is not None:
            whole = torch.zeros_like(taken).view(-1, taken.shape[-1])
            whole[group.real] = taken.view(-1, taken.shape[-1])[group.real]
            taken = whole.view_as(taken)
        d_out = taken.reshape(group.rows, group.length, heads.keys, -1, heads.width).permute(0, 2, 3, 1, 4).reshape(q.shape)
        dq = torch.empty_like(q)
        dk, dv = (torch.zeros(k.shape, dtype=torch.float32, device=k.device) for _ in range(2))
        for begin, end, keys in group.blocks():
            some = q[:, :, begin:end].reshape(len(q), -1, heads.width)
            weights = next(remembered) if group.length <= _KEPT_LENGTH else _weights(some, k[:, :keys], group, begin, end)
            d_some = d_out[:, :, begin:end].reshape(len(q), -1, heads.width)
            d_weights = torch.bmm(d_some, v[:, :keys].transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            dq[:, :, begin:end] = torch.bmm(d_scores, k[:, :keys]).view(len(q), -1, end - begin, heads.width)
            dk[:, :keys] += torch.bmm(d_scores.transpose(1, 2), some)
            dv[:, :keys] += torch.bmm(weights.transpose(1, 2), d_some)
        parts = (heads.join(dq.mul_(scale)), heads.join(dk.mul_(scale)[:, None]).to(q.dtype), heads.join(dv[:, None]).to(q.dtype))
        group.put(torch.cat(parts, -1), out)
    return out


class _Tables(NamedTuple):
    """What all layers share: cosines and sines ``(total, 1, head width / 2)``, and how rows are grouped."""

    cos: torch.Tensor
    sin: torch.Tensor
    groups: list[_Group]


def _rotate(qkv: torch.Tensor, heads: _Heads, tables: _Tables, sign: float) -> None:
    """Turn queries and keys in ``qkv (total, ...)`` by their positions, in place; ``sign`` -1 turns gradients back."""
    n = heads.queries + heads.keys
    halves = qkv[:, : n * heads.width].view(len(qkv), n, 2, heads.width // 2)
    first, second = halves[:, :, 0], halves[:, :, 1]
    turned = first * tables.cos
    turned.addcmul_(second, tables.sin, value=-sign)
    second.mul_(tables.cos).addcmul_(first, tables.sin, value=sign)
    first.copy_(turned)


def _normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """RMSNorm of ``x (n, hidden)`` and the float32 factor ``(n, 1)`` that it took."""
    factor = torch.rsqrt(torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_() / x.shape[-1] + eps)
    return _scaled(x, factor, weight), factor


def _scaled(x: torch.Tensor, factor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (x * factor).to(x.dtype).mul_(weight)


def _normed_backward(grad: torch.Tensor, x: torch.Tensor, factor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The gradient of ``x``."""
    moved = grad.float() * weight
    along = torch.linalg.vecdot(moved, x.float())[:, None] * (factor.pow(3) / x.shape[-1])
    return moved.mul_(factor).addcmul_(x, along, value=-1.0).to(x.dtype)


class _Lora(NamedTuple):
    """``down (rank, in)``, ``up (out, rank)``: what is added is ``scale * up @ down``."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float


class _Product(NamedTuple):
    """Linear layers that read the same: their weights one below the other ``(sum of outs, in)``, and the widths and LoRAs of each."""

    weight: torch.Tensor
    widths: tuple[int, ...]
    loras: tuple[_Lora | None, ...]

    @property
    def factors(self) -> list[torch.Tensor]:
        """Of each LoRA, ``down`` and ``up``."""
        return [t for lora in self.loras if lora is not None for t in (lora.down, lora.up)]

    def parts(self) -> Iterator[tuple[slice, slice, _Lora]]:
        """Of each LoRA: its columns of the output, its columns of the product with all downs, and itself."""
        column = rank = 0
        for width, lora in zip(self.widths, self.loras, strict=True):
            if lora is not None:
                yield slice(column, column + width), slice(rank, rank + len(lora.down)), lora
                rank += len(lora.down)
            column += width

    def downs(self) -> torch.Tensor:
        """All downs, one below the other."""
        return torch.cat([lora.down for lora in self.loras if lora is not None])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``x (n, in)`` -> ``(n, outs)``, and the product with all downs."""
        out = linear(x, self.weight)
        if not self.factors:
            return out, None
        low = linear(x, self.downs())
        for columns, ranks, lora in self.parts():
            out[:, columns].addmm_(low[:, ranks], lora.up.T, alpha=lora.scale)
        return out, low

    def backward(self, grad: torch.Tensor, x: torch.Tensor, low: torch.Tensor | None) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The gradients of ``x`` and of ``factors``."""
        dx = grad @ self.weight
        if low is None:
            return dx, []
        d_low = torch.cat([(grad[:, columns] @ lora.up).mul_(lora.scale) for columns, _, lora in self.parts()], -1)
        dx.addmm_(d_low, self.downs())
        d_downs = d_low.T @ x
        factors = []
        for columns, ranks, lora in self.parts():
            factors += [d_downs[ranks], (grad[:, columns].T @ low[:, ranks]).mul_(lora.scale)]
        return dx, factors


class _Weights(NamedTuple):
    """One layer."""

    heads: _Heads
    eps: float
    before_attention: torch.Tensor
    qkv: _Product
    out: _Product
    before_mlp: torch.Tensor
    gate_up: _Product
    down: _Product

    @property
    def products(self) -> tuple[_Product, ...]:
        return self.qkv, self.out, self.gate_up, self.down


class _Layer(torch.autograd.Function):
    """``(total, hidden)`` -> the same, or ``(len(kept), hidden)`` where only the positions ``kept`` are asked for."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, layer: _Weights, tables: _Tables, kept: torch.Tensor | None, *factors: torch.Tensor
    ) -> torch.Tensor:
        normed, factor = _normed(x, layer.before_attention, layer.eps)
        qkv, low_qkv = layer.qkv.forward(normed)
        _rotate(qkv, layer.heads, tables, 1.0)
        seen, weights = _attend(qkv, layer.heads, tables.groups)
        asked = x if kept is None else x[kept]
        seen = seen if kept is None else seen[kept]
        middle, low_out = layer.out.forward(seen)
        middle += asked
        again, factor_again = _normed(middle, layer.before_mlp, layer.eps)
        gate_up, low_gate_up = layer.gate_up.forward(again)
        gate, up = torch.chunk(gate_up, 2, dim=-1)
        made, low_down = layer.down.forward(silu(gate).mul_(up))
        ctx.layer, ctx.tables, ctx.n_weights = layer, tables, len(weights)
        ctx.save_for_backward(x, factor, qkv, low_qkv, seen, low_out, middle, factor_again, gate_up, low_gate_up, low_down, kept, *weights)
        return made.add_(middle)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, factor, qkv, low_qkv, seen, low_out, middle, factor_again, gate_up, low_gate_up, low_down, kept, *weights = ctx.saved_tensors
        layer: _Weights = ctx.layer
        gate, up = torch.chunk(gate_up, 2, dim=-1)
        opened = silu(gate)
        d_product, of_down = layer.down.backward(grad, opened * up, low_down)
        d_gate_up = torch.empty_like(gate_up)
        d_gate, d_up = torch.chunk(d_gate_up, 2, dim=-1)
        torch.mul(d_product, opened, out=d_up)
        d_gate.copy_(torch.ops.aten.silu_backward(d_product.mul_(up), gate))
        d_again, of_gate_up = layer.gate_up.backward(d_gate_up, _scaled(middle, factor_again, layer.before_mlp), low_gate_up)
        d_middle = _normed_backward(d_again, middle, factor_again, layer.before_mlp).add_(grad)
        d_seen, of_out = layer.out.backward(d_middle, seen, low_out)
        if kept is not None:
            d_seen = d_seen.new_zeros(len(x), d_seen.shape[1]).index_add_(0, kept, d_seen)
            d_middle = d_middle.new_zeros(x.shape).index_add_(0, kept, d_middle)
        d_qkv = _attend_backward(d_seen, qkv, layer.heads, ctx.tables.groups, weights)
        _rotate(d_qkv, layer.heads, ctx.tables, -1.0)
        d_normed, of_qkv = layer.qkv.backward(d_qkv, _scaled(x, factor, layer.before_attention), low_qkv)
        dx = _normed_backward(d_normed, x, factor, layer.before_attention).add_(d_middle)
        return dx, None, None, None, *of_qkv, *of_out, *of_gate_up, *of_down


def run(
    trunk: PreTrainedModel, embeds: torch.Tensor, layout: Layout, positions: torch.Tensor, kept: torch.Tensor | None = None
) -> torch.Tensor:
    """Normed last hidden states ``(total, hidden)`` of ``embeds (total, hidden)``, whose rows are ``layout`` and whose places in their
    prompts are ``positions (total,)``; with ``kept (n,)`` int64, at these positions alone, ``(n, hidden)``.

    Gradients flow to ``embeds`` and to the LoRA that is active. ``trunk`` is the model below the head, see ``fits``.
    """
    model: Any = trunk
    cos, sin = model.rotary_emb(embeds, positions[None])
    half = cos.shape[-1] // 2
    tables = _Tables(cos[0, :, None, :half].contiguous(), sin[0, :, None, :half].contiguous(), _groups(layout, embeds))
    layers = list(model.layers[: model.config.num_hidden_layers])
    hidden = embeds
    layer_of: Any = _Layer
    for i, module in enumerate(layers):
        layer = _layer(module, model.config)
        factors = [t for product in layer.products for t in product.factors]
        hidden = layer_of.apply(hidden, layer, tables, kept if i == len(layers) - 1 else None, *factors)
    normed: torch.Tensor = model.norm(hidden)
    return normed


def fits(trunk: Any) -> bool:
    """Whether ``run`` computes what ``trunk`` does: a Llama (or a Mistral without a sliding window) in which nothing else is special. Weights
    are frozen and without biases; LoRAs are plain ones without dropout, in the dtype of the weights, one at a time."""
    config = trunk.config
    if type(trunk).__name__ not in _MODELS or getattr(config, "sliding_window", None) or config.hidden_act != "silu":
        return False
    if getattr(config, "attention_dropout", 0) and trunk.training:
        return False
    return all(_plain(layer) for layer in trunk.layers)


def _plain(layer: Any) -> bool:
    attention, mlp = layer.self_attn, layer.mlp
    modules = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    return all(_plain_linear(m) for m in modules) and not any(n.weight.requires_grad for n in norms)


def _plain_linear(module: Any) -> bool:
    base = getattr(module, "base_layer", module)
    if not isinstance(base, nn.Linear) or base.bias is not None or base.weight.requires_grad:
        return False
    if base is module:
        return True
    from peft.tuners.lora.layer import Linear

    if type(module) is not Linear or module.merged or module.fan_in_fan_out:
        return False
    active = _active(module)
    if len(active) > 1:
        return False
    return all(
        name not in module.lora_variant
        and not module.lora_bias[name]
        and (isinstance(module.lora_dropout[name], nn.Identity) or not module.training)
        and module.lora_A[name].weight.dtype == base.weight.dtype
        for name in active
    )


def _active(module: Any) -> list[str]:
    """The LoRAs of ``module`` that count now."""
    return [] if module.disable_adapters else [name for name in module.active_adapters if name in module.lora_A]


def _layer(module: Any, config: Any) -> _Weights:
    attention, mlp = module.self_attn, module.mlp
    width = attention.head_dim
    heads = _Heads(config.num_attention_heads, config.num_key_value_heads, width)
    return _Weights(
        heads,
        config.rms_norm_eps,
        module.input_layernorm.weight,
        _product(attention.q_proj, attention.k_proj, attention.v_proj),
        _product(attention.o_proj),
        module.post_attention_layernorm.weight,
        _product(mlp.gate_proj, mlp.up_proj),
        _product(mlp.down_proj),
    )


def _product(*modules: Any) -> _Product:
    """``modules`` as one. Their weights become parts of one tensor, the first time: no second copy, and no copying later."""
    bases = [getattr(m, "base_layer", m) for m in modules]
    widths = tuple(len(b.weight) for b in bases)
    return _Product(_together([b.weight for b in bases]), widths, tuple(_lora(m) for m in modules))


def _lora(module: Any) -> _Lora | None:
    names = _active(module) if hasattr(module, "base_layer") else []
    return _Lora(module.lora_A[names[0]].weight, module.lora_B[names[0]].weight, module.scaling[names[0]]) if names else None


@torch.no_grad()
def _together(weights: Sequence[nn.Parameter]) -> torch.Tensor:
    first = weights[0]
    rows = sum(len(w) for w in weights)
    whole = first.untyped_storage().nbytes() // first.element_size()
    at = first.storage_offset()
    for weight in weights:
        if (
            weight.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
            or weight.storage_offset() != at
            or not weight.is_contiguous()
        ):
            break
        at += weight.numel()
    else:
        if whole >= at:
            return first.detach().as_strided((rows, first.shape[1]), (first.shape[1], 1), first.storage_offset())
    joined = torch.cat([w.detach() for w in weights])
    for weight, part in zip(weights, torch.split(joined, [len(w) for w in weights]), strict=True):
        weight.data = part
    return joined


class _AnswerLosses(torch.autograd.Function):
    """Cross-entropies of a linear head; the gradient of ``hidden`` is made while the logits exist, a few rows at a time."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        losses = hidden.new_empty(len(hidden), dtype=torch.float32)
        wanted = ctx.needs_input_grad[0]
        grads = torch.empty_like(hidden) if wanted else None
        for at in range(0, len(hidden), _LOSS_ROWS):
            rows = slice(at, at + _LOSS_ROWS)
            said = linear(hidden[rows], weight).log_softmax(-1, dtype=torch.float32)
            own = target[rows, None]
            losses[rows] = -said.gather(1, own)[:, 0]
            if grads is not None:
                expected = said.exp_()
                expected.scatter_add_(1, own, expected.new_full(own.shape, -1.0))
                torch.mm(expected.to(hidden.dtype), weight, out=grads[rows])
        if grads is not None:
            ctx.save_for_backward(grads)
        return losses

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (grads,) = ctx.saved_tensors
        return (grads * grad[:, None]).to(grads.dtype), None, None


def answer_losses(hidden: torch.Tensor, head: nn.Module, target: torch.Tensor) -> torch.Tensor:
    """Nats ``(n,)`` float32 of each of ``target (n,)`` after ``hidden (n, hidden)``, of a frozen ``head`` without a bias; of another head, with
    all logits at once."""
    if type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad:
        function: Any = _AnswerLosses
        losses: torch.Tensor = function.apply(hidden, head.weight, target)
        return losses
    return cross_entropy(head(hidden).float(), target, reduction="none")
