"""One sample of a result file as a record, and what the file has that a record does not.

Three stages are load, preprocess and generate, which holds encode and decode unseparated; four are ours; five have
prefill (4) apart from the decode steps (5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fourstage.legacy.keys import (
    COUNT,
    IDS,
    MEAN,
    MEMORY,
    MOST_TIME,
    MOST_TOKENS,
    PREFILL,
    TEXT,
    TOTAL,
    Unit,
    as_number,
    key_of,
    shown,
    split_unit,
    stages_in,
)
from fourstage.legacy.layouts import Entry
from fourstage.legacy.units import scale
from fourstage.stages import SampleRecord

STAGE_MAPS = {
    3: {1: "load", 2: "preprocess", 3: "generate"},
    4: {1: "load", 2: "preprocess", 3: "encode", 4: "decode"},
    5: {1: "load", 2: "preprocess", 3: "encode", 4: "prefill", 5: "decode steps"},
}

UNSEPARATED = (
    "encode_s and decode_s are null: the file times them together, as its stage 3, which is what total_s leaves "
    "after load_s and preprocess_s"
)

STEPS_ARE_MEANS = "token_s is the mean of stage 5 over its steps: the file has no single ones"

MEBIBYTES = "peak_memory_bytes is from a key in mb, read as MiB"

END_TOKEN = 2  # `</s>` of LLaMA's tokenizer, which EventGPT, LLaVA-1.5 and Video-LLaVA share


@dataclass(frozen=True)
class FileFacts:
    """What a file says of a sample that a SampleRecord has no field for, and what was wrong with it."""

    stage_s: tuple[float, ...] = ()  # the file's own stages in order; empty where the sample failed
    prefill_length: int | None = None  # rows of the prompt, media included
    mean_token_s: float | None = None  # the file's own time per token
    fault: Literal["", "missing", "value", "error"] = ""


class UnusableValueError(Exception):
    """A value of a sample that cannot be used."""

    def __init__(self, stage: str, kind: Literal["missing", "value", "error"], message: str):
        super().__init__(message)
        self.stage, self.kind = stage, kind


def fill_record(
    record: SampleRecord,
    entry: Entry,
    stages: Sequence[int],
    unit: Unit,
    required: Sequence[Sequence[str]],
    limit: int | None,
) -> tuple[SampleRecord, FileFacts]:
    """The record with the entry's values. Raises UnusableValueError where one is missing or cannot be."""
    if entry.error:
        raise UnusableValueError("load", "error" if entry.own else "missing", entry.error)
    found = stages_in(entry.own)
    if not stages:
        raise UnusableValueError("load", "missing", "no stage has a time")
    names = STAGE_MAPS[len(stages)]
    stage_s = [
        _seconds(entry, found.get(number), f"stage{number}_time", _our_stage(names[number]), unit) for number in stages
    ]
    for names_of in required:
        if key_of(entry.own, names_of) is None:
            raise UnusableValueError("decode", "missing", f"{names_of[0]} is missing, which other samples have")
    total = key_of(entry.own, TOTAL)
    text, count, ids = _answer(entry)
    prefill = key_of(entry.own, PREFILL)
    mean = key_of(entry.own, MEAN)
    memory = key_of(entry.own, MEMORY)
    timed, notes = _timed(stage_s, count)
    if memory:
        notes = (*notes, MEBIBYTES)
    filled = replace(
        record,
        **timed,
        notes=notes,
        end_to_end_s=_seconds(entry, total, "", "decode", unit) if total else None,
        output=text,
        output_tokens=count,
        output_ids=ids,
        finish_reason=_finish(count, ids, limit),
        peak_memory_bytes=round(_value(entry, memory, "decode") * 2**20) if memory else None,
    )
    return filled, FileFacts(
        tuple(stage_s),
        _whole(entry, prefill) if prefill else None,
        _seconds(entry, mean, "", "decode", unit) if mean and entry.own[mean] is not None else None,
    )


def _our_stage(name: str) -> str:
    """The stage of ours in which a fault of the file's stage is recorded."""
    return name if name in ("load", "preprocess", "encode") else "decode"


def _timed(stage_s: Sequence[float], count: int | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The times of a record from the file's three, four or five stages, and notes."""
    times: dict[str, Any] = {"load_s": stage_s[0], "preprocess_s": stage_s[1], "total_s": math.fsum(stage_s)}
    if len(stage_s) == 3:
        return times, (UNSEPARATED,)
    times["encode_s"] = stage_s[2]
    if len(stage_s) == 4:
        return times | {"decode_s": stage_s[3]}, ()
    prefill_s, steps_s = stage_s[3:]
    times |= {"prefill_s": prefill_s, "decode_s": prefill_s + steps_s, "ttft_s": math.fsum(stage_s[:4])}
    if count is None or count < 2:
        return times, ()
    steps = count - 1  # prefill makes the first token
    return times | {"token_s": (steps_s / steps,) * steps}, (STEPS_ARE_MEANS,)


def _answer(entry: Entry) -> tuple[str | None, int | None, tuple[int, ...]]:
    """Text, token count and ids; the count is the file's own, else that of the ids."""
    text_key, count_key, ids_key = (key_of(entry.own, names) for names in (TEXT, COUNT, IDS))
    text: str | None = None
    if text_key is not None:
        found = entry.own[text_key]
        if not isinstance(found, str):
            raise _wrong(entry, text_key, "decode", "a text")
        text = found.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair is no character
    ids: tuple[int, ...] = ()
    if ids_key is not None:
        found = entry.own[ids_key]
        if not isinstance(found, list) or not all(isinstance(i, int) and type(i) is not bool for i in found):
            raise _wrong(entry, ids_key, "decode", "a list of whole numbers")
        if any(not -(2**63) <= i < 2**63 for i in found):
            raise _wrong(entry, ids_key, "decode", "ids of a vocabulary")
        ids = tuple(found)
    if count_key is None:
        return text, len(ids) if ids_key is not None else None, ids
    found = entry.own[count_key]
    return text, len(found) if isinstance(found, list) else _whole(entry, count_key), ids


def _finish(count: int | None, ids: Sequence[int], limit: int | None) -> str | None:
    """Why an answer ended, where the file shows it: by its end token, or at the limit."""
    if ids and ids[-1] == END_TOKEN:
        return "stop"
    if count is None or limit is None:
        return None
    return "length" if count >= limit else "stop"


def _seconds(entry: Entry, key: str | None, expected: str, stage: str, unit: Unit) -> float:
    if key is None:
        raise UnusableValueError(stage, "missing", f"{expected} is missing")
    return _value(entry, key, stage) * scale(split_unit(key)[1] or unit, "s")


def _value(entry: Entry, key: str, stage: str) -> float:
    if (number := as_number(entry.own[key])) is None:
        raise _wrong(entry, key, stage, f"a number from 0 to {MOST_TIME:g}")
    return number


def _whole(entry: Entry, key: str) -> int:
    found = entry.own[key]
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= MOST_TOKENS:
        raise _wrong(entry, key, "decode", f"a whole number from 0 to {MOST_TOKENS}")
    return found


def _wrong(entry: Entry, key: str, stage: str, expected: str) -> UnusableValueError:
    found, name = entry.own[key], shown(entry.names.get(key, key))
    if found is None:
        return UnusableValueError(stage, "missing", f"{name} is null, expected {expected}")
    text = type(found).__name__
    if isinstance(found, str | float | bool) or (isinstance(found, int) and abs(found) < 10**20):
        text = f"{text} {found!r:.60}"
    return UnusableValueError(stage, "value", f"{name} is {shown(text)}, expected {expected}")
