"""Small LLaMAs with random weights, for the tests of engines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

VOCABULARY = 320

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"num_key_value_heads": 2},
    "one key head": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "bias": {"attention_bias": True, "mlp_bias": True},
    "wide heads": {"head_dim": 32},
    "scaled rotary": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
    "llama 3 rotary": {
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        }
    },
}  # fmt: skip


def llama(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> LlamaForCausalLM:
    """Three layers of random weights, wide enough apart that greedy choices are no near-ties."""
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 256, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2,
    } | changes  # fmt: skip
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**settings)).eval()
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if name.endswith("bias"):
                parameter.normal_(0, 0.2)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0, 0.15)
    model.generation_config = GenerationConfig()
    return model.to(dtype)


def prompt(
    batch: int, rows: int, hidden: int = 64, seed: int = 1, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Embeddings [batch, rows, hidden] and a mask with 0, 1, 2 … rows of left padding."""
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(batch, rows, hidden, generator=generator)
    mask = (torch.arange(rows) >= torch.arange(batch)[:, None]).long()
    return (embeds * mask[..., None]).to(dtype), mask


def silent(at: float | None = None) -> None:
    """An `on_token` that notes nothing."""
