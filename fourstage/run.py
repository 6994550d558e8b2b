"""One run: compose → measure → record → say.

    python -m fourstage.run model=videollava temperature=0.2
    python -m fourstage.run -m model=eventgpt,videollava generation=greedy precision=fp32,bf16

Hydra composes; everything about a setting is checked in `config.py` before anything heavy is imported. Exit
codes: 0 all runs finished; 1 a run failed; 2 the command line or the data could not be used; 130 and 143 after
Ctrl-C and kill.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import fourstage
from fourstage import config as settings
from fourstage.compose import (
    as_tree,
    check_command_line,
    conf_folder,
    from_hydra,
    hydras_word,
    overrides_of,
    swept_keys,
)
from fourstage.config import Config, DemoDatasetSettings, JsonDatasetSettings
from fourstage.stages import Sample, SampleRecord, UserError

if TYPE_CHECKING:
    from fourstage.analysis.columns import Columns
    from fourstage.analysis.records import RecordFile
    from fourstage.checks import Check
    from fourstage.models.pipeline import StagedPipeline
    from fourstage.tracking.run import TrackedRun

FAILED, UNUSABLE, INTERRUPTED, TERMINATED = 1, 2, 130, 143
SHOWN = 10_000  # samples whose metrics and texts the UI shows; records.parquet has all


class Terminated(BaseException):
    """SIGTERM: like Ctrl-C, what was finished is kept."""


@dataclass(frozen=True)
class Labels:
    """Where a run stands in a sweep, and what the sweep varies."""

    sweep: str | None = None
    job: int | None = None
    varied: Mapping[str, str] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit code."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig

    if argv is not None:
        sys.argv = ["fourstage", *argv]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us whole; we say them in one line
    codes: list[int] = []

    @hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
    def job(cfg: DictConfig) -> None:
        from_hydra = HydraConfig.get()
        labels = Labels()
        if from_hydra.mode == RunMode.MULTIRUN:
            chosen = dict(word.lstrip("+").split("=", 1) for word in from_hydra.overrides.task if "=" in word)
            varied = {key: chosen[key] for key in swept_keys(sys.argv[1:]) if key in chosen}
            labels = Labels(Path(from_hydra.sweep.dir).name, from_hydra.job.num, varied)
            say(f"job {from_hydra.job.num}: {' '.join(from_hydra.overrides.task) or 'as configured'}")
        codes.append(run_job(as_tree(cfg), labels))

    previous = signal.signal(signal.SIGTERM, _terminate)
    interrupt = signal.signal(signal.SIGINT, _interrupt)
    try:
        check_command_line(sys.argv[1:])
        overrides = overrides_of(sys.argv[1:])  # Hydra wants them together, people write -m anywhere
        sys.argv[1:] = [*(word for word in sys.argv[1:] if word not in overrides), *overrides]
        job()
    except UserError as error:
        return _complain(str(error), UNUSABLE)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except Terminated:
        return _complain("terminated", TERMINATED)
    except OSError as error:
        where = f": {error.filename}; run from a folder that can be written" if error.filename else ""
        return _complain(f"{error.strerror or error}{where}", UNUSABLE)
    except Exception as error:
        if not from_hydra(error):
            raise
        return _complain(hydras_word(error), UNUSABLE)
    finally:
        signal.signal(signal.SIGTERM, previous)
        signal.signal(signal.SIGINT, interrupt)
    return max(codes, default=0)


def run_job(tree: Mapping[str, Any], labels: Labels) -> int:
    """One composed run, of a sweep or alone; its exit code. What it raises is told here, so that a sweep goes on."""
    try:
        config = settings.check(tree)
        return 0 if execute(config, tree, labels) == "FINISHED" else FAILED
    except UserError as error:
        return _complain(str(error), UNUSABLE)
    except Exception:  # a fault of ours: told whole, and the other jobs of a sweep go on
        traceback.print_exc()
        return FAILED


def execute(config: Config, tree: Mapping[str, Any], labels: Labels) -> str:
    """Measure every sample of the dataset and leave the run in MLflow. Gives its status there.

    Raises UserError before anything is tracked where the dataset, the store, or the choice of model and device
    cannot be used.
    """
    samples = read_samples(config)
    with signals_held():  # an exception inside a half-done import would leave it broken
        _import_quickly("evidence", "screen", "tracking.run", f"models.{config.model.name}")
        from fourstage.analysis.records import RecordFile
        from fourstage.models.load import preflight
    preflight(config)
    with TemporaryDirectory(prefix="fourstage-") as folder:
        return _tracked(config, tree, labels, samples, RecordFile(Path(folder) / "records.parquet"))


def _import_quickly(*modules: str) -> None:
    """Import what is heavy. Garbage is not looked for meanwhile, and what came in is never looked through again:
    it saves start-up a second, and samples the pauses that a full collection over it would put into a stage."""
    import gc

    gc.disable()
    try:
        for module in modules:
            import_module(f"fourstage.{module}")
        gc.freeze()
    finally:
        gc.enable()


def _tracked(
    config: Config, tree: Mapping[str, Any], labels: Labels, samples: Sequence[Sample], file: RecordFile
) -> str:
    """The run from its creation in the store to its end there; gives its status."""
    from fourstage.checks import not_finished
    from fourstage.data.dataset import dataset_digest
    from fourstage.tracking.run import TrackedRun
    from fourstage.tracking.store import Destination

    tracking = config.tracking
    name = config.run_name or settings.default_run_name(config, labels.varied)
    digest = dataset_digest(samples)
    destination = Destination(tracking.uri, tracking.artifacts, tracking.experiment)
    run: TrackedRun | None = None
    status = "FAILED"
    checks: list[Check] = []
    reached: dict[str, float] = {}
    pipeline: StagedPipeline | None = None
    try:
        with signals_held():
            run = TrackedRun.start(destination, name, settings.flatten(tree), _tags(config, tree, labels, digest))
        run.log_dataset(config.dataset.name, digest, str(samples[0].root), len(samples))
        pipeline = _load_model(config, run)
        checks, reached = _measure_and_check(config, pipeline, samples, file)
        _log_gpu(run, "after", pipeline.facts.device)
        status = "FINISHED" if file.count > file.failed else "FAILED"
    except (KeyboardInterrupt, Terminated):
        status = "KILLED"
        raise
    except Exception as error:
        if run is None:
            raise
        _tell(run, error)
    finally:
        pipeline = None
        if run is not None:
            with signals_held():  # what was finished is kept; a second signal ends it all the same
                if labels.sweep is not None:
                    _free_memory()  # the next job begins with an empty device
                checks = checks or [not_finished(status, file.count)]
                status = _close(config, tree, run, status, file, checks, reached)
    return status


def _tell(run: TrackedRun, error: Exception) -> None:
    """What ended a run, on the screen and on the run; with its traceback where it is no fault of the user's."""
    if isinstance(error, UserError):
        _complain(str(error), FAILED)
        run.log_tags({"fourstage.error": str(error)})
        return
    _complain(f"{type(error).__name__}: {error} (traceback.txt of the run has the whole)", FAILED)
    run.log_tags({"fourstage.error": f"{type(error).__name__}: {error}"})
    run.log_file("traceback.txt", "".join(traceback.format_exception(error)))


