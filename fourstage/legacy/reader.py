"""Hand-made result files as runs: JSON text → one LegacyRun for each model in it.

Three layouts are known, by their keys:

    prefixed   [{"id", "egpt": text, "egpt_stage1_time", …, "egpt_token_ids", "llava-1.5-7b-hf": text, "llava_…"}, …]
    lists      {"config", "eventgpt_results": [{"sample", "stage1_time", …, "tokens", "token_ids"}], "x_results": […]}
    nested     {"dataset_name", "config", "statistics", "results": [{"sample_idx", "eventgpt": {"stage1_time", …}}],
               "errors"}

What a file does not say stays null. Three stages are load, preprocess and generate, which holds encode and decode
unseparated; four are ours; five have prefill (4) apart from the decode steps (5). A sample with a missing or
impossible value is a failed record, as in a run of ours. Left out: whether a file can be believed
(`checks.py`), and where its runs go (`ingest.py`).

    for run in read_legacy(Path("results.json").read_text()):
        print(run.model, len(run.records), run.unit, run.unit_evidence)
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from statistics import fmean, median
from typing import Any, Literal, get_args

from fourstage.config.schema import SettingError
from fourstage.json_text import parse_json
from fourstage.stages import SampleRecord, UserError

Layout = Literal["prefixed", "lists", "nested"]
Unit = Literal["s", "ms"]

LAYOUTS: dict[Layout, str] = {
    "prefixed": "a list of samples with keys such as egpt_stage1_time",
    "lists": "{config, eventgpt_results: [{sample, stage1_time, …}], …}",
    "nested": "{config, statistics, results: [{sample_idx, eventgpt: {stage1_time, …}, …}]}",
}
MODELS = {"egpt": "eventgpt", "video_llava": "videollava", "video-llava": "videollava"}  # else as the file says
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
TOLD_SAMPLES = ("total_samples", "num_samples", "n_samples")

UNITS: dict[str, Unit] = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("ms", "msec", "msecs", "millisecond", "milliseconds"), "ms"),
}  # fmt: skip
SUFFIX = re.compile(rf"^(?P<name>.+?)(?:_(?P<unit>{'|'.join(UNITS)}))?$")
STAGE = re.compile(r"^stage_?(?P<number>\d{1,2})(?:_time)?$")
PREFIXED = re.compile(rf"^(?P<prefix>.+?)_stage_?\d{{1,2}}(?:_time)?(?:_(?:{'|'.join(UNITS)}))?$")
UNIT_KEYS = ("unit", "units", "time_unit", "time_units", "timing_unit")
WALL = ("wall", "elapsed", "duration")

# seconds an output token can take on any machine, of models of some billions of parameters: from below the weights'
# way through the fastest memory to a slow processor without a GPU
LEAST_TOKEN_S, MOST_TOKEN_S = 0.0005, 5.0
SAME = 0.001  # two figures that differ by so little are one figure, rounded
WALL_SHARE = (0.2, 1.02)  # of a benchmark's wall time that its samples can be
MOST_TOKENS = 1_000_000  # no answer is longer
MOST_TIME = 1e10  # nor is a stage, which is four months in milliseconds
DEPTH = 50  # of tables and lists in each other
END_TOKEN = 2  # `</s>` of LLaMA's tokenizer, which EventGPT, LLaVA-1.5 and Video-LLaVA share

# names of ours for what configurations of such scripts call otherwise
SETTINGS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "num_beams": "num_beams",
    "max_new_tokens": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "seed": "seed",
    "device": "device",
    "batch_size": "batch_size",
    "precision": "precision",
    "dtype": "precision",
    "torch_dtype": "precision",
    "prompt": "prompt",
    "query": "prompt",
    "dataset": "dataset.name",
    "dataset_name": "dataset.name",
    "model_path": "weights.path",
}
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "half": "fp16"}


class NoResultsError(UserError):
    """A result file in which nothing succeeded: no run can be made of it."""


@dataclass(frozen=True)
class Told:
    """What a file says of a sample that a SampleRecord has no place for, and what was wrong with it."""

    stage_s: tuple[float, ...] = ()  # the file's own stages in order; empty where the sample failed
    prefill_length: int | None = None  # rows of the prompt, media included
    mean_token_s: float | None = None  # the file's own time per token
    fault: Literal["", "missing", "value", "error"] = ""


@dataclass(frozen=True)
class LegacyRun:
    """One model of a result file."""

    model: str
    layout: Layout
    records: tuple[SampleRecord, ...]
    told: tuple[Told, ...]  # one for each record
    params: Mapping[str, str]  # what the file says of its configuration, under our names where they mean the same
    stage_of: Mapping[int, str]  # the file's stage → ours; empty where no sample has a stage
    unit: Unit  # of the file's times; those with a unit in their key have that one
    unit_evidence: str
    told_samples: int | None = None  # how many samples the file claims
    notes: tuple[str, ...] = ()


def read_legacy(text: str, unit: str = "") -> tuple[LegacyRun, ...]:
    """The runs of a result file; `unit` is that of its times, where the file leaves it in doubt.

    Raises UserError where the text is no such file or does not show its unit, and NoResultsError where it has none.
    """
    if unit not in ("", *get_args(Unit)):
        raise SettingError(f"unit={unit}: expected unit=s or unit=ms")
    document = _parse(text)
    file = _recognise(document)
    entries = [entry for source in file.sources for entry in source.entries]
    if not any(_stages_in(entry.own) for entry in entries):
        raise NoResultsError(
            f"no results: the file has the layout {file.layout!r}, {len(entries)} entries, {len(file.errors)} errors "
            "and not one measured sample"
        )
    names = Counter(source.name for source in file.sources)
    if twice := [name for name, count in names.items() if count > 1]:
        raise UserError(f"two models of the file are both {twice[0]}: rename one")
    stages = {source.name: _stage_numbers(source) for source in file.sources}
    for name, numbers in stages.items():
        if numbers and (len(numbers) not in STAGE_MAPS or numbers != list(range(1, len(numbers) + 1))):
            found = ", ".join(map(str, numbers))
            raise UserError(f"{name} has the stages {found}; known are files with stages 1 to 3, 1 to 4 or 1 to 5")
    chosen, evidence = _choose_unit(file, unit)
    usable = _usable_keys(file.sources)
    runs = [_read(file, source, stages[source.name], chosen, evidence, usable) for source in file.sources]
    return tuple(_with_missing(run, runs) for run in runs)


@dataclass(frozen=True)
class _Entry:
    """One sample of one model: what its models share, and the model's own values under names without its prefix."""

    shared: Mapping[str, Any]
    own: Mapping[str, Any]
    names: Mapping[str, str]  # own name → the file's key
    error: str = ""


