"""Any folder: its clips, folders of frames, images and event files, found recursively, each a sample.

    samples = read(Settings(name="folder", root="holiday", question="What happens here?"))
    samples[0].key    # "drive/000.mp4": the path under the folder

A folder below `root` whose pictures are named alike but for a number (`000.png`, `001.png`) is one clip of frames; any
other picture is a sample. Hidden files are left out. Questions and answers are in `questions.csv` or `questions.jsonl`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fourstage.config.schema import DatasetSettings
from fourstage.config.values import FilePath
from fourstage.data.dataset import with_unique_keys
from fourstage.data.questions import Question, asked, read_questions
from fourstage.paths import shortened, too_long
from fourstage.stages import Sample, UserError
from fourstage.text import is_storable, storable

CLIPS = (".mp4", ".mov", ".m4v", ".3gp", ".mkv", ".webm", ".avi")
PICTURES = (".png", ".jpg", ".jpeg")
EVENTS = (".npy", ".npz")
QUESTIONS = ("questions.csv", "questions.jsonl")


@dataclass(frozen=True, kw_only=True)
class Settings(DatasetSettings):
    """Where the files are, which of them are samples, and what is asked of them."""

    root: FilePath  # its folder
    media: Literal["all", "clips", "frames", "images", "events"] = "all"
    images: Literal["auto", "frames", "single"] = "auto"
    questions: FilePath | None = None

    @property
    def label(self) -> str:
        return Path(self.root).expanduser().absolute().name or self.name


def read(settings: Settings, root: Path | None = None) -> list[Sample]:
    """The samples in numbered order of their paths; `root`: where the dataset is by now. Raises UserError."""
    root = root or Path(settings.root)
    if not root.is_dir():
        found = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"dataset root {root} {found}; set dataset.root to the folder with your files")
    files = find_media(root, settings.media, settings.images)
    if not files:
        kinds = {"all": "clip, picture or event file"}.get(settings.media, f"file for dataset.media={settings.media}")
        raise UserError(f"no {kinds} in {root} ({', '.join((*CLIPS, *PICTURES, *EVENTS))})")
    rows = _questions(settings, root, files)
    samples = [_sample(root, file, row) for file in files for row in rows.get(file, [None])]
    return with_unique_keys(samples)[: settings.limit]


def find_media(root: Path, media: str = "all", images: str = "auto") -> list[str]:
    """The paths under `root`, with `/` between their parts, that are samples, in numbered order."""
    from fourstage.data.images import numbered  # with numpy, which a check of settings does without

    found: list[str] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        base = Path(folder).relative_to(root).as_posix()
        names = [name for name in names if not name.startswith(".")]
        of = {kind: [name for name in names if name.lower().endswith(suffixes)]
              for kind, suffixes in (("clips", CLIPS), ("images", PICTURES), ("events", EVENTS))}  # fmt: skip
        if is_frames := base != "." and _are_frames(of["images"], images):
            of["images"] = []
        found += [f"{base}/{name}".removeprefix("./") for kind, names in of.items() for name in names
                  if media in ("all", kind)]  # fmt: skip
        if is_frames and media in ("all", "frames"):
            found.append(base)
    return numbered(found)


def _are_frames(names: Sequence[str], images: str) -> bool:
    if images != "auto":
        return images == "frames" and bool(names)
    return len(names) > 1 and len({re.sub(r"\d+", "#", name.lower()) for name in names}) == 1


def _questions(settings: Settings, root: Path, files: Sequence[str]) -> dict[str, list[Question | None]]:
    """The rows of each file. Raises UserError for a row of a file that is not there."""
    path = next((root / name for name in QUESTIONS if (root / name).is_file()), None)
    path = Path(settings.questions) if settings.questions else path
    rows: dict[str, list[Question | None]] = {}
    known = set(files)
    for row in read_questions(path) if path else ():
        name = row.file.removeprefix("./").rstrip("/")
        if name not in known:
            near = difflib.get_close_matches(name, files, n=1)
            if too_long(name) == "" and (root / name).exists():
                if settings.media != "all":  # a row of another kind of media
                    continue
                raise UserError(
                    f"{row.where}: {shortened(row.file)!r} is no sample under dataset.images={settings.images}; "
                    "change that, or the row"
                )
            hint = f"did you mean {near[0]!r}?" if near else "expected a path relative to it"
            raise UserError(f"{row.where}: {shortened(row.file)!r} is not in {root}; {hint}")
        rows.setdefault(name, []).append(row)
    return rows


def _sample(root: Path, file: str, row: Question | None) -> Sample:
    text = storable(file)
    notes = () if is_storable(file) else ("its path is no UTF-8: its key has U+FFFD there",)
    if row is None:
        return Sample(key=text, id=text, root=root, file=file, notes=notes)
    return Sample(
        key=text, id=text, root=root, file=file, question=storable(asked(row.question, row.options)),
        reference=storable(row.answer), extra={"options": list(row.options)} if row.options else {}, notes=notes,
    )  # fmt: skip
