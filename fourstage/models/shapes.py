"""A loaded model's sizes, read off its parameters: what `trust/roofline.py` counts bytes and operations from.

    shapes = pipeline.shapes()
    shapes.kv_bytes_per_token                      # 524,288 for a LLaMA 7B in 16 bits

Left out: towers that no stage runs, and the table of embeddings, of which a token reads a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fourstage.models.quantised import is_quantised, stored_bytes


@dataclass(frozen=True)
class Linear:
    """One linear layer."""

    inputs: int
    outputs: int
    bias: bool = True

    @property
    def parameters(self) -> int:
        """How many parameters the layer has."""
        return self.outputs * (self.inputs + self.bias)


@dataclass(frozen=True)
class VisionTower:
    """A CLIP vision tower: patches, a class token, layers of full attention and a two-layer MLP."""

    layers: int  # that run: transformers runs all, also where the features of the last but one are taken
    hidden: int
    intermediate: int
    tokens: int  # per image, with CLS
    patch_inputs: int  # values of one patch: channels times its area
    layer_vectors: int  # biases and norms of a layer, in values

    @property
    def layer_matrices(self) -> int:
        """Parameters of a layer that enter products: query, key, value, output, and the MLP's two."""
        return 4 * self.hidden**2 + 2 * self.hidden * self.intermediate

    @property
    def parameters(self) -> int:
        """All of the tower's, whose embeddings are a product, the class token, the positions and two layer norms."""
        outer = self.hidden * (self.patch_inputs + 1 + self.tokens + 2 * 2)
        return outer + self.layers * (self.layer_matrices + self.layer_vectors)


@dataclass(frozen=True)
class LanguageModel:
    """A LLaMA: causal attention with or without shared key-value heads, a gated MLP, a head onto the vocabulary."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    layer_vectors: int  # norms and biases of a layer, in values

    @property
    def layer_matrices(self) -> int:
        """Parameters of a layer that enter products: query, key, value, output, and the MLP's three."""
        return 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads) + 3 * self.hidden * self.intermediate

    @property
    def parameters(self) -> int:
        """What a forward pass reads: the layers, the last norm and the head, without the table of embeddings."""
        return self.layers * (self.layer_matrices + self.layer_vectors) + self.hidden + self.vocab * self.hidden


@dataclass(frozen=True)
class Shapes:
    """The sizes of a model from which its costs follow."""

    vision: VisionTower
    projector: tuple[Linear, ...]  # on every token of every image
    adaptor: Linear | None  # likewise, after the projector
    language: LanguageModel
    bytes_per_value: int  # of weights, activations and KV cache alike
    quantised_bytes: int | None = None  # of the language model's weights that a step reads, where they are quantised

    @property
    def after_tower(self) -> tuple[Linear, ...]:
        """The layers between the vision tower and the language model."""
        return self.projector if self.adaptor is None else (*self.projector, self.adaptor)

    @property
    def encoder_parameters(self) -> int:
        """Parameters of stage 3: the tower and what follows it."""
        return self.vision.parameters + sum(linear.parameters for linear in self.after_tower)

    @property
    def language_bytes(self) -> int:
        """What a forward pass of the language model reads of its weights."""
        if self.quantised_bytes is not None:
            return self.quantised_bytes
        return self.language.parameters * self.bytes_per_value

    @property
    def kv_bytes_per_token(self) -> int:
        """A key and a value in each layer and key-value head."""
        language = self.language
        return 2 * language.layers * language.kv_heads * language.head_dim * self.bytes_per_value


def shapes_of(tower: Any, projector: Any, language: Any, head: Any, adaptor: Any = None) -> Shapes:
    """The sizes of a model from its parts, as transformers has them.

    `tower`: a CLIPVisionModel or what is built like it; `projector`: a module whose linear layers see every token of
    every image; `language`: a LlamaModel or what is built like it; `head`: its layer onto the vocabulary; `adaptor`: a
    linear layer after the projector. Raises AttributeError for parts that are built otherwise.
    """
    return Shapes(
        vision=_vision(tower),
        projector=tuple(_linear(module) for module in projector.modules() if _is_linear(module)),
        adaptor=None if adaptor is None else _linear(adaptor),
        language=_language(language, head),
        bytes_per_value=language.norm.weight.element_size(),
        quantised_bytes=_quantised_bytes(language, head),
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


def _quantised_bytes(model: Any, head: Any) -> int | None:
    """Bytes of layers, norm and head with their scales; None where nothing is quantised."""
    parameters = [*model.layers.parameters(), *model.norm.parameters(), *head.parameters()]
    return sum(map(stored_bytes, parameters)) if any(map(is_quantised, parameters)) else None


def _is_linear(module: Any) -> bool:
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def _linear(module: Any) -> Linear:
    return Linear(module.in_features, module.out_features, module.bias is not None)


def _vectors(layer: Any) -> int:
    """Values of a layer's norms and biases."""
    return sum(parameter.numel() for parameter in layer.parameters() if parameter.ndim == 1)
