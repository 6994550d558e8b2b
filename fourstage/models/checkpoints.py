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
import textwrap
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPVisionConfig, GenerationConfig, LlamaConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from fourstage.stages import UserError

Model = TypeVar("Model", bound=nn.Module)
RANDOM_STD = {"tiny": 0.1, "7b": 0.02}  # wide enough at each width that the next token is not a coin toss
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DERIVED = re.compile(r"(rotary_emb\.inv_freq|embeddings\.position_ids)$")  # older files hold what the config implies


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
        model = _construct(make, device)
        model.eval().requires_grad_(False)
        return model
    finally:
        torch.set_default_dtype(before)


def _construct(make: Callable[[], Model], device: str) -> Model:
    """The module without values. What its config ties is tied, which transformers leaves to the initialising."""
    with no_init_weights(), torch.device(device):
        model = make()
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
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
    make: Callable[[], nn.Module], shapes: Mapping[str, tuple[int, ...]], key_of: Callable[[str], str], folder: Path
) -> None:
    """Raise UserError naming keys where a checkpoint does not fill the model that `make` constructs.

    `shapes` are the checkpoint's, `key_of` gives its key for a parameter's name. The model is constructed without
    memory, so that this is told before anything is loaded.
    """
    with told(f"{folder}/config.json describes no model that can be built"):
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
    _raise_misfit(faults, folder)


def _raise_misfit(faults: Mapping[str, list[str]], folder: Path) -> None:
    """Raise UserError if any list names something."""
    if found := [f"{kind}: {_some(names)}" for kind, names in faults.items() if names]:
        raise UserError(
            f"the checkpoint {folder} does not fit the model that its config.json describes; {'; '.join(found)}"
        )


def fill_from(model: nn.Module, tensors: Iterable[tuple[str, Tensor]], key_of: Callable[[str], str]) -> None:
    """Copy `tensors` into the parameters, converting to their dtype. `check_fit` has said that they fit."""
    parameters = {key_of(name): parameter for name, parameter in model.named_parameters(remove_duplicate=False)}
    for key, tensor in tensors:
        if key in parameters:
            parameters[key].copy_(tensor)


def checkpoint_files(folder: Path) -> list[Path]:
    """The files that hold the parameters: safetensors before .bin, one file before shards, as transformers looks.

    Files that lie beside them in a training folder (`mm_projector.bin`, `training_args.bin`, `optimizer.bin`)
    are none of them. Raises UserError where there are no such files, or some of a numbered set are missing.
    """
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        if (folder / f"{stem}.{suffix}").is_file():
            return [folder / f"{stem}.{suffix}"]
        index = folder / f"{stem}.{suffix}.index.json"
        if index.is_file():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, Mapping) or not weight_map:
                raise UserError(f"{index} has no weight_map: fetch it again")
            files = [folder / str(name) for name in sorted(set(weight_map.values()))]
            if missing := [file.name for file in files if not file.is_file()]:
                raise UserError(f"{index} lists files that are not there: {_some(missing)}")
            return files
        if shards := sorted(folder.glob(f"{stem}-[0-9]*-of-[0-9]*.{suffix}")):
            total = int(shards[-1].stem.rpartition("-")[2])
            names = [f"{stem}-{i:05d}-of-{total:05d}.{suffix}" for i in range(1, total + 1)]
            if missing := sorted({*names} - {shard.name for shard in shards}):
                raise UserError(f"{folder} has not all of {total} shards, and no index; missing: {_some(missing)}")
            return [folder / name for name in names]
    raise UserError(
        f"{folder} is not a checkpoint folder: no model.safetensors, pytorch_model.bin or numbered shards of them"
    )


