"""The hash of files' content: the same for a copy, another for other bytes, and each file is read once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from fourstage.data import contents
from fourstage.data.contents import Contents, stamps
from fourstage.data.dataset import dataset_digest, read_dataset
from fourstage.data.formats.demo import JSON_NAME


@pytest.fixture(autouse=True)
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The files that were read; their clocks are trusted, and the cache is the test's own."""
    real, found = contents._content, list[Path]()

    def counted(path: Path, status: os.stat_result | None) -> str:
        found.append(path)
        return real(path, status)

    monkeypatch.setattr(contents, "_content", counted)
    monkeypatch.setattr(contents, "FRESH_S", -1e9)
    monkeypatch.setenv("FOURSTAGE_CACHE", str(tmp_path / "cache"))
    return found


def rewrite(path: Path) -> None:
    """Other bytes, with the size and the modification time of before."""
    before = path.stat()
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def test_a_file_is_read_once_by_all_processes_and_again_after_it_changed(tmp_path: Path, reads: list[Path]) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"12345")
    first = Contents()
    value = first.of([file])
    assert first.of([file]) == value
    first.save()
    assert Contents().of([file]) == value  # what another process begins with
    assert reads == [file]
    rewrite(file)
    assert Contents().of([file]) != value
    assert reads == [file, file]


def test_a_file_that_changed_just_now_is_not_remembered(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "FRESH_S", 60.0)
    file = tmp_path / "a.bin"
    file.write_bytes(b"12345")
    for _ in range(2):
        (found := Contents()).of([file])
        found.save()
    assert reads == [file, file]


def test_a_damaged_cache_is_read_as_far_as_it_goes(tmp_path: Path, reads: list[Path]) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"12345")
    (first := Contents()).of([file])
    first.save()
    with (tmp_path / "cache/contents.txt").open("ab") as cache:
        cache.write(b"\xff\x00 cut sho")
    assert Contents().of([file]) == first.of([file])
    assert len(reads) == 1


def test_a_cache_that_cannot_be_written_costs_reading_again_and_is_said(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    (tmp_path / "a.bin").write_bytes(b"1")
    told: list[str] = []
    found = Contents(told.append)
    assert found.of([tmp_path / "a.bin"])
    found.save()
    assert len(told) == 1
    assert "the dataset is read again by the next run" in told[0]


@pytest.mark.timeout(20)
def test_a_pipe_is_not_opened_and_nothing_missing_raises(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    missing = [tmp_path / "pipe", Path("/dev/zero"), tmp_path / "none", tmp_path / "nul\0"]
    assert stamps(missing) == [None] * 4
    assert Contents().of(missing) == Contents().of([tmp_path / "other"] * 4)


def test_a_very_large_file_counts_by_size_and_time(tmp_path: Path, reads: list[Path]) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(contents.READ_LIMIT_BYTES + 1)  # takes no room
    value = Contents().of([tmp_path / "large"])
    os.utime(tmp_path / "large", ns=(1, 1))
    assert Contents().of([tmp_path / "large"]) != value


# ---- of a dataset ----


def test_a_copy_is_the_same_data_by_content_and_other_data_by_stat(root: Path, tmp_path: Path) -> None:
    os.utime(next(root.glob("mp4/**/*.mp4")), ns=(1, 1))
    copy = Path(shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile))
    here, there = read_dataset(root, JSON_NAME), read_dataset(copy, JSON_NAME)
    assert dataset_digest(here) == dataset_digest(there)
    assert dataset_digest(here, "stat") == dataset_digest(here, "stat")
    assert dataset_digest(here, "stat") != dataset_digest(there, "stat")


@pytest.mark.parametrize("kind", ["mp4/**/*.mp4", "video/**/*.png", "event_npy/**/*.npy", "event_image/**/*.png"])
def test_other_bytes_of_one_size_are_other_data_in_every_kind_of_file(kind: str, root: Path) -> None:
    samples = read_dataset(root, JSON_NAME)
    before = dataset_digest(samples)
    rewrite(sorted(root.glob(kind))[-1])
    assert dataset_digest(samples) != before


def test_a_file_that_no_stage_reads_is_no_data(root: Path) -> None:
    samples = read_dataset(root, JSON_NAME)
    before = dataset_digest(samples)
    (next(root.glob("video/**/*.png")).parent / "Thumbs.db").write_bytes(b"1")
    assert dataset_digest(samples) == before


def test_a_file_that_was_touched_is_other_data_by_stat_alone(root: Path) -> None:
    samples = read_dataset(root, JSON_NAME)
    content, stat = dataset_digest(samples), dataset_digest(samples, "stat")
    os.utime(next(root.glob("mp4/**/*.mp4")), ns=(1, 1))
    assert dataset_digest(samples) == content
    assert dataset_digest(samples, "stat") != stat
