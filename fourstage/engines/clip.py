"""CLIP's transformer layers as eight kernels each, for the time of a capture.

    norm │ q, k, v │ attention │ output │ residual + norm │ up │ quick GELU │ down + residual

transformers' own layer takes twenty. The tower around the layers, what it returns and its hooks stay as they are.
It covers bf16 and fp16 layers on CUDA with quick GELU; others run as they are.

    with fused_layers(tower) as layers:  # how many
        ...  # capture
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourstage.engines.llama import fused


@contextmanager
def fused_layers(tower: nn.Module) -> Iterator[int]:
    """Within it, the CLIP layers inside `tower` run as fused kernels; gives their number.

    Queries, keys and values become one product whose weight and bias the layer's own parameters are views of.
    """
    layers = [module for module in tower.modules() if covers(module)]
    for layer in layers:
        attention: Any = layer.self_attn
        with torch.inference_mode(False), torch.no_grad():
            weight, bias = fused(attention.q_proj, attention.k_proj, attention.v_proj)
        assert isinstance(weight, Tensor), "vision towers are not quantised"
        layer.forward = partial(forward, layer, weight, bias)
    try:
        yield len(layers)
    finally:
        for layer in layers:
            del layer.forward  # the class's own again


def covers(module: Any) -> bool:
    """Whether `forward` below computes what this module does."""
    if type(module).__name__ != "CLIPEncoderLayer" or "forward" in vars(module):
        return False
    weight = module.mlp.fc1.weight
    return (
        weight.is_cuda
        and weight.dtype in (torch.bfloat16, torch.float16)
        and module.self_attn.config.hidden_act == "quick_gelu"
        and not module.training
    )


def forward(
    layer: Any, weight: Tensor, bias: Tensor | None, hidden_states: Tensor, attention_mask: None = None, **_: Any
) -> Tensor:
    """One CLIP layer on [images, tokens, width], as CLIPEncoderLayer.forward."""
    from fourstage.engines import kernels

    assert attention_mask is None, "a vision tower has no attention mask"
    images, tokens, width = hidden_states.shape
    x = hidden_states.contiguous().flatten(0, 1)
    first, second, attention, mlp = layer.layer_norm1, layer.layer_norm2, layer.self_attn, layer.mlp
    normed, base = torch.empty_like(x), torch.empty_like(x)
    kernels.layer_norm(x, first.weight, first.bias, first.eps, normed)
    heads = F.linear(normed, weight, bias).view(images, tokens, 3, attention.num_heads, attention.head_dim)
    q, k, v = heads.transpose(1, 3).unbind(2)  # [images, heads, tokens, D]
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(images * tokens, width)
    y = F.linear(mixed, attention.out_proj.weight, attention.out_proj.bias)
    kernels.add_layer_norm(x, y, second.weight, second.bias, mlp.fc2.bias, second.eps, base, normed)
    inner = F.linear(normed, mlp.fc1.weight, mlp.fc1.bias)
    kernels.quick_gelu(inner)
    return base.addmm_(inner, mlp.fc2.weight.t()).view(images, tokens, width)
