"""Models on the device: built without values, then filled from a seed or from a checkpoint's tensors.

Models are built on the device in the run's dtype without being initialised first, so that a 7B model never
exists twice and never passes through host memory as a whole. What transformers computes in fp32 (the
frequencies of RoPE) stays fp32, since modules are born in their dtype and never cast.

    model = build(lambda: LlamaForCausalLM(config), device="cuda", dtype=torch.bfloat16)
    fill_random(model, seed=0, std=0.02)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fourstage.lazy import lazy
from fourstage.models.checkpoint_files import DERIVED, first_names
from fourstage.models.reading import reported
from fourstage.stages import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import CLIPVisionConfig, LlamaConfig
else:
    torch = lazy("torch")
initialization = lazy("transformers.initialization")
transformers = lazy("transformers", "CLIPVisionConfig", "GenerationConfig", "LlamaConfig", "PreTrainedModel")

Model = TypeVar("Model", bound="nn.Module")
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # as torch names them
LAYER = re.compile(r"\.layers\.(\d+)\.")
RANDOM_STD = {"tiny": 0.1, "7b": 0.02}  # wide enough at each width that the next token is not a coin toss
SPARSE_STEP = 997  # every 997th value of a matrix is asked whether it is finite; all would cost a third of the copying


def dtype_of(precision: str) -> torch.dtype:
    """torch's type of a precision."""
    dtype: torch.dtype = getattr(torch, DTYPES[precision])
    return dtype


def build(make: Callable[[], Model], device: str, dtype: torch.dtype) -> Model:
    """The module that `make` constructs, on `device` in `dtype`, its parameters not yet set."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = _construct(make, device)
        model.eval().requires_grad_(False)
        return model
    finally:
        torch.set_default_dtype(before)


def count_parameters(make: Callable[[], nn.Module]) -> int:
    """Parameters of the module that `make` constructs, tied ones once; no memory is taken for them."""
    return sum(parameter.numel() for parameter in _construct(make, "meta").parameters())


def _construct(make: Callable[[], Model], device: str) -> Model:
    """The module without values. What its config ties is tied, which transformers leaves to the initialising."""
    with initialization.no_init_weights(), torch.device(device):
        model = make()
    for module in model.modules():
        if isinstance(module, transformers.PreTrainedModel):
            module.tie_weights()
    return model


def fill_random(model: nn.Module, seed: int, std: float) -> None:
    """Draw every parameter: norms 1, biases 0, the rest normal with deviation `std`.

    The same seed gives the same values on the same kind of device in the same dtype.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device=device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.ndim == 1 and name.endswith("weight"):
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, std, generator=generator)


def check_fit(
    make: Callable[[], nn.Module],
    shapes: Mapping[str, tuple[int, ...]],
    key_of: Callable[[str], str],
    folder: Path,
    layer_counts: Mapping[str, int],
) -> None:
    """Raise UserError naming keys where a checkpoint does not fill the model that `make` constructs.

    `shapes` are the checkpoint's, `key_of` gives its key for a parameter's name, `layer_counts` are the config's by
    their keys. The model is constructed without memory, so that this is reported before anything is loaded; the
    layers are counted first, since a model of 10^9 of them takes time and memory even so.
    """
    for key, layers in layer_counts.items():
        check_layers(layers, key, shapes, folder)
    with reported(f"{folder}/config.json describes no model that can be built"):
        model = _construct(make, "meta")
    wanted = {key_of(name): parameter for name, parameter in model.named_parameters(remove_duplicate=False)}
    filled = {id(wanted[key]) for key in shapes if key in wanted}  # of tied parameters one is enough
    faults = {
        "missing": [key for key, parameter in wanted.items() if id(parameter) not in filled],
        "unexpected": [key for key in shapes if key not in wanted and not DERIVED.search(key)],
        "of the wrong shape": [
            f"{key} is {list(shape)}, the config asks for {list(wanted[key].shape)}"
            for key, shape in shapes.items()
            if key in wanted and wanted[key].shape != shape
        ],
    }
    if found := [f"{kind}: {first_names(names)}" for kind, names in faults.items() if names]:
        raise UserError(
            f"the checkpoint {folder} does not fit the model that its config.json describes; {'; '.join(found)}"
        )


def check_layers(layers: int, key: str, shapes: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Raise UserError where the config asks for more layers than the tensors' names number, towers' and texts'."""
    present = len({match[1] for name in shapes if (match := LAYER.search(name))})
    if layers > present:
        raise UserError(f"{folder}/config.json: {key} is {layers}, and the weights hold {present} layers at most")


def fill_from(
    model: nn.Module, tensors: Iterable[tuple[str, Tensor]], key_of: Callable[[str], str], folder: Path
) -> None:
    """Copy `tensors` into the parameters, converting to their dtype. `check_fit` has said that they fit.

    Raises UserError for a tensor with NaN or infinity, as far as a sample of its values shows it.
    """
    parameters = {key_of(name): parameter for name, parameter in model.named_parameters(remove_duplicate=False)}
    for key, tensor in tensors:
        if key in parameters:
            parameter = parameters[key]
            parameter.copy_(tensor)
            flat = parameter.flatten()
            if not flat[:: 1 if parameter.ndim < 2 else SPARSE_STEP].isfinite().all():
                dtype = str(parameter.dtype).removeprefix("torch.")
                raise UserError(
                    f"{folder}: the tensor {key} holds NaN or infinity in {dtype}: {_remedy(tensor, dtype)}"
                )


def _remedy(tensor: Tensor, dtype: str) -> str:
    """Is it the file or the run's precision that has no such value?"""
    return "use precision=fp32" if dtype != "float32" and tensor.isfinite().all() else "use another checkpoint"


def parameters_hash(model: nn.Module) -> str:
    """Identity of drawn parameters: sha256 over each one's name, shape and first values (16 hex digits)."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name}:{list(parameter.shape)}:{parameter.flatten()[:8].tolist()}\n".encode())
    return digest.hexdigest()[:16]


def tiny_clip() -> CLIPVisionConfig:
    """A tower of 17 tokens an image, for a CPU."""
    return transformers.CLIPVisionConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, image_size=112,
        patch_size=28, projection_dim=32,
    )  # fmt: skip


def tiny_llama(vocab_size: int) -> LlamaConfig:
    """A language model of two layers, for a CPU."""
    return transformers.LlamaConfig(
        vocab_size=vocab_size, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=4096, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def llama_7b(vocab_size: int, rms_norm_eps: float) -> LlamaConfig:
    """Vicuna-7B v1.5's shape (LLaMA-2 7B)."""
    return transformers.LlamaConfig(
        vocab_size=vocab_size, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=4096, rms_norm_eps=rms_norm_eps,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def clear_generation_defaults(model: Any) -> None:
    """Forget the checkpoint's own generation settings: `generate()` would mix them into the run's in silence."""
    model.generation_config = transformers.GenerationConfig()
