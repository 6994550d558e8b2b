"""What the launchers of other packages leave open: a cluster that does not answer, a job whose process dies.

joblib, submitit and Ray give jobs to processes; an exception in a job is caught there. Left out: how the runs end
(`runs/gathering.py`), and what joblib does when a worker dies: it abandons the remaining jobs.

    prepare(config, fail_without_folder)    # before the first job
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fourstage.stages import UserError
from fourstage.text import say

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONNECT_LIMIT_S = 10

# what is done with a job whose folder cannot be made: its composition with Hydra's part, and the error
FolderFailed = Callable[["DictConfig", OSError], None]


def prepare(config: DictConfig, folder_failed: FolderFailed) -> None:
    """Make the launcher of a composition with Hydra's part continue where a job dies. Raises UserError."""
    target = str(config.hydra.launcher._target_)
    if "joblib" in target:
        importlib.import_module("hydra_plugins.hydra_joblib_launcher._core")
    if "submitit" in target:
        submitit = importlib.import_module("submitit")
        submitit.Job.results = _patient(submitit.Job.results, lambda value: [value])
    elif target.endswith(".RayLauncher"):
        _choose_cluster(config)
        launcher: Any = importlib.import_module("hydra_plugins.hydra_ray_launcher._core")
        if not isinstance(launcher.ray, SimpleNamespace):
            launcher.ray = SimpleNamespace(get=_patient(launcher.ray.get, lambda value: value))
    continue_without_folders(folder_failed)


def _choose_cluster(config: DictConfig) -> None:
    """Use a cluster only where one is named: by default Ray joins any that runs on this machine.

    The launcher also passes a setting that a running cluster refuses.
    """
    from omegaconf import open_dict

    with open_dict(config):
        init = config.hydra.launcher.ray.init
        init.address = init.get("address") or os.environ.get("RAY_ADDRESS") or "local"
        if init.address != "local":
            check_address(str(init.address))
            init.object_store_memory = None


def check_address(address: str) -> None:
    """Raise UserError where no process listens at Ray's `host:port`: Ray would retry silently for many minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():  # local, auto, or ray://host:port with its slashes
        return
    try:
        with socket.create_connection((host.removeprefix("ray://").strip("[]"), int(port)), CONNECT_LIMIT_S):
            return
    except OSError as error:
        raise UserError(
            f"hydra.launcher.ray.init.address={address}: {error.strerror or error}; is Ray started there "
            f"(ray start --head --port={port})?"
        ) from error


RUN_JOB = (  # the modules of launchers that call Hydra's `run_job`, in the sweep's process or in a job's
    "hydra._internal.core_plugins.basic_launcher",
    "hydra_plugins.hydra_joblib_launcher._core",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher",
    "hydra_plugins.hydra_ray_launcher._launcher_util",
)


def continue_without_folders(folder_failed: FolderFailed) -> None:
    """In this process, call `folder_failed` for a job whose folder cannot be made, so that it stops no other job."""
    for name in RUN_JOB:
        module: Any = sys.modules.get(name)
        if module is not None and not hasattr(module.run_job, "continues"):
            module.run_job = _continuing(module.run_job, folder_failed)


def _continuing(run_job: Callable[..., Any], folder_failed: FolderFailed) -> Callable[..., Any]:
    def continuing(*args: Any, **kwargs: Any) -> Any:
        try:
            return run_job(*args, **kwargs)
        except OSError as error:
            folder_failed(kwargs["config"], error)
            return _nothing()

    continuing.continues = True  # type: ignore[attr-defined]
    return continuing


def _nothing() -> Any:
    """What Hydra takes for the answer of a job that gave no value."""
    from hydra.core.utils import JobReturn, JobStatus

    nothing = JobReturn(status=JobStatus.COMPLETED)
    nothing.return_value = None
    return nothing


def _patient(wait: Callable[..., Any], shape: Callable[[Any], Any]) -> Callable[..., Any]:
    """`wait` for a job, but give no value where the job's process died, so that the other jobs are waited for too."""
    if hasattr(wait, "patient"):  # an earlier sweep of this process
        return wait

    def patiently(*args: Any, **kwargs: Any) -> Any:
        try:
            return wait(*args, **kwargs)
        except Exception as error:  # of submitit, of Ray, or what could not be unpickled
            first = next(iter(str(error).splitlines()), "")
            say(f"warning: a job's process left no answer: {type(error).__name__}: {first}; the other jobs continue")
            return shape(_nothing())

    patiently.patient = True  # type: ignore[attr-defined]
    return patiently
