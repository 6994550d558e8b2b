"""Real sweeps of the tiny model under every launcher, each job in a process of its own.

The launchers differ in how jobs come to their process; what is left in the store must not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from fourstage.tracking.read import RunFacts, find_runs, run_records
from fourstage.tracking.store import Destination
from tests.servers import RAY_HOST, mlflow_server, postgres, ray_cluster, ray_home

pytestmark = pytest.mark.timeout(600)  # every process of a job imports torch and MLflow first
SMALL = [
    *("generation=greedy", "max_new_tokens=4", "protocol=quick", "tracking.traces=0", "dataset.samples=2"),
    *("dataset.seconds=0.4", "dataset.width=96", "dataset.height=64"),
]
# EventGPT's checkpoint has no default path, so pretrained weights without weights.path fail in the job
TWO_OF_FOUR_FAIL = ["weights=pretrained,demo", "seed=0,1"]
OWN_RAY = [
    *("hydra/launcher=ray", "hydra.launcher.ray.init.address=local"),  # else it joins a cluster that runs here
    *(f"+hydra.launcher.ray.init._node_ip_address={RAY_HOST}", "+hydra.launcher.ray.init.num_cpus=2"),
    "+hydra.launcher.ray.init.include_dashboard=false",
]
LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"],
    "ray": OWN_RAY,
}


def sweep(folder: Path, *words: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m fourstage.run -m` in `folder`, as a person types it."""
    return subprocess.run(
        [sys.executable, "-m", "fourstage.run", "-m", *words, *SMALL],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environ or {})},
        capture_output=True,
        text=True,
        timeout=500,
    )


def local(folder: Path) -> Destination:
    return Destination(f"sqlite:///{folder}/mlruns/mlflow.db", None, "fourstage")


def jobs(where: Destination) -> list[RunFacts]:
    """The runs that measured something, in the order of their jobs."""
    found = [facts for facts in find_runs(where) if "model.name" in facts.params]
    return sorted(found, key=lambda facts: int(facts.tags["fourstage.job"]))


def said(done: subprocess.CompletedProcess[str]) -> str:
    return f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"


@pytest.fixture(scope="module", params=sorted(LAUNCHERS))
def half_failed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A sweep of four jobs under each launcher, of which the first two fail."""
    folder = tmp_path_factory.mktemp(request.param)
    with ray_home() if request.param == "ray" else nullcontext({}) as environ:
        return folder, sweep(folder, *LAUNCHERS[request.param], *TWO_OF_FOUR_FAIL, environ=environ)


def test_a_failing_job_does_not_stop_the_others(half_failed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = half_failed
    ended = [facts for facts in jobs(local(folder)) if facts.params["weights.name"] == "demo"]
    assert [(facts.status, facts.params["seed"]) for facts in ended] == [("FINISHED", "0"), ("FINISHED", "1")], said(
        done
    )
    assert [facts.metrics["samples_ok"] for facts in ended] == [2, 2]


def test_parallel_jobs_give_the_tokens_of_a_single_run(
    half_failed: tuple[Path, subprocess.CompletedProcess[str]], single: list[tuple[int, ...]]
) -> None:
    folder, _ = half_failed
    where = local(folder)
    (first, *_) = [facts for facts in jobs(where) if facts.status == "FINISHED"]
    assert [record.output_ids for record in run_records(where, first.run_id)] == single


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, ...]]:
    """The token ids of the same configuration in a sweep of one job, in Hydra's own process."""
    folder = tmp_path_factory.mktemp("single")
    done = sweep(folder, "seed=0")
    (facts,) = jobs(local(folder))
    assert (done.returncode, facts.status) == (0, "FINISHED"), said(done)
    return [record.output_ids for record in run_records(local(folder), facts.run_id)]


# ---- a server on PostgreSQL, an existing Ray cluster ----


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres() as database, mlflow_server(database, tmp_path_factory.mktemp("server")) as uri:
        yield uri


def on(server: str, experiment: str) -> tuple[Destination, Sequence[str]]:
    words = ("tracking=server", f"tracking.uri={server}", f"tracking.experiment={experiment}")
    return Destination(server, None, experiment), words


def test_a_server_on_postgresql_takes_eight_jobs_of_four_workers(server: str, tmp_path: Path) -> None:
    where, words = on(server, "eight")
    done = sweep(
        tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=4", *words, "model=eventgpt,videollava",
        "seed=0,1,2,3",
    )  # fmt: skip
    assert done.returncode == 0, said(done)
    found = jobs(where)
    assert [facts.status for facts in found] == ["FINISHED"] * 8, said(done)
    assert Counter((facts.params["model.name"], facts.params["seed"]) for facts in found) == Counter(
        (model, str(seed)) for model in ("eventgpt", "videollava") for seed in range(4)
    )
    assert all(len(run_records(where, facts.run_id)) == 2 for facts in found)
    for facts in found:  # a value for each sample, of every run
        assert len(facts.metrics) == len(found[0].metrics)


def test_an_existing_ray_cluster_runs_the_jobs(server: str, tmp_path: Path) -> None:
    where, words = on(server, "ray")
    with ray_cluster(tmp_path, processors=2) as environ:
        done = sweep(
            tmp_path, "hydra/launcher=ray", f"hydra.launcher.ray.init.address={environ['RAY_ADDRESS']}",
            "+hydra.launcher.ray.init.object_store_memory=null", *words, "seed=0,1", environ=environ,
        )  # fmt: skip
    assert done.returncode == 0, said(done)
    assert [facts.status for facts in jobs(where)] == ["FINISHED"] * 2, said(done)


# ---- Optuna ----


def test_optuna_runs_as_many_trials_as_were_asked_for(tmp_path: Path) -> None:
    done = sweep(
        tmp_path, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1",
        "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=0", "batch_size=choice(1,2)",
    )  # fmt: skip
    found = jobs(local(tmp_path))
    assert [facts.status for facts in found] == ["FINISHED"] * 3, said(done)
    assert {facts.params["batch_size"] for facts in found} <= {"1", "2"}
