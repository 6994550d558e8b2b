"""Reading runs back: their facts, and the records from which every figure is recomputed.

Reading makes nothing: a store or an experiment that is not there is an error. Left out: comparing.

    for run in find_runs(destination, "tags.`fourstage.valid` = 'true'", newest=2):
        records = run_records(destination, run.run_id)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fourstage.credentials import masked, masked_tree
from fourstage.records.table import read_records
from fourstage.stages import SampleRecord, UserError
from fourstage.tracking.destination import Destination
from fourstage.tracking.failures import reporting
from fourstage.tracking.search import equals
from fourstage.tracking.store import open_existing

if TYPE_CHECKING:
    from mlflow.entities import Run

RUNS_PER_PAGE = 1000
RECORDS = "records.parquet"
PARENT = "mlflow.parentRunId"
PENDING = "token:"  # before the token of a parent that the store did not have when its sweep began


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
    artifact_uri: str = ""
    dataset_root: str = ""  # the folder of the data, as the run's process wrote it; "": not on the run


def find_runs(
    destination: Destination, filter: str = "", newest: int | None = None, deleted: bool = False
) -> list[RunFacts]:
    """Runs of the experiment, newest first, that match a filter in MLflow's search language; or those in its trash.

    Raises UserError where store or experiment are missing or the filter cannot be understood.
    """
    from mlflow.entities import ViewType

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
                ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY,
                max_results=wanted,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
        runs += [_facts(run) for run in page]
        if not (token := page.token):
            return runs


def find_equal(
    destination: Destination, field: str, text: str, also: str = "", newest: int | None = None, deleted: bool = False
) -> list[RunFacts]:
    """`find_runs` where a field is a text: `attributes.run_id`, `attributes.run_name` or a tag in backquotes."""
    condition = equals(field, text)
    exact = " LIKE " not in condition
    wanted = f"{condition} and {also}" if also else condition
    found = find_runs(destination, wanted, newest if exact else None, deleted)
    if exact:
        return found
    tag = field.partition(".")[2].strip("`")
    return [run for run in found if {"run_id": run.run_id, "run_name": run.name}.get(tag, run.tags.get(tag)) == text][
        :newest
    ]


def children_of(destination: Destination, parent: str, settings_hash: str | None = None) -> list[RunFacts]:
    """The runs nested under a parent, newest first; with `settings_hash` those of one job. Raises UserError."""
    if parent.startswith(PENDING) and (parent := parent_in_store(destination, parent) or "") == "":
        return []
    wanted = f"tags.`{PARENT}` = '{parent}'"
    if settings_hash is not None:
        wanted += f" and tags.`fourstage.settings_hash` = '{settings_hash}'"
    return find_runs(destination, wanted)


def parent_in_store(destination: Destination, parent: str) -> str | None:
    """The run id of a sweep's parent: of `token:…` the one that the store gave it; None where it has none."""
    from mlflow.exceptions import MlflowException

    if parent.startswith(PENDING):
        return find_by_token(destination, parent.removeprefix(PENDING))
    client, _ = open_existing(destination)
    with reporting(destination.uri):
        try:
            return str(client.get_run(parent).info.run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise


def find_by_token(destination: Destination, token: str) -> str | None:
    """The run that was made from the folder with this token, also where the answer to that was lost."""
    client, experiment_id = open_existing(destination)
    with reporting(destination.uri):
        found = client.search_runs([experiment_id], f"tags.`fourstage.token` = '{token}'", max_results=1)
    return found[0].info.run_id if found else None


def move_to_trash(destination: Destination, run_id: str) -> None:
    """Delete a run as the UI does: `mlflow runs restore --run-id` brings it back."""
    client, _ = open_existing(destination)
    with reporting(destination.uri):
        client.delete_run(run_id)


def run_records(destination: Destination, run_id: str) -> list[SampleRecord]:
    """The records of a run. Raises UserError where the run is unknown or left none."""
    client, _ = open_existing(destination)
    with reporting(destination.uri):
        status = client.get_run(run_id).info.status
        if not any(file.path == "records.parquet" for file in client.list_artifacts(run_id)):
            raise UserError(f"run {run_id} in {masked(destination.uri)} is {status} and has no records.parquet")
        with TemporaryDirectory() as folder:
            return read_records(Path(client.download_artifacts(run_id, "records.parquet", folder)))


def records_file(destination: Destination, run: RunFacts, folder: Path) -> Path:
    """The run's records.parquet: in place where its artifacts lie on this machine, else downloaded under `folder`.

    Raises UserError where the run left none.
    """
    if (place := _local_folder(run.artifact_uri)) is not None:
        if (path := place / RECORDS).is_file():
            return path
        raise UserError(f"{run.status} without {RECORDS}, looked for in {place}")
    client, _ = open_existing(destination)
    with reporting(destination.uri):
        if not any(file.path == RECORDS for file in client.list_artifacts(run.run_id)):
            raise UserError(f"{run.status} without {RECORDS}")
        (own := folder / run.run_id).mkdir(exist_ok=True)
        return Path(client.download_artifacts(run.run_id, RECORDS, str(own)))


def run_file(destination: Destination, run: RunFacts, name: str) -> str:
    """The text of one of the run's artifacts, such as `checks.json`. Raises UserError where the run left none."""
    if (place := _local_folder(run.artifact_uri)) is not None:
        if not (path := place / name).is_file():
            raise UserError(f"run {run.name} ({run.run_id}) left no {name}, looked for in {place}")
        return path.read_text(encoding="utf-8")
    client, _ = open_existing(destination)
    with reporting(destination.uri), TemporaryDirectory() as folder:
        if not any(file.path == name for file in client.list_artifacts(run.run_id)):
            raise UserError(f"run {run.name} ({run.run_id}) left no {name}")
        return Path(client.download_artifacts(run.run_id, name, folder)).read_text(encoding="utf-8")


def _local_folder(uri: str) -> Path | None:
    """The folder that a file URI or a plain path names; None for what only a server can give."""
    from urllib.parse import unquote, urlsplit

    if "://" not in uri and not uri.startswith("file:"):
        return Path(uri) if uri and ":" not in uri else None
    parts = urlsplit(uri)
    local = parts.scheme == "file" and parts.netloc in ("", "localhost")
    return Path(unquote(parts.path)) if local else None


def run_samples(destination: Destination, run_id: str) -> list[dict[str, object]]:
    """The rows of a run's table of samples; none where it left none."""
    client, _ = open_existing(destination)
    with reporting(destination.uri), TemporaryDirectory() as folder:
        if not any(file.path == "samples.json" for file in client.list_artifacts(run_id)):
            return []
        table = json.loads(Path(client.download_artifacts(run_id, "samples.json", folder)).read_text(encoding="utf-8"))
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def _facts(run: Run) -> RunFacts:
    return RunFacts(
        run_id=run.info.run_id,
        name=masked(run.info.run_name),
        status=run.info.status,
        started_unix_s=run.info.start_time / 1000,
        params=masked_tree(run.data.params),
        metrics=dict(run.data.metrics),
        tags=masked_tree(run.data.tags),
        artifact_uri=run.info.artifact_uri or "",
        dataset_root=_dataset_root(run),
    )


def _dataset_root(run: Run) -> str:
    """Where the first dataset of the run lies, as `TrackedRun.log_dataset` writes it."""
    for entry in run.inputs.dataset_inputs if run.inputs else ():
        try:
            return str(json.loads(entry.dataset.source)["uri"])
        except (ValueError, KeyError, TypeError):  # another program's dataset
            continue
    return ""
