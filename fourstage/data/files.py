"""Files that a dataset names: only regular ones are opened, since a FIFO or a device can block or never end.

size = check_file(Path("video/gota/000000.jpg"), expected="a PNG or JPEG")
"""

from __future__ import annotations

import stat
from pathlib import Path

from fourstage.stages import SampleError


def check_file(path: Path, expected: str) -> int:
    """The size of a regular file in bytes, without opening it. Raises SampleError for anything else at `path`."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SampleError(f"file {path} does not exist; expected {expected}") from error
    except (OSError, ValueError) as error:  # a name too long, a loop of links, a name that cannot be encoded
        raise SampleError(f"file {path} cannot be read: {_reason(error)}; expected {expected}") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a FIFO, device or socket"
        raise SampleError(f"{path} is {kind}; expected {expected}")
    return found.st_size


def is_file(path: Path) -> bool:
    """Whether there is anything but a folder at `path`. Raises SampleError where that cannot be found out."""
    mode = _mode(path)
    return mode is not None and not stat.S_ISDIR(mode)


def is_folder(path: Path) -> bool:
    """Whether there is a folder at `path`. Raises SampleError where that cannot be found out."""
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def shown(text: str) -> str:
    """The beginning of a text out of a file, for a message in one line."""
    return text[:80] if text[:80].isprintable() else ascii(text[:80])[1:-1]


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise SampleError(f"{path} cannot be read: {_reason(error)}") from error


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
