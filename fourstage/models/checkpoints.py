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
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPVisionConfig, GenerationConfig, LlamaConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from fourstage.models.checkpoint_config import (
    FLAG,
    TEXT,
    Rule,
    check,
    each,
    either,
    end_rule,
    nullable,
    one_of,
    real,
    section_of,
    taken,
    whole,
)
from fourstage.models.reading import check_files, is_panic, panics_unprinted, read_json, reason, reported, shown
from fourstage.stages import UserError

Model = TypeVar("Model", bound=nn.Module)
TOKENIZER_PARTS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
LAYER = re.compile(r"\.layers\.(\d+)\.")
RANDOM_STD = {"tiny": 0.1, "7b": 0.02}  # wide enough at each width that the next token is not a coin toss
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FLOATS = {"F64", "F32", "F16", "BF16"}  # as safetensors names them; others would be cut to what a parameter holds
SPARSE_STEP = 997  # every 997th value of a matrix is asked whether it is finite; all would cost a third of the copying
TORCH_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
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
    if found := [f"{kind}: {_some(names)}" for kind, names in faults.items() if names]:
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
            for key, name in weight_map.items():
                if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]{0,199}", name):
                    raise UserError(
                        f"{index}: weight_map has {shown(name)} for {key[:80]!r}, "
                        "expected the name of a file in this folder"
                    )
            files = [folder / name for name in sorted(set(weight_map.values()))]
            if missing := [file.name for file in files if not file.is_file()]:
                raise UserError(f"{index} lists files that are not there: {_some(missing)}")
            return files
        numbered = re.compile(rf"{stem}-\d{{5}}-of-(\d{{5}})\.{suffix}")
        if shards := [file for file in sorted(folder.iterdir()) if numbered.fullmatch(file.name) and file.is_file()]:
            total = max(int(shard.stem.rpartition("-")[2]) for shard in shards)
            names = [f"{stem}-{i:05d}-of-{total:05d}.{suffix}" for i in range(1, total + 1)]
            if missing := sorted({*names} - {shard.name for shard in shards}):
                raise UserError(f"{folder} has not all of {total} shards, and no index; missing: {_some(missing)}")
            return [folder / name for name in names]
    raise UserError(
        f"{folder} is not a checkpoint folder: no model.safetensors, pytorch_model.bin or numbered shards of them"
    )


def read_shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor, without reading the values.

    Raises UserError for a truncated file, a tensor that is not of floats, and one that two files hold.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        for key, dtype, shape in _headers(file):
            if key in shapes:
                raise UserError(f"{file}: the tensor {key} is in another file of this checkpoint too: fetch it again")
            if dtype not in FLOATS and not DERIVED.search(key):
                raise UserError(
                    f"{file}: the tensor {key} is {dtype}, expected one of {', '.join(sorted(FLOATS))}: "
                    "use a checkpoint that is not quantised"
                )
            shapes[key] = shape
    return shapes


def _headers(file: Path) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Each tensor's name, dtype and shape."""
    if file.suffix == ".safetensors":
        with _whole(file), safe_open(file, framework="pt") as tensors:  # compares the file's size with its header
            slices = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118
            found = [(key, str(part.get_dtype()), tuple(part.get_shape())) for key, part in slices.items()]
        yield from found
    else:
        for key, tensor in _read_bin(file).items():
            yield key, TORCH_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape)


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
    if not isinstance(tensors, dict) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in tensors.items()
    ):
        raise UserError(f"{file} holds no table of named tensors: it is no checkpoint")
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise UserError(
                f"{file}: the tensor {key} is sparse, quantised or without values ({tensor.layout}, {tensor.device}), "
                "expected plain floats"
            )
    return tensors


