"""Datasets: the JSON list of samples, where their files lie, and what identifies the whole.

The layout is that of docs/datasets.md. Media files are not opened here and not looked for: a missing file
is an error of its sample, found when stage 1 loads it.

    samples = read_dataset(Path("real"), "EventGPT_Instruction_Subset.json", limit=10)
    path = inside(samples[0].root, "event_npy", "sample1.npy")
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from fourstage.data.contents import Contents, stamps
from fourstage.json_text import parse_json
from fourstage.paths import check_path, kind_of, shortened, too_long
from fourstage.stages import Sample, SampleError, UserError
from fourstage.text import is_storable, storable

_KNOWN = ("id", "event_data", "event_image", "video_data", "mp4_data", "conversations")
SEPARATOR = "#"  # between a key and the number of its repetition
_MEDIA_TAG = re.compile(r"(?:<(?:event|video|image)>\n?)+")


def read_dataset(root: Path, file: str, limit: int | None = None) -> list[Sample]:
    """Read the samples that `root/file` lists, in its order, at most `limit` of them (None: all).

    Keys are unique: where several entries share one, the second becomes `key#2`, the third `key#3`, in order
    of appearance, so that nothing is dropped and pairing does not depend on `limit`. Raises UserError.
    """
    if limit is not None and limit < 1:
        raise UserError(f"the limit of samples is {limit}; set it to at least 1, or to null for all samples")
    path = _find(root, file)
    entries = _parse(path)
    return with_unique_keys(
        [sample_of(entry, root, where=f"{path}: entry {index}") for index, entry in enumerate(entries[:limit])]
    )


def with_unique_keys(samples: Sequence[Sample]) -> list[Sample]:
    """The samples, of which the second with one key gets `key#2`, the third `key#3`."""
    found: list[Sample] = []
    seen: set[str] = set()
    for sample in samples:
        key, count = sample.key, 1
        while key in seen:
            count += 1
            key = f"{sample.key}{SEPARATOR}{count}"
        seen.add(key)
        found.append(sample if key == sample.key else replace(sample, key=key))
    return found


def inside(root: Path, folder: str, relative: str) -> Path:
    """Join `root/folder/relative`, where `relative` came from a dataset and must not lead out of `folder`.

    The check is lexical: no absolute path, drive, backslash, `..`, NUL, half of a surrogate pair or name that no file
    system takes. Links are followed on purpose,
    since datasets keep their large folders on other disks behind symbolic links. Raises SampleError.
    """
    if "\0" in relative:
        fault = "contains a NUL byte"
    elif not PurePosixPath(relative).parts:
        fault = "is empty"
    elif "\\" in relative or re.match(r"[A-Za-z]:", relative):
        fault = "is a Windows path"
    elif relative.startswith("/"):
        fault = "is absolute"
    elif ".." in PurePosixPath(relative).parts:
        fault = "contains '..'"
    elif not is_storable(relative):
        fault = "contains half of a surrogate pair, which is no character"
    elif excess := too_long(relative):
        fault = excess
    else:
        return root / folder / relative
    raise SampleError(
        f"path {shortened(relative)!r} {fault}; write it relative to {root / folder}, with '/' between its parts"
    )


def event_mp4(event_data: str) -> str:
    """Where, under event_mp4/, the MP4 of a sample's event images lies: `seq/clip.npy` → `seq/clip.mp4`."""
    path = PurePosixPath(event_data)
    return str(path.with_suffix(".mp4")) if path.name else event_data  # "/" and "." are refused where a path is made


def dataset_digest(samples: Sequence[Sample], by: str = "content", tell: Callable[[str], None] = lambda _: None) -> str:
    """Identify a dataset by 16 hex digits: SHA-256 over its samples and the files that `load` may read of them.

    `by` is "content" (what the files hold, see `contents.py`: a copy elsewhere stays the same) or "stat" (sizes and
    modification times; nothing is read). Of a folder of frames every image counts. The root is left out. `tell` gets a
    line where reading takes long.
    """
    digest, contents = hashlib.sha256(), Contents(tell)
    for sample in samples:
        files = [(f"{folder}/{relative}", _paths(sample.root, folder, relative)) for folder, relative in _files(sample)]
        paths = [path for _, found in files for path in found or []]
        entry = {
            "key": sample.key,
            "id": sample.id,
            "event_data": sample.event_data,
            "event_image": sample.event_image,
            "video_data": sample.video_data,
            "mp4_data": sample.mp4_data,
            **({"file": sample.file} if sample.file else {}),
            "question": sample.question,
            "reference": sample.reference,
            "extra": dict(sample.extra),
            "files": {name: None if found is None else [path.name for path in found] for name, found in files},
            "content": contents.of(paths) if by == "content" else stamps(paths),
        }
        digest.update(json.dumps(entry, sort_keys=True).encode())
        digest.update(b"\n")
    contents.save()
    return digest.hexdigest()[:16]


