"""Reading a checkpoint's files: JSON, and whatever a library reads, with every fault as one line.

config = read_json(folder / "config.json")
with reported(f"{file} is truncated or damaged", ": fetch it again"):
    tensors = safe_open(file, framework="pt")
"""

from __future__ import annotations

import json
import os
import reprlib
import stat
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fourstage.stages import UserError
from fourstage.text import one_line

LARGEST_TEXT = 256 << 20  # bytes; a tokenizer.json of 250,000 tokens has 20 MB
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 150
TEXT_SUFFIXES = (".json", ".model", ".txt", ".jinja")


@contextmanager
def reported(what: str, remedy: str = "") -> Iterator[None]:
    """Whatever a library raises inside is raised as one line: `what` happened, its reason, and the remedy.

    Wrap calls of libraries alone: inside, a mistake of ours would look like a faulty file.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:  # each library has its own, and a panic of Rust is no Exception
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise UserError(f"{what} ({reason(error)}){remedy}") from error


def reason(error: BaseException) -> str:
    """What a library raised, in one short line of characters that print."""
    text = textwrap.shorten(one_line(str(error)), 200, placeholder=" …")
    return f"{type(error).__name__}{text and ': '}{text}"


def shown(value: Any) -> str:
    """A value from a file as JSON would have it, on one line and shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _SHORT.repr(value)


def is_panic(error: BaseException) -> bool:
    """A panic of a library written in Rust; pyo3 makes its class afresh in each library."""
    return type(error).__name__ == "PanicException"


@contextmanager
def panics_unprinted() -> Iterator[None]:
    """Hold back what is written to the process's stderr inside, and drop it where a panic of Rust ends the block.

    Rust prints a panic itself, past Python. What else was written comes out afterwards.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    panicked = False
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException as error:
            panicked = is_panic(error) or is_panic(error.__cause__ or error)
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            if not panicked and (text := held.read()):
                os.write(2, text)


def check_files(folder: Path) -> None:
    """Raise UserError for what would block a reader or fill the memory: a FIFO, a device, a text without bound."""
    with reported(f"{folder} cannot be read"):
        entries = sorted(folder.iterdir())
    for entry in entries:
        text = entry.suffix in TEXT_SUFFIXES
        try:
            found = entry.stat()
        except OSError as error:
            if text:  # what libraries do without where it is absent
                raise UserError(f"{entry} is a link that leads nowhere: {error.strerror or error}") from error
            continue
        if not (stat.S_ISREG(found.st_mode) or (stat.S_ISDIR(found.st_mode) and not text)):
            kind = "folder" if stat.S_ISDIR(found.st_mode) else "FIFO, a socket or a device"
            raise UserError(f"{entry} is a {kind}, expected a file: take it out of {folder}")
        if text and found.st_size > LARGEST_TEXT:
            raise UserError(f"{entry} has {found.st_size} bytes, expected at most {LARGEST_TEXT}: fetch it again")


def local_folder(text: str, setting: str) -> Path:
    """The path that a setting or a file gives, `~` expanded. Raises UserError for what cannot be a path."""
    try:
        path = Path(text).expanduser()
        path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a NUL
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{setting} is {shown(text)}, which cannot be a path: {why}") from error
    return path


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError where the file is not there or is not one, or has a key twice."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=lambda pairs: _unique(pairs, path))
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there") from error
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deep: fetch it again") from error
    except ValueError as error:  # not JSON, not UTF-8, a number of 5,000 digits
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, Mapping):
        raise UserError(f"{path} holds a {type(value).__name__}, expected an object")
    return dict(value)


def _unique(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    """An object's pairs as a dictionary. Python would keep the last of two that have one key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise UserError(f"{path} has the key {twice[:60]!r} twice in one object: fetch it again")
    return found