@dataclass(frozen=True)
class _Source:
    """One model of a file."""

    name: str
    aliases: tuple[str, ...]
    entries: list[_Entry]


@dataclass(frozen=True)
class _File:
    """A file whose layout is known."""

    layout: Layout
    sources: list[_Source]
    config: Mapping[str, Any] = field(default_factory=dict)
    statistics: Mapping[str, Any] = field(default_factory=dict)
    errors: Sequence[Any] = ()


class _EntryError(Exception):
    """A value of a sample that cannot be used."""

    def __init__(self, stage: str, kind: Literal["missing", "value", "error"], message: str):
        super().__init__(message)
        self.stage, self.kind = stage, kind


def _parse(text: str) -> Any:
    document = parse_json(text)
    level, depth = [document], 0
    while level := [part for value in level if isinstance(value, dict | list) for part in _parts(value)]:
        if (depth := depth + 1) > DEPTH:
            raise UserError(f"nested over {DEPTH} deep: no result file")
    return document


def _parts(value: dict[str, Any] | list[Any]) -> Iterator[Any]:
    yield from (value.values() if isinstance(value, dict) else value)


def _recognise(document: Any) -> _File:
    """The file by its layout. Raises UserError where none fits."""
    if isinstance(document, list):
        if not document:
            raise NoResultsError("no results: the file is an empty list")
        return _prefixed(document)
    if isinstance(document, dict):
        config, statistics = _table(document, "config"), _table(document, "statistics")
        if isinstance(document.get("dataset_name"), str):
            config = {"dataset_name": document["dataset_name"], **config}
        found = document.get("errors")
        errors: Sequence[Any] = found if isinstance(found, list) else ()
        lists = {key: value for key, value in document.items() if key.endswith("_results") and isinstance(value, list)}
        if lists:
            sources = [_source_of_list(key.removesuffix("_results"), rows) for key, rows in lists.items()]
            return _File("lists", sources, config, statistics, errors)
        if isinstance(results := document.get("results"), list):
            sources = _nested(results)
            if sources or not results:
                return _File("nested", sources, config, statistics, errors)
    raise _unknown(document)