def _find(root: Path, file: str) -> Path:
    check_path(str(root), "dataset.root")
    check_path(file, "dataset.file")
    if not root.is_dir():
        found = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"dataset root {root} {found}; set dataset.root to the folder that holds {file}")
    path = root / file
    if path.is_file():
        return path
    if path.exists() and not path.is_dir():
        raise UserError(f"dataset file {path} is {kind_of(path)}, expected a regular file; set dataset.file to one")
    names = sorted(other.name for other in root.glob("*.json"))
    close = difflib.get_close_matches(file, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    listing = ", ".join(names) if names else "no *.json"
    raise UserError(f"no dataset file {file!r} in {root}; {hint}set dataset.file to one that is there: {listing}")


def _parse(path: Path) -> list[Any]:
    try:
        entries = parse_json(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not readable as UTF-8 JSON: {error}; re-export it") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    except UserError as error:
        raise UserError(f"{path}: {error}; mend or re-export it") from error
    if not isinstance(entries, list):
        raise UserError(f"{path} holds {_kind(entries)}, expected a list of samples; wrap the samples in [ … ]")
    if not entries:
        raise UserError(f"{path} is an empty list, expected at least one sample; choose another dataset.file")
    return entries


def sample_of(entry: Any, root: Path, where: str) -> Sample:
    """The sample of one object of the list; `where` names it in messages. Raises UserError."""
    if not isinstance(entry, dict):
        raise UserError(f"{where} is {_kind(entry)}, expected an object with keys such as 'id'; mend the entry")
    event_data = _text(entry, "event_data", where)
    video_data = _text(entry, "video_data", where)
    name = _text({"id": _number_as_text(entry.get("id"))}, "id", where)
    key = event_data or video_data or name
    if key is None:
        raise UserError(f"{where} has no id, event_data or video_data to know it by; give it one of them")
    question, reference = _conversation(entry, where)
    return Sample(
        key=storable(key),
        id=storable(name or key),
        root=root,
        event_data=event_data,
        event_image=_texts(entry, "event_image", where),
        video_data=video_data,
        mp4_data=_text(entry, "mp4_data", where),
        question=storable(question),
        reference=storable(reference),
        extra={name: value for name, value in entry.items() if name not in _KNOWN},
        notes=tuple(
            f"its {what} held half of a surrogate pair, which was replaced by U+FFFD"
            for what, text in (("key", key), ("id", name or key), ("question", question), ("reference", reference))
            if not is_storable(text)
        ),
    )


def _number_as_text(value: Any) -> Any:
    """Some datasets number their samples: 7 is the id "7"."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _text(entry: dict[str, Any], key: str, where: str) -> str | None:
    """The string under `key`; None where it is absent, null or empty."""
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: {key!r} is {_kind(value)}, expected a string; mend the entry")
    return value or None


def _texts(entry: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = entry.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise UserError(f"{where}: {key!r} is {_kind(value)}, expected a list of strings; mend the entry")
    for position, item in enumerate(value):
        if not isinstance(item, str) or not item:
            found = "an empty string" if item == "" else _kind(item)
            raise UserError(f"{where}: {key!r}[{position}] is {found}, expected a path; mend the entry")
    return tuple(value)


def _conversation(entry: dict[str, Any], where: str) -> tuple[str, str]:
    """The first question without its media tags, and the first answer; "" for what is absent."""
    turns = entry.get("conversations")
    if turns is None:
        return "", ""
    if not isinstance(turns, list):
        raise UserError(f"{where}: 'conversations' is {_kind(turns)}, expected a list of objects; mend the entry")
    first: dict[str, str] = {}
    for position, turn in enumerate(turns):
        place = f"{where}: 'conversations'[{position}]"
        if not isinstance(turn, dict):
            raise UserError(f"{place} is {_kind(turn)}, expected an object with 'from' and 'value'; mend the entry")
        speaker, value = _text(turn, "from", place), _text(turn, "value", place)
        if speaker is None:
            raise UserError(f"{place} has no 'from', expected 'human' or 'gpt'; mend the entry")
        first.setdefault(speaker, value or "")
    question = first.get("human", "")
    tag = _MEDIA_TAG.match(question)
    return question[tag.end() :] if tag else question, first.get("gpt", "")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _files(sample: Sample) -> list[tuple[str, str]]:
    if sample.file:
        return [("", sample.file)]
    files = [("event_npy", sample.event_data)] if sample.event_data else []
    files += [("event_image", name) for name in sample.event_image]
    if sample.event_data and _paths(sample.root, "event_mp4", event_mp4(sample.event_data)) is not None:
        files += [("event_mp4", event_mp4(sample.event_data))]  # few datasets have them
    if sample.video_data:
        files += [("video", sample.video_data)]
    if sample.mp4_data:
        files += [("mp4", sample.mp4_data)]
    elif sample.video_data:
        files += [("mp4", f"{sample.video_data}.mp4")]
    return files


def _paths(root: Path, folder: str, relative: str) -> list[Path] | None:
    """The file, or the images of a folder, that lie there; None where nothing does, which stage 1 reports."""
    try:
        path = inside(root, folder, relative)
        if not path.is_dir():
            return [path] if path.exists() else None
    except (ValueError, OSError):
        return None
    from fourstage.data.images import list_images  # with numpy, which a check of settings does without

    try:
        return list_images(path)
    except (SampleError, OSError):  # a folder without images
        return []
