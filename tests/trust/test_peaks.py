"""Peaks are plausible, measured once, and measured again where the cache is of no use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fourstage.trust.roofline import Peaks

PEAKS = Peaks("a device", ((1, 2.0), (4, 1.0)), {"fp32": 3.0}, "highest", 5.0)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices that were measured, in no time."""
    from fourstage.trust import peaks

    devices: list[str] = []

    def measure(device: str) -> Peaks:
        devices.append(device)
        return replace(PEAKS, measured_unix_s=float(len(devices)))

    monkeypatch.setattr(peaks, "measure_peaks", measure)
    return devices


def test_a_cpu_has_plausible_peaks_and_keeps_its_random_numbers() -> None:
    import torch

    from fourstage.trust.peaks import measure_peaks

    state = torch.get_rng_state()
    peaks = measure_peaks("cpu", seconds_limit=1.0)
    assert torch.equal(torch.get_rng_state(), state)
    assert peaks.device
    assert set(peaks.flops_per_s) == {"fp32", "bf16", "fp16"}
    assert all(rate > 1e9 for rate in peaks.flops_per_s.values())
    assert 1e9 < peaks.bandwidth_bytes_per_s < 1e12
    sizes, rates = zip(*peaks.bandwidths, strict=True)
    assert sizes[0] == 256 << 10
    assert list(rates) == sorted(rates, reverse=True)  # what is smaller is never slower


def test_a_device_is_measured_once(measured: list[str], tmp_path: Path) -> None:
    from fourstage.trust.peaks import device_peaks

    cache = tmp_path / "deep" / "peaks.json"
    first = device_peaks("cpu", cache)
    assert device_peaks("cpu", cache) == first
    assert measured == ["cpu"]
    assert [path.name for path in cache.parent.iterdir()] == ["peaks.json"]


def test_another_number_of_threads_is_another_entry(
    measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from fourstage.trust.peaks import device_peaks

    cache = tmp_path / "peaks.json"
    first = device_peaks("cpu", cache)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 97)
    assert device_peaks("cpu", cache) != first
    assert len(measured) == 2
    monkeypatch.undo()
    assert device_peaks("cpu", cache) == first  # still there
    assert len(json.loads(cache.read_text())) == 2


def test_the_cache_lies_where_the_system_keeps_caches(
    measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fourstage.trust.peaks import device_peaks

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    device_peaks("cpu")
    assert (tmp_path / "fourstage" / "peaks.json").is_file()


@pytest.mark.parametrize("damage", ["", "{", "[1, 2]", "null", '{"KEY": null}', '{"KEY": {"device": "x"}}',
                                    '{"KEY": {"device": "x", "bandwidths": [[1, -1]], "flops_per_s": {"fp32": 1},'
                                    ' "fp32_precision": "highest", "measured_unix_s": 0}}', "\udcff"])  # fmt: skip
def test_a_damaged_cache_is_written_anew(damage: str, measured: list[str], tmp_path: Path) -> None:
    from fourstage.trust.peaks import device_peaks

    cache = tmp_path / "peaks.json"
    device_peaks("cpu", cache)
    (key,) = json.loads(cache.read_text())
    cache.write_bytes(damage.replace("KEY", key).encode(errors="surrogateescape"))
    second = device_peaks("cpu", cache)
    assert second.measured_unix_s == 2.0
    assert device_peaks("cpu", cache) == second
    assert len(measured) == 2


def test_a_folder_that_cannot_be_written_means_measuring_again(measured: list[str], tmp_path: Path) -> None:
    from fourstage.trust.peaks import device_peaks

    (tmp_path / "file").touch()
    for _ in range(2):
        assert device_peaks("cpu", tmp_path / "file" / "peaks.json").device == "a device"
    assert len(measured) == 2


@pytest.mark.gpu
def test_a_gpu_has_plausible_peaks() -> None:
    import torch

    from fourstage.trust.peaks import measure_peaks

    before = torch.cuda.memory_allocated()
    peaks = measure_peaks("cuda")
    assert peaks.device == torch.cuda.get_device_name()
    assert 1e12 < peaks.bandwidth_bytes_per_s < 2e13  # a data centre's
    assert peaks.flops_per_s["bf16"] > peaks.flops_per_s["fp32"] > 1e12
    assert torch.cuda.memory_allocated() - before < 1e6  # it gives back what it took
