"""Paths that people write in settings, arguments and datasets, refused in one line where no file can have them.

    path_of("~/data", "dataset.root")           # Path("/home/me/data")
    readable_file("results.json", "file")       # the path of a regular file, else UserError

Left out: what a file holds, and paths of stores (`tracking/destination.py`).
"""

from __future__ import annotations

import stat
from pathlib import Path

from fourstage.stages import UserError
from fourstage.text import is_storable

NAME_BYTES, PATH_BYTES = 255, 4095  # what Linux's file systems take
MOST_SHOWN = 80  # characters of a path that is refused


def path_of(text: str, name: str) -> Path:
    """The path that the setting or argument `name` holds, with `~` as the home folder. Raises UserError."""
    check_path(text, name)
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{name}={text}: no home folder is known for {text.partition('/')[0]}; write it out") from error


def check_path(text: str, name: str) -> None:
    """Raise UserError where no file can have the path that `name` holds."""
    fault = ""
    if not text.strip():
        fault = "is empty"
    elif "\0" in text or any(letter in text for letter in "\r\n"):
        fault = "contains a NUL byte" if "\0" in text else "contains a line break"
    elif not is_storable(text):
        fault = "contains half of a surrogate pair, or bytes that are no UTF-8"
    fault = fault or too_long(text)
    if fault:
        raise UserError(f"{name}={shortened(text)!r} {fault}; expected a path")


def readable_file(text: str, name: str) -> Path:
    """The path of a regular file that is there. Raises UserError for anything else."""
    path = path_of(text, name)
    try:
        if path.is_file():
            return path
        found = f"is {kind_of(path)}" if path.exists() else "does not exist"
    except OSError as error:
        found = f"cannot be looked at ({error.strerror})"
    raise UserError(f"{name}={text} {found}; expected a regular file")


def kind_of(path: Path) -> str:
    """What lies at a path: `a folder`, `a named pipe`. Raises OSError where nothing does."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFREG: "a file",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(path.stat().st_mode), "no regular file")


def too_long(text: str) -> str:
    """Why no file system takes the path, "" where it does."""
    longest = max((len(part.encode("utf-8", "surrogatepass")) for part in text.split("/")), default=0)
    if longest > NAME_BYTES:
        return f"has a name of {longest:,} bytes, and file systems take {NAME_BYTES}"
    whole = len(text.encode("utf-8", "surrogatepass"))
    return f"is {whole:,} bytes long, and systems take {PATH_BYTES:,}" if whole > PATH_BYTES else ""


def shortened(text: str) -> str:
    """The text, or its beginning where it is too long for a message."""
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"
