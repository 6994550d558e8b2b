"""The language models and vision towers of the benchmark at their published sizes, with random weights on the GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding


def llama_7b(vocabulary: int, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> LlamaForCausalLM:
    """LLaMA-2 7B's shape, normal weights of 0.02, on the GPU without a copy on the host."""
    settings: dict[str, Any] = {
        "vocab_size": vocabulary, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    } | changes  # fmt: skip
    config = LlamaConfig(**settings)
    config._attn_implementation = "sdpa"
    model = on_gpu(lambda: LlamaForCausalLM(config), dtype)
    model.model.rotary_emb = LlamaRotaryEmbedding(config).to("cuda")  # its buffer is computed, not stored
    model.generation_config = GenerationConfig()
    return model


def on_gpu(build: Any, dtype: torch.dtype) -> Any:
    with torch.device("meta"):
        model = build().eval()
    model = model.to(dtype).to_empty(device="cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.fill_(1)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.normal_(0, 0.02, generator=generator)
    return model


class Tower(nn.Module):
    """CLIP ViT-L/14 and a two-layer projector; `layer` is the hidden state that is projected."""

    def __init__(self, size: int, layer: int):
        super().__init__()
        config = CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=size,
            patch_size=14,
        )  # fmt: skip
        config._attn_implementation = "sdpa"
        self.tower = CLIPVisionModel(config)
        self.projector = nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 4096))
        self.layer = layer

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.layer == -1:
            return self.projector(self.tower(pixels).last_hidden_state)
        return self.projector(self.tower(pixels, output_hidden_states=True).hidden_states[self.layer])


def tower(size: int, layer: int, dtype: torch.dtype = torch.bfloat16) -> Tower:
    """The tower with its projector on the GPU."""
    found = on_gpu(lambda: Tower(size, layer), dtype)
    for module in found.modules():  # a buffer that is computed, not stored
        if hasattr(module, "position_ids"):
            module.position_ids = torch.arange(module.num_positions, device="cuda")[None]
    return found
