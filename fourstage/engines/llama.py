"""A LLaMA-family decoder as straight tensor code: its weights, its static cache, prefill and one decode step.

The weights are the loaded model's own. q, k, v (and gate, up) of a layer become row ranges of one tensor, and the
model's parameters become views of it, so that nothing is stored twice. Everything here is plain torch and runs on any
device; `kernels.py` has the same step in Triton. It leaves out sampling, graphs and who calls when: see `graph.py`.

    weights = LlamaWeights.of(model)
    cache = Cache.empty(weights, batch=1, slots=512)
    logits = prefill(weights, cache, embeds)             # [B, V] fp32
    logits = step(weights, cache, token, limit=512)      # [B, V] fp32
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourstage.stages import UserError


@dataclass(frozen=True)
class Int8:
    """A linear layer's weight in 8 bits: values [out, in] times a scale for each row."""

    values: Tensor  # [out, in] int8
    scales: Tensor  # [out] fp32

    @property
    def shape(self) -> torch.Size:
        """[out, in]."""
        return self.values.shape

    @property
    def nbytes(self) -> int:
        """Bytes of values and scales."""
        return self.values.nbytes + self.scales.nbytes

    def dense(self, dtype: torch.dtype) -> Tensor:
        """[out, in] in the activations' dtype."""
        return self.values.to(dtype) * self.scales.to(dtype)[:, None]


Matrix = Tensor | Int8


@dataclass(frozen=True)
class Layer:
    """One decoder layer's tensors; linear weights are [out, in]."""

    norm: Tensor
    qkv: Matrix  # [(H + 2 KV) * D, hidden]
    qkv_bias: Tensor | None
    o: Matrix
    o_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Matrix  # [2 * inner, hidden]: gate's rows, then up's
    gate_up_bias: Tensor | None
    down: Matrix
    down_bias: Tensor | None


