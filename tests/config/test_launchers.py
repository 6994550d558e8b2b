"""Real sweeps of the tiny model under every launcher, each job in a process of its own.

The launchers differ in how jobs come to their process; what is left in the store must not. Starting a process costs
seconds of imports, so each sweep is run once and every claim is made of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from omegaconf import OmegaConf

from fourstage.cli.run import main
from fourstage.config.compose import compose
from fourstage.config.launchers import check_address
from fourstage.runs.launched import reaches_from_afar
from fourstage.stages import UserError
from fourstage.tracking.destination import Destination
from fourstage.tracking.folder import RunFolder
from fourstage.tracking.reader import RunFacts, children_of, find_runs, run_records
from fourstage.tracking.store import open_store
from tests.servers import RAY_HOST, free_port, mlflow_server, postgres, ray_cluster, ray_home
from tests.small import Run, on

pytestmark = pytest.mark.timeout(600)  # every process of a job imports torch and MLflow first
SMALL = [
    *("generation=greedy", "max_new_tokens=4", "protocol=quick", "tracking.traces=0", "dataset.samples=2"),
    *("dataset.seconds=0.4", "dataset.width=96", "dataset.height=64"),
]
# Some seconds in which a job can be stopped, in fewer samples than the check `no_drift` judges: on a busy machine it
# would find a run invalid, and resume would measure it again.
LONG = ["protocol.repeats=3", "protocol.warmup=1", "generation=fixed", "max_new_tokens=300"]
SAMPLES = 6
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
SUBMITIT = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"]
OWN_RAY = [
    *("hydra/launcher=ray", "hydra.launcher.ray.init.address=local"),  # else RAY_ADDRESS of the environment
    *(f"+hydra.launcher.ray.init._node_ip_address={RAY_HOST}", "+hydra.launcher.ray.init.num_cpus=1"),
    "+hydra.launcher.ray.init.include_dashboard=false",
]


def begin(folder: Path, *words: str, environ: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """`python -m fourstage.run -m` in `folder`, as a person types it."""
    return subprocess.Popen(
        [sys.executable, "-m", "fourstage.run", "-m", *SMALL, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@dataclass(frozen=True)
class Swept:
    """A sweep that ended, and what it left."""

    code: int
    err: str
    where: Destination
    parent: RunFacts
    children: list[RunFacts]  # in the order of their jobs

    def job(self, number: int) -> RunFacts:
        (found,) = [run for run in self.children if run.tags["fourstage.job"] == str(number)]
        return found

    @property
    def states(self) -> list[str]:
        return [run.status for run in self.children]

    def text(self, run: RunFacts, name: str) -> str:
        client, _ = open_store(self.where)
        return Path(client.download_artifacts(run.run_id, name)).read_text()


def end(process: subprocess.Popen[str], where: Destination, limit_s: float = 200) -> Swept:
    try:
        _, err = process.communicate(timeout=limit_s)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    (parent,) = find_runs(where, "tags.`fourstage.role` = 'parent'")
    children = children_of(where, parent.run_id)
    assert len(find_runs(where)) == 1 + len(children), "a run without its parent"
    children.sort(key=lambda run: int(run.tags["fourstage.job"]))
    return Swept(process.returncode, err, where, parent, children)


def local(folder: Path) -> Destination:
    return Destination(f"sqlite:///{folder}/mlruns/mlflow.db", None, "fourstage")


def wait_for(look: Callable[[], Any], process: subprocess.Popen[str], limit_s: float = 120) -> Any:
    until = time.monotonic() + limit_s
    while time.monotonic() < until and process.poll() is None:
        if found := look():
            return found
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"nothing came: {process.communicate()[1][-6000:]}")


def job_folder(folder: Path, number: int) -> Path | None:
    """Where a job that has begun to measure has its records."""
    found = next((folder / "mlruns/hydra").glob(f"*/*/{number}/journal.jsonl"), None)
    return found.parent if found and found.stat().st_size else None


def strike(folder: Path, signals: dict[int, signal.Signals], process: subprocess.Popen[str]) -> None:
    """Send each of these jobs its signal while it measures."""

    def done() -> bool:
        for number in list(signals):
            if where := job_folder(folder, number):
                os.kill(RunFolder.open(where).state.process.pid, signals.pop(number))
        return not signals

    wait_for(done, process)


def kill_job(folder: Path, number: int, process: subprocess.Popen[str], after: Sequence[int]) -> None:
    """kill -9 of a job's process while it measures, after these others have ended."""
    where = wait_for(lambda: job_folder(folder, number), process)
    pid = RunFolder.open(where).state.process.pid
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: all((where.parent / str(other) / "outcome.json").exists() for other in after), process)
    os.kill(pid, signal.SIGKILL)


