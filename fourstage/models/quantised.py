"""Weight-only quantisation of a loaded language model by torchao: its linear layers, and nothing else.

The vision tower, the projector, embeddings and norms keep their precision, and so do activations and the KV cache. A
tied output layer is the table of embeddings, and stays. int8 is symmetric with a scale a row, int4 (CUDA only) has a
scale and a zero point a group of values.

    quantise(pipeline.generator, "int8")
    stored_bytes(parameter)                # what the values and their scales take
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fourstage.lazy import lazy
from fourstage.stages import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn
else:
    nn = lazy("torch.nn")

GROUPS = (128, 64, 32)  # values that share a scale of int4: the largest that divides every row


def check_quantisation(precision: str, device: str) -> None:
    """Raise UserError where `precision` cannot be had here."""
    if precision not in ("int8", "int4"):
        return
    if find_spec("torchao") is None:
        raise UserError(f"precision={precision} needs torchao: pip install 'fourstage[quantised]'")
    if precision == "int4" and not device.startswith("cuda"):
        raise UserError(f"precision=int4: torchao's kernels need a CUDA GPU, device={device}; use precision=int8")


def quantise(model: Any, precision: str) -> None:
    """Quantise the linear layers of the language model inside `model`, in place; nothing for other precisions."""
    if precision not in ("int8", "int4"):
        return
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    layers = language_layers(model)
    config = Int8WeightOnlyConfig() if precision == "int8" else _int4(layers)
    chosen = {id(layer) for layer in layers}
    quantize_(model, config, filter_fn=lambda module, _: id(module) in chosen)


def language_layers(model: Any) -> list[nn.Linear]:
    """The linear layers of the language model, with the output layer where it is not the table of embeddings."""
    inner = model.model
    decoder = getattr(inner, "language_model", inner)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    own = [] if head.weight is embedding.weight else [head]
    return [module for module in decoder.modules() if isinstance(module, nn.Linear)] + own


def is_quantised(parameter: Tensor) -> bool:
    """Whether the parameter holds fewer bits than its dtype says."""
    return hasattr(parameter, "__tensor_flatten__")


def stored_bytes(parameter: Tensor) -> int:
    """Bytes that the parameter takes, with the scales of a quantised one."""
    if not is_quantised(parameter):
        return int(parameter.nbytes)
    names, _ = parameter.__tensor_flatten__()  # type: ignore[attr-defined]
    return sum(int(getattr(parameter, name).nbytes) for name in names)


def _int4(layers: list[nn.Linear]) -> Any:
    from torchao.quantization import Int4WeightOnlyConfig
    from torchao.quantization.quantize_.workflows import Int4PackingFormat

    group = next((size for size in GROUPS if all(layer.in_features % size == 0 for layer in layers)), None)
    if group is None:
        raise UserError(f"precision=int4: rows of the language model have no common group of {GROUPS} values")
    packing = Int4PackingFormat.TILE_PACKED_TO_4D  # torch's own kernel; others need further libraries
    return Int4WeightOnlyConfig(group_size=group, int4_packing_format=packing, set_inductor_config=False)
