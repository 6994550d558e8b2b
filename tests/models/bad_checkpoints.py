"""A generator of bad checkpoints: one change to a good folder each, named, seeded.

    for name, change in cases("eventgpt", random.Random(0), count=80):
        change(copy_of_a_good_folder)

Every change ends in a refusal of one line, or is harmless; none may hang, take memory or raise something else.
"""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Change = Callable[[Path], Any]

VALUES: dict[str, Any] = {
    "zero": 0, "one": 1, "minus one": -1, "seven": 7, "billion": 10**9, "10^18": 10**18, "2^63": 2**63,
    "10^400": 10**400, "half": 0.5, "float": 96.0, "1e300": 1e300, "NaN": float("nan"), "infinity": float("inf"),
    "true": True, "null": None, "text": "x", "number as text": "2", "empty text": "", "control": "\x1b[31m\u202e",
    "NUL": "a\0b", "long text": "y" * 5000, "list": [], "list of null": [None], "ints": [1, 2], "object": {},
    "nested": {"a": {"b": []}},
}  # fmt: skip
LLAMA = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps", "attention_bias",
    "mlp_bias", "tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id", "rope_theta", "rope_scaling",
    "rope_parameters",
)  # fmt: skip
CLIP = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "image_size",
    "patch_size", "hidden_act", "layer_norm_eps",
)  # fmt: skip
OWN = (
    "text_config", "vision_config", "image_token_index", "video_token_index", "projector_hidden_act",
    "vision_feature_layer", "vision_feature_select_strategy", "multimodal_projector_bias", "tie_word_embeddings",
    "model_type", "quantization_config",
)  # fmt: skip
EVENT = ("mm_visual_tower", "mm_use_im_patch_token", "mm_use_im_start_end", "model_type", "use_event_qformer")
ROPE = ("rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "short_factor")
PROCESSOR = (
    "size", "crop_size", "resample", "rescale_factor", "image_mean", "image_std", "do_resize", "do_center_crop",
    "do_rescale", "do_normalize", "do_convert_rgb", "image_processor_type", "image_processor", "preprocess",
)  # fmt: skip
TOKENIZER = (
    "version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder",
    "model",
)  # fmt: skip
TOKENIZER_CONFIG = (
    "tokenizer_class", "bos_token", "eos_token", "unk_token", "pad_token", "added_tokens_decoder", "model_max_length",
    "chat_template", "auto_map", "extra_special_tokens", "add_bos_token", "padding_side", "model_input_names",
)  # fmt: skip


def cases(model: str, rng: random.Random, count: int | None = None) -> list[tuple[str, Change]]:
    """All changes for a model, or `count` of them: half are values in JSON files, half damage whole files."""
    kinds = [list(json_values(model)), list(tensors()), list(files())]
    if count is None:
        return [case for kind in kinds for case in kind]
    values = rng.sample(kinds[0], count // 2)
    return values + rng.sample(kinds[1] + kinds[2], count - len(values))


def json_values(model: str) -> Iterator[tuple[str, Change]]:
    """Every value under every key that is read, one at a time."""
    if model == "eventgpt":
        places = [("config.json", (), LLAMA + EVENT), ("clip-tower/config.json", (), (*CLIP, "model_type"))]
        places.append(("clip-tower/preprocessor_config.json", (), PROCESSOR))
        rope: tuple[str, ...] = ("rope_scaling",)
    else:
        places = [("config.json", (), OWN), ("config.json", ("text_config",), (*LLAMA, "model_type"))]
        places.append(("config.json", ("vision_config",), (*CLIP, "model_type")))
        places.append(("preprocessor_config.json", (), PROCESSOR))
        rope = ("text_config", "rope_parameters")
    places += [("config.json", rope, ROPE), ("tokenizer.json", (), TOKENIZER)]
    places += [("tokenizer.json", ("model",), ("type", "vocab", "merges", "unk_token", "byte_fallback"))]
    places += [("tokenizer_config.json", (), TOKENIZER_CONFIG), ("generation_config.json", (), ("eos_token_id",))]
    for file, path, keys in places:
        for key in keys:
            for kind, value in VALUES.items():
                yield f"{file}:{'/'.join((*path, key))}={kind}", in_json(file, path, key, value)


def in_json(file: str, path: tuple[str, ...], key: str, value: Any) -> Change:
    """Set one key, making the objects on the way."""

    def change(folder: Path) -> None:
        target = folder / file
        content = json.loads(target.read_text()) if target.is_file() else {}
        inner = content
        for part in path:
            inner[part] = inner.get(part) or {}
            inner = inner[part]
        inner[key] = value
        target.write_text(json.dumps(content))

    return change


def tensors() -> Iterator[tuple[str, Change]]:
    """One tensor of another dtype, shape or value; the file's header damaged."""
    dtypes = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn]
    dtypes += [torch.float8_e5m2, torch.complex64]
    for dtype in dtypes:
        yield f"dtype {dtype}", in_tensor("up_proj.weight", lambda t, dtype=dtype: t.to(dtype))
    yield "all int8", every_tensor(lambda t: t.to(torch.int8))
    yield "float64", every_tensor(lambda t: t.double())
    yield "bfloat16", every_tensor(lambda t: t.bfloat16())
    yield "transposed", in_tensor("up_proj.weight", lambda t: t.T.contiguous())
    yield "scalar", in_tensor("up_proj.weight", lambda t: t[0, 0].clone())
    yield "empty", in_tensor("up_proj.weight", lambda t: t[:0].clone())
    yield "one dimension more", in_tensor("up_proj.weight", lambda t: t[None].clone())
    yield "NaN in a norm", in_tensor("layernorm.weight", lambda t: t.index_fill(0, torch.tensor(3), float("nan")))
    yield "all NaN", in_tensor("up_proj.weight", lambda t: t * float("nan"))
    yield "all infinite", in_tensor("lm_head.weight", lambda t: t.fill_(float("inf")))
    for name in ("up_proj.weight", "embed_tokens.weight", "position_embedding.weight"):
        yield f"without {name}", in_state(lambda s, name=name: s.pop(next(k for k in s if k.endswith(name))))
    yield "a thousand more", in_state(lambda s: s.update({f"x.layers.{i}.y": torch.ones(1) for i in range(1000)}))
    for size in (0, 1, 2**20, 10**9, 10**15, 2**64 - 1):
        yield f"header of {size} bytes", in_bytes(lambda data, size=size: struct.pack("<Q", size) + data[8:])
    yield "offsets overlap", in_header(lambda head: _second(head).update(data_offsets=_first(head)["data_offsets"]))
    yield "offsets reversed", in_header(lambda head: _first(head)["data_offsets"].reverse())
    yield "offsets beyond", in_header(lambda head: _first(head).update(data_offsets=[10**15, 10**15 + 4]))
    yield "shape beyond", in_header(lambda head: _first(head).update(shape=[2**40, 2**40]))
    yield "shape negative", in_header(lambda head: _first(head).update(shape=[-1]))
    yield "dtype unknown", in_header(lambda head: _first(head).update(dtype="Q3"))
    yield "header a list", in_bytes(lambda data: struct.pack("<Q", 2) + b"[]" + data[10:])
    yield "header nested", in_bytes(lambda data: struct.pack("<Q", 200_000) + b"[" * 200_000 + data[8:])
    yield "a byte too many", in_bytes(lambda data: data + b"\0")


def _first(head: dict[str, Any]) -> Any:
    return head[next(key for key in head if key != "__metadata__")]


def _second(head: dict[str, Any]) -> Any:
    return head[[key for key in head if key != "__metadata__"][1]]


def in_state(change: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    def spoil(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    return spoil


def in_tensor(suffix: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    def inner(state: dict[str, torch.Tensor]) -> None:
        key = next(key for key in state if key.endswith(suffix))
        state[key] = change(state[key])

    return in_state(inner)


def every_tensor(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return in_state(lambda state: state.update({key: change(tensor) for key, tensor in state.items()}))


def in_bytes(change: Callable[[bytes], bytes], name: str = "model.safetensors") -> Change:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def in_header(change: Callable[[dict[str, Any]], Any]) -> Change:
    def rewrite(data: bytes) -> bytes:
        size = struct.unpack("<Q", data[:8])[0]
        head = json.loads(data[8 : 8 + size])
        change(head)
        text = json.dumps(head).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + size :]

    return in_bytes(rewrite)


def files() -> Iterator[tuple[str, Change]]:
    """Whole files that are damaged, absent, endless or elsewhere."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        for kind, text in TEXTS.items():
            yield (
                f"{name} {kind}",
                in_bytes(lambda _, text=text: text, name) if "gen" not in name else write(name, text),
            )
        yield f"{name} FIFO", special(name, os.mkfifo)
        yield f"{name} device", special(name, lambda path: path.symlink_to("/dev/zero"))
        yield f"{name} loop", special(name, lambda path: path.symlink_to(path.name))
        yield f"{name} folder", special(name, lambda path: path.mkdir())
    for name in ("model.safetensors", "pytorch_model.bin", "added_tokens.json", "chat_template.jinja", "x.fifo"):
        yield f"{name} FIFO", special(name, os.mkfifo)
    yield "config.json of 10 GB", special("config.json", lambda path: os.truncate(_touched(path), 10**10))
    for kind, file in OTHER_FILES.items():
        yield f"index names {kind}", index({"weight_map": {"a": file}})
    for kind, value in {"list": [], "text": "x", "null": None, "number": 1, "empty": {}}.items():
        yield f"index map {kind}", index({"weight_map": value})
    for name in ("BertTokenizer", "LlamaTokenizer", "ByT5Tokenizer", "CLIPTokenizer", "PreTrainedTokenizerFast"):
        yield f"tokenizer_class {name}", in_json("tokenizer_config.json", (), "tokenizer_class", name)
    yield "remote code", remote_code
    for name in ("model-1-of-9x", "model-00001-of-99999999999", "model-00001-of-99999", "model-00002-of-00001"):
        yield f"shard {name}", lambda f, name=name: (f / "model.safetensors").rename(f / f"{name}.safetensors")
    for name, (key, value) in TOKENIZER_PARTS.items():
        yield f"tokenizer.json {name}", in_json("tokenizer.json", (), key, value)
    yield "endless template", write("chat_template.jinja", b"{% for i in range(10**12) %}{{ i }}{% endfor %}")


def _touched(path: Path) -> Path:
    path.touch()
    return path


TEXTS = {
    "empty": b"", "not UTF-8": b"\xff\xfe{", "list": b"[]", "text": b'"x"', "null": b"null", "NaN": b"NaN",
    "deep": b'{"a":' * 100_000, "deep list": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "key twice": b'{"eos_token_id": 2, "eos_token_id": 3}', "5,000 digits": b'{"eos_token_id": ' + b"9" * 5000 + b"}",
    "surrogate": b'{"eos_token_id": "\\ud83d", "model_type": "\\ud83d"}', "HTML": b"<html>not found</html>",
}  # fmt: skip


OTHER_FILES: dict[str, Any] = {
    "parent": "../x", "absolute": "/etc/passwd", "number": 3, "null": None, "empty": "", "dot": ".", "NUL": "a\0b",
    "long": "n" * 5000, "list": ["x"], "absent": "y.safetensors",
}  # fmt: skip


def write(name: str, text: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(text)


def special(name: str, make: Callable[[Path], Any]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return change


def index(content: Any) -> Change:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    return change


def remote_code(folder: Path) -> None:
    """Code beside the checkpoint, which every file asks to run."""
    (folder / "evil.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    for name in ("config.json", "tokenizer_config.json"):
        in_json(name, (), "auto_map", dict.fromkeys(("AutoConfig", "AutoTokenizer", "AutoModel"), "evil.X"))(folder)
    in_json("tokenizer_config.json", (), "tokenizer_class", "X")(folder)


BROKEN_MAP = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
TOKENIZER_PARTS: dict[str, tuple[str, Any]] = {
    "charsmap": ("normalizer", BROKEN_MAP),
    "charsmap in a sequence": ("normalizer", {"type": "Sequence", "normalizers": [BROKEN_MAP]}),
    "charsmap no base64": ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "?"}),
    "charsmap empty": ("normalizer", {"type": "Precompiled", "precompiled_charsmap": ""}),
    "bad pattern": ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated",
                                       "invert": False}),
    "token beyond": ("added_tokens", [ADDED | {"id": 10**9, "content": "<far>"}]),
    "token beyond 2^32": ("added_tokens", [ADDED | {"id": 10**12, "content": "<far>"}]),
    "token twice": ("added_tokens", [ADDED | {"id": 0, "content": "<s>"}, ADDED | {"id": 7, "content": "<s>"}]),
    "empty token": ("added_tokens", [ADDED | {"id": 0, "content": ""}]),
    "padding": ("padding", {"strategy": {"Fixed": 10**10}, "direction": "Right", "pad_to_multiple_of": None,
                            "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"}),
    "truncation": ("truncation", {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}),
    "empty vocabulary": ("model", {"type": "BPE", "vocab": {}, "merges": []}),
    "ids beyond": ("model", {"type": "BPE", "vocab": {"a": 10**9}, "merges": []}),
    "ids negative": ("model", {"type": "BPE", "vocab": {"a": -1}, "merges": []}),
    "merges unknown": ("model", {"type": "BPE", "vocab": {"a": 0}, "merges": [["b", "c"]]}),
    "another kind": ("model", {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"}),
    "unigram": ("model", {"type": "Unigram", "unk_id": 9, "vocab": [["a", 0.0]]}),
}  # fmt: skip
