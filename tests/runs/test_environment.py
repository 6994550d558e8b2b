"""What is written down of a machine, what never is, and the GPU's state by a library that is faked here."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fourstage import version
from fourstage.measure.machine import nvml_reason
from fourstage.runs import environment as module
from fourstage.runs.environment import environment, git_diff, git_state
from tests.fake_gpu import UUID, Fake, nvml_forgotten

BIG_DIFF = 300_000


# --- the whole -----------------------------------------------------------------------------------


def test_the_facts_take_less_than_a_second_and_json_holds_them(tmp_path: Path) -> None:
    import torch  # noqa: F401 - its import is not part of the second

    start = time.perf_counter()
    facts = environment(tmp_path)
    assert time.perf_counter() - start < 1
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_the_facts_explain_a_difference() -> None:
    import psutil
    import torch

    facts = environment()
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["cpu"]["threads"] == psutil.cpu_count()
    assert len(facts["cpu"]["load"]) == 3
    assert {"model", "cores", "usable", "governor", "current_mhz", "max_mhz"} <= set(facts["cpu"])
    assert facts["memory_bytes"] >= facts["memory_available_bytes"] > 0
    assert {"swap_bytes", "swap_used_bytes", "limits", "virtualisation", "gpus", "cuda", "cudnn"} <= set(facts)
    assert isinstance(facts["torch_flags"]["cudnn_attention"], bool)
    assert facts["torch_threads"] == torch.get_num_threads()
    assert facts["python_executable"] == Path(sys.executable).name


def test_the_flags_are_those_that_torch_computes_with() -> None:
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        flags = environment()["torch_flags"]
    finally:
        torch.use_deterministic_algorithms(False)
    assert (flags["deterministic_algorithms"], flags["deterministic_warn_only"]) == (True, True)
    assert environment()["torch_flags"]["deterministic_algorithms"] is False


def test_a_precision_that_torch_will_not_tell_is_null_and_its_backend_is_recorded() -> None:
    script = (
        "import torch; torch.backends.cuda.matmul.fp32_precision = 'tf32';"
        "from fourstage.runs.environment import environment as e; f = e()['torch_flags'];"
        "print(f['float32_matmul_precision'], f['cuda_matmul_fp32_precision'])"
    )  # a process of its own: torch has no way back
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "tf32"]


# --- variables -----------------------------------------------------------------------------------


def test_only_variables_named_one_by_one_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in module.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    for name in ("OMP_NUM_THREADS_TOKEN", "CUDA_SECRET", "HF_TOKEN", "HF_HUB_OFFLINE_KEY", "omp_num_threads",
                 "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD", "TORCH_TOKEN", "PYTORCH_SECRET"):  # fmt: skip
        monkeypatch.setenv(name, "hunter2")
    facts = environment()
    assert facts["variables"] == {"OMP_NUM_THREADS": "2"}
    assert "hunter2" not in json.dumps(facts)


def test_no_name_in_the_list_is_that_of_a_secret_or_an_address() -> None:
    words = ("TOKEN", "KEY", "SECRET", "PASSWORD", "URL", "URI", "PROXY", "ENDPOINT", "HOME", "USER")
    assert [n for n in module.VARIABLES if any(part in words for part in n.split("_"))] == []


def test_neither_the_home_folder_nor_a_url_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada.lovelace")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/home/ada.lovelace/cache")
    assert environment()["variables"]["TORCHINDUCTOR_CACHE_DIR"] == "~/cache"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "s3://ada:hunter2@bucket")
    facts = environment()
    assert facts["variables"]["TORCHINDUCTOR_CACHE_DIR"] == "(a URL, withheld)"
    assert "lovelace" not in json.dumps(facts)


# --- git -----------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one commit that fourstage seems to be run from."""
    (tmp_path / "fourstage").mkdir()
    (tmp_path / "fourstage/__init__.py").write_text("x = 1\n")
    for arguments in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "commit", "-qm", "first"],
    ):
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True, capture_output=True)
    monkeypatch.setattr(version, "PACKAGE", tmp_path / "fourstage")
    return tmp_path


def test_a_clean_checkout_has_a_commit_and_no_diff(checkout: Path) -> None:
    assert (len(git_state()["commit"]), git_state()["dirty"], git_diff()) == (40, False, None)


def test_the_diff_holds_changes_staged_or_not_and_nothing_untracked(checkout: Path) -> None:
    (checkout / "secret.txt").write_text("hunter2")
    assert git_diff() is None
    (checkout / "fourstage/__init__.py").write_text("x = 2\n")
    diff = git_diff()
    assert diff is not None
    assert "-x = 1\n+x = 2\n" in diff
    assert "hunter2" not in diff
    subprocess.run(["git", "-C", checkout, "add", "fourstage"], check=True)
    assert git_diff() == diff
    assert git_state()["dirty"] is True


def test_a_large_diff_is_cut_with_a_note(checkout: Path) -> None:
    (checkout / "fourstage/__init__.py").write_text("x" * BIG_DIFF)
    diff = git_diff()
    assert diff is not None
    assert module.DIFF_BYTES < len(diff) < module.DIFF_BYTES + 100
    assert diff.splitlines()[-1].startswith("[cut: 200000 of 300")


