"""Where parameters come from: drawn from a seed, or read from a checkpoint folder, straight onto the device.

Models are built on the device in the run's dtype without being initialised first, so that a 7B model never
exists twice and never passes through host memory as a whole. What transformers computes in fp32 (the
frequencies of RoPE) stays fp32, since modules are born in their dtype and never cast.

    model = build(lambda: LlamaForCausalLM(config), device="cuda", dtype=torch.bfloat16)
    fill_random(model, seed=0, std=0.02)
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPVisionConfig, GenerationConfig, LlamaConfig
from transformers.initialization import no_init_weights
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from fourstage.stages import UserError

Model = TypeVar("Model", bound=nn.Module)
RANDOM_STD = {"tiny": 0.1, "7b": 0.02}  # wide enough at each width that the next token is not a coin toss
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(device: str) -> str:
    """`auto`: the first GPU where there is one, else the CPU. Raises UserError for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        found = torch.cuda.device_count()
        index = int(device.partition(":")[2] or 0)
        if index >= found:
            raise UserError(f"device={device}: {found} CUDA devices found; set device=cpu, or device=auto to choose")
    return device


def check_precision(precision: str, device: str) -> None:
    """Raise UserError where `device` cannot compute in `precision`, before anything is loaded."""
    if (
        precision == "bf16"
        and device.startswith("cuda")
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise UserError(f"precision=bf16: {torch.cuda.get_device_name(device)} has no bfloat16; use precision=fp16")
    dtype = DTYPES[precision]
    try:
        probe = torch.ones(8, 8, dtype=dtype, device=device)
        torch.nn.functional.layer_norm(probe @ probe, (8,))
        torch.nn.functional.scaled_dot_product_attention(probe[None], probe[None], probe[None])
    except RuntimeError as error:
        raise UserError(
            f"precision={precision}: {device} cannot compute in it ({error}); use precision=fp32"
        ) from error


def build(make: Callable[[], Model], device: str, dtype: torch.dtype) -> Model:
    """The module that `make` constructs, on `device` in `dtype`, its parameters not yet set."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights(), torch.device(device):
            model = make()
        model.eval().requires_grad_(False)
        return model
    finally:
        torch.set_default_dtype(before)


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


def fill_from(
    model: nn.Module, tensors: Iterator[tuple[str, Tensor]], rename: Callable[[str], str], source: Path
) -> None:
    """Copy `tensors` into the parameters that `rename` names. Raises UserError naming keys that do not fit."""
    parameters = dict(model.named_parameters())
    left, unexpected, misfit = set(parameters), [], []
    for key, tensor in tensors:
        name = rename(key)
        if name not in parameters:
            unexpected.append(key)
        elif parameters[name].shape != tensor.shape:
            misfit.append(f"{key} is {list(tensor.shape)}, the config asks for {list(parameters[name].shape)}")
        else:
            parameters[name].copy_(tensor)
        left.discard(name)
    faults = []
    if left:
        faults.append(f"missing: {_some(sorted(left))}")
    if unexpected:
        faults.append(f"unexpected: {_some(unexpected)}")
    if misfit:
        faults.append(f"of the wrong shape: {_some(misfit)}")
    if faults:
        raise UserError(
            f"the checkpoint {source} does not fit the model that its config.json describes; {'; '.join(faults)}"
        )


def checkpoint_files(folder: Path) -> list[Path]:
    """The files that hold the parameters: safetensors before .bin, by the index where there is one.

    Files that lie beside them in a training folder (`mm_projector.bin`, `training_args.bin`, `optimizer.bin`)
    are none of them. Raises UserError where there are no such files, or some of a numbered set are missing.
    """
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        index = folder / f"{stem}.{suffix}.index.json"
        if index.is_file():
            files = [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
            if missing := [file.name for file in files if not file.is_file()]:
                raise UserError(f"{index} lists files that are not there: {_some(missing)}")
            return files
        shards = sorted(folder.glob(f"{stem}-*-of-*.{suffix}"))
        if shards:
            numbers = [re.search(r"-(\d+)-of-(\d+)\.", shard.name) for shard in shards]
            total = max(int(match[2]) for match in numbers if match)
            if len(shards) != total:
                raise UserError(f"{folder} has {len(shards)} of {total} files {stem}-*-of-*.{suffix}")
            return shards
        if (folder / f"{stem}.{suffix}").is_file():
            return [folder / f"{stem}.{suffix}"]
    raise UserError(
        f"{folder} is not a checkpoint folder: no model.safetensors, pytorch_model.bin or numbered shards of them"
    )


def read_tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of the files in turn, one file in memory at a time. `.bin` is read with weights_only."""
    for file in files:
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, framework="pt") as tensors:
                    for key in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                        yield key, tensors.get_tensor(key)
            except SafetensorError as error:
                raise UserError(f"{file} is truncated or no safetensors file ({error}): fetch it again") from error
        else:
            try:
                tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"{file} cannot be read as tensors ({reason}): fetch it again") from error
            yield from tensors.items()


