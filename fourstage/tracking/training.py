"""A training in MLflow: settings, loss and quality of each epoch.

with training_run(destination, "train-eventgpt", params) as log:
    log({"loss": 0.31, "quality.motion": 0.98}, step=500)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from fourstage.tracking.destination import Destination
from fourstage.tracking.store import open_store

Log = Callable[[Mapping[str, float], int], None]


@contextmanager
def training_run(destination: Destination, name: str, params: Mapping[str, str]) -> Iterator[Log]:
    """A run that takes metrics by step; FAILED where the block raises, KILLED where it is interrupted."""
    from mlflow.entities import Metric, Param

    client, experiment = open_store(destination)
    run_id = client.create_run(experiment, run_name=name, tags={"fourstage.kind": "training"}).info.run_id
    client.log_batch(run_id, params=[Param(key, value) for key, value in params.items()])

    def log(metrics: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        client.log_batch(run_id, metrics=[Metric(key, value, now, step) for key, value in metrics.items()])

    status = "FAILED"
    try:
        yield log
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        client.set_terminated(run_id, status)
