"""The system's page cache: what of a file it holds, dropping it (a cold read), filling it (a warm one).

    drop(event_files(sample))                  # 0.0: nothing of the files is left
    warm(event_files(sample))                  # 1.0: all of them is in it
    cached_share(event_files(sample))          # as it is

A path may be a folder: it stands for the files in it, not for those of folders below. What is no file, or is
missing, has no pages: to say so is for whoever reads it.

Left out: the names and sizes that the system also keeps, and every cache below the system. A virtual machine's host
or a disk's controller may still hold what was dropped here, so "cold" is a promise about this system alone.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fourstage.stages import SampleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_BYTES = 1 << 20


def cached_share(paths: Sequence[Path]) -> float | None:
    """Share, 0 to 1, of the files' pages that the page cache holds; reads none of them in.

    None where nobody can tell: the system is not Linux, a file is neither ours nor writable (mincore(2) then calls
    every page cached), or there are no pages. Raises SampleError for a file that cannot be opened.
    """
    if sys.platform != "linux":
        return None
    cached = pages = 0
    for path in _files(paths):
        with _opened(path) as file:
            flags = _pages_cached(file)
        if flags is None:
            return None
        cached += int(flags.sum())
        pages += len(flags)
    return cached / pages if pages else None


def drop(paths: Sequence[Path]) -> float | None:
    """Drop the files from the page cache, and give `cached_share` after it: 0.0 where they are cold.

    More than 0 is left where the file system cannot drop (tmpfs lives in the page cache) or somebody else has the
    file mapped. None where it cannot be verified: as for `cached_share`, or the files are not read through the page
    cache (ZFS has a cache of its own). Raises SampleError for a file that cannot be opened.
    """
    if not hasattr(os, "posix_fadvise"):
        return None
    files = _files(paths)
    seen = _reads_are_seen(files)
    for path in files:
        with _opened(path) as file:
            _write_out(file)  # a page that is not yet on the disk stays
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    return cached_share(files) if seen else None


def warm(paths: Sequence[Path]) -> float | None:
    """Read the files once, and give `cached_share` after it: 1.0 where memory holds them all.

    Raises SampleError for a file that cannot be opened or read.
    """
    files = _files(paths)
    block = bytearray(BLOCK_BYTES)
    for path in files:
        with _opened(path) as file:
            while os.readv(file, [block]):
                continue
    return cached_share(files)


def _files(paths: Sequence[Path]) -> list[Path]:
    """Each file once, folders opened up."""
    files: dict[Path, None] = {}
    for path in paths:
        try:
            entries = sorted(path.iterdir()) if path.is_dir() else [path]
            files |= dict.fromkeys(entry for entry in entries if entry.is_file())
        except OSError as error:
            raise SampleError(f"{path} cannot be looked at: {error.strerror}; see its folder's permissions") from error
    return list(files)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise SampleError(f"{path} cannot be opened: {error.strerror}; see its permissions") from error
    try:
        yield file
    except OSError as error:
        raise SampleError(f"{path} cannot be read: {error.strerror}; copy it again") from error
    finally:
        os.close(file)


def _pages_cached(file: int) -> NDArray[np.bool_] | None:
    """For each page of an open file whether it is cached, by mincore(2); None where the system does not tell."""
    status = os.fstat(file)
    if not status.st_size:
        return np.zeros(0, np.bool_)
    # can_do_mincore() in mm/mincore.c: of other files it says that every page is cached
    if os.geteuid() not in (0, status.st_uid) and not os.access(f"/proc/self/fd/{file}", os.W_OK):
        return None
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    flags = np.zeros(-(-status.st_size // mmap.PAGESIZE), np.uint8)
    try:
        mapped = mmap.mmap(file, status.st_size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    except OSError:  # a file system without mappings
        return None
    with mapped:
        start = np.frombuffer(mapped, np.uint8)  # for its address: nothing is read through it
        failed = mincore(start.ctypes.data, status.st_size, flags.ctypes.data)
        del start  # a mapping that is still looked at cannot be closed
    return None if failed else (flags & 1).astype(np.bool_)


def _reads_are_seen(files: Sequence[Path]) -> bool:
    """Whether a byte that was read shows up in the page cache, tried on one file of each file system."""
    probes = {status.st_dev: path for path in files if (status := path.stat()).st_size}
    for path in probes.values():
        with _opened(path) as file:
            os.pread(file, 1, 0)
        if not cached_share([path]):
            return False
    return True


def _write_out(file: int) -> None:
    try:
        os.fdatasync(file)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EINVAL):  # nothing to write on such a file system
            raise
