"""A list of samples with one JSON object per line: files anywhere under a folder, or the keys of EventGPT's layout.

{"file": "drive/000.mp4", "question": "Which way does the car turn?", "answer": "left", "options": ["left", "right"]}
{"id": "0001", "event_data": "interlaken/000016.npy", "question": "What moves?", "answer": "A tram."}

samples = read(Settings(name="jsonl", file="data/clips.jsonl"))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fourstage.config.schema import DatasetSettings
from fourstage.config.values import FilePath
from fourstage.data.dataset import sample_of, with_unique_keys
from fourstage.data.questions import COLUMNS, asked, options_of, rows_of, text_of
from fourstage.stages import Sample, UserError
from fourstage.text import storable


@dataclass(frozen=True, kw_only=True)
class Settings(DatasetSettings):
    """Where the list is, and what its paths are relative to."""

    file: FilePath
    root: FilePath | None = None  # null: the folder of `file`

    @property
    def label(self) -> str:
        return Path(self.file).stem


def read(settings: Settings, root: Path | None = None) -> list[Sample]:
    """The samples in the order of the lines; `root`: where the dataset is by now. Raises UserError."""
    path = Path(settings.file)
    folder = Path(settings.root) if settings.root else path.parent
    found = [_sample(row, root or folder, where) for row, where in rows_of(path)]
    return with_unique_keys(found)[: settings.limit]


def _sample(row: Mapping[str, Any], root: Path, where: str) -> Sample:
    file, options = text_of(row, "file", where), options_of(row, where)
    name = str(number) if isinstance(number := row.get("id"), int) else text_of(row, "id", where)
    if file and (others := [key for key in ("event_data", "event_image", "video_data", "mp4_data") if row.get(key)]):
        raise UserError(f"{where} has both 'file' and {others[0]!r}; a sample's media are one or the other")
    if file:
        own = Sample(key=storable(file), id=storable(name or file), root=root, file=file)
    else:
        own = sample_of({key: value for key, value in row.items() if key not in COLUMNS}, root, where)
    question = text_of(row, "question", where) or own.question
    extra = {key: value for key, value in row.items() if key not in (*COLUMNS, "id")} if file else dict(own.extra)
    return replace(
        own,
        question=storable(asked(question, options)),
        reference=storable(text_of(row, "answer", where) or own.reference),
        extra=extra | ({"options": list(options)} if options else {}),
    )
