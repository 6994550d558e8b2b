"""That a cold file is cold and a warm one warm, by what the system itself says; and that doubt is None, never 0."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fourstage.data import page_cache
from fourstage.data.page_cache import cached_share, drop, warm
from fourstage.stages import SampleError

PAGES = 64
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what its page cache holds")


def make(path: Path, pages: int = PAGES) -> Path:
    path.write_bytes(os.urandom(pages * os.sysconf("SC_PAGE_SIZE")))
    return path


def file_system(path: Path) -> str:
    import psutil

    mounts = [m for m in psutil.disk_partitions(all=True) if path.resolve().is_relative_to(m.mountpoint)]
    return str(max(mounts, key=lambda m: len(m.mountpoint)).fstype)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder on a file system that can drop pages."""
    kind = file_system(tmp_path)
    if kind not in ("ext4", "xfs", "btrfs"):
        pytest.skip(f"{tmp_path} is on {kind}; needs a folder on ext4, xfs or btrfs (pytest --basetemp)")
    return tmp_path


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder on tmpfs, whose files live in the page cache."""
    place = Path("/dev/shm")
    if not place.is_dir() or file_system(place) != "tmpfs" or not os.access(place, os.W_OK):
        pytest.skip("no writable tmpfs at /dev/shm")
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


@linux
def test_drop_gives_the_share_that_is_left_wherever_the_file_lies(tmp_path: Path) -> None:
    path = make(tmp_path / "a")
    assert cached_share([path]) == 1.0  # just written
    assert drop([path]) == cached_share([path])
    assert warm([path]) == cached_share([path]) == 1.0


def test_a_file_just_written_becomes_cold_though_its_pages_were_dirty(disk: Path) -> None:
    path = make(disk / "a")
    assert drop([path]) == 0.0
    assert cached_share([path]) == 0.0
    assert warm([path]) == 1.0
    assert drop([path]) == 0.0


def test_asking_reads_nothing_in(disk: Path) -> None:
    path = make(disk / "a")
    drop([path])
    for _ in range(3):
        assert cached_share([path]) == 0.0


def test_a_share_counts_pages(disk: Path) -> None:
    cold, hot = make(disk / "cold", 30), make(disk / "hot", 10)
    drop([cold, hot])
    warm([hot])
    assert cached_share([cold, hot]) == pytest.approx(10 / 40)
    assert cached_share([cold, hot, hot]) == pytest.approx(10 / 40)  # each file once


def test_a_dropped_file_reads_as_it_was(disk: Path) -> None:
    path = make(disk / "a")
    before = path.read_bytes()
    drop([path])
    assert path.read_bytes() == before


def test_a_folder_stands_for_the_files_in_it(disk: Path) -> None:
    (disk / "clip/below").mkdir(parents=True)
    files = [make(disk / f"clip/{i}", 4) for i in range(3)]
    deeper = make(disk / "clip/below/x", 4)
    assert drop([disk / "clip"]) == 0.0
    assert cached_share(files) == 0.0
    assert cached_share([deeper]) == 1.0
    assert warm([disk / "clip"]) == 1.0


def test_a_file_system_that_cannot_drop_is_seen(memory: Path) -> None:
    path = make(memory / "a")
    assert drop([path]) == cached_share([path]) == 1.0


def test_a_file_that_is_mapped_by_somebody_stays_and_is_seen(disk: Path) -> None:
    import mmap

    path = make(disk / "a")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[i] for i in range(0, len(mapped), mmap.PAGESIZE)) >= 0  # touches every page
        left = drop([path])
    assert left == 1.0
    assert drop([path]) == 0.0


@linux
def test_a_file_read_past_the_page_cache_is_not_called_cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "a")
    monkeypatch.setattr(page_cache, "cached_share", lambda paths: 0.0)  # as on ZFS, though it was just read
    assert drop([path]) is None


@linux
def test_a_file_that_the_system_will_not_tell_about_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "a")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr(os, "access", lambda *a, **k: False)
    assert cached_share([path]) is None
    assert drop([path]) is None


@linux
def test_a_file_that_cannot_be_mapped_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(19, "No such device")

    path = make(tmp_path / "a")
    monkeypatch.setattr("mmap.mmap", refuse)
    assert cached_share([path]) is None
    assert drop([path]) is None


def test_another_system_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "a")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cached_share([path]) is None
    assert warm([path]) is None
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    assert drop([path]) is None


def test_nothing_has_no_share(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for paths in ([], [tmp_path / "empty"], [tmp_path / "missing"], [tmp_path]):
        assert cached_share(paths) is None
        assert drop(paths) is None
        assert warm(paths) is None


@linux
def test_a_missing_file_does_not_keep_the_others_from_being_told(tmp_path: Path) -> None:
    assert cached_share([tmp_path / "missing", make(tmp_path / "a")]) == 1.0


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert warm([tmp_path / "pipe"]) is None


@linux
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "a")

    def refuse(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    for function in (cached_share, drop, warm):
        with pytest.raises(SampleError, match="a cannot be opened: Permission denied"):
            function([path])