# ---- joblib: a job of each fate ----

FATES = ["device=cpu,cpu,cuda:9,auto", "sweep.name=fates", *JOBLIB, *LONG]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("joblib")


@pytest.fixture(scope="module")
def disturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Swept, Swept]:
    """The sweeps of joblib and submitit in which processes are killed, at the same time: it takes both processors."""

    def with_joblib() -> Swept:
        process = begin(folder, *FATES)
        kill_job(folder, 3, process, after=(0, 1, 2))
        return end(process, local(folder))

    def with_submitit() -> Swept:
        other = tmp_path_factory.mktemp("submitit")
        process = begin(other, *SUBMITIT, *LONG, "device=auto,cuda:9,cpu")
        strike(other, {0: signal.SIGKILL, 2: signal.SIGUSR2}, process)
        return end(process, local(other))

    with ThreadPoolExecutor() as threads:
        joblib, submitit = threads.submit(with_joblib), threads.submit(with_submitit)
        return joblib.result(), submitit.result()


@pytest.fixture(scope="module")
def killed(disturbed: tuple[Swept, Swept]) -> Swept:
    """Jobs 0 and 1 are the same, 2 cannot begin, and the process of 3 is killed when the others have ended."""
    return disturbed[0]


def test_a_killed_process_leaves_a_killed_run_and_a_failed_sweep(killed: Swept) -> None:
    assert killed.job(3).status == "KILLED", killed.err
    assert killed.job(3).tags["fourstage.error"] == "its process died"
    assert (killed.code, killed.parent.status) == (1, "FAILED")
    assert "the launcher or sweeper ended with TerminatedWorkerError" in killed.err
    assert "fourstage/run.py" not in killed.err  # no traceback of ours; the tracker of joblib's processes leaves one
    assert "TerminatedWorkerError" in killed.text(killed.parent, "traceback.txt")


def test_a_job_that_fails_in_a_worker_is_a_failed_child_and_the_others_go_on(killed: Swept) -> None:
    assert killed.job(2).status == "FAILED"
    assert "cuda:9" in killed.text(killed.job(2), "traceback.txt")
    assert "job 2 FAILED" in killed.err


def test_the_same_job_in_two_processes_is_measured_once_and_the_other_told(killed: Swept) -> None:
    assert Counter(run.params["device"] for run in killed.children)["cpu"] == 1
    assert "not run, another job has the same settings" in killed.err
    assert "1 duplicate" in killed.err


@pytest.fixture(scope="module")
def resumed(folder: Path, killed: Swept) -> Swept:
    return end(begin(folder, *FATES, "hydra.launcher.n_jobs=1", "sweep.resume=true"), local(folder))


def test_resume_skips_what_finished_and_goes_on_with_what_was_killed(killed: Swept, resumed: Swept) -> None:
    assert "job 0: skipped" in resumed.err
    assert "job 1: not run, the same settings as job 0" in resumed.err
    assert "job 3: goes on with run" in resumed.err
    assert resumed.parent.run_id == killed.parent.run_id
    assert resumed.job(3).run_id == killed.job(3).run_id
    assert len(run_records(resumed.where, resumed.job(3).run_id)) == SAMPLES
    assert sorted(resumed.states) == ["FAILED", "FINISHED", "FINISHED"], resumed.err  # 2 fails again
    assert (resumed.code, resumed.parent.status) == (1, "FAILED")


def test_parallel_jobs_give_the_tokens_of_one_process(resumed: Swept, run: Run, dataset: Path) -> None:
    assert (
        main([*SMALL, *LONG[2:], f"tracking.uri=sqlite:///{dataset}/one.db", f"tracking.artifacts={dataset}/files"])
        == 0
    )
    where = Destination(f"sqlite:///{dataset}/one.db", None, "fourstage")
    (alone,) = find_runs(where)
    alone_ids = [record.output_ids for record in run_records(where, alone.run_id)]
    for child in (child for child in resumed.children if child.status == "FINISHED"):
        assert [record.output_ids for record in run_records(resumed.where, child.run_id)] == alone_ids * 3


