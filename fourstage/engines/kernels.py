"""Triton kernels of the decode step and of what surrounds the matrix products in prefill, for bf16 and fp16 weights.

A decode step reads each weight once, so every kernel here is a stream from memory: few large loads in flight, fp32
accumulation, and as little as possible between two kernels. With `pdl` (programmatic dependent launch, Hopper and
newer) a kernel starts while its predecessor ends, loads its first weights, and only then waits for its input.
It leaves out which kernel runs when: see `llama_kernels.py`. Needs triton, so it is imported only where CUDA is.

    matvec(x, weight, out, alive, add=True)   # out += weight @ x
"""

# ruff: noqa: N803  (compile-time constants are written in capitals)
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor
from triton.language.extra.cuda import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
    gdc_launch_dependents,
    gdc_wait,
)


@dataclass(frozen=True)
class Tile:
    """How a matrix-vector kernel divides its work: rows and columns of a tile, warps, tiles in flight."""

    rows: int
    cols: int
    warps: int
    stages: int


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _wide(block, INT8: tl.constexpr):
    # to fp32; int8 by an addition to the mantissa of 1.5 * 2^23, since the conversion has a quarter of the rate
    if INT8:
        return (block.to(tl.int32) + 0x4B400000).to(tl.float32, bitcast=True) - 12582912.0
    else:
        return block.to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _matvec(
    x, gain, weight, scales, bias, out, alive, n, eps,
    K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
    NORM: tl.constexpr, GLU: tl.constexpr, ADD: tl.constexpr, BIAS: tl.constexpr, PDL: tl.constexpr,
    INT8: tl.constexpr,
):  # fmt: skip
    # one row of x; NORM: the norm's factor is one number per row, so it is applied after the product
    if tl.load(alive) == 0:
        return
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    cols = tl.arange(0, BK)
    tile = weight + tl.minimum(rows, n - 1).to(tl.int64)[:, None] * K + cols[None, :]
    above = tile + n.to(tl.int64) * K  # GLU: the rows of `up` follow those of `gate`
    first = tl.load(tile, mask=(cols < K)[None, :], other=0.0, eviction_policy="evict_first")
    if GLU:
        first_up = tl.load(above, mask=(cols < K)[None, :], other=0.0, eviction_policy="evict_first")
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    part = tl.load(x + cols, mask=cols < K, other=0.0).to(tl.float32)
    squares = part * part
    if NORM:
        part *= tl.load(gain + cols, mask=cols < K, other=0.0).to(tl.float32)
    total = _wide(first, INT8) * part[None, :]
    if GLU:
        total_up = _wide(first_up, INT8) * part[None, :]
    for k in tl.range(BK, K, BK, num_stages=STAGES):
        inside = k + cols < K
        if K % BK == 0:
            block = tl.load(tile + k, eviction_policy="evict_first")
            part = tl.load(x + k + cols).to(tl.float32)
        else:
            block = tl.load(tile + k, mask=inside[None, :], other=0.0, eviction_policy="evict_first")
            part = tl.load(x + k + cols, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            squares += part * part
            if K % BK == 0:
                part *= tl.load(gain + k + cols).to(tl.float32)
            else:
                part *= tl.load(gain + k + cols, mask=inside, other=0.0).to(tl.float32)
        total += _wide(block, INT8) * part[None, :]
        if GLU:
            if K % BK == 0:
                block_up = tl.load(above + k, eviction_policy="evict_first")
            else:
                block_up = tl.load(above + k, mask=inside[None, :], other=0.0, eviction_policy="evict_first")
            total_up += _wide(block_up, INT8) * part[None, :]
    y = tl.sum(total, 1)
    factor = 1.0
    if NORM:
        factor = tl.rsqrt(tl.sum(squares, 0) / K + eps)
        y *= factor
    kept = rows < n
    if INT8:
        y *= tl.load(scales + rows, mask=kept, other=0.0).to(tl.float32)
    if BIAS:
        y += tl.load(bias + rows, mask=kept, other=0.0).to(tl.float32)
    if GLU:
        up = tl.sum(total_up, 1) * factor
        if INT8:
            up *= tl.load(scales + n + rows, mask=kept, other=0.0).to(tl.float32)
        if BIAS:
            up += tl.load(bias + n + rows, mask=kept, other=0.0).to(tl.float32)
        y = y * tl.sigmoid(y) * up
    if ADD:
        y += tl.load(out + rows, mask=kept, other=0.0)
    tl.store(out + rows, y.to(out.dtype.element_ty), mask=kept)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _matvecs(
    x, weight, scales, bias, out, alive, n, B,
    K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
    GLU: tl.constexpr, ADD: tl.constexpr, BIAS: tl.constexpr, PDL: tl.constexpr,
    INT8: tl.constexpr,
):  # fmt: skip
    # 2 to 16 rows of x, already normalised: the tensor cores take 16 at the price of one
    if tl.load(alive) == 0:
        return
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    cols = tl.arange(0, BK)
    batch = tl.arange(0, 16)
    tile = weight + tl.minimum(rows, n - 1).to(tl.int64)[:, None] * K + cols[None, :]
    above = tile + n.to(tl.int64) * K
    first = tl.load(tile, mask=(cols < K)[None, :], other=0.0, eviction_policy="evict_first")
    if GLU:
        first_up = tl.load(above, mask=(cols < K)[None, :], other=0.0, eviction_policy="evict_first")
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    part = tl.load(x + batch[:, None] * K + cols[None, :], mask=(batch < B)[:, None] & (cols < K)[None, :], other=0.0)
    total = tl.dot(part, tl.trans(first.to(x.dtype.element_ty)))
    if GLU:
        total_up = tl.dot(part, tl.trans(first_up.to(x.dtype.element_ty)))
    for k in tl.range(BK, K, BK, num_stages=STAGES):
        inside = k + cols < K
        part = tl.load(
            x + batch[:, None] * K + k + cols[None, :], mask=(batch < B)[:, None] & inside[None, :], other=0.0
        )
        if K % BK == 0:
            block = tl.load(tile + k, eviction_policy="evict_first")
        else:
            block = tl.load(tile + k, mask=inside[None, :], other=0.0, eviction_policy="evict_first")
        total = tl.dot(part, tl.trans(block.to(x.dtype.element_ty)), total)
        if GLU:
            if K % BK == 0:
                block_up = tl.load(above + k, eviction_policy="evict_first")
            else:
                block_up = tl.load(above + k, mask=inside[None, :], other=0.0, eviction_policy="evict_first")
            total_up = tl.dot(part, tl.trans(block_up.to(x.dtype.element_ty)), total_up)
    kept = rows < n
    y = total
    if INT8:
        y *= tl.load(scales + rows, mask=kept, other=0.0).to(tl.float32)[None, :]
    if BIAS:
        y += tl.load(bias + rows, mask=kept, other=0.0).to(tl.float32)[None, :]
    if GLU:
        if INT8:
            total_up *= tl.load(scales + n + rows, mask=kept, other=0.0).to(tl.float32)[None, :]
        if BIAS:
            total_up += tl.load(bias + n + rows, mask=kept, other=0.0).to(tl.float32)[None, :]
        y = y * tl.sigmoid(y) * total_up
    at = out + batch[:, None] * n + rows[None, :]
    stored = (batch < B)[:, None] & kept[None, :]
    if ADD:
        y += tl.load(at, mask=stored, other=0.0)
    tl.store(at, y.to(out.dtype.element_ty), mask=stored)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _folded(b1, b2, bv, inside, r1, r2, top, mass, acc, GROUP: tl.constexpr):
    # one more tile of keys and values into the running softmax (in powers of 2)
    if GROUP > 1:
        score = tl.dot(r1.to(b1.dtype), tl.trans(b1))
        score = tl.dot(r2.to(b2.dtype), tl.trans(b2), score)
    else:
        score = tl.sum(b1.to(tl.float32) * r1 + b2.to(tl.float32) * r2, 1)[None, :]
    score = tl.where(inside[None, :], score, -1e30)
    higher = tl.maximum(top, tl.max(score, 1))
    p = tl.where(inside[None, :], tl.exp2(score - higher[:, None]), 0.0)
    fade = tl.exp2(top - higher)
    mass = mass * fade + tl.sum(p, 1)
    if GROUP > 1:
        acc = tl.dot(p.to(bv.dtype), bv, acc * fade[:, None])
    else:
        acc = acc * fade[:, None] + tl.sum(tl.trans(p) * bv.to(tl.float32), 0)[None, :]
    return higher, mass, acc


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _attention(
    qkv, keys, values, cos, sin, length, start, alive, out, best, total, mixed, tickets, scale,
    T, HEADS: tl.constexpr, GROUP: tl.constexpr, KV: tl.constexpr, HALF: tl.constexpr,
    GP: tl.constexpr, SPLITS: tl.constexpr, SP: tl.constexpr, BT: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    # one row, one head of the cache, one split of its slots; the split that ends last combines all
    if tl.load(alive) == 0:
        return
    b = tl.program_id(0) // KV
    head = tl.program_id(0) % KV
    split = tl.program_id(1)
    used = tl.load(length + b)  # slots before this token
    begin = tl.load(start + b)
    half = tl.arange(0, HALF)
    full = tl.arange(0, 2 * HALF)
    group = tl.arange(0, GP)
    times = tl.arange(0, BT)
    in_group = group < GROUP
    chunk = tl.cdiv(tl.cdiv(used - begin, SPLITS), 16) * 16
    low = begin + split * chunk
    high = tl.minimum(low + chunk, used)
    cache = (b * KV + head).to(tl.int64) * T * 2 * HALF
    keys_here = keys + cache + times[:, None] * 2 * HALF + half[None, :]
    values_here = values + cache + times[:, None] * 2 * HALF + full[None, :]
    # earlier tokens' keys and values do not depend on the kernel before: the first tile is fetched meanwhile
    inside = low + times < high
    b1 = tl.load(keys_here + low * 2 * HALF, mask=inside[:, None], other=0.0)
    b2 = tl.load(keys_here + low * 2 * HALF + HALF, mask=inside[:, None], other=0.0)
    bv = tl.load(values_here + low * 2 * HALF, mask=inside[:, None], other=0.0)
    c = tl.load(cos + (used - begin) * HALF + half)
    s = tl.load(sin + (used - begin) * HALF + half)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = qkv + b * (HEADS + 2 * KV) * 2 * HALF
    q = row + (head * GROUP + group)[:, None] * 2 * HALF + half[None, :]
    q1 = tl.load(q, mask=in_group[:, None], other=0.0)
    q2 = tl.load(q + HALF, mask=in_group[:, None], other=0.0)
    r1 = (q1 * c[None, :] - q2 * s[None, :]) * (scale * 1.4426950408889634)  # powers of 2 below
    r2 = (q2 * c[None, :] + q1 * s[None, :]) * (scale * 1.4426950408889634)
    top = tl.full([GP], -1e30, tl.float32)
    mass = tl.zeros([GP], tl.float32)
    acc = tl.zeros([GP, 2 * HALF], tl.float32)
    if split == 0:  # this token's key and value: into the cache, and into the sum from here
        k = row + (HEADS + head) * 2 * HALF + half
        k1 = tl.load(k)
        k2 = tl.load(k + HALF)
        new1 = (k1 * c - k2 * s).to(keys.dtype.element_ty)
        new2 = (k2 * c + k1 * s).to(keys.dtype.element_ty)
        v = tl.load(row + (HEADS + KV + head) * 2 * HALF + full).to(values.dtype.element_ty)
        slot = cache + used.to(tl.int64) * 2 * HALF
        tl.store(keys + slot + half, new1)
        tl.store(keys + slot + HALF + half, new2)
        tl.store(values + slot + full, v)
        top = tl.sum(r1 * new1.to(tl.float32)[None, :] + r2 * new2.to(tl.float32)[None, :], 1)
        mass = tl.full([GP], 1.0, tl.float32)
        acc += v.to(tl.float32)[None, :]
    for t in tl.range(low + BT, high, BT, num_stages=1):  # the next tile is on its way while this one is folded
        after = t + times < high
        a1 = tl.load(keys_here + t * 2 * HALF, mask=after[:, None], other=0.0)
        a2 = tl.load(keys_here + t * 2 * HALF + HALF, mask=after[:, None], other=0.0)
        av = tl.load(values_here + t * 2 * HALF, mask=after[:, None], other=0.0)
        top, mass, acc = _folded(b1, b2, bv, inside, r1, r2, top, mass, acc, GROUP)
        b1 = a1
        b2 = a2
        bv = av
        inside = after
    top, mass, acc = _folded(b1, b2, bv, inside, r1, r2, top, mass, acc, GROUP)
    heads = b * HEADS + head * GROUP + group
    place = heads * SPLITS + split
    tl.store(best + place, top, mask=in_group)
    tl.store(total + place, mass, mask=in_group)
    tl.store(mixed + place[:, None] * 2 * HALF + full[None, :], acc, mask=in_group[:, None])
    tl.debug_barrier()  # every thread's part is stored before the ticket says so
    if tl.atomic_add(tickets + tl.program_id(0), 1, sem="acq_rel") == SPLITS - 1:
        parts = tl.arange(0, SP)
        for g in range(GROUP):
            base = (b * HEADS + head * GROUP + g) * SPLITS + parts
            m = tl.load(best + base, mask=parts < SPLITS, other=-1e30, cache_modifier=".cg")
            weight = tl.exp2(m - tl.max(m, 0))
            weight = tl.where(parts < SPLITS, weight, 0.0)
            n = tl.load(total + base, mask=parts < SPLITS, other=0.0, cache_modifier=".cg")
            y = tl.load(
                mixed + base[:, None] * 2 * HALF + full[None, :],
                mask=(parts < SPLITS)[:, None],
                other=0.0,
                cache_modifier=".cg",
            )
            y = tl.sum(y * weight[:, None], 0) / tl.sum(n * weight, 0)
            tl.store(out + (b * HEADS + head * GROUP + g) * 2 * HALF + full, y.to(out.dtype.element_ty))
        tl.store(tickets + tl.program_id(0), 0)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _norm(x, gain, out, alive, eps, stride, K: tl.constexpr, P: tl.constexpr, PDL: tl.constexpr, ALIVE: tl.constexpr):
    if ALIVE:  # noqa: SIM102 (compile time, then run time)
        if tl.load(alive) == 0:
            return
    cols = tl.arange(0, P)
    g = tl.load(gain + cols, mask=cols < K, other=0.0).to(tl.float32)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    v = tl.load(x + row * stride + cols, mask=cols < K, other=0.0).to(tl.float32)
    v = v * tl.rsqrt(tl.sum(v * v, 0) / K + eps)
    v = v.to(out.dtype.element_ty).to(tl.float32)  # rounded here as transformers does
    tl.store(out + row * K + cols, (v * g).to(out.dtype.element_ty), mask=cols < K)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _advance(
    logits, chosen, embedding, token, finished, length, hidden, alive, ends, pad,
    V, HIDDEN, BLOCK: tl.constexpr, ENDS: tl.constexpr, GREEDY: tl.constexpr, BUMP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    # the next token of a row: the largest logit (the lowest id of equals) or `chosen`; end of sequence; its embedding
    if tl.load(alive) == 0:
        return
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    b = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    if GREEDY:
        top = tl.full([BLOCK], float("-inf"), tl.float32)
        where = tl.zeros([BLOCK], tl.int32)
        for v in range(0, V, BLOCK):
            one = tl.load(logits + b.to(tl.int64) * V + v + cols, mask=v + cols < V, other=float("-inf"))
            where = tl.where(one > top, v + cols, where)
            top = tl.maximum(top, one)
        largest = tl.max(top, 0)
        new = tl.min(tl.where(top == largest, where, 2147483647), 0).to(tl.int64)
        new = tl.minimum(new, V - 1)  # all NaN: an id that exists, and the logits show why
    else:
        new = tl.load(chosen + b)
    ended = tl.load(finished + b)
    new = tl.where(ended != 0, tl.load(pad), new)
    ending = tl.max((tl.load(ends + tl.arange(0, ENDS)) == new).to(tl.int32), 0)
    tl.store(token + b, new)
    if (ended == 0) & (ending != 0):
        tl.store(finished + b, 1)
        tl.atomic_add(alive, -1)
    if BUMP:
        tl.store(length + b, tl.load(length + b) + 1)
    for k in range(0, HIDDEN, BLOCK):
        e = tl.load(embedding + new * HIDDEN + k + cols, mask=k + cols < HIDDEN, other=0.0)
        tl.store(hidden + b * HIDDEN + k + cols, e.to(tl.float32), mask=k + cols < HIDDEN)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _rotate_and_store(
    qkv, cos, sin, start, query, keys, values, S, T,
    HEADS: tl.constexpr, KV: tl.constexpr, HALF: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    # prefill: some tokens' q, k or v of one head → rotated query [B, S, H, D], or key and value in the cache
    h = tl.program_id(1)
    b = tl.program_id(2)
    times = tl.program_id(0) * BT + tl.arange(0, BT)
    kept = (times < S)[:, None]
    half = tl.arange(0, HALF)[None, :]
    position = tl.maximum(times - tl.load(start + b), 0)[:, None]
    c = tl.load(cos + position * HALF + half, mask=kept, other=0.0)
    s = tl.load(sin + position * HALF + half, mask=kept, other=0.0)
    row = qkv + (b * S + times).to(tl.int64)[:, None] * (HEADS + 2 * KV) * 2 * HALF + h * 2 * HALF + half
    x1 = tl.load(row, mask=kept, other=0.0).to(tl.float32)
    x2 = tl.load(row + HALF, mask=kept, other=0.0).to(tl.float32)
    if h < HEADS:
        at = query + ((b * S + times).to(tl.int64) * HEADS + h)[:, None] * 2 * HALF + half
        tl.store(at, (x1 * c - x2 * s).to(query.dtype.element_ty), mask=kept)
        tl.store(at + HALF, (x2 * c + x1 * s).to(query.dtype.element_ty), mask=kept)
    elif h < HEADS + KV:
        at = keys + ((b * KV + h - HEADS).to(tl.int64) * T + times)[:, None] * 2 * HALF + half
        tl.store(at, (x1 * c - x2 * s).to(keys.dtype.element_ty), mask=kept)
        tl.store(at + HALF, (x2 * c + x1 * s).to(keys.dtype.element_ty), mask=kept)
    else:
        at = values + ((b * KV + h - HEADS - KV).to(tl.int64) * T + times)[:, None] * 2 * HALF + half
        tl.store(at, x1.to(values.dtype.element_ty), mask=kept)
        tl.store(at + HALF, x2.to(values.dtype.element_ty), mask=kept)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _causal(
    query, keys, values, start, out, scale, S, T,
    HEADS: tl.constexpr, KV: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    # prefill's attention (FlashAttention 2's order of work), the longest rows of blocks first
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    b = tl.program_id(1) // HEADS
    h = tl.program_id(1) % HEADS
    rows = block * BM + tl.arange(0, BM)
    cols = tl.arange(0, BN)
    dims = tl.arange(0, D)
    at = ((b * S + rows).to(tl.int64) * HEADS + h)[:, None] * D + dims[None, :]
    q = tl.load(query + at, mask=(rows < S)[:, None], other=0.0)
    cache = (b * KV + h // (HEADS // KV)).to(tl.int64) * T * D
    k_here = keys + cache + cols[None, :] * D + dims[:, None]  # transposed
    v_here = values + cache + cols[:, None] * D + dims[None, :]
    begin = 0
    if PADDED:
        begin = tl.load(start + b)
    factor = scale * 1.4426950408889634
    top = tl.full([BM], -1e30, tl.float32)
    mass = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    low = begin // BN * BN
    diagonal = tl.maximum(block * BM, low)
    if not PADDED:  # blocks below the diagonal need no mask
        for n in tl.range(low, diagonal, BN):
            k = tl.load(k_here + n * D)
            score = tl.dot(q, k) * factor
            higher = tl.maximum(top, tl.max(score, 1))
            p = tl.exp2(score - higher[:, None])
            fade = tl.exp2(top - higher)
            mass = mass * fade + tl.sum(p, 1)
            acc = acc * fade[:, None]
            v = tl.load(v_here + n * D)
            acc = tl.dot(p.to(v.dtype), v, acc)
            top = higher
        low = diagonal
    for n in tl.range(low, tl.minimum((block + 1) * BM, S), BN):
        inside = n + cols < S
        k = tl.load(k_here + n * D, mask=inside[None, :], other=0.0)
        score = tl.dot(q, k) * factor
        seen = (n + cols)[None, :] <= rows[:, None]
        if PADDED:
            seen = seen & (n + cols >= begin)[None, :]
        score = tl.where(seen, score, -1e30)
        higher = tl.maximum(top, tl.max(score, 1))
        p = tl.where(seen, tl.exp2(score - higher[:, None]), 0.0)
        fade = tl.exp2(top - higher)
        mass = mass * fade + tl.sum(p, 1)
        acc = acc * fade[:, None]
        v = tl.load(v_here + n * D, mask=inside[:, None], other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc)
        top = higher
    acc = acc / tl.where(mass == 0.0, 1.0, mass)[:, None]  # a row of padding sees nothing
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=(rows < S)[:, None])


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _swiglu(gate_up, out, I, BLOCK: tl.constexpr):  # noqa: E741
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(gate_up + row * 2 * I + cols, mask=cols < I, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * I + I + cols, mask=cols < I, other=0.0).to(tl.float32)
    tl.store(out + row * I + cols, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=cols < I)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _layer_norm(
    x, y, gain, shift, bias, base, out, eps, K: tl.constexpr, P: tl.constexpr, ADD: tl.constexpr
):  # fmt: skip
    # out = LayerNorm(x (+ y)); ADD: base = x + y + bias, to which the next product is added
    cols = tl.arange(0, P)
    kept = cols < K
    at = tl.program_id(0).to(tl.int64) * K + cols
    v = tl.load(x + at, mask=kept, other=0.0).to(tl.float32)
    if ADD:
        v += tl.load(y + at, mask=kept, other=0.0).to(tl.float32)
        more = tl.load(bias + cols, mask=kept, other=0.0).to(tl.float32)
        tl.store(base + at, (v + more).to(base.dtype.element_ty), mask=kept)
    mean = tl.sum(v, 0) / K
    v = tl.where(kept, v - mean, 0.0)
    v *= tl.rsqrt(tl.sum(v * v, 0) / K + eps)
    g = tl.load(gain + cols, mask=kept, other=0.0).to(tl.float32)
    s = tl.load(shift + cols, mask=kept, other=0.0).to(tl.float32)
    tl.store(out + at, (v * g + s).to(out.dtype.element_ty), mask=kept)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _quick_gelu(x, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(x + at, (v * tl.sigmoid(1.702 * v)).to(x.dtype.element_ty), mask=at < n)


def tile_for(rows: int, cols: int, batch: int, gated: bool) -> Tile:
    """The tile that was fastest on Hopper at 7B (docs/engines.md).

    A choice by shape alone, so that every process runs the same kernels.
    """
    if batch > 1:
        return Tile(16, 256, 1, 3 if gated else 4)
    if gated:
        return Tile(4, 1024, 4, 3)
    return Tile(8, 1024, 4, 1) if rows > 8192 else Tile(4, 2048, 8, 1)


def tile_of_int8(rows: int, cols: int, batch: int, gated: bool) -> Tile:
    """The same for int8 weights, measured on an H200 with one row (docs/engines.md)."""
    if batch > 1:
        return Tile(16, 512, 1, 3 if gated else 4)
    if gated:
        return Tile(2, 2048, 4, 1)
    return Tile(8, 1024, 4, 1) if rows > 8192 else Tile(4, 2048, 4, 1)


def matvec(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    alive: Tensor,
    *,
    scales: Tensor | None = None,
    gain: Tensor | None = None,
    eps: float = 0.0,
    bias: Tensor | None = None,
    gated: bool = False,
    add: bool = False,
    pdl: bool = False,
    tile: Tile | None = None,
) -> None:
    """out [B, N] = weight [N, K] @ x [B, K] (+ bias) (+ out where `add`); B of 1 to 16, fp32 accumulation.

    `scales` [N] (of `gated` [2 N]): weight is int8, each row times its scale. `gain`: x is normalised first
    (RMSNorm, one row only). `gated`: weight is [2 N, K] and out = silu(first) * second.
    Nothing runs where `alive` is 0.
    """
    batch, k = x.shape
    n = out.shape[1]
    tile = tile or (tile_for(n, k, batch, gated) if scales is None else tile_of_int8(n, k, batch, gated))
    nothing = weight  # a pointer that the kernel does not follow
    grid = (triton.cdiv(n, tile.rows),)
    flags: dict[str, Any] = {
        "K": k, "BN": tile.rows, "BK": tile.cols, "STAGES": tile.stages, "GLU": gated, "ADD": add,
        "BIAS": bias is not None, "PDL": pdl, "INT8": scales is not None, "num_warps": tile.warps,
    } | launch(pdl)  # fmt: skip
    bias = nothing if bias is None else bias
    scales = nothing if scales is None else scales
    if batch == 1:
        norm = gain is not None
        _matvec[grid](x, gain if norm else nothing, weight, scales, bias, out, alive, n, eps, NORM=norm, **flags)
    else:
        _matvecs[grid](x, weight, scales, bias, out, alive, n, batch, **flags)


def attention(
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    cos: Tensor,
    sin: Tensor,
    length: Tensor,
    start: Tensor,
    alive: Tensor,
    out: Tensor,
    scratch: tuple[Tensor, Tensor, Tensor, Tensor],
    heads: int,
    scale: float,
    *,
    pdl: bool = False,
    block: int = 16,
    warps: int | None = None,
) -> None:
    """One token of attention [B, H * D]: rotary on qkv [B, (H + 2 KV) * D] fp32, new key and value into the cache.

    keys and values [B, KV, T, D]; slots start[b] .. length[b] - 1 are valid, the new one becomes length[b].
    scratch: best and total [B, H, splits], mixed [B, H, splits, D], all fp32, and tickets [B * KV], int32 zeros.
    """
    batch, kv, slots, dim = keys.shape
    splits = scratch[0].shape[2]
    group = heads // kv
    if warps is None:
        warps = 1 if group == 1 else 2  # a group's query heads in one warp would spill
    _attention[(batch * kv, splits)](
        qkv, keys, values, cos, sin, length, start, alive, out, *scratch, scale, slots,
        HEADS=heads, GROUP=group, KV=kv, HALF=dim // 2, GP=1 if group == 1 else max(16, triton.next_power_of_2(group)),
        SPLITS=splits, SP=triton.next_power_of_2(splits), BT=block, PDL=pdl, num_warps=warps,
        **launch(pdl),
    )  # fmt: skip


def norm(x: Tensor, gain: Tensor, eps: float, out: Tensor, alive: Tensor | None = None, *, pdl: bool = False) -> None:
    """out [M, K] = RMSNorm of x [M, K], rounded as transformers rounds it."""
    m, k = x.shape
    wide = triton.next_power_of_2(k)
    _norm[(m,)](
        x, gain, out, gain if alive is None else alive, eps, x.stride(0), K=k, P=wide, PDL=pdl,
        ALIVE=alive is not None, num_warps=8 if wide >= 2048 else 4, **launch(pdl),
    )  # fmt: skip


def advance(
    logits: Tensor,
    chosen: Tensor | None,
    embedding: Tensor,
    token: Tensor,
    finished: Tensor,
    length: Tensor,
    hidden: Tensor,
    alive: Tensor,
    ends: Tensor,
    pad: Tensor,
    *,
    bump: bool,
    pdl: bool = False,
) -> None:
    """Each row's next token [B]: `chosen`, else the largest of logits [B, V]; `pad` where the row had ended.

    Marks rows that end (one of `ends`), counts them off `alive`, writes the token's embedding to hidden [B, H] fp32;
    `bump`: one more slot of the cache is used.
    """
    _advance[(token.shape[0],)](
        logits, token if chosen is None else chosen, embedding, token, finished, length, hidden, alive, ends, pad,
        logits.shape[1], hidden.shape[1], BLOCK=4096, ENDS=ends.shape[0], GREEDY=chosen is None, BUMP=bump, PDL=pdl,
        num_warps=16, **launch(pdl),
    )  # fmt: skip


def rotate_and_store(
    qkv: Tensor, cos: Tensor, sin: Tensor, start: Tensor, query: Tensor, keys: Tensor, values: Tensor
) -> None:
    """Prefill's qkv [B * S, (H + 2 KV) * D] → rotated query [B, S, H, D], key and value in slots 0 .. S - 1."""
    batch, rows, heads, dim = query.shape
    _, kv, slots, _ = keys.shape
    _rotate_and_store[(triton.cdiv(rows, 32), heads + 2 * kv, batch)](
        qkv, cos, sin, start, query, keys, values, rows, slots, HEADS=heads, KV=kv, HALF=dim // 2, BT=32, num_warps=4
    )


def causal_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    start: Tensor,
    out: Tensor,
    padded: bool,
    block: tuple[int, int, int, int] = (64, 64, 4, 3),
) -> None:
    """Prefill's attention: out, query [B, S, H, D] over slots start[b] .. S - 1 of keys, values [B, KV, T, D].

    `padded`: whether any start is not 0. `block`: rows and columns of a tile, warps, tiles in flight.
    """
    batch, rows, heads, dim = query.shape
    _, kv, slots, _ = keys.shape
    _causal[(triton.cdiv(rows, block[0]), batch * heads)](
        query, keys, values, start, out, dim**-0.5, rows, slots, HEADS=heads, KV=kv, D=dim, BM=block[0], BN=block[1],
        PADDED=padded, num_warps=block[2], num_stages=block[3],
    )  # fmt: skip


def swiglu(gate_up: Tensor, out: Tensor) -> None:
    """out [M, I] = silu(gate) * up of gate_up [M, 2 I]."""
    m, inner = out.shape
    _swiglu[(m, triton.cdiv(inner, 2048))](gate_up, out, inner, BLOCK=2048, num_warps=8)


def layer_norm(x: Tensor, gain: Tensor, shift: Tensor, eps: float, out: Tensor) -> None:
    """out [M, K] = LayerNorm of x [M, K]."""
    m, k = x.shape
    wide = triton.next_power_of_2(k)
    _layer_norm[(m,)](x, x, gain, shift, gain, out, out, eps, K=k, P=wide, ADD=False, num_warps=4)


def add_layer_norm(
    x: Tensor, y: Tensor, gain: Tensor, shift: Tensor, bias: Tensor, eps: float, base: Tensor, out: Tensor
) -> None:
    """out [M, K] = LayerNorm of x + y, and base = x + y + bias: the residual of the product that follows."""
    m, k = x.shape
    _layer_norm[(m,)](x, y, gain, shift, bias, base, out, eps, K=k, P=triton.next_power_of_2(k), ADD=True, num_warps=4)


def quick_gelu(x: Tensor) -> None:
    """x = x * sigmoid(1.702 x), in place."""
    _quick_gelu[(triton.cdiv(x.numel(), 4096),)](x, x.numel(), BLOCK=4096, num_warps=8)


def launch(pdl: bool) -> dict[str, Any]:
    """The launch option of a kernel that may start before its predecessor has ended."""
    return {"launch_pdl": True} if pdl else {}