def _unknown(document: Any) -> UserError:
    rows = document if isinstance(document, list) else [document]
    where = "of its samples" if isinstance(document, list) else "at its top"
    if isinstance(document, dict) and isinstance(document.get("results"), list):
        rows, where = document["results"], "of its results"
    keys = list(dict.fromkeys(shown(key) for row in rows if isinstance(row, dict) for key in row))
    more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
    kind = f"the keys {where} are {', '.join(keys[:8])}{more}" if keys else f"it holds {type(rows[0]).__name__}"
    return UserError(f"unknown layout: {kind}; known are " + "; ".join(LAYOUTS.values()))


def _prefixed(rows: list[Any]) -> _File:
    found: Iterator[re.Match[str] | None] = (
        PREFIXED.match(key) for row in rows if isinstance(row, dict) for key in row
    )
    prefixes = list(dict.fromkeys(match["prefix"] for match in found if match))
    if not prefixes:
        raise _unknown(rows)
    owners = {key: _owner(key, prefixes) for row in rows if isinstance(row, dict) for key in row}
    return _File("prefixed", [_source_of_prefix(prefix, rows, owners) for prefix in prefixes])


def _owner(key: str, prefixes: Sequence[str]) -> str:
    """The longest prefix of the key; "" where it belongs to no model."""
    fitting = [prefix for prefix in prefixes if key == prefix or key.startswith((f"{prefix}_", f"{prefix}-"))]
    return max(fitting, key=len, default="")


def _source_of_prefix(prefix: str, rows: list[Any], owners: Mapping[str, str]) -> _Source:
    """`egpt` is the text of egpt_…; where there is no such key, `llava-1.5-7b-hf` is that of llava_…"""
    mine = [key for key, owner in owners.items() if owner == prefix]
    texts = [key for key in mine if key == prefix] or [key for key in mine if not key.startswith(f"{prefix}_")]
    if len(texts) > 1:
        raise UserError(f"which is the text of {prefix}_…: {' or '.join(map(shown, texts))}?")
    names = {key.removeprefix(f"{prefix}_"): key for key in mine if key not in texts}
    if texts:
        names["text"] = texts[0]
    entries = []
    for row in rows:
        shared = row if isinstance(row, dict) else {}
        own = {name: row[key] for name, key in names.items() if key in shared}
        shared = {key: value for key, value in shared.items() if not owners[key]}
        missing = "" if own else f"the file has no result of {shown(prefix)}"
        entries.append(_Entry(shared, own, names, _told_error(own) or missing))
    named = texts[0] if texts else prefix
    return _Source(_model_name(named), (prefix, named), entries)


def _source_of_list(name: str, rows: list[Any]) -> _Source:
    entries = []
    for row in rows:
        own = row if isinstance(row, dict) else {}
        sample = own.get("sample")
        shared = {**own, **sample} if isinstance(sample, dict) else own
        entries.append(_Entry(shared, own, {}, _told_error(own) or ("" if own else "the entry holds no values")))
    return _Source(_model_name(name), (name,), entries)


def _nested(rows: list[Any]) -> list[_Source]:
    """A model is a key under which a sample holds stages, or an error."""
    tables = [row for row in rows if isinstance(row, dict)]
    models = dict.fromkeys(
        key
        for row in tables
        for key, value in row.items()
        if isinstance(value, dict) and (_stages_in(value) or _told_error(value))
    )
    sources = []
    for model in models:
        entries = []
        for row in rows:
            shared = row if isinstance(row, dict) else {}
            found = shared.get(model)
            own = found if isinstance(found, dict) else {}
            names = {key: f"{model}.{key}" for key in own}
            missing = "" if own else f"the file has no result of {shown(model)}"
            entries.append(_Entry(shared, own, names, _told_error(own) or _told_error(shared) or missing))
        sources.append(_Source(_model_name(model), (model,), entries))
    return sources


def _told_error(own: Mapping[str, Any]) -> str:
    """The error that an entry tells of itself."""
    found = own.get("error")
    return shown(found, 300) if isinstance(found, str) and found else ""