def _whole(file: Path) -> Any:
    return reported(f"{file} is truncated or damaged", ": fetch it again")


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
    check_files(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is not a checkpoint folder: it has no config.json")
    config = read_json(folder / "config.json")
    if config.get("model_type") != model_type:
        raise UserError(
            f"{folder}/config.json describes model_type {shown(config.get('model_type'))}; {model} is {model_type!r}"
        )
    if config.get("quantization_config") is not None:
        raise UserError(f"{folder}/config.json has a quantization_config: use a checkpoint that is not quantised")
    return config


def read_tokenizer(folder: Path, **options: Any) -> Any:
    """The tokenizer of a checkpoint folder. Raises UserError where its files are missing or damaged."""
    files = [folder / name for name in ("tokenizer.json", "tokenizer.model")]
    if not any(file.is_file() and file.stat().st_size for file in files):  # transformers would make an empty one
        raise UserError(f"{folder} has neither tokenizer.json nor tokenizer.model: put the tokenizer's files there")
    parts = [folder / name for name in TOKENIZER_PARTS if (folder / name).is_file()]
    contents = {part.name: read_json(part) for part in parts}
    if "tokenizer_config.json" in contents:
        _check_tokenizer_config(contents["tokenizer_config.json"], f"{folder}/tokenizer_config.json")
    if "tokenizer.json" in contents:
        _check_tokenizer_json(contents["tokenizer.json"], files[0])
    names = ", ".join(file.name for file in [*files, *parts[1:]] if file.is_file())
    with reported(f"the tokenizer files in {folder} cannot be read together ({names})", ": fetch them again"):
        with panics_unprinted():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
            ids = tokenizer("Is it day?").input_ids
            text = tokenizer.decode(ids)
        sound = isinstance(text, str) and len(ids) > 0 and all(isinstance(i, int) for i in ids)
    if not sound:
        raise UserError(f"the tokenizer files in {folder} ({names}) make no tokens of a text: fetch them again")
    return tokenizer


def _check_tokenizer_config(config: Mapping[str, Any], where: str) -> None:
    """Raise UserError where the class is of another family, which would make other ids, or a token is no text."""
    with_content = Rule("an object with content", lambda v: isinstance(v, dict) and isinstance(v.get("content"), str))
    token = nullable(either(TEXT, with_content))
    kinds = one_of("LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
    rules = {"tokenizer_class": nullable(kinds)} | dict.fromkeys(
        ("bos_token", "eos_token", "unk_token", "pad_token"), token
    )
    taken(config, rules, where)


def _check_tokenizer_json(content: dict[str, Any], file: Path) -> None:
    """Raise UserError naming the part of a tokenizer.json that its library cannot read, or panics about."""
    if (error := _tokenizer_error(content)) is None:
        return
    without: dict[str, Any] = {"version": "1.0", "added_tokens": []}
    without |= dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding"))
    guilty = [key for key, empty in without.items() if key in content and not _tokenizer_error(content | {key: empty})]
    key = guilty[0] if guilty else "model" if isinstance(content.get("model"), dict) else "model, which is no object"
    raise UserError(f"{file} cannot be read, at its key {key} ({reason(error)}): fetch it again") from error


def _tokenizer_error(content: dict[str, Any]) -> BaseException | None:
    """What the library raises for a tokenizer.json with this content."""
    try:
        with panics_unprinted():
            tokenizer = Tokenizer.from_str(json.dumps(content))
            tokenizer.no_padding()  # to a length that the file gives: 10^10 ends the process
            tokenizer.no_truncation()
            tokenizer.encode("Is it day?")
    except BaseException as error:
        if isinstance(error, Exception) or is_panic(error):
            return error
        raise
    return None


def read_processor(folder: Path, image_size: int) -> CLIPImageProcessorPil:
    """CLIP's preprocessing as a folder's preprocessor_config.json has it. Raises UserError where that is not so.

    It is tried on one small picture, so that what makes no pixels of it is not found sample by sample.
    """
    names = [name for name in ("preprocessor_config.json", "processor_config.json") if (folder / name).is_file()]
    if not names:
        raise UserError(f"{folder} has no preprocessor_config.json: put the one there that belongs to this tower")
    for name in names:
        content = read_json(folder / name)
        where = f"{folder}/{name}"
        if content.get("image_processor") is not None:
            content = dict(section_of(content, "image_processor", where))
            where += ": image_processor"
        _check_processor(content, where, image_size)
    with reported(f"{folder}: {names[0]} cannot be read", ": fetch it again"):
        processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
        made = [processor.crop_size["height"], processor.crop_size["width"]]
    if made != [image_size, image_size]:
        raise UserError(
            f"{folder}: {names[0]} makes images of {made[0]}×{made[1]}, the tower takes "
            f"{image_size}×{image_size}; use the file that belongs to it"
        )
    picture = np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3)
    with reported(f"{folder}: {names[0]} makes no pixels of a picture", ": fetch it again"):
        pixels = processor(images=[picture], return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    if pixels.shape != (1, 3, image_size, image_size) or not (pixels.is_floating_point() and pixels.isfinite().all()):
        raise UserError(
            f"{folder}: {names[0]} makes {list(pixels.shape)} {pixels.dtype} of a picture of 40×30, expected finite "
            f"floats [1, 3, {image_size}, {image_size}]; use the file that belongs to this tower"
        )
    return processor


def _check_processor(content: Mapping[str, Any], where: str, image_size: int) -> None:
    """Raise UserError for a key of CLIP's preprocessing with a value that it cannot have."""
    side = whole(1, 8 * image_size)  # resizing to more takes memory without bound
    sides = Rule(f"an object of sizes, each {side.expected}", lambda v: isinstance(v, dict) and v != {} and
                 all(side.holds(size) for size in v.values() if size is not None))  # fmt: skip
    flags = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
    rules = {key: nullable(FLAG) for key in flags} | {
        "size": either(side, sides),
        "crop_size": either(side, sides),
        "resample": nullable(whole(0, 5)),
        "rescale_factor": real(1),
        "image_mean": each(Rule("a number", lambda v: type(v) in (int, float) and math.isfinite(v)), 3),
        "image_std": each(real(1e6), 3),
    }
    taken(content, rules, where)


def check_vocabulary(tokenizer: Any, rows: int, folder: Path, padded: bool) -> None:
    """Raise UserError where tokenizer and embedding disagree; a `padded` one may have rows without a token."""
    tokens = 1 + max(tokenizer.get_vocab().values(), default=-1)
    if tokens > rows or (tokens < rows and not padded):
        raise UserError(
            f"{folder}: the tokenizer has {tokens} tokens and the embedding {rows} rows (vocab_size in config.json); "
            "use the tokenizer that belongs to these weights"
        )


def end_ids(folder: Path, text: LlamaConfig) -> tuple[int, ...]:
    """The ids that end an answer: generation_config.json's, else config.json's, else LLaMA's 2."""
    generation = folder / "generation_config.json"
    found = read_json(generation).get("eos_token_id") if generation.is_file() else None
    check(found, "eos_token_id", end_rule(text.vocab_size - 1), str(generation))
    if found is None:
        found = text.eos_token_id
    return tuple(found) if isinstance(found, list) else (2 if found is None else found,)


def pad_id(text: LlamaConfig) -> int:
    """The id that fills a batch: config.json's, else 0 (also where it is -1, as in the first LLaMA's)."""
    return max(0, text.pad_token_id or 0)


def check_hub_id(source: str) -> None:
    """Raise UserError for what is neither a folder nor `owner/name`."""
    try:
        validate_repo_id(source)
        valid = "/" in source
    except HFValidationError:
        valid = False
    if not valid:
        raise UserError(f"weights.path={source} is no folder here, and no hub id (owner/name) either")


def from_hub(hub_id: str, files: tuple[str, ...] | None, instead: str) -> str:
    """The local folder of a hub snapshot (`files`: only these). Raises UserError where the hub cannot be asked."""
    from huggingface_hub import snapshot_download

    with reported(
        f"{hub_id} is not in the local cache and the hub could not be asked", f"; give a local copy: {instead}"
    ):
        return str(snapshot_download(hub_id, allow_patterns=list(files) if files else None))


def _some(names: list[str], most: int = 4) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