def test_an_installed_wheel_has_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "PACKAGE", tmp_path / "fourstage")
    assert (git_state(), git_diff()) == ({"commit": None, "dirty": None}, None)


# --- limits and file systems ---------------------------------------------------------------------


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def limits(root: Path, membership: str, files: dict[str, str]) -> tuple[Any, ...]:
    write(root, {"membership": membership, **files})
    found = module._limits(root / "cgroup", root / "membership")
    return found["cgroup_version"], found["cpus"], found["memory_bytes"]


def test_the_tightest_limit_of_the_groups_counts(tmp_path: Path) -> None:
    files = {
        "cgroup/cgroup.controllers": "cpu memory",
        "cgroup/a/cpu.max": "150000 100000",
        "cgroup/a/b/cpu.max": "max 100000",
        "cgroup/a/memory.max": "max",
        "cgroup/a/b/memory.max": "1073741824\n",
    }
    assert limits(tmp_path, "0::/a/b\n", files) == (2, 1.5, 2**30)


def test_a_container_sees_its_limits_at_the_mount(tmp_path: Path) -> None:
    files = {
        "cgroup/cgroup.controllers": "",
        "cgroup/cpu.max": "200000 100000",
        "cgroup/memory.max": "4096",
        "memory.max": "1",  # outside the mount
    }
    assert limits(tmp_path, "0::/docker/0123\n", files) == (2, 2.0, 4096)
    assert limits(tmp_path, "0::/..\n", files) == (2, 2.0, 4096)


def test_version_1_is_read_by_controller(tmp_path: Path) -> None:
    files = {
        "cgroup/cpu/x/cpu.cfs_quota_us": "50000",
        "cgroup/cpu/x/cpu.cfs_period_us": "100000",
        "cgroup/cpu/cpu.cfs_quota_us": "-1",
        "cgroup/cpu/cpu.cfs_period_us": "100000",
        "cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    }
    assert limits(tmp_path, "4:memory:/\n1:cpuacct,cpu:/x\n0::/\n", files) == (1, 0.5, None)


def test_no_groups_are_no_limits(tmp_path: Path) -> None:
    found = module._limits(tmp_path, tmp_path / "none")
    assert found == {"cgroup_version": None, "cpus": None, "memory_bytes": None}


def mounts(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str, str]) -> None:
    listed = [SimpleNamespace(mountpoint=where, fstype=kind, device=device) for where, kind, device in entries]
    monkeypatch.setattr("psutil.disk_partitions", lambda all: listed)


def test_the_file_system_is_that_of_the_deepest_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts(
        monkeypatch,
        ("/", "ext4", "/dev/vda1"),
        (str(tmp_path.parent), "xfs", "/dev/sda"),
        (f"{tmp_path}-other", "zfs", "tank"),
        (str(tmp_path.parent), "overlay", "overlay"),  # mounted over the one before
    )
    assert module._file_system(tmp_path) == {"type": "overlay", "device": "overlay"}
    assert module._file_system(Path("/")) == {"type": "ext4", "device": "/dev/vda1"}
    assert module._file_system(tmp_path / "missing") is None
    assert module._file_system(None) is None


@pytest.mark.parametrize("device", ["nas:/home/ada", "ada@host:/", "https://ada:hunter2@dav", "//nas/ada", "tank/ada"])
def test_the_device_of_a_network_file_system_is_withheld(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    mounts(monkeypatch, ("/", "nfs4", device))
    assert module._file_system(Path("/")) == {"type": "nfs4", "device": None}


def test_the_file_system_of_the_dataset_and_of_the_working_folder_are_recorded(tmp_path: Path) -> None:
    systems = environment(tmp_path)["file_systems"]
    assert set(systems) == {"dataset", "working_folder"}
    assert environment()["file_systems"]["dataset"] is None


# --- GPUs -----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    with nvml_forgotten():
        yield


def test_the_facts_of_a_gpu_are_recorded(fake_gpu: Fake) -> None:
    fake_gpu(silent=("nvmlDeviceGetMigMode",))
    facts = environment()
    assert facts["nvml"] == {"driver": "580.1", "reason": None}
    assert facts["gpus"] == [
        {
            "name": "Fake GPU",
            "memory_bytes": 80_000,
            "uuid": UUID,
            "capability": "9.0",
            "multiprocessors": 132,
            "power_limit_w": 700.0,
            "max_sm_clock_mhz": 1980,
            "max_memory_clock_mhz": 2619,
            "persistence": True,
            "ecc": True,
            "mig": None,
        }
    ]


def test_a_gpu_is_recorded_without_nvml_too(fake_gpu: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (gpu,) = environment()["gpus"]
    assert (gpu["name"], gpu["power_limit_w"], gpu["ecc"], gpu["max_sm_clock_mhz"]) == ("Fake GPU", None, None, None)


def test_a_missing_library_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert environment()["nvml"] == {"driver": None, "reason": nvml_reason()}
