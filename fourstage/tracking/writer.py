"""Writing one run to MLflow: parameters, metrics, texts, files and traces.

Everything but traces goes through one MlflowClient; there is no active run. Each method may be called again with the
same things, after a failure half way, and leaves them once. Left out: what is worth logging, which the caller knows,
and what a trace holds (`traces.py`). Nothing here may be called inside a measurement. Measured on two cores with an
existing SQLite store: `start` 2.1 s in a fresh process (1.2 s importing mlflow, 0.8 s opening the store),
`log_samples` 10 ms for 4 samples and 1 s for 1,000, `log_results` 0.7 s (the plots), `log_traces` 15 ms of a
processor a sample, all others 5 to 15 ms.

    run = TrackedRun.start(destination, "eventgpt-bf16", {"precision": "bf16"}, {"git.commit": "1a2b3c"})
    run.log_samples(records)
    run.log_metrics(summarise_run(records))
    run.log_results(records)
    run.log_traces(records, limit=20)
    run.end("FINISHED")
"""

from __future__ import annotations

import getpass
import json
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from fourstage.credentials import masked
from fourstage.records.figures import (
    OF_STAGE,
    PER_SAMPLE,
    TOKENS_IN,
    TOKENS_OUT,
    TOTAL,
    TPOT,
    TTFT,
    cached_name,
)
from fourstage.records.plots import plot_run
from fourstage.records.table import write_records
from fourstage.stages import SampleRecord, UserError
from fourstage.text import storable
from fourstage.tracking.destination import Destination, client_uri
from fourstage.tracking.failures import reporting
from fourstage.tracking.patience import ForeignError, patience_with
from fourstage.tracking.store import open_store
from fourstage.tracking.traces import write_traces

if TYPE_CHECKING:
    from mlflow import MlflowClient

# limits of MLflow's REST interface and database
METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100
TRACES_PER_LINK = 100
TRACE_S = 1.0  # that one may take, ten times what it does
PARAM_CHARS = 6000
TAG_CHARS = 8000
DIGEST_CHARS = 36
TABLES_TAG = "mlflow.loggedArtifacts"  # by it the UI's artifact view finds tables

TABLE = (
    "question",
    "output",
    "reference",
    TOKENS_IN.field,
    TOKENS_OUT.field,
    "finish_reason",
    *(figure.field for figure in (*OF_STAGE, TTFT, TPOT, TOTAL)),
    "cached_stages",
    "cache_fill_s",
    "error",
    "prompt",
)