def _model_name(found: str) -> str:
    return MODELS.get(found.lower(), shown(found))


def _stages_in(own: Mapping[str, Any]) -> dict[int, str]:
    """The stages among an entry's keys: number → key."""
    found = ((STAGE.match(_split(key)[0]), key) for key in own)
    return {int(match["number"]): key for match, key in found if match}


def _stage_numbers(source: _Source) -> list[int]:
    return sorted({number for entry in source.entries for number in _stages_in(entry.own)})


def _split(key: str) -> tuple[str, Unit | None]:
    """A key without its unit, and its unit: `total_time_ms` → total_time, ms."""
    match = SUFFIX.match(key)
    if match is None or match["unit"] is None:
        return key, None
    return match["name"], UNITS[match["unit"]]


def _key_of(own: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of these names that the entry has, with or without a unit."""
    bare: dict[str, str] = {}
    for key in own:
        bare.setdefault(_split(key)[0], key)
        bare[key] = key
    return next((bare[name] for name in names if name in bare), None)


# the unit of the times


@dataclass(frozen=True)
class _Vote:
    unit: Unit
    why: str


def _choose_unit(file: _File, asked: str) -> tuple[Unit, str]:
    """The unit of times without one in their key, and what shows it. Raises UserError in doubt."""
    labels = {
        _split(key)[1] for source in file.sources for entry in source.entries for key in _stages_in(entry.own).values()
    }
    if labels and None not in labels:
        units = {label for label in labels if label}
        if asked and units != {asked}:
            raise SettingError(f"unit={asked}, but the keys of the stages say {' and '.join(sorted(units))}")
        return ("ms" if "ms" in units else "s"), "the keys of the stages name it"
    if asked:
        return ("ms" if asked == "ms" else "s"), f"as told: unit={asked}"
    votes = list(chain(_stated(file), _labelled(file), _plausible(file)))
    units = {vote.unit for vote in votes}
    if len(units) == 1:
        return votes[0].unit, "; ".join(dict.fromkeys(vote.why for vote in votes))
    if not units:
        raise UserError(f"seconds or milliseconds? {_doubt(file)}: add unit=s or unit=ms")
    sides = (next(f"{vote.unit} ({vote.why})" for vote in votes if vote.unit == unit) for unit in sorted(units))
    raise UserError(f"seconds or milliseconds? The file shows {' and '.join(sides)}: add unit=s or unit=ms")


def _stated(file: _File) -> Iterator[_Vote]:
    """`"time_unit": "ms"` in the configuration."""
    for path, value in chain(_leaves(file.config, "config"), _leaves(file.statistics, "statistics")):
        unit = UNITS.get(value.strip().lower()) if isinstance(value, str) else None
        if unit and path.rpartition(".")[2].lower() in UNIT_KEYS:
            yield _Vote(unit, f"{path} is {value!r}")


def _labelled(file: _File) -> Iterator[_Vote]:
    """Figures with a unit in their key that are those of the samples: a mean of stage 1 in ms, a wall time in s."""
    columns = _columns(file)
    figures = [figure for values in columns if values for figure in (fmean(values), median(values), math.fsum(values))]
    whole = math.fsum(value for values in columns for value in values)
    for path, found in chain(_leaves(file.config, "config"), _leaves(file.statistics, "statistics")):
        name = path.rpartition(".")[2]
        label, value = _split(name)[1], _number(found)
        if label is None or not value:
            continue
        if any(word in name.lower() for word in WALL):
            low, high = WALL_SHARE
            fit: list[Unit] = [unit for unit in ("s", "ms") if low <= whole * _scale(unit, label) / value <= high]
            if len(fit) == 1:
                yield _Vote(fit[0], f"{path} is {value:g}, and the stages sum to {whole:g}")
            continue
        yield from _same(path, value, label, figures)
    for source in file.sources:
        for names, parts in ((TOTAL, None), (MEAN, -1)):
            pairs = [pair for entry in source.entries if (pair := _own_label(entry, names, parts))]
            if pairs:
                value, figure, label, key = pairs[len(pairs) // 2]
                yield from _same(key, value, label, [figure])


def _same(path: str, value: float, label: Unit, figures: Sequence[float]) -> Iterator[_Vote]:
    """One vote where the value, read in its own unit, is one of the figures in a unit of theirs."""
    for unit in ("s", "ms"):
        if any(abs(figure * _scale(unit, label) - value) <= SAME * value for figure in figures):
            yield _Vote(unit, f"{path} is {value:g}, the same as by the samples' times")
            return


def _own_label(entry: _Entry, names: Sequence[str], part: int | None) -> tuple[float, float, Unit, str] | None:
    """A sample's own total, or time per token, with a unit in its key: its value and what the stages say."""
    key = _key_of(entry.own, names)
    label = _split(key)[1] if key else None
    stages = [(_number(entry.own[name]), _split(name)[1]) for _, name in sorted(_stages_in(entry.own).items())]
    values = [value for value, unit in stages if value is not None and unit is None]
    if key is None or label is None or not stages or len(values) < len(stages):
        return None
    value = _number(entry.own[key])
    tokens = _tokens(entry) if part is not None else 1
    if not value or not tokens:
        return None
    figure = values[part] / tokens if part is not None else math.fsum(values)
    return value, figure, label, entry.names.get(key, key)


def _plausible(file: _File) -> Iterator[_Vote]:
    """The one unit in which a token takes a time that it can take."""
    for source in file.sources:
        if (price := _price(source)) is None:
            continue
        fit: list[Unit] = [u for u in ("s", "ms") if LEAST_TOKEN_S <= price * _scale(u, "s") <= MOST_TOKEN_S]
        if len(fit) == 1:
            yield _Vote(fit[0], f"{source.name} takes {price:.3g} a token, possible in {fit[0]} only")


def _doubt(file: _File) -> str:
    prices = [f"{source.name} takes {price:.3g} a token" for source in file.sources if (price := _price(source))]
    return ", ".join(prices) or "no sample has both a time of its last stage and tokens"


def _price(source: _Source) -> float | None:
    """The median time of the last stage by tokens, in the file's unit; None where no sample has both."""
    prices = []
    for entry in source.entries:
        stages, tokens = _stages_in(entry.own), _tokens(entry)
        if stages and tokens:
            key = stages[max(stages)]
            if (value := _number(entry.own[key])) and _split(key)[1] is None:
                prices.append(value / tokens)
    return median(prices) if prices else None


def _tokens(entry: _Entry) -> int:
    """Tokens of an answer: ids, else the count; 0 where neither can be used."""
    ids, count = (_key_of(entry.own, names) for names in (IDS, COUNT))
    if ids and isinstance(entry.own[ids], list) and entry.own[ids]:
        return len(entry.own[ids])
    found = entry.own[count] if count else 0
    if isinstance(found, list):
        return len(found)
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 < found <= MOST_TOKENS else 0


def _columns(file: _File) -> list[list[float]]:
    """Each stage's times of each model, without those that name their unit."""
    columns: dict[tuple[str, int], list[float]] = {}
    for source in file.sources:
        for entry in source.entries:
            for number, key in _stages_in(entry.own).items():
                if _split(key)[1] is None and (value := _number(entry.own[key])) is not None:
                    columns.setdefault((source.name, number), []).append(value)
    return list(columns.values())


def _scale(unit: Unit, target: Unit) -> float:
    """What turns a time in `unit` into one in `target`."""
    return 1.0 if unit == target else 1000.0 if unit == "s" else 0.001


def _leaves(table: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """The values of nested tables with their dotted paths; a list is one value."""
    for key, value in table.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from _leaves(value, here)
        else:
            yield here, value


# records


def _usable_keys(sources: Sequence[_Source]) -> tuple[str, ...]:
    """The keys by which samples pair: those that every model with samples has somewhere."""
    present = [
        {key for entry in source.entries for key in KEYS if _identity(entry.shared, key)}
        for source in sources
        if source.entries
    ]
    return tuple(key for key in KEYS if all(key in found for found in present))


def _identity(shared: Mapping[str, Any], key: str) -> str:
    found = shared.get(key)
    if isinstance(found, str) or (isinstance(found, int) and not isinstance(found, bool)):
        return shown(found, 1000)
    return ""


def _key(shared: Mapping[str, Any], usable: Sequence[str], position: int) -> str:
    return next((found for key in usable if (found := _identity(shared, key))), f"#{position}")


def _read(
    file: _File, source: _Source, stages: Sequence[int], unit: Unit, evidence: str, usable: Sequence[str]
) -> LegacyRun:
    params = _params(file, source)
    limit = int(text) if (text := params.get("max_new_tokens", "")).isdecimal() else None
    groups = (TOTAL, TEXT, COUNT, IDS)
    present = [[_key_of(entry.own, names) is not None for names in groups] for entry in source.entries]
    # what one sample of a model has, every one must have: else figures would be over different samples
    required = [names for i, names in enumerate(groups) if any(row[i] for row in present)]
    repeats: Counter[str] = Counter()
    records, told = [], []
    for position, entry in enumerate([*source.entries, *_errors(file, source)]):
        key = _key(entry.shared, usable, position)
        record = SampleRecord(
            key=key,
            sample_id=_identity(entry.shared, "id") or key,
            position=position,
            repeat=repeats[key],
            question=_first_text(entry.shared, QUESTION) or params.get("prompt"),
            reference=_first_text(entry.shared, REFERENCE) or "",
        )
        repeats[key] += 1
        try:
            record, facts = _filled(record, entry, stages, unit, required, limit)
        except _EntryError as fault:
            record = replace(record, error=str(fault), error_stage=fault.stage)
            facts = Told(fault=fault.kind)
        records.append(record)
        told.append(facts)
    stage_of = STAGE_MAPS[len(stages)] if stages else {}
    mapped = ", ".join(f"{number} is {name}" for number, name in stage_of.items())
    return LegacyRun(
        model=source.name,
        layout=file.layout,
        records=tuple(records),
        told=tuple(told),
        params=params,
        stage_of=stage_of,
        unit=unit,
        unit_evidence=evidence,
        told_samples=_told_samples(file),
        notes=(f"stages of the file: {mapped}",) if mapped else (),
    )


def _filled(
    record: SampleRecord,
    entry: _Entry,
    stages: Sequence[int],
    unit: Unit,
    required: Sequence[Sequence[str]],
    limit: int | None,
) -> tuple[SampleRecord, Told]:
    """The record with the entry's values. Raises _EntryError where one is missing or cannot be."""
    if entry.error:
        raise _EntryError("load", "error" if entry.own else "missing", entry.error)
    found = _stages_in(entry.own)
    if not stages:
        raise _EntryError("load", "missing", "no stage has a time")
    names = STAGE_MAPS[len(stages)]
    stage_s = [
        _seconds(entry, found.get(number), f"stage{number}_time", _our_stage(names[number]), unit) for number in stages
    ]
    for names_of in required:
        if _key_of(entry.own, names_of) is None:
            raise _EntryError("decode", "missing", f"{names_of[0]} is missing, which other samples have")
    total = _key_of(entry.own, TOTAL)
    text, count, ids = _answer(entry)
    prefill = _key_of(entry.own, PREFILL)
    mean = _key_of(entry.own, MEAN)
    memory = _key_of(entry.own, MEMORY)
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
    return filled, Told(
        tuple(stage_s),
        _whole(entry, prefill) if prefill else None,
        _seconds(entry, mean, "", "decode", unit) if mean and entry.own[mean] is not None else None,
    )


def _our_stage(name: str) -> str:
    """The stage of ours in which a fault of the file's stage is told."""
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


def _answer(entry: _Entry) -> tuple[str | None, int | None, tuple[int, ...]]:
    """Text, token count and ids; the count is the file's own, else that of the ids."""
    text_key, count_key, ids_key = (_key_of(entry.own, names) for names in (TEXT, COUNT, IDS))
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


def _seconds(entry: _Entry, key: str | None, expected: str, stage: str, unit: Unit) -> float:
    if key is None:
        raise _EntryError(stage, "missing", f"{expected} is missing")
    return _value(entry, key, stage) * _scale(_split(key)[1] or unit, "s")


def _value(entry: _Entry, key: str, stage: str) -> float:
    if (number := _number(entry.own[key])) is None:
        raise _wrong(entry, key, stage, f"a number from 0 to {MOST_TIME:g}")
    return number


def _whole(entry: _Entry, key: str) -> int:
    found = entry.own[key]
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= MOST_TOKENS:
        raise _wrong(entry, key, "decode", f"a whole number from 0 to {MOST_TOKENS}")
    return found


def _wrong(entry: _Entry, key: str, stage: str, expected: str) -> _EntryError:
    found, name = entry.own[key], shown(entry.names.get(key, key))
    if found is None:
        return _EntryError(stage, "missing", f"{name} is null, expected {expected}")
    told = type(found).__name__
    if isinstance(found, str | float | bool) or (isinstance(found, int) and abs(found) < 10**20):
        told = f"{told} {found!r:.60}"
    return _EntryError(stage, "value", f"{name} is {shown(told)}, expected {expected}")


def _number(value: Any) -> float | None:
    """A time as a float; None for what cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if 0 <= number <= MOST_TIME else None  # not for NaN either


def _errors(file: _File, source: _Source) -> Iterator[_Entry]:
    """The file's list of errors as samples that failed, without those that are among its results."""
    known = {(key, found) for entry in source.entries for key in KEYS if (found := _identity(entry.shared, key))}
    for error in file.errors:
        shared = error if isinstance(error, dict) else {}
        if any((key, _identity(shared, key)) in known for key in KEYS):
            continue
        model = shared.get("model")
        if isinstance(model, str) and model not in source.aliases and _model_name(model) != source.name:
            continue
        text = _told_error(shared) or (shown(error, 300) if isinstance(error, str) else "the file has an error")
        yield _Entry(shared, {"error": text}, {}, text)


def _with_missing(run: LegacyRun, runs: Sequence[LegacyRun]) -> LegacyRun:
    """The run with a failed record for each sample that only other models of the file have."""
    mine = {(record.key, record.repeat) for record in run.records}
    missing: dict[tuple[str, int], SampleRecord] = {}
    for other in runs:
        missing |= {(r.key, r.repeat): r for r in other.records if (r.key, r.repeat) not in mine | set(missing)}
    added = tuple(
        SampleRecord(
            key=record.key,
            sample_id=record.sample_id,
            position=len(run.records) + i,
            repeat=record.repeat,
            question=record.question,
            reference=record.reference,
            error=f"the file has no result of {run.model}",
            error_stage="load",
        )
        for i, record in enumerate(missing.values())
    )
    told = (Told(fault="missing"),) * len(added)
    return replace(run, records=run.records + added, told=run.told + told) if added else run


def _told_samples(file: _File) -> int | None:
    found = (file.statistics.get(name, file.config.get(name)) for name in TOLD_SAMPLES)
    return next((value for value in found if isinstance(value, int) and not isinstance(value, bool)), None)


def _params(file: _File, source: _Source) -> dict[str, str]:
    """The configuration under our names; what we have no name for under `config.`"""
    others = {alias for other in file.sources if other is not source for alias in (*other.aliases, other.name)}
    own = {*source.aliases, source.name}
    params: dict[str, str] = {"model.name": source.name}
    tables = [file.config, *(value for key, value in file.config.items() if key in own and isinstance(value, dict))]
    for table in tables:
        kept = {key: value for key, value in table.items() if not (isinstance(value, dict) and key in own | others)}
        for path, value in _leaves(kept, ""):
            text = shown(value if isinstance(value, str) else json.dumps(value), 6000)
            name = SETTINGS.get(path, f"config.{path}")
            if name == "precision":
                text = PRECISIONS.get(text.removeprefix("torch."), text)
            if name in params and params[name] != text and table is file.config:
                name = f"config.{path}"
            params[_param_name(name)] = text
    splits = {entry.shared.get("split") for entry in source.entries if isinstance(entry.shared.get("split"), str)}
    if len(splits) == 1:
        params.setdefault("dataset.split", shown(splits.pop(), 250))
    return params


def _param_name(name: str) -> str:
    """What MLflow takes as the name of a parameter."""
    return re.sub(r"[^\w.\-/ :]", "_", name, flags=re.ASCII)[:250].strip("/. ") or "config"


def _first_text(shared: Mapping[str, Any], names: Sequence[str]) -> str | None:
    found = (shared.get(name) for name in names)
    text = next((value for value in found if isinstance(value, str)), None)
    return text.encode("utf-8", "backslashreplace").decode() if text is not None else None


def shown(value: object, limit: int = 80) -> str:
    """A value from outside as one short line without control characters."""
    line = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in str(value)[: limit + 1])
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _table(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = document.get(key)
    return found if isinstance(found, dict) else {}