def _close(
    config: Config,
    tree: Mapping[str, Any],
    run: TrackedRun,
    status: str,
    file: RecordFile,
    checks: Sequence[Check],
    reached: Mapping[str, float],
) -> str:
    """Say and record everything and end the run. Whatever fails here is told, and the run ends as FAILED."""
    from fourstage.analysis.columns import Columns
    from fourstage.screen import print_run

    try:
        file.close()
        columns = Columns.read(file.path).measured
        print_run(run.name, run.run_id, status, file, columns, checks, reached, config.tracking.uri)
        _record(config, tree, run, file, columns, checks, reached)
    except Exception as error:  # a full disk, a store that is gone, a fault of ours: the run must not stay RUNNING
        what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        _complain(f"{what}; not all of the run was recorded", FAILED)
        status = "FAILED"
    finally:
        run.end(status)
    return status


@contextmanager
def signals_held() -> Iterator[None]:
    """Keep Ctrl-C and kill waiting until the block is done; a second one ends the process at once."""
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def hold(number: int, _: object) -> None:
        came.append(number)
        signal.signal(number, signal.SIG_DFL)

    for number in handlers:
        signal.signal(number, hold)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if came:
        raise Terminated if came[0] == signal.SIGTERM else KeyboardInterrupt


def read_samples(config: Config) -> list[Sample]:
    """The samples that the run goes over; the demo dataset is made on first use. Raises UserError."""
    from fourstage.data.dataset import read_dataset

    dataset = config.dataset
    if isinstance(dataset, DemoDatasetSettings):
        from fourstage.data.demo import JSON_NAME, DemoSettings, make_demo

        demo = DemoSettings(dataset.samples, dataset.seconds, dataset.width, dataset.height, dataset.fps, dataset.seed)
        return read_dataset(make_demo(Path(dataset.cache), demo), JSON_NAME, dataset.limit)
    return read_dataset(Path(dataset.root), dataset.file, dataset.limit)


def say(text: str) -> None:
    """A line on stderr: stdout holds results."""
    print(text, file=sys.stderr, flush=True)