# ---- submitit ----


@pytest.fixture(scope="module")
def submitted(disturbed: tuple[Swept, Swept]) -> Swept:
    """The process of job 0 is killed, job 1 cannot begin, job 2 is preempted, which Slurm does with SIGUSR2."""
    return disturbed[1]


def test_submitit_goes_on_where_a_process_dies(submitted: Swept) -> None:
    assert submitted.states == ["KILLED", "FAILED", "FINISHED"], submitted.err
    assert "job 0 KILLED" in submitted.err
    assert "its process died" in submitted.err
    assert "job 1 FAILED" in submitted.err
    assert "cuda:9" in submitted.text(submitted.job(1), "traceback.txt")
    assert (submitted.code, submitted.parent.status) == (1, "FAILED")
    assert "Traceback" not in submitted.err
    assert submitted.job(2).name.endswith("device=cpu")  # named by what differs


def test_a_preempted_job_goes_on_with_its_run(submitted: Swept) -> None:
    assert int(submitted.job(2).tags["fourstage.continued_at"]) > 0
    positions = [record.position for record in run_records(submitted.where, submitted.job(2).run_id)]
    assert positions == list(range(SAMPLES))  # none is lost, none is there twice


# ---- a server on PostgreSQL, an existing Ray cluster ----


def kept_by(server: str, experiment: str) -> tuple[Destination, Sequence[str]]:
    words = ("tracking=server", f"tracking.uri={server}", f"tracking.experiment={experiment}")
    return Destination(server, None, experiment), words


def four_workers(server: str, folder: Path) -> Swept:
    where, words = kept_by(server, "eight")
    four = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=4"]
    return end(begin(folder, *four, *words, "model=eventgpt,videollava", "seed=0,1,2,3"), where)


def on_a_cluster(server: str, folder: Path) -> Swept:
    """The cluster runs in another folder, and does not get the sweep's environment. Job 0 is killed, 1 cannot begin."""
    where, words = kept_by(server, "ray")
    elsewhere = folder / "cluster"
    elsewhere.mkdir()
    with ray_cluster(elsewhere, processors=1) as environ:
        ray = ["hydra/launcher=ray", f"hydra.launcher.ray.init.address={environ['RAY_ADDRESS']}"]
        process = begin(folder, *ray, *words, *LONG, "device=auto,cuda:9", environ=environ)
        strike(folder, {0: signal.SIGKILL}, process)
        return end(process, where)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Future[Swept], Future[Swept]]]:
    """Two sweeps at the same time on one server."""
    with (
        postgres() as database,
        mlflow_server(database, tmp_path_factory.mktemp("server")) as uri,
        ThreadPoolExecutor() as threads,
    ):
        made = [threads.submit(sweep, uri, tmp_path_factory.mktemp("served")) for sweep in (four_workers, on_a_cluster)]
        wait(made)
        yield made[0], made[1]


def test_a_server_on_postgresql_takes_eight_jobs_of_four_workers(served: tuple[Future[Swept], Future[Swept]]) -> None:
    swept = served[0].result()
    assert (swept.code, swept.parent.status) == (0, "FINISHED"), swept.err
    assert swept.states == ["FINISHED"] * 8
    assert Counter((run.params["model.name"], run.params["seed"]) for run in swept.children) == Counter(
        (model, str(seed)) for model in ("eventgpt", "videollava") for seed in range(4)
    )
    assert len({run.name for run in swept.children}) == 8  # named by what differs
    for run in swept.children:  # a value for each sample, of every run
        assert len(run_records(swept.where, run.run_id)) == 2
        assert len(run.metrics) == len(swept.children[0].metrics)
    assert swept.parent.metrics["jobs_finished"] == 8
    assert len(swept.text(swept.parent, "samples.json")) > 100


def test_an_existing_ray_cluster_runs_the_jobs_and_starts_one_again_whose_process_died(
    served: tuple[Future[Swept], Future[Swept]],
) -> None:
    swept = served[1].result()
    assert swept.states == ["FINISHED", "FAILED"], swept.err
    assert int(swept.job(0).tags["fourstage.continued_at"]) > 0
    assert len(run_records(swept.where, swept.job(0).run_id)) == SAMPLES
    assert (swept.code, swept.parent.status) == (1, "FAILED")
    assert "cuda:9" in swept.text(swept.job(1), "traceback.txt")


