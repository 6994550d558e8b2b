"""The tokenizer and the image processor of a checkpoint, read and checked before a model is built.

tokenizer = read_tokenizer(folder)
image_processor = read_processor(folder, image_size=224)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourstage.lazy import lazy
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
from fourstage.models.reading import is_panic, panics_unprinted, read_json, reason, reported
from fourstage.stages import UserError

if TYPE_CHECKING:
    import numpy as np
    from transformers import LlamaConfig
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
else:
    np = lazy("numpy")
clip = lazy("transformers.models.clip.image_processing_pil_clip")
tokenizers = lazy("tokenizers")
transformers = lazy("transformers", "AutoTokenizer")

TOKENIZER_PARTS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def clip_processor(image_size: int) -> CLIPImageProcessorPil:
    """CLIP's preprocessing as published, by PIL: the same pixels with and without torchvision."""
    return clip.CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )


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
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **options
            )
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
            tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
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
        processor = clip.CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
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
