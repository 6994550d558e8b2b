"""The decoder of `llama.py` with the kernels of `kernels.py`.

A layer of a decode step is five kernels; one of prefill is four products and five kernels between them.

    norm + q, k, v │ rotary + cache + attention │ output + residual │ norm + gate, up + SwiGLU │ down + residual

With several rows the norms are kernels of their own, since the tensor cores need their input rounded. The residual
stream is fp32 in decode steps. It runs on bf16 and fp16 weights, heads of 32 to 256 (a power of two) and up to 16 rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fourstage.engines.llama import Cache, Int8, LlamaWeights, Matrix

PROGRAMS = 1024  # of one warp each, that a decode step's attention is divided into


def covers(weights: LlamaWeights, batch: int) -> str | None:
    """Why the kernels do not cover these weights and rows; None where they do."""
    if weights.dtype not in (torch.bfloat16, torch.float16):
        return f"weights are {weights.dtype}"
    if weights.dim not in (32, 64, 128, 256):
        return f"heads of {weights.dim}"
    if batch > 16:
        return f"{batch} rows"
    return None


@dataclass
class Buffers:
    """What a decode step writes besides the cache; every tensor stays where it is."""

    x: Tensor  # [B, hidden] fp32: the residual stream
    normed: Tensor  # [B, hidden]
    qkv: Tensor  # [B, (H + 2 KV) * D] fp32
    mixed: Tensor  # [B, H * D]
    inner: Tensor  # [B, inner]
    logits: Tensor  # [B, V] fp32
    finished: Tensor  # [B] int32
    alive: Tensor  # [1] int32: rows that have not ended; nothing runs where it is 0
    ends: Tensor  # [8] int64: end tokens, -1 where there are fewer
    pad: Tensor  # [1] int64
    scratch: tuple[Tensor, Tensor, Tensor, Tensor]

    @classmethod
    def empty(cls, weights: LlamaWeights, batch: int) -> Buffers:
        make = partial(torch.zeros, device=weights.device)
        groups = batch * weights.kv_heads
        splits = min(32, max(2, PROGRAMS // groups))
        heads = (batch, weights.heads, splits)
        wide: Any = {"dtype": weights.dtype}
        return cls(
            x=make(batch, weights.hidden),
            normed=make(batch, weights.hidden, **wide),
            qkv=make(batch, (weights.heads + 2 * weights.kv_heads) * weights.dim),
            mixed=make(batch, weights.heads * weights.dim, **wide),
            inner=make(batch, weights.inner, **wide),
            logits=make(batch, weights.head.shape[0]),
            finished=make(batch, dtype=torch.int32),
            alive=make(1, dtype=torch.int32),
            ends=make(8, dtype=torch.int64),
            pad=make(1, dtype=torch.int64),
            scratch=(make(heads), make(heads), make(*heads, weights.dim), make(groups, dtype=torch.int32)),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        tensors = [value for value in vars(self).values() if isinstance(value, Tensor)]
        return sum(tensor.nbytes for tensor in (*tensors, *self.scratch))


def step(weights: LlamaWeights, cache: Cache, buffers: Buffers, pdl: bool) -> Tensor:
    """Logits [B, V] after the token whose embedding stands in `buffers.x`; see `llama.step`."""
    from fourstage.engines import kernels

    b = buffers
    one = cache.batch == 1
    scale = weights.dim**-0.5

    def product(x: Tensor, gain: Tensor | None, weight: Matrix, bias: Tensor | None, out: Tensor, **how: Any) -> None:
        if gain is not None and not one:
            kernels.norm(x, gain, weights.eps, b.normed, b.alive, pdl=pdl)
            x, gain = b.normed, None
        values, scales = (weight.values, weight.scales) if isinstance(weight, Int8) else (weight, None)
        kernels.matvec(
            x, values, out, b.alive, scales=scales, gain=gain, eps=weights.eps, bias=bias, pdl=pdl, **how
        )  # fmt: skip

    for i, layer in enumerate(weights.layers):
        product(b.x, layer.norm, layer.qkv, layer.qkv_bias, b.qkv)
        kernels.attention(
            b.qkv, cache.keys[i], cache.values[i], cache.cos, cache.sin, cache.length, cache.start, b.alive, b.mixed,
            b.scratch, weights.heads, scale, pdl=pdl,
        )  # fmt: skip
        product(b.mixed, None, layer.o, layer.o_bias, b.x, add=True)
        product(b.x, layer.mlp_norm, layer.gate_up, layer.gate_up_bias, b.inner, gated=True)
        product(b.inner, None, layer.down, layer.down_bias, b.x, add=True)
    product(b.x, weights.norm, weights.head, weights.head_bias, b.logits)
    return b.logits


def advance(
    weights: LlamaWeights, cache: Cache, buffers: Buffers, logits: Tensor, chosen: Tensor | None, bump: bool, pdl: bool
) -> None:
    """The next token into the cache's state, its embedding into `buffers.x`, ends of sequence marked."""
    from fourstage.engines import kernels

    b = buffers
    kernels.advance(
        logits, chosen, weights.embedding, cache.token, b.finished, cache.length, b.x, b.alive, b.ends, b.pad,
        bump=bump, pdl=pdl and chosen is None,
    )  # fmt: skip


def prefill(weights: LlamaWeights, cache: Cache, embeds: Tensor, padded: bool) -> Tensor:
    """`llama.prefill` with norms, rotary, attention and SwiGLU as one kernel each, residuals added by the products."""
    from fourstage.engines import kernels

    batch, rows, hidden = embeds.shape
    x = embeds.to(weights.dtype, copy=True).flatten(0, 1)  # [B * S, hidden], added to in place
    normed = torch.empty_like(x)
    inner = torch.empty(len(x), weights.inner, dtype=x.dtype, device=x.device)
    query = torch.empty(batch, rows, weights.heads, weights.dim, dtype=x.dtype, device=x.device)
    mixed = torch.empty_like(query)
    for i, layer in enumerate(weights.layers):
        kernels.norm(x, layer.norm, weights.eps, normed)
        qkv = F.linear(normed, dense(layer.qkv, x.dtype), layer.qkv_bias)
        keys, values = cache.keys[i], cache.values[i]
        kernels.rotate_and_store(qkv, cache.cos, cache.sin, cache.start, query, keys, values)
        kernels.causal_attention(query, keys, values, cache.start, mixed, padded)
        added(x, mixed.view(batch * rows, -1), layer.o, layer.o_bias)
        kernels.norm(x, layer.mlp_norm, weights.eps, normed)
        kernels.swiglu(F.linear(normed, dense(layer.gate_up, x.dtype), layer.gate_up_bias), inner)
        added(x, inner, layer.down, layer.down_bias)
    cache.length.fill_(rows)
    last = torch.empty(batch, hidden, dtype=x.dtype, device=x.device)
    kernels.norm(x.unflatten(0, (batch, rows))[:, -1], weights.norm, weights.eps, last)
    return F.linear(last, dense(weights.head, x.dtype), weights.head_bias).float()


def added(x: Tensor, y: Tensor, weight: Matrix, bias: Tensor | None) -> None:
    """x += y @ weight.T (+ bias), in the product's own epilogue."""
    x.addmm_(y, dense(weight, x.dtype).t())
    if bias is not None:
        x += bias


def dense(weight: Matrix, dtype: torch.dtype) -> Tensor:
    """The weight in the activations' dtype; int8 is expanded, which costs less than prefill's product with it."""
    return weight.dense(dtype) if isinstance(weight, Int8) else weight