def _load_model(config: Config, run: TrackedRun) -> StagedPipeline:
    """The pipeline, and its facts on the run."""
    from fourstage.models.load import load_pipeline

    start = time.perf_counter()
    pipeline = load_pipeline(config)
    seconds = time.perf_counter() - start
    facts = asdict(pipeline.facts)
    run.log_metrics({"load_model_s": seconds})
    run.log_tags({f"fourstage.{key}": str(value) for key, value in facts.items()})
    run.log_dict("model.json", facts)
    _log_gpu(run, "before", pipeline.facts.device)
    return pipeline


def _log_gpu(run: TrackedRun, when: str, device: str) -> None:
    """Clocks, power, temperature and what holds the GPU down, `before` and `after` the measurement."""
    from fourstage.environment import gpu_state, nvml_reason

    if device.startswith("cuda"):
        state = gpu_state(device)
        run.log_dict(f"gpu_{when}.json", asdict(state) if state else {"reason": nvml_reason(device)})


def _measure_and_check(
    config: Config, pipeline: StagedPipeline, samples: Sequence[Sample], file: RecordFile
) -> tuple[list[Check], dict[str, float]]:
    """Measure into `file`, then question what was measured: the checks, and the figures that the evidence gives."""
    from fourstage.checks import check_run
    from fourstage.environment import processors_busy
    from fourstage.evidence import figures, gather
    from fourstage.rounds import measure_rounds

    busy = processors_busy()
    rounds = measure_rounds(config, pipeline, samples, keep=file.append)
    file.close()
    evidence = replace(gather(config, pipeline, rounds.planned, file.path), busy=busy, warm_up=rounds.warm_up)
    return check_run(evidence), figures(evidence)


def _free_memory() -> None:
    """Give back what nobody holds any more: a model refers to itself through its hooks, so Python waits otherwise."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _record(
    config: Config,
    tree: Mapping[str, Any],
    run: TrackedRun,
    file: RecordFile,
    columns: Columns,
    checks: Sequence[Check],
    reached: Mapping[str, float],
) -> None:
    """Everything that a run leaves, after the measurement. Of very many samples the first are shown in the UI."""
    from omegaconf import OmegaConf

    from fourstage.analysis.quality import quality
    from fourstage.analysis.statistics import summarise_run
    from fourstage.checks import as_dict, valid
    from fourstage.environment import environment, git_diff

    root = Path(config.dataset.root) if isinstance(config.dataset, JsonDatasetSettings) else Path(config.dataset.cache)
    run.log_file("config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(tree))))
    run.log_dict("environment.json", environment(root))
    if diff := git_diff():
        run.log_file("git_diff.patch", diff)
    run.log_dict("checks.json", as_dict(checks))
    named = {word: ",".join(check.id for check in checks if check.verdict == word) for word in ("fail", "warn")}
    run.log_tags(
        {
            "fourstage.valid": str(valid(checks)).lower(),
            "fourstage.checks_failed": named["fail"] or "none",
            "fourstage.checks_warned": named["warn"] or "none",
        }
    )
    shown = list(islice((record for record in file if record.role == "sample"), SHOWN))
    run.log_samples(shown)
    run.log_metrics(summarise_run(columns) | dict(reached) | quality(shown))
    if len(columns):
        run.log_tags({"fourstage.source_read": ",".join(columns.sources) or "none"})
        run.log_results(shown, file.path)
        _log_traces(config, run, shown)


def _log_traces(config: Config, run: TrackedRun, records: Sequence[SampleRecord]) -> None:
    """Traces show a sample's way; that they are missing takes nothing from the measurement, and is told."""
    try:
        run.log_traces(records, config.tracking.traces)
    except UserError as error:
        say(f"warning: {error}")
        run.log_tags({"fourstage.traces_error": str(error)})


def _tags(config: Config, tree: Mapping[str, Any], labels: Labels, digest: str) -> dict[str, str]:
    """What tells this run apart, and where it came from."""
    import platform

    from fourstage.environment import git_state

    git = git_state()
    tags = {
        "fourstage.version": fourstage.__version__,
        "fourstage.host": platform.node(),
        "fourstage.dataset_hash": digest,
        "fourstage.identity": settings.identity(tree),
    }
    if git["commit"]:
        tags["mlflow.source.git.commit"] = git["commit"]
        tags["fourstage.git_dirty"] = str(git["dirty"]).lower()
    if labels.sweep is not None:
        tags["fourstage.sweep"] = labels.sweep
        tags["fourstage.job"] = str(labels.job)
    return tags


def _complain(message: str, code: int) -> int:
    say(f"error: {message}")
    return code


def _terminate(signum: int, frame: object) -> None:
    raise Terminated


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