@dataclass
class TrackedRun:
    """A run in a store; each method raises UserError where the store refuses or fails."""

    run_id: str
    name: str
    experiment_id: str
    destination: Destination
    _client: MlflowClient = field(repr=False)

    @classmethod
    def start(
        cls,
        destination: Destination,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        at_ms: int | None = None,
    ) -> TrackedRun:
        """Create the run, RUNNING since now or `at_ms`, with its parameters.

        Values over 6000 characters are cut, with a note.
        """
        client, experiment_id = open_store(destination)
        with reporting(destination.uri):
            created = client.create_run(
                experiment_id, _storable_ms(at_ms), _own_tags() | _shortened(tags, TAG_CHARS), run_name=masked(name)
            )
            if not created.info.run_id:
                raise ForeignError("its answer is not MLflow's")
        run = cls(created.info.run_id, name, experiment_id, destination, client)
        try:
            run.log_params(params)
        except BaseException:
            run.end("FAILED")  # else it would stay RUNNING for ever
            raise
        return run

    @classmethod
    def reopen(cls, destination: Destination, run_id: str, running: bool = False) -> TrackedRun | None:
        """A run that is there; `running`: set it back to RUNNING. None where the store has lost it.

        Raises UserError where somebody deleted it.
        """
        from mlflow.exceptions import MlflowException

        client, _ = open_store(destination)
        with reporting(destination.uri):
            try:
                found = client.get_run(run_id).info
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return None
            if found.run_id != run_id:
                raise ForeignError("its answer is not MLflow's")
            if found.lifecycle_stage != "active":
                restore = f"mlflow runs restore --run-id {run_id}"
                raise UserError(f"run {found.run_name} was deleted; bring it back with: {restore}")
            if running:
                client.update_run(run_id, status="RUNNING")
        return cls(run_id, found.run_name, found.experiment_id, destination, client)

    def log_dataset(self, name: str, digest: str, source: str, samples: int) -> None:
        """Note the dataset that the run read; of the digest the first 36 characters fit."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=name,
            digest=digest[:DIGEST_CHARS],
            source_type="local",
            source=json.dumps({"uri": source}),
            profile=json.dumps({"samples": samples}),
        )
        with reporting(self.destination.uri):
            context = InputTag("mlflow.data.context", "evaluation")
            self._client.log_inputs(self.run_id, [DatasetInput(dataset, [context])])

    def log_samples(self, records: Sequence[SampleRecord]) -> None:
        """Log the records' metrics; a metric's step is the record's place in the run. None is left out."""
        from mlflow.entities import Metric

        metrics = []
        for step, record in enumerate(records):
            when = _storable_ms(round(1000 * record.started_unix_s))
            for figure in PER_SAMPLE:
                if (value := getattr(record, figure.field)) is not None:
                    cached = figure.stage in record.cached_stages
                    name = cached_name(figure.per_sample) if cached else figure.per_sample
                    metrics.append(Metric(name, float(value), when, step))
        with reporting(self.destination.uri):
            for chunk in _chunks(metrics, METRICS_PER_CALL):
                self._client.log_batch(self.run_id, metrics=chunk)

    def log_metrics(self, metrics: Mapping[str, float], at_ms: int | None = None, step: int = 0) -> None:
        """Log figures of the whole run, one value each at this step, as of now or of `at_ms`."""
        from mlflow.entities import Metric

        now = _storable_ms(at_ms)
        entries = [Metric(name, float(value), now, step) for name, value in metrics.items()]
        with reporting(self.destination.uri):
            for chunk in _chunks(entries, METRICS_PER_CALL):
                self._client.log_batch(self.run_id, metrics=chunk)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags. Values over 8000 characters are cut, with a note."""
        from mlflow.entities import RunTag

        entries = [RunTag(key, value) for key, value in _shortened(tags, TAG_CHARS).items()]
        with reporting(self.destination.uri):
            for chunk in _chunks(entries, PARAMS_PER_CALL):
                self._client.log_batch(self.run_id, tags=chunk)

    def tags(self) -> dict[str, str]:
        """The run's tags in the store."""
        with reporting(self.destination.uri):
            return dict(self._client.get_run(self.run_id).data.tags)

    def params(self) -> dict[str, str]:
        """The run's settings in the store."""
        with reporting(self.destination.uri):
            return dict(self._client.get_run(self.run_id).data.params)

    def delete_tag(self, key: str) -> None:
        """Remove a tag from the run in the store."""
        with reporting(self.destination.uri):
            self._client.delete_tag(self.run_id, key)

    def log_results(self, records: Sequence[SampleRecord], file: Path | None = None) -> None:
        """Log samples, failed ones too, as `samples.json` and plots, and `records.parquet`.

        `file` is an existing records.parquet of all records; `records` may be only the first of them.
        """
        several = any(record.replicate for record in records)
        columns = (*TABLE, "replicate") if several else TABLE
        rows = [{"sample": record.key} | {name: getattr(record, name) for name in columns} for record in records]
        with reporting(self.destination.uri):
            with TemporaryDirectory() as folder:
                path = file or Path(folder) / "records.parquet"
                if file is None:
                    write_records(records, path)
                self._client.log_artifact(self.run_id, str(path))
            self.log_table("samples.json", rows, ["sample", *columns])
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for a letter that no font here has
                for name, figure in plot_run(records).items():
                    self._client.log_figure(self.run_id, figure, f"plots/{name}.png")

    def log_table(self, name: str, rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
        """Put a table where the UI's artifact view shows it, in place of one of that name (mlflow's own appends)."""
        table = {"columns": list(columns), "data": [[row.get(column) for column in columns] for row in rows]}
        with reporting(self.destination.uri):
            self._client.log_text(self.run_id, json.dumps(table), name)
            known = json.loads(self._client.get_run(self.run_id).data.tags.get(TABLES_TAG, "[]"))
            if (entry := {"path": name, "type": "table"}) not in known:
                self._client.set_tag(self.run_id, TABLES_TAG, json.dumps([*known, entry]))

    def log_folder(self, folder: Path) -> None:
        """Log every file of a folder under its place there."""
        with reporting(self.destination.uri):
            self._client.log_artifacts(self.run_id, str(folder))

    def log_dict(self, name: str, obj: dict[str, Any]) -> None:
        """Log a dictionary as a file: YAML where the name says so, else JSON."""
        with reporting(self.destination.uri):
            self._client.log_dict(self.run_id, obj, name)

    def log_traces(self, records: Sequence[SampleRecord], limit: int, fault: str = "") -> None:
        """Log one trace for each of the first `limit` records and show it in the run's Traces tab.

        `fault`: why the run is invalid, "" where it is valid. Written before it returns.
        """
        if not (chosen := records[: max(limit, 0)]):
            return
        before = list(self._linked_traces())  # of an earlier try
        if len(before) == len(chosen):
            return
        uri = self.destination.uri
        with reporting(self.destination.uri):
            if before:
                self._client.delete_traces(self.experiment_id, trace_ids=before)
            trace_ids: list[str] = patience_with(uri).call(
                write_traces, client_uri(uri), self.experiment_id, chosen, fault, allowance_s=TRACE_S * len(chosen)
            )
            for chunk in _chunks(trace_ids, TRACES_PER_LINK):
                self._client.link_traces_to_run(list(chunk), self.run_id)
        arrived = set(trace_ids).intersection(self._linked_traces())
        if len(arrived) < len(chosen):
            raise UserError(
                f"{len(arrived)} of {len(chosen)} traces arrived in {self.destination.experiment}: is the store full? "
                "tracking.traces=0 asks for none"
            )

    def end(self, status: str, at_ms: int | None = None) -> None:
        """Close the run as FINISHED, FAILED or KILLED, as of now or of `at_ms`."""
        with reporting(self.destination.uri):
            self._client.set_terminated(self.run_id, status, _storable_ms(at_ms))

    def check_ended(self, status: str) -> None:
        """Raise StoreAwayError where the store does not say so: another program may answer everything with success."""
        with reporting(self.destination.uri):
            info = self._client.get_run(self.run_id).info
            if (info.run_id, info.status) != (self.run_id, status):
                raise ForeignError("its answers are not MLflow's: the run that was sent is not there")

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log the settings. Values over 6000 characters are cut, with a note."""
        from mlflow.entities import Param

        texts = _shortened({key: str(value) for key, value in params.items()}, PARAM_CHARS)
        with reporting(self.destination.uri):
            for chunk in _chunks([Param(key, text) for key, text in texts.items()], PARAMS_PER_CALL):
                self._client.log_batch(self.run_id, params=chunk)

    def _linked_traces(self) -> Iterator[str]:
        """Ids of the traces that the run shows."""
        token: str | None = None
        while True:
            with reporting(self.destination.uri):
                page = self._client.search_traces(
                    locations=[self.experiment_id],
                    run_id=self.run_id,
                    max_results=100,
                    page_token=token,
                    include_spans=False,
                )
            yield from (trace.info.trace_id for trace in page)
            if not (token := page.token):
                return


def _own_tags() -> dict[str, str]:
    """Who ran what, as the UI shows it."""
    tags = {"mlflow.source.name": sys.argv[0] or "fourstage", "mlflow.source.type": "LOCAL"}
    try:
        tags["mlflow.user"] = getpass.getuser()
    except (KeyError, OSError):
        tags["mlflow.user"] = "unknown"  # a container may run under an id without a name
    return tags


def _shortened(texts: Mapping[str, str], limit: int) -> dict[str, str]:
    """The texts as they may be stored: without passwords, as UTF-8, and not too long."""
    clean = {key: storable(masked(text)) for key, text in texts.items()}
    return {key: text if len(text) <= limit else _cut(text, limit) for key, text in clean.items()}


def _storable_ms(at_ms: int | None) -> int:
    """A time that MLflow stores, now where none is given: of a clock before 1970 the least; 0 would mean now."""
    return max(1, round(1000 * time.time()) if at_ms is None else at_ms)


def _cut(text: str, limit: int) -> str:
    return f"{text[: limit - 100]} … (cut: {len(text)} characters, see config.yaml)"


def _chunks(entries: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(entries), size):
        yield entries[start : start + size]