def read_shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor, without reading the values. Raises UserError for a truncated file."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        if file.suffix == ".safetensors":
            with _whole(file), safe_open(file, framework="pt") as tensors:  # compares the file's size with its header
                shapes |= {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
        else:
            shapes |= {key: tuple(tensor.shape) for key, tensor in _read_bin(file).items()}
    return shapes


def read_tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of the files in turn; they are mapped, so that about one tensor is in memory at a time."""
    for file in files:
        if file.suffix == ".safetensors":
            with _whole(file), safe_open(file, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                    yield key, tensors.get_tensor(key)
        else:
            yield from _read_bin(file).items()


def _read_bin(file: Path) -> dict[str, Tensor]:
    """The tensors of a `.bin` file, mapped. Nothing else in it is unpickled (`weights_only`)."""
    try:
        with _whole(file), warnings.catch_warnings(action="ignore"):  # what torch warns of, it then refuses
            mapped = zipfile.is_zipfile(file)  # what torch wrote before 1.6 is none and has to be read
            tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except UserError as error:
        if isinstance(error.__cause__, pickle.UnpicklingError):  # torch's own words advise to load it all the same
            raise UserError(
                f"{file} is no file of tensors, or holds other objects too, which are not loaded: fetch it again"
            ) from error
        raise
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise UserError(f"{file} holds no table of named tensors: it is no checkpoint")
    return tensors


@contextmanager
def told(what: str, remedy: str = "") -> Iterator[None]:
    """Whatever a library raises inside is raised as one line: `what` happened, its reason, and the remedy."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each library has its own; the way out is the same
        reason = textwrap.shorten(str(error), 200, placeholder=" …")
        raise UserError(f"{what} ({type(error).__name__}{reason and ': '}{reason}){remedy}") from error


def _whole(file: Path) -> Any:
    return told(f"{file} is truncated or damaged", ": fetch it again")


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


def llama_config(config: Mapping[str, Any], folder: Path) -> LlamaConfig:
    """The language model's part of a config.json, of transformers 4 (`rope_theta`, `rope_scaling`) or 5."""
    with told(f"{folder}/config.json describes no LLaMA that can be built"):
        rope = {"rope_type": "default", "rope_theta": float(config.get("rope_theta") or 10000.0)}
        scaling = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
        if "type" in scaling:
            scaling["rope_type"] = scaling.pop("type")
        return LlamaConfig(
            **{key: config[key] for key in LLAMA_KEYS if config.get(key) is not None}, rope_parameters=rope | scaling
        )


def read_tokenizer(folder: Path, **options: Any) -> Any:
    """The tokenizer of a checkpoint folder. Raises UserError where its files are missing or damaged."""
    files = [folder / name for name in ("tokenizer.json", "tokenizer.model")]
    if not any(file.is_file() and file.stat().st_size for file in files):  # transformers would make an empty one
        raise UserError(f"{folder} has neither tokenizer.json nor tokenizer.model: put the tokenizer's files there")
    with told(f"the tokenizer files in {folder} cannot be read", ": fetch them again"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)


def read_processor(folder: Path, image_size: int) -> CLIPImageProcessorPil:
    """CLIP's preprocessing as a folder's preprocessor_config.json has it. Raises UserError where that is not so."""
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise UserError(f"{folder} has no preprocessor_config.json: put the one there that belongs to this tower")
    with told(f"{folder}: preprocessor_config.json cannot be read", ": fetch it again"):
        processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
    made = [processor.crop_size["height"], processor.crop_size["width"]]
    if made != [image_size, image_size]:
        raise UserError(
            f"{folder}: preprocessor_config.json makes images of {made[0]}×{made[1]}, the tower takes "
            f"{image_size}×{image_size}; use the file that belongs to it"
        )
    return processor


def check_vocabulary(tokenizer: Any, rows: int, folder: Path, padded: bool) -> None:
    """Raise UserError where tokenizer and embedding disagree; a `padded` one may have rows without a token."""
    tokens = 1 + max(tokenizer.get_vocab().values())
    if tokens > rows or (tokens < rows and not padded):
        raise UserError(
            f"{folder}: the tokenizer has {tokens} tokens and the embedding {rows} rows (vocab_size in config.json); "
            "use the tokenizer that belongs to these weights"
        )


def end_ids(folder: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids that end an answer: generation_config.json's, else config.json's, else LLaMA's 2."""
    generation = folder / "generation_config.json"
    found = read_json(generation).get("eos_token_id") if generation.is_file() else None
    if found is None:
        found = config.get("eos_token_id")
    return tuple(found) if isinstance(found, list) else (2 if found is None else int(found),)


def pad_id(config: Mapping[str, Any]) -> int:
    """The id that fills a batch: config.json's, else 0 (also where it is -1, as in the first LLaMA's)."""
    return max(0, int(config.get("pad_token_id") or 0))


def check_loading(report: Mapping[str, Any], folder: Path) -> None:
    """Raise UserError naming the keys where transformers could not fill the model exactly."""
    faults = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(key for key in report["unexpected_keys"] if not DERIVED.search(key)),
        "of the wrong shape": [
            f"{key} is {list(found)}, the config asks for {list(asked)}"
            for key, found, asked in sorted(report["mismatched_keys"])
        ],
    }
    _raise_misfit(faults, folder)


def check_hub_id(source: str) -> None:
    """Raise UserError for what is neither a folder nor `owner/name`."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith("."):
        raise UserError(f"weights.path={source} is no folder here, and no hub id (owner/name) either")


def from_hub(hub_id: str, files: tuple[str, ...] | None, instead: str) -> str:
    """The local folder of a hub snapshot (`files`: only these). Raises UserError where the hub cannot be asked."""
    from huggingface_hub import snapshot_download

    with told(f"{hub_id} is not in the local cache and the hub could not be asked", f"; give a local copy: {instead}"):
        return str(snapshot_download(hub_id, allow_patterns=list(files) if files else None))


def _some(names: list[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
