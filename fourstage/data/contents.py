"""What files hold, as a hash: each file is read once, and again only after it changed.

The hash is remembered in the user's cache folder under what the system changes with every write: path, size, inode,
modification and change time. Reading leaves the system's page cache as it was, since a later measurement may depend
on it. Left out: which files a dataset has (`dataset.py`).

    contents = Contents(tell=print)
    contents.of([Path("mp4/gota.mp4")])     # "5f0c…": the same for a copy elsewhere
    contents.save()
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir

from fourstage.stages import SampleError

READ_LIMIT_BYTES = 4 << 30  # of a larger file size and modification time count: reading it would take a minute
TELL_BYTES = 1 << 30  # it takes seconds from here on, which is said
FRESH_S = 2.0  # a clock's step: a file that changed just now could change again without a trace
MOST_BYTES = 64 << 20  # of the file of hashes: about a million samples
THREADS = 4
LINE = re.compile(r"([0-9a-f]{32}) ([0-9a-f]{32})")


def cache_folder() -> Path:
    """Where fourstage keeps what it can make again: FOURSTAGE_CACHE, else fourstage/ in XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get("FOURSTAGE_CACHE"):
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fourstage"
    except RuntimeError:  # a container's user without a home
        return Path(gettempdir()) / f"fourstage-{os.getuid()}"


def stamps(paths: Sequence[Path]) -> list[tuple[int, int] | None]:
    """Size in bytes and modification time in nanoseconds of each file; None for what is no file."""
    return [(found.st_size, found.st_mtime_ns) if found else None for found in map(_file, paths)]


class Contents:
    """Hashes of groups of files, 32 hex digits each."""

    def __init__(self, tell: Callable[[str], None] = lambda _: None):
        self._tell = tell
        self._file = cache_folder() / "contents.txt"
        self._known: dict[str, str] = {}
        self._new: dict[str, str] = {}
        self._read_bytes = 0
        with suppress(OSError):  # the first time
            self._known = dict(LINE.findall(self._file.read_text(encoding="ascii", errors="replace")))

    def of(self, paths: Sequence[Path]) -> str:
        """The hash of what these files hold, in this order; something that is no file counts as missing."""
        found = [_file(path) for path in paths]
        key = _hash(
            *(
                "-" if one is None
                else f"{path.absolute()} {one.st_size} {one.st_mtime_ns} {one.st_ctime_ns} {one.st_dev} {one.st_ino}"
                for path, one in zip(paths, found, strict=True)
            )
        )  # fmt: skip
        if (known := self._known.get(key)) is not None:
            return known
        self._note(sum(one.st_size for one in found if one))
        with ThreadPoolExecutor(THREADS) as threads:
            value = _hash(*threads.map(_content, paths, found))
        self._known[key] = value
        newest = max((max(one.st_ctime, one.st_mtime) for one in found if one), default=0.0)
        if time.time() - newest > FRESH_S:
            self._new[key] = value
        return value

    def save(self) -> None:
        """Remember what was read, for the next process; several may do so at once."""
        if not self._new:
            return
        lines = "".join(f"{key} {value}\n" for key, value in self._new.items())
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if self._file.exists() and self._file.stat().st_size > MOST_BYTES:
                self._file.unlink()
            with self._file.open("a", encoding="ascii") as file:
                file.write(lines)
        except OSError as error:
            self._tell(f"warning: {self._file}: {error.strerror or error}; the dataset is read again by the next run")
        self._new = {}

    def _note(self, size: int) -> None:
        before, self._read_bytes = self._read_bytes, self._read_bytes + size
        if before < TELL_BYTES <= self._read_bytes:
            self._tell("reading the dataset's files for its hash, once (dataset.hash=stat does not)")


def _file(path: Path) -> os.stat_result | None:
    """The facts of a regular file; None for anything else: nothing is to be read of a pipe or a device."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _content(path: Path, found: os.stat_result | None) -> str:
    if found is None:
        return "missing"
    if found.st_size > READ_LIMIT_BYTES:
        return f"{found.st_size} {found.st_mtime_ns}"
    from fourstage.data import page_cache  # with numpy, which a check of settings does without

    try:
        cold = page_cache.cached_share([path]) == 0
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if cold and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return digest
    except (OSError, SampleError):  # stage 1 says so, on the sample's own record
        return f"unreadable {found.st_size}"


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
