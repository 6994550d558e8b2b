"""The keys of result files: what they are called, the unit that some name, the values that they can have.

split_unit("total_time_ms")                       # ("total_time", "ms")
stages_in({"stage1_time": 0.1, "stage2_time": 0.2})   # {1: "stage1_time", 2: "stage2_time"}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

Unit = Literal["s", "ms"]

KEYS = ("event_data", "video_data", "id", "sample_id", "sample", "sample_idx", "sample_index", "index", "idx")

TOTAL = ("total_time", "time", "end_to_end_time", "e2e_time", "total")

TEXT = ("text", "output_text", "output", "response", "generated_text", "answer", "caption")

COUNT = ("output_tokens", "num_output_tokens", "num_tokens", "n_tokens", "tokens", "token_count")

IDS = ("token_ids", "output_token_ids", "output_ids", "generated_ids")

PREFILL = ("prefill_length", "input_tokens", "prompt_tokens", "prompt_length", "input_length")

MEAN = ("avg_token_time", "mean_token_time", "avg_time_per_token", "time_per_token")

MEMORY = ("memory_inference_mb", "peak_memory_mb")

QUESTION = ("query", "question", "prompt")

REFERENCE = ("reference", "ground_truth")

CLAIMED_SAMPLES = ("total_samples", "num_samples", "n_samples")

UNITS: dict[str, Unit] = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("ms", "msec", "msecs", "millisecond", "milliseconds"), "ms"),
}  # fmt: skip

SUFFIX = re.compile(rf"^(?P<name>.+?)(?:_(?P<unit>{'|'.join(UNITS)}))?$")

STAGE = re.compile(r"^stage_?(?P<number>\d{1,2})(?:_time)?$")

MOST_TOKENS = 1_000_000  # no answer is longer

MOST_TIME = 1e10  # nor is a stage, which is four months in milliseconds


def stages_in(own: Mapping[str, Any]) -> dict[int, str]:
    """The stages among an entry's keys: number → key."""
    found = ((STAGE.match(split_unit(key)[0]), key) for key in own)
    return {int(match["number"]): key for match, key in found if match}


def split_unit(key: str) -> tuple[str, Unit | None]:
    """A key without its unit, and its unit: `total_time_ms` → total_time, ms."""
    match = SUFFIX.match(key)
    if match is None or match["unit"] is None:
        return key, None
    return match["name"], UNITS[match["unit"]]


def key_of(own: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of these names that the entry has, with or without a unit."""
    bare: dict[str, str] = {}
    for key in own:
        bare.setdefault(split_unit(key)[0], key)
        bare[key] = key
    return next((bare[name] for name in names if name in bare), None)


def leaves(table: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """The values of nested tables with their dotted paths; a list is one value."""
    for key, value in table.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from leaves(value, here)
        else:
            yield here, value


def identity_of(shared: Mapping[str, Any], key: str) -> str:
    """The text or whole number at this key; "" where there is neither."""
    found = shared.get(key)
    if isinstance(found, str) or (isinstance(found, int) and not isinstance(found, bool)):
        return shown(found, 1000)
    return ""


def as_number(value: Any) -> float | None:
    """A time as a float; None for what cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if 0 <= number <= MOST_TIME else None  # not for NaN either


def first_text(shared: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of these keys that holds a text; None where none does."""
    found = (shared.get(name) for name in names)
    text = next((value for value in found if isinstance(value, str)), None)
    return text.encode("utf-8", "backslashreplace").decode() if text is not None else None


def shown(value: object, limit: int = 80) -> str:
    """A value from outside as one short line without control characters."""
    line = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in str(value)[: limit + 1])
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
