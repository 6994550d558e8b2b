"""The files of a checkpoint: which they are, where they come from, and the tensors in them.

files = checkpoint_files(folder)
for name, tensor in read_tensors(files): ...
"""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourstage.lazy import lazy
from fourstage.models.reading import check_files, read_json, reported, shown
from fourstage.stages import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")
hub = lazy("huggingface_hub", "utils", "errors", "snapshot_download")
safetensors = lazy("safetensors")

FLOATS = {"F64", "F32", "F16", "BF16"}  # as safetensors names them; others would be cut to what a parameter holds
TORCH_NAMES = {"torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}
DERIVED = re.compile(r"(rotary_emb\.inv_freq|embeddings\.position_ids)$")  # older files hold what the config implies


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
                raise UserError(f"{index} lists files that are not there: {first_names(missing)}")
            return files
        numbered = re.compile(rf"{stem}-\d{{5}}-of-(\d{{5}})\.{suffix}")
        if shards := [file for file in sorted(folder.iterdir()) if numbered.fullmatch(file.name) and file.is_file()]:
            total = max(int(shard.stem.rpartition("-")[2]) for shard in shards)
            names = [f"{stem}-{i:05d}-of-{total:05d}.{suffix}" for i in range(1, total + 1)]
            if missing := sorted({*names} - {shard.name for shard in shards}):
                raise UserError(
                    f"{folder} has not all of {total} shards, and no index; missing: {first_names(missing)}"
                )
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
        with (
            _whole(file),
            safetensors.safe_open(file, framework="pt") as tensors,
        ):  # compares the file's size with its header
            slices = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118
            found = [(key, str(part.get_dtype()), tuple(part.get_shape())) for key, part in slices.items()]
        yield from found
    else:
        for key, tensor in _read_bin(file).items():
            yield key, TORCH_NAMES.get(str(tensor.dtype), str(tensor.dtype)), tuple(tensor.shape)


def read_tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of the files in turn; they are mapped, so that about one tensor is in memory at a time."""
    for file in files:
        if file.suffix == ".safetensors":
            with _whole(file), safetensors.safe_open(file, framework="pt") as tensors:
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
        isinstance(key, str) and isinstance(tensor, torch.Tensor) for key, tensor in tensors.items()
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


def check_hub_id(source: str) -> None:
    """Raise UserError for what is neither a folder nor `owner/name`."""
    try:
        hub.utils.validate_repo_id(source)
        valid = "/" in source
    except hub.errors.HFValidationError:
        valid = False
    if not valid:
        raise UserError(f"weights.path={source} is no folder here, and no hub id (owner/name) either")


def from_hub(hub_id: str, files: tuple[str, ...] | None, instead: str) -> str:
    """The local folder of a hub snapshot (`files`: only these). Raises UserError where the hub cannot be asked."""
    with reported(
        f"{hub_id} is not in the local cache and the hub could not be asked", f"; give a local copy: {instead}"
    ):
        return str(hub.snapshot_download(hub_id, allow_patterns=list(files) if files else None))


def first_names(names: list[str], most: int = 4) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
