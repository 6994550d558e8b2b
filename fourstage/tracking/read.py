"""Reading runs back: their facts, and the records from which every figure is recomputed.

Reading makes nothing: a store or an experiment that is not there is an error. Left out: comparing.

    for run in find_runs(destination, "tags.`fourstage.valid` = 'true'", newest=2):
        records = run_records(destination, run.run_id)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fourstage.analysis.records import read_records
from fourstage.stages import SampleRecord, UserError
from fourstage.tracking.store import Destination, open_existing, reporting, shown

if TYPE_CHECKING:
    from mlflow.entities import Run

RUNS_PER_PAGE = 1000


@dataclass(frozen=True)
class RunFacts:
    """What the store knows of a run without opening its files."""

    run_id: str
    name: str
    status: str  # RUNNING, FINISHED, FAILED or KILLED
    started_unix_s: float
    params: dict[str, str]
    metrics: dict[str, float]  # of per-sample metrics the last sample's
    tags: dict[str, str]


def find_runs(destination: Destination, filter: str = "", newest: int | None = None) -> list[RunFacts]:
    """Runs of the experiment, newest first, that match a filter in MLflow's search language.

    Raises UserError where store or experiment are missing or the filter cannot be understood.
    """
    client, experiment_id = open_existing(destination)
    runs: list[RunFacts] = []
    token: str | None = None
    while True:
        wanted = RUNS_PER_PAGE if newest is None else min(RUNS_PER_PAGE, newest - len(runs))
        if wanted < 1:
            return runs
        with reporting(destination.uri):
            page = client.search_runs(
                [experiment_id],
                filter,
                max_results=wanted,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
        runs += [_facts(run) for run in page]
        if not (token := page.token):
            return runs


def run_records(destination: Destination, run_id: str) -> list[SampleRecord]:
    """The records of a run. Raises UserError where the run is unknown or left none."""
    client, _ = open_existing(destination)
    with reporting(destination.uri):
        status = client.get_run(run_id).info.status
        if not any(file.path == "records.parquet" for file in client.list_artifacts(run_id)):
            raise UserError(f"run {run_id} in {shown(destination.uri)} is {status} and has no records.parquet")
        with TemporaryDirectory() as folder:
            return read_records(Path(client.download_artifacts(run_id, "records.parquet", folder)))


def _facts(run: Run) -> RunFacts:
    return RunFacts(
        run_id=run.info.run_id,
        name=run.info.run_name,
        status=run.info.status,
        started_unix_s=run.info.start_time / 1000,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
    )
