"""What the launchers of other packages leave open: a cluster that does not answer, a job whose process dies.

joblib, submitit and Ray give jobs to processes; an exception in a job is kept there (`run.py`). Left out: what
becomes of the runs (`sweep.py`), and how joblib takes a worker that dies: it gives up on the jobs that are left.

    prepare(config)    # before the first job
"""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fourstage.runs.session import say
from fourstage.stages import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONNECT_LIMIT_S = 10


def prepare(config: DictConfig) -> None:
    """Make the launcher of a composition with Hydra's part go on where a job dies. Raises UserError."""
    target = str(config.hydra.launcher._target_)
    if "submitit" in target:
        submitit = importlib.import_module("submitit")
        submitit.Job.results = _patient(submitit.Job.results, lambda value: [value])
    elif target.endswith(".RayLauncher"):
        _choose_cluster(config)
        launcher: Any = importlib.import_module("hydra_plugins.hydra_ray_launcher._core")
        if not isinstance(launcher.ray, SimpleNamespace):
            launcher.ray = SimpleNamespace(get=_patient(launcher.ray.get, lambda value: value))


def _choose_cluster(config: DictConfig) -> None:
    """Ray's own choice is any cluster that runs on this machine, and the launcher gives a setting that none takes."""
    from omegaconf import open_dict

    with open_dict(config):
        init = config.hydra.launcher.ray.init
        init.address = init.get("address") or os.environ.get("RAY_ADDRESS") or "local"
        if init.address != "local":
            check_address(str(init.address))
            init.object_store_memory = None


def check_address(address: str) -> None:
    """Raise UserError where nobody listens at Ray's `host:port`: Ray would try for many minutes without a word."""
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


def _patient(wait: Callable[..., Any], shape: Callable[[Any], Any]) -> Callable[..., Any]:
    """`wait` for a job, which gives no value where the job's process died, so that the others are waited for too."""
    if hasattr(wait, "patient"):  # an earlier sweep of this process
        return wait
    from hydra.core.utils import JobReturn, JobStatus

    def patiently(*args: Any, **kwargs: Any) -> Any:
        try:
            return wait(*args, **kwargs)
        except Exception as error:  # of submitit, of Ray, or what could not be unpickled
            first = next(iter(str(error).splitlines()), "")
            say(f"warning: a job's process left no answer: {type(error).__name__}: {first}; the others go on")
            nothing = JobReturn(status=JobStatus.COMPLETED)
            nothing.return_value = None
            return shape(nothing)

    patiently.patient = True  # type: ignore[attr-defined]
    return patiently