def test_a_ray_cluster_that_does_not_answer_is_told_at_once() -> None:
    port = free_port()
    with pytest.raises(UserError, match=rf"address=127.0.0.1:{port}: Connection refused; is Ray started there"):
        check_address(f"127.0.0.1:{port}")
    check_address("local")


def test_a_machine_that_does_not_see_the_store_is_told_to_use_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert not reaches_from_afar(compose([]))
    assert "this one does not see it: share the disk, or use tracking=server" in capsys.readouterr().err
    assert reaches_from_afar(compose(["tracking=server", "tracking.uri=http://127.0.0.1:5000"]))


# ---- Optuna ----

OPTUNA = [
    *("-m", "hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=1"),
    "hydra.sweeper.n_trials=4",
]
QUIET = pytest.mark.filterwarnings("default")  # importing optuna 2.10 warns


@QUIET
def test_optuna_gets_the_objective_of_each_job_and_goes_on_after_one_that_failed(
    run: Run, tmp_path: Path, dataset: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*SMALL[:4], *on(dataset), *OPTUNA, "device=choice(cpu,'cuda:9')", "seed=range(0,99)", *into(tmp_path)]
    assert main([*words, "hydra.sweeper.n_jobs=2"]) == 1
    err = capfd.readouterr().err
    assert "Traceback" not in err
    (parent,) = find_runs(local(tmp_path), "tags.`fourstage.role` = 'parent'")
    children = children_of(local(tmp_path), parent.run_id)
    assert {run.status for run in children} == {"FINISHED", "FAILED"}, err
    assert sorted(run.tags["fourstage.job"] for run in children) == ["0", "1", "2", "3"]
    assert parent.status == "FAILED"
    (results,) = (tmp_path / "mlruns/hydra").glob("*/*/optimization_results.yaml")
    medians = [run.metrics["total_s.median"] for run in children if run.status == "FINISHED"]
    assert OmegaConf.load(results).best_value == pytest.approx(min(medians), rel=1e-3)  # metrics: 4 digits


@QUIET
def test_a_search_in_which_no_trial_worked_says_so_in_one_line(
    run: Run, tmp_path: Path, dataset: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*SMALL[:4], *on(dataset), *OPTUNA, "seed=range(0,99)", *into(tmp_path), "hydra.sweeper.n_trials=1"]
    assert main([*words, "device=cuda:9"]) == 1
    err = capfd.readouterr().err
    assert "error: no trial gave the objective: nothing was found" in err  # and no traceback in its place
    assert "1 failed" in err


def into(folder: Path) -> list[str]:
    return [f"tracking.uri={local(folder).uri}", f"tracking.artifacts={folder}/artifacts"]


# ---- Ctrl-C ----


LAUNCHERS = {"joblib": JOBLIB, "submitit": SUBMITIT, "ray": OWN_RAY}


def interrupt(folder: Path, words: Sequence[str]) -> tuple[Swept, list[psutil.Process]]:
    """Ctrl-C for a sweep's first process while its job measures; gives the processes that are left, too."""
    with ray_home() if words is OWN_RAY else nullcontext({}) as environ:
        process = begin(folder, *words, *LONG, "protocol.repeats=1000", "seed=0", environ=environ)
        wait_for(lambda: job_folder(folder, 0), process)
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        swept = end(process, local(folder))
        return swept, psutil.wait_procs(started, timeout=10)[1]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[tuple[Swept, list[psutil.Process]]]]:
    with ThreadPoolExecutor() as threads:
        return {
            name: threads.submit(interrupt, tmp_path_factory.mktemp(name), words) for name, words in LAUNCHERS.items()
        }


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_ctrl_c_leaves_no_process_and_no_running_run(
    launcher: str, interrupted: dict[str, Future[tuple[Swept, list[psutil.Process]]]]
) -> None:
    swept, alive = interrupted[launcher].result()
    assert alive == []
    assert swept.code == 130, swept.err
    assert (swept.parent.status, swept.states) == ("KILLED", ["KILLED"])
    assert "Traceback" not in swept.err
    assert len(run_records(swept.where, swept.job(0).run_id)) >= 1  # what was finished is kept