@dataclass(frozen=True)
class LlamaWeights:
    """The decoder's tensors and the numbers of its config."""

    layers: tuple[Layer, ...]
    embedding: Tensor  # [V, hidden]
    norm: Tensor
    head: Matrix  # [V, hidden]; the embedding itself where tied
    head_bias: Tensor | None
    inverse_frequencies: Tensor  # [D / 2] fp32
    rotary_scaling: float
    heads: int
    kv_heads: int
    dim: int  # of a head
    eps: float

    @property
    def hidden(self) -> int:
        """The width of the hidden states."""
        return int(self.embedding.shape[1])

    @property
    def inner(self) -> int:
        """The width between the two layers of an MLP."""
        return int(self.layers[0].down.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, and of all that is computed with them."""
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.embedding.device

    @classmethod
    def of(cls, model: Any) -> LlamaWeights:
        """The weights of a LlamaForCausalLM, or of a model with a LlamaModel and an `lm_head`, shared with it.

        Raises UserError for a model that this mathematics does not cover.
        """
        decoder, head = parts(model)
        config = decoder.config
        check(config, decoder, head)
        with torch.inference_mode(False), torch.no_grad():
            layers = tuple(_layer(layer) for layer in decoder.layers)
        rotary = decoder.rotary_emb
        return cls(
            layers=layers,
            embedding=decoder.embed_tokens.weight.detach(),
            norm=decoder.norm.weight.detach(),
            head=matrix(head.weight),
            head_bias=None if head.bias is None else head.bias.detach(),
            inverse_frequencies=rotary.inv_freq.detach().float(),
            rotary_scaling=float(rotary.attention_scaling),
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            dim=decoder.layers[0].self_attn.head_dim,
            eps=float(config.rms_norm_eps),
        )

    def bytes_per_step(self) -> int:
        """Bytes of weights that one decode step reads: all but the embedding, of which it reads a row."""
        tensors = [self.norm, self.head, self.head_bias]
        for layer in self.layers:
            tensors += [layer.norm, layer.qkv, layer.qkv_bias, layer.o, layer.o_bias, layer.mlp_norm]
            tensors += [layer.gate_up, layer.gate_up_bias, layer.down, layer.down_bias]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def cache_bytes_per_slot(self) -> int:
        """Bytes of keys and values of one token of one row, all layers."""
        return int(2 * len(self.layers) * self.kv_heads * self.dim * self.embedding.element_size())


def parts(model: Any) -> tuple[Any, Any]:
    """The LlamaModel and the output layer inside a model that generates. Raises UserError where there are none."""
    inner = getattr(model, "model", None)
    decoder = getattr(inner, "language_model", inner)
    head = getattr(model, "lm_head", None)
    if type(decoder).__name__ != "LlamaModel" or not isinstance(head, nn.Linear):
        raise UserError(
            f"engine=graph runs LLaMA-family models (a LlamaModel with an lm_head); {type(model).__name__} is none: "
            "use engine=eager"
        )
    return decoder, head


def check(config: Any, decoder: Any, head: Any) -> None:
    """Raise UserError for settings of a LLaMA that change its mathematics."""
    rope = getattr(decoder.rotary_emb, "rope_type", "default")
    if rope not in ("default", "linear", "llama3", "yarn"):
        raise UserError(
            f"engine=graph does not run rope_type {rope!r}, whose angles depend on length: use engine=eager"
        )
    if config.hidden_act not in ("silu", "swish"):
        raise UserError(f"engine=graph runs hidden_act silu, found {config.hidden_act!r}: use engine=eager")
    weight = decoder.layers[0].self_attn.q_proj.weight
    kind = type(weight.data).__name__
    if weight.dtype not in (torch.float32, torch.bfloat16, torch.float16) or kind not in ("Tensor", "Int8Tensor"):
        raise UserError(
            f"engine=graph runs fp32, bf16, fp16 and int8 weights, found {weight.dtype} in a {kind}: use engine=eager"
        )
    devices = {str(parameter.device) for parameter in (*decoder.parameters(), head.weight)}
    if len(devices) != 1:
        raise UserError(f"engine=graph runs a model on one device, found {', '.join(sorted(devices))}")


def _layer(layer: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    qkv, qkv_bias = fused(attention.q_proj, attention.k_proj, attention.v_proj)
    gate_up, gate_up_bias = fused(mlp.gate_proj, mlp.up_proj)
    return Layer(
        norm=layer.input_layernorm.weight.detach(),
        qkv=qkv,
        qkv_bias=qkv_bias,
        o=matrix(attention.o_proj.weight),
        o_bias=None if attention.o_proj.bias is None else attention.o_proj.bias.detach(),
        mlp_norm=layer.post_attention_layernorm.weight.detach(),
        gate_up=gate_up,
        gate_up_bias=gate_up_bias,
        down=matrix(mlp.down_proj.weight),
        down_bias=None if mlp.down_proj.bias is None else mlp.down_proj.bias.detach(),
    )


def matrix(weight: Any) -> Matrix:
    """A linear layer's weight as it is computed with, sharing the parameter's memory; torchao's int8 is unpacked."""
    if type(weight.data).__name__ != "Int8Tensor":
        tensor: Tensor = weight.detach()
        return tensor
    if weight.act_quant_kwargs is not None or weight.scale.shape != (weight.shape[0], 1):
        raise UserError(
            "engine=graph runs int8 weights with a scale for each row, found another layout: use engine=eager"
        )
    return Int8(weight.qdata.detach(), weight.scale.detach().flatten())


def linear(x: Tensor, weight: Matrix, bias: Tensor | None) -> Tensor:
    """x @ weight.T (+ bias), as `F.linear` and as torchao's int8 layers compute it."""
    if isinstance(weight, Tensor):
        return F.linear(x, weight, bias)
    y = F.linear(x, weight.values.to(x.dtype)) * weight.scales.to(x.dtype)
    return y if bias is None else y + bias


def fused(*linears: nn.Linear) -> tuple[Matrix, Tensor | None]:
    """One weight [sum of out, in] and bias of several linear layers, whose parameters become views of them.

    Layers that are fused already are left as they are. At most one layer's weights are held twice, for a moment.
    """
    bias = None if linears[0].bias is None else joined([layer.bias for layer in linears])
    weights: list[Any] = [layer.weight for layer in linears]
    if all(isinstance(matrix(weight), Tensor) for weight in weights):
        return joined(weights), bias
    values, scales = joined([weight.qdata for weight in weights]), joined([weight.scale for weight in weights])
    return Int8(values, scales.flatten()), bias


def joined(parameters: list[Tensor]) -> Tensor:
    """The parameters one below the other in one tensor, of which each becomes a view."""
    first = parameters[0]
    rows = sum(parameter.shape[0] for parameter in parameters)
    start, neighbours = first.storage_offset(), True
    for parameter in parameters:
        neighbours &= parameter.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        neighbours &= parameter.is_contiguous() and parameter.storage_offset() == start
        start += parameter.numel()
    if neighbours:
        return first.detach().as_strided((rows, *first.shape[1:]), first.stride(), first.storage_offset())
    whole = torch.cat([parameter.detach() for parameter in parameters])
    start = 0
    for parameter in parameters:
        parameter.data = whole[start : start + parameter.shape[0]]
        start += parameter.shape[0]
    if whole.is_cuda and whole.nbytes > 2**24:
        torch.cuda.empty_cache()  # the freed parts do not fit the next layer's whole: give them back
    return whole


@dataclass
class Cache:
    """Keys, values and the state of each row of a batch; every tensor stays where it is, so a graph may hold it."""

    keys: Tensor  # [layers, B, KV, slots, D]
    values: Tensor
    cos: Tensor  # [slots, D / 2] fp32
    sin: Tensor
    length: Tensor  # [B] int32: slots in use, the same for all rows
    start: Tensor  # [B] int32: slots of left padding
    token: Tensor  # [B] int64: the last token chosen

    @property
    def slots(self) -> int:
        """Tokens of a row for which there is room."""
        return int(self.keys.shape[3])

    @property
    def batch(self) -> int:
        """Rows."""
        return int(self.keys.shape[1])

    @classmethod
    def empty(cls, weights: LlamaWeights, batch: int, slots: int) -> Cache:
        """Zeros for `batch` rows of up to `slots` tokens."""
        device = weights.device
        shape = (len(weights.layers), batch, weights.kv_heads, slots, weights.dim)
        angles = torch.arange(slots, device=device).float()[:, None] * weights.inverse_frequencies
        return cls(
            keys=torch.zeros(shape, dtype=weights.dtype, device=device),
            values=torch.zeros(shape, dtype=weights.dtype, device=device),
            cos=angles.cos() * weights.rotary_scaling,
            sin=angles.sin() * weights.rotary_scaling,
            length=torch.zeros(batch, dtype=torch.int32, device=device),
            start=torch.zeros(batch, dtype=torch.int32, device=device),
            token=torch.zeros(batch, dtype=torch.int64, device=device),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(tensor.nbytes for tensor in vars(self).values())


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last axis, rounded as transformers rounds it."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return gain * wide.to(x.dtype)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [B, heads, S, D] by cos, sin [B, S, D / 2]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def split_heads(qkv: Tensor, weights: LlamaWeights) -> tuple[Tensor, Tensor, Tensor]:
    """[B, S, (H + 2 KV) * D] → q [B, H, S, D], k and v [B, KV, S, D]."""
    heads = qkv.unflatten(-1, (-1, weights.dim)).transpose(1, 2)
    q, k, v = heads.split([weights.heads, weights.kv_heads, weights.kv_heads], dim=1)
    return q, k, v


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """[B, S, H * D] of q [B, H, S, D] over k, v [B, KV, slots, D]."""
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])
    return out.transpose(1, 2).flatten(2)


