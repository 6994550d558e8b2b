"""A loaded model's sizes, read off its parameters: what `roofline.py` counts bytes and operations from.

    shapes = model_shapes(pipeline)
    shapes.kv_bytes_per_token                      # 524,288 for a LLaMA 7B in 16 bits

Left out: Video-LLaVA's image tower, which no stage runs, and the table of embeddings, of which a token reads a row.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fourstage.models.base import StagedPipeline
from fourstage.models.eventgpt import EventGPTPipeline
from fourstage.models.videollava import VideoLlavaPipeline
from fourstage.trust.roofline import LanguageModel, Linear, Shapes, VisionTower


def model_shapes(pipeline: StagedPipeline) -> Shapes:
    """The sizes of a pipeline's model. Raises TypeError for a pipeline whose parts are not known here."""
    model: Any = pipeline.model
    adaptor: Linear | None = None
    if isinstance(pipeline, EventGPTPipeline):
        tower, projector, language = model.visual_tower, model.visual_projector, model.language_model.model
        adaptor = _linear(model.feature_adaptor)
    elif isinstance(pipeline, VideoLlavaPipeline):
        inner = model.model
        tower, projector, language = inner.video_tower, inner.multi_modal_projector, inner.language_model
    else:
        raise TypeError(f"{type(pipeline).__name__} has no shapes here; say in models/shapes.py where its parts are")
    head = pipeline.generator.get_output_embeddings()
    return Shapes(
        vision=_vision(tower),
        projector=tuple(_linear(module) for module in projector.modules() if isinstance(module, nn.Linear)),
        adaptor=adaptor,
        language=_language(language, head),
        bytes_per_value=head.weight.element_size(),
    )


def _vision(tower: Any) -> VisionTower:
    """transformers' CLIPVisionModel. Its patch embedding is [hidden, channels, patch, patch]."""
    layer = tower.encoder.layers[0]
    patch = tower.embeddings.patch_embedding.weight
    return VisionTower(
        layers=len(tower.encoder.layers),
        hidden=len(patch),
        intermediate=layer.mlp.fc1.out_features,
        tokens=len(tower.embeddings.position_embedding.weight),
        patch_inputs=patch[0].numel(),
        layer_vectors=_vectors(layer),
    )


def _language(model: Any, head: Any) -> LanguageModel:
    """transformers' LlamaModel and the head onto the vocabulary."""
    layer = model.layers[0]
    attention, mlp = layer.self_attn, layer.mlp
    return LanguageModel(
        layers=len(model.layers),
        hidden=attention.q_proj.in_features,
        intermediate=mlp.gate_proj.out_features,
        heads=attention.q_proj.out_features // attention.head_dim,
        kv_heads=attention.k_proj.out_features // attention.head_dim,
        head_dim=attention.head_dim,
        vocab=head.out_features,
        layer_vectors=_vectors(layer),
    )


def _linear(module: Any) -> Linear:
    return Linear(module.in_features, module.out_features, module.bias is not None)


def _vectors(layer: Any) -> int:
    """Values of a layer's norms and biases."""
    return sum(parameter.numel() for parameter in layer.parameters() if parameter.ndim == 1)
