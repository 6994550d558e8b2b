"""Questions on files: a table with a row per question, as CSV or as one JSON object per line.

    file,question,answer,options
    drive/000.mp4,Which way does the car turn?,left,left|right|it goes straight on

`question`, `answer` and `options` may be left out or empty. Several rows may name one file.

    rows = read_questions(Path("questions.csv"))
    asked(rows[0].question, rows[0].options)    # the question with its lettered options
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourstage.json_text import parse_json
from fourstage.paths import kind_of, shortened
from fourstage.stages import UserError

COLUMNS = ("file", "question", "answer", "options")
BETWEEN_OPTIONS = "|"  # in CSV
MOST_OPTIONS = 26  # letters


@dataclass(frozen=True)
class Question:
    """One row."""

    file: str  # relative to the dataset's folder
    question: str  # "": the dataset's own
    answer: str  # "": no quality is scored
    options: tuple[str, ...]  # (): not multiple choice
    where: str  # for messages: "questions.csv: line 3"


def read_questions(path: Path) -> list[Question]:
    """The rows of a .csv or .jsonl, in order. Raises UserError naming the line."""
    return [question_of(row, where) for row, where in rows_of(path)]


def rows_of(path: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Each row of a .csv or .jsonl as an object, and where it stands. Raises UserError."""
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise UserError(f"{path} is neither .csv nor .jsonl; rename or convert it")
    if not path.is_file():
        found = f"is {kind_of(path)}" if path.exists() else "does not exist"
        raise UserError(f"{path} {found}; expected a .csv or .jsonl file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not readable as UTF-8: {error}; re-export it") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    yield from _csv_rows(path, text) if path.suffix.lower() == ".csv" else _json_rows(path, text)


def question_of(row: Mapping[str, Any], where: str) -> Question:
    """A row as a question. Raises UserError where a value is of another type than it must be."""
    file = text_of(row, "file", where)
    if not file:
        raise UserError(f"{where} has no 'file', expected a path relative to the dataset's folder")
    options = options_of(row, where)
    return Question(file, text_of(row, "question", where), text_of(row, "answer", where), options, where)


def text_of(row: Mapping[str, Any], key: str, where: str) -> str:
    """The text under `key`, "" where there is none. Raises UserError for another type."""
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: {key!r} is {shortened(repr(value))}, expected a text; put it in quotes")
    return value or ""


def options_of(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The options of a row: a list of texts, or one text with `|` between them. Raises UserError."""
    found = row.get("options") or ()
    options = [part.strip() for part in found.split(BETWEEN_OPTIONS)] if isinstance(found, str) else found
    if not isinstance(options, list | tuple) or not all(isinstance(part, str) and part.strip() for part in options):
        raise UserError(f"{where}: 'options' is {shortened(repr(found))}, expected texts, none of them empty")
    if len(options) == 1 or len(options) > MOST_OPTIONS or len(set(options)) < len(options):
        raise UserError(f"{where}: {len(options)} 'options', expected 2 to {MOST_OPTIONS} different ones")
    return tuple(options)


def asked(question: str, options: Sequence[str]) -> str:
    """The question as the model gets it: with its options, lettered, where it has any."""
    if not options:
        return question
    lettered = "\n".join(f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(options))
    return f"{question}\n{lettered}\nAnswer with the letter of the correct option."


def _csv_rows(path: Path, text: str) -> Iterator[tuple[dict[str, Any], str]]:
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        if "file" not in names:
            raise UserError(f"{path} has the columns {', '.join(names) or 'none'}; expected {', '.join(COLUMNS)}")
        if len(set(names)) < len(names):
            raise UserError(f"{path} has two columns of one name among {', '.join(names)}; rename one")
        for row in reader:
            where = f"{path}: line {reader.line_num}"
            if None in row or None in row.values():
                raise UserError(
                    f"{where} has another number of values than the header; put values with commas in quotes"
                )
            yield dict(row), where
    except csv.Error as error:
        raise UserError(f"{path} is not CSV that can be read: {error}; re-export it") from error


def _json_rows(path: Path, text: str) -> Iterator[tuple[dict[str, Any], str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            row = parse_json(line)
        except UserError as error:
            raise UserError(f"{where}: {error}; mend or re-export it") from error
        if not isinstance(row, dict):
            raise UserError(f"{where} is no object, expected one with keys such as 'file'; mend it")
        yield row, where
