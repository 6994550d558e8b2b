"""The layouts of result files: JSON text → the samples of each model in it.

Three are known, by their keys:

    prefixed   [{"id", "egpt": text, "egpt_stage1_time", …, "egpt_token_ids", "llava-1.5-7b-hf": text, "llava_…"}, …]
    lists      {"config", "eventgpt_results": [{"sample", "stage1_time", …, "tokens", "token_ids"}], "x_results": […]}
    nested     {"dataset_name", "config", "statistics", "results": [{"sample_idx", "eventgpt": {"stage1_time", …}}],
               "errors"}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fourstage.json_text import parse_json
from fourstage.legacy.keys import KEYS, UNITS, identity_of, shown, stages_in
from fourstage.stages import UserError

Layout = Literal["prefixed", "lists", "nested"]

LAYOUTS: dict[Layout, str] = {
    "prefixed": "a list of samples with keys such as egpt_stage1_time",
    "lists": "{config, eventgpt_results: [{sample, stage1_time, …}], …}",
    "nested": "{config, statistics, results: [{sample_idx, eventgpt: {stage1_time, …}, …}]}",
}

MODELS = {"egpt": "eventgpt", "video_llava": "videollava", "video-llava": "videollava"}  # else as the file says

PREFIXED = re.compile(rf"^(?P<prefix>.+?)_stage_?\d{{1,2}}(?:_time)?(?:_(?:{'|'.join(UNITS)}))?$")

DEPTH = 50  # of tables and lists in each other


class NoResultsError(UserError):
    """A result file in which nothing succeeded: no run can be made of it."""


@dataclass(frozen=True)
class Entry:
    """One sample of one model: what its models share, and the model's own values under names without its prefix."""

    shared: Mapping[str, Any]
    own: Mapping[str, Any]
    names: Mapping[str, str]  # own name → the file's key
    error: str = ""


@dataclass(frozen=True)
class Source:
    """One model of a file."""

    name: str
    aliases: tuple[str, ...]
    entries: list[Entry]


@dataclass(frozen=True)
class ResultFile:
    """A file whose layout is known."""

    layout: Layout
    sources: list[Source]
    config: Mapping[str, Any] = field(default_factory=dict)
    statistics: Mapping[str, Any] = field(default_factory=dict)
    errors: Sequence[Any] = ()


def parse_file(text: str) -> Any:
    """The JSON document of a result file. Raises UserError where it is nested deeper than DEPTH."""
    document = parse_json(text)
    level, depth = [document], 0
    while level := [part for value in level if isinstance(value, dict | list) for part in _parts(value)]:
        if (depth := depth + 1) > DEPTH:
            raise UserError(f"nested over {DEPTH} deep: no result file")
    return document


def _parts(value: dict[str, Any] | list[Any]) -> Iterator[Any]:
    yield from (value.values() if isinstance(value, dict) else value)


def recognise(document: Any) -> ResultFile:
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
            return ResultFile("lists", sources, config, statistics, errors)
        if isinstance(results := document.get("results"), list):
            sources = _nested(results)
            if sources or not results:
                return ResultFile("nested", sources, config, statistics, errors)
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


def _prefixed(rows: list[Any]) -> ResultFile:
    found: Iterator[re.Match[str] | None] = (
        PREFIXED.match(key) for row in rows if isinstance(row, dict) for key in row
    )
    prefixes = list(dict.fromkeys(match["prefix"] for match in found if match))
    if not prefixes:
        raise _unknown(rows)
    owners = {key: _owner(key, prefixes) for row in rows if isinstance(row, dict) for key in row}
    return ResultFile("prefixed", [_source_of_prefix(prefix, rows, owners) for prefix in prefixes])


def _owner(key: str, prefixes: Sequence[str]) -> str:
    """The longest prefix of the key; "" where it belongs to no model."""
    fitting = [prefix for prefix in prefixes if key == prefix or key.startswith((f"{prefix}_", f"{prefix}-"))]
    return max(fitting, key=len, default="")


def _source_of_prefix(prefix: str, rows: list[Any], owners: Mapping[str, str]) -> Source:
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
        entries.append(Entry(shared, own, names, error_of(own) or missing))
    named = texts[0] if texts else prefix
    return Source(model_name(named), (prefix, named), entries)


def _source_of_list(name: str, rows: list[Any]) -> Source:
    entries = []
    for row in rows:
        own = row if isinstance(row, dict) else {}
        sample = own.get("sample")
        shared = {**own, **sample} if isinstance(sample, dict) else own
        entries.append(Entry(shared, own, {}, error_of(own) or ("" if own else "the entry holds no values")))
    return Source(model_name(name), (name,), entries)


def _nested(rows: list[Any]) -> list[Source]:
    """A model is a key under which a sample holds stages, or an error."""
    tables = [row for row in rows if isinstance(row, dict)]
    models = dict.fromkeys(
        key
        for row in tables
        for key, value in row.items()
        if isinstance(value, dict) and (stages_in(value) or error_of(value))
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
            entries.append(Entry(shared, own, names, error_of(own) or error_of(shared) or missing))
        sources.append(Source(model_name(model), (model,), entries))
    return sources


def error_of(own: Mapping[str, Any]) -> str:
    """The error that an entry tells of itself."""
    found = own.get("error")
    return shown(found, 300) if isinstance(found, str) and found else ""


def model_name(found: str) -> str:
    """The model's name in conf/, for the name in a file."""
    return MODELS.get(found.lower(), shown(found))


def stage_numbers(source: Source) -> list[int]:
    """The stages that any entry of the source has times for, in order."""
    return sorted({number for entry in source.entries for number in stages_in(entry.own)})


def failed_entries(file: ResultFile, source: Source) -> Iterator[Entry]:
    """The file's list of errors as samples that failed, without those that are among its results."""
    known = {(key, found) for entry in source.entries for key in KEYS if (found := identity_of(entry.shared, key))}
    for error in file.errors:
        shared = error if isinstance(error, dict) else {}
        if any((key, identity_of(shared, key)) in known for key in KEYS):
            continue
        model = shared.get("model")
        if isinstance(model, str) and model not in source.aliases and model_name(model) != source.name:
            continue
        text = error_of(shared) or (shown(error, 300) if isinstance(error, str) else "the file has an error")
        yield Entry(shared, {"error": text}, {}, text)


def _table(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = document.get(key)
    return found if isinstance(found, dict) else {}
