"""One replicate: a fresh process that loads the model, warms up and measures every sample, into a folder of its own.

It knows neither Hydra nor MLflow: the process that has the run composes the settings and delivers the results. Its
standard input gives a `Request` as one line of JSON, and ends with the process that asked, which ends this one too.

    python -m fourstage.runs.replicate < request.json
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from fourstage.config import schema
from fourstage.exit_codes import FAILED, INTERRUPTED, TERMINATED
from fourstage.runs.ending import record_error
from fourstage.runs.measurement import Measurement
from fourstage.runs.prepare import Shared, import_measuring
from fourstage.runs.replicates import Request
from fourstage.runs.signals import Terminated, signals_held, signals_raised
from fourstage.text import prepare_output


def main() -> int:
    """Measure the replicate that standard input asks for. Gives the exit code."""
    gc.disable()  # until everything is imported
    request = Request(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()  # it waits in a system call and takes no time
    prepare_output()
    try:
        with signals_raised():
            return measure_replicate(request)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Terminated:
        return TERMINATED


def measure_replicate(request: Request) -> int:
    """Measure every sample once more and check it; whatever happens is in the replicate's folder afterwards."""
    from fourstage.tracking.destination import Destination
    from fourstage.tracking.folder import RunFolder

    config = schema.check(request.tree)
    name, destination = f"replicate {request.number}", Destination.of(config.tracking)
    folder = RunFolder.begin(Path(request.folder), destination, name, {}, {}, traces=0, delivered=True)
    status = "KILLED"
    try:
        _measure(config, folder, request.number)
        status = "FINISHED"
    except Exception as error:
        record_error(folder, error)
        status = "FAILED"
    finally:
        with signals_held():
            folder.end(status)
    return 0 if status == "FINISHED" else FAILED


def _measure(config: schema.Config, folder: Any, number: int) -> None:
    from fourstage.data.samples import read_samples
    from fourstage.trust.check import as_dict

    with signals_held():  # an exception inside a half-done import would leave it broken
        import_measuring(config)
    measurement = Measurement(config, read_samples(config.dataset), Shared(), folder, number)
    measurement.open(())
    try:
        measurement.measure()
        measurement.check()
    finally:
        measurement.close()
        if measurement.tracebacks:
            folder.add_file("tracebacks.txt", "\n".join(measurement.tracebacks))
    folder.add_metrics(measurement.figures)
    folder.add_file("checks.json", as_dict(measurement.checks))
    folder.add_file("environment.json", measurement.environment())


def _end_with_parent() -> None:
    """Wait for the end of the process that asked, which a kill -9 leaves no time to say anything."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