def gated(layer: Layer, x: Tensor) -> Tensor:
    """The gated MLP (SwiGLU) of a layer: [..., hidden] to [..., hidden]."""
    gate, up = linear(x, layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
    return linear(F.silu(gate) * up, layer.down, layer.down_bias)


def logits_of(weights: LlamaWeights, x: Tensor) -> Tensor:
    """[B, V] fp32 of the last hidden states [B, hidden]."""
    return linear(rms_norm(x, weights.norm, weights.eps), weights.head, weights.head_bias).float()


def prefill(weights: LlamaWeights, cache: Cache, embeds: Tensor, padded: bool) -> Tensor:
    """Logits [B, V] after embeds [B, S, hidden]; keys and values go to slots 0 .. S - 1 of the cache.

    `cache.start` holds each row's left padding; `padded` says on the host whether there is any.
    """
    rows = embeds.shape[1]
    times = torch.arange(rows, device=embeds.device)
    positions = (times - cache.start[:, None]).clamp(min=0)  # [B, S]
    cos, sin = cache.cos[positions], cache.sin[positions]
    mask = prompt_mask(times, cache.start) if padded else None
    x = embeds.to(weights.dtype)
    for i, layer in enumerate(weights.layers):
        normed = rms_norm(x, layer.norm, weights.eps)
        q, k, v = split_heads(linear(normed, layer.qkv, layer.qkv_bias), weights)
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        cache.keys[i, :, :, :rows] = k
        cache.values[i, :, :, :rows] = v
        x = x + linear(attend(q, k, v, mask, causal=mask is None), layer.o, layer.o_bias)
        x = x + gated(layer, rms_norm(x, layer.mlp_norm, weights.eps))
    cache.length.fill_(rows)
    return logits_of(weights, x[:, -1])


def prompt_mask(times: Tensor, start: Tensor) -> Tensor:
    """[B, 1, S, S]: which slots a prompt's rows may see. A row of padding sees itself, so that no softmax is empty."""
    seen = (times[None, :] <= times[:, None]) & (times >= start[:, None])[:, None]  # [B, S, S]
    return (seen | torch.eye(len(times), dtype=torch.bool, device=times.device))[:, None]


def step(weights: LlamaWeights, cache: Cache, limit: int) -> Tensor:
    """Logits [B, V] after `cache.token`, which goes to the next slot of the cache.

    `limit`: how many slots are looked at, at least `length + 1`; the whole cache where a graph is captured.
    """
    slots = torch.arange(limit, device=weights.device)
    mask = (slots >= cache.start[:, None]) & (slots <= cache.length[:, None])  # [B, limit]
    positions = (cache.length - cache.start)[:, None].long()
    cos, sin = cache.cos[positions], cache.sin[positions]
    slot = cache.length[:1].long()
    x = weights.embedding[cache.token][:, None]  # [B, 1, hidden]
    for i, layer in enumerate(weights.layers):
        normed = rms_norm(x, layer.norm, weights.eps)
        q, k, v = split_heads(linear(normed, layer.qkv, layer.qkv_bias), weights)
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        keys, values = cache.keys[i], cache.values[i]
        keys.index_copy_(2, slot, k)
        values.index_copy_(2, slot, v)
        x = x + linear(
            attend(q, keys[:, :, :limit], values[:, :, :limit], mask[:, None, None], causal=False),
            layer.o,
            layer.o_bias,
        )
        x = x + gated(layer, rms_norm(x, layer.mlp_norm, weights.eps))
    cache.length += 1
    return logits_of(weights, x[:, 0])