def checkpoint_hash(files: list[Path]) -> str:
    """Identity of a checkpoint: sha256 over names, sizes, and the first and last MiB of each file (16 hex digits).

    The whole of 14 GB is not read for it; a changed tensor in the middle of a file is not seen, another
    checkpoint is.
    """
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 20))
            stream.seek(max(0, size - (1 << 20)))
            digest.update(stream.read())
    return digest.hexdigest()[:16]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError where the file is not there or is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, Mapping):
        raise UserError(f"{path} holds a {type(value).__name__}, expected an object")
    return dict(value)


def parameters_hash(model: nn.Module) -> str:
    """Identity of drawn parameters: sha256 over each one's name, shape and first values (16 hex digits)."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name}:{list(parameter.shape)}:{parameter.flatten()[:8].tolist()}\n".encode())
    return digest.hexdigest()[:16]


def clip_processor(image_size: int) -> CLIPImageProcessorPil:
    """CLIP's preprocessing as published, by PIL: the same pixels with and without torchvision."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )


def tiny_clip() -> CLIPVisionConfig:
    """A tower of 17 tokens an image, for a CPU."""
    return CLIPVisionConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, image_size=112,
        patch_size=28, projection_dim=32,
    )  # fmt: skip


def tiny_llama(vocab_size: int) -> LlamaConfig:
    """A language model of two layers, for a CPU."""
    return LlamaConfig(
        vocab_size=vocab_size, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=4096, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def llama_7b(vocab_size: int, rms_norm_eps: float) -> LlamaConfig:
    """Vicuna-7B v1.5's shape (LLaMA-2 7B)."""
    return LlamaConfig(
        vocab_size=vocab_size, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=4096, rms_norm_eps=rms_norm_eps,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def clear_generation_defaults(model: Any) -> None:
    """Forget the checkpoint's own generation settings: `generate()` would mix them into the run's in silence."""
    model.generation_config = GenerationConfig()


def read_checkpoint_config(folder: Path, model_type: str, model: str) -> dict[str, Any]:
    """`config.json` of a checkpoint folder. Raises UserError where it is none, or another architecture's."""
    if not folder.is_dir():
        raise UserError(
            f"weights.path={folder} is not a folder: give the folder that holds config.json and the weights"
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is not a checkpoint folder: it has no config.json")
    config = read_json(folder / "config.json")
    if config.get("model_type") != model_type:
        raise UserError(
            f"{folder}/config.json describes model_type {config.get('model_type')!r}; {model} is {model_type!r}"
        )
    return config


LLAMA_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", "attention_bias", "mlp_bias",
    "head_dim", "tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip


def llama_config(config: Mapping[str, Any]) -> LlamaConfig:
    """The language model's part of a config.json written by transformers 4 (`rope_theta`, `rope_scaling`)."""
    rope = {"rope_type": "default", "rope_theta": float(config.get("rope_theta") or 10000.0)}
    scaling = dict(config.get("rope_scaling") or {})
    if "type" in scaling:
        scaling["rope_type"] = scaling.pop("type")
    try:
        return LlamaConfig(
            **{key: config[key] for key in LLAMA_KEYS if config.get(key) is not None}, rope_parameters=rope | scaling
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"config.json describes no LLaMA that can be built: {error}") from error


def check_vocabulary(tokens: int, rows: int, folder: Path) -> None:
    """Raise UserError where the tokenizer has ids that the embedding has no row for."""
    if tokens > rows:
        raise UserError(
            f"{folder}: the tokenizer has {tokens} tokens and the embedding {rows} rows (vocab_size in config.json); "
            "use the tokenizer that belongs to these weights"
        )


def end_ids(folder: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids that end an answer: generation_config.json's, else config.json's, else LLaMA's 2."""
    generation = folder / "generation_config.json"
    found = read_json(generation).get("eos_token_id") if generation.is_file() else None
    if found is None:
        found = config.get("eos_token_id", 2)
    return tuple(found) if isinstance(found, list) else (int(found),)


def check_files(files: list[Path]) -> None:
    """Raise UserError for a truncated file before anything is built (safetensors keep their sizes in front)."""
    for file in files:
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, framework="pt") as tensors:
                    tensors.keys()
            except SafetensorError as error:
                raise UserError(f"{file} is truncated or no safetensors file ({error}): fetch it again") from error


def check_loading(report: Mapping[str, Any], folder: Path) -> None:
    """Raise UserError naming the keys where transformers could not fill the model exactly."""
    faults = []
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(str(key) for key in report.get(kind) or ()):
            faults.append(f"{kind.replace('_', ' ')}: {_some(keys)}")
    if faults:
        raise UserError(f"the checkpoint {folder} does not fit the model of its config.json; {'; '.join(faults)}")


def check_hub_id(source: str) -> None:
    """Raise UserError for what is neither a folder nor `owner/name`."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith("."):
        raise UserError(f"weights.path={source} is no folder here, and no hub id (owner/name) either")


def from_hub(hub_id: str, files: tuple[str, ...] | None, instead: str) -> str:
    """The local folder of a hub snapshot (`files`: only these). Raises UserError where the hub cannot be asked."""
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(hub_id, allow_patterns=list(files) if files else None))
    except Exception as error:  # whatever the hub client raises, the way out is the same
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{hub_id} is not in the local cache and the hub could not be asked ({reason[:160]}); "
            f"give a local copy: {instead}"
        ) from error


def _some(names: list[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
