"""What happens before a run exists: dataset read, identity computed, weights looked for.

prepared = prepare(job, config, Shared())
prepared.samples, prepared.identity.whole
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourstage.config import run_names, schema
from fourstage.config.schema import Config
from fourstage.credentials import masked
from fourstage.runs.identity import Identity, identify
from fourstage.runs.job import Job
from fourstage.runs.outcome import Outcome
from fourstage.runs.signals import signals_held
from fourstage.stages import Sample
from fourstage.text import say

if TYPE_CHECKING:
    from fourstage.models.loaded import LoadedModel
    from fourstage.tracking.destination import Destination


@dataclass
class Shared:
    """What the jobs of one process share."""

    datasets: dict[Any, tuple[list[Sample], str]] = field(default_factory=dict)  # samples and digest, by settings
    outcomes: dict[str, Outcome] = field(default_factory=dict)  # of the jobs so far, by the run's identity
    environments: dict[Path, dict[str, Any]] = field(default_factory=dict)  # by the dataset's folder
    in_launcher: bool = False  # other jobs of the sweep run in processes of their own

    @cached_property
    def models(self) -> LoadedModel:
        """The loaded model of this process; made when it is asked for, since torch takes a second to import."""
        from fourstage.models.loaded import LoadedModel

        return LoadedModel()


@dataclass(frozen=True)
class Prepared:
    """What is known of a run before it exists."""

    job: Job  # its tree as typed by the schema
    config: Config
    name: str
    samples: Sequence[Sample]
    identity: Identity
    destination: Destination


def prepare(job: Job, config: Config, shared: Shared) -> Prepared:
    """Read the dataset, compute the identity, find the weights. Raises UserError for what cannot work."""
    samples, digest = _dataset_of(config, shared)
    with signals_held():  # an exception inside a half-done import would leave it broken
        import_quickly("report.run_table", "runs.resume", "tracking.deliver", "trust.checks", "models.load")
        if not config.fresh:
            import_measuring(config)
        from fourstage.models.load import preflight
        from fourstage.tracking.destination import Destination
    preflight(config)
    name = masked(config.run_name or run_names.default_run_name(config, job.varied))
    destination = Destination.of(config.tracking)
    return Prepared(job, config, name, samples, identify(config, job.tree, digest), destination)


def _dataset_of(config: Config, shared: Shared) -> tuple[list[Sample], str]:
    """The samples and their digest, read once in a process."""
    from fourstage.data.dataset import dataset_digest

    if config.dataset not in shared.datasets:
        from fourstage.data.samples import read_samples

        samples = read_samples(config.dataset)
        shared.datasets[config.dataset] = samples, dataset_digest(samples, config.dataset.hash, say)
    return shared.datasets[config.dataset]


def digest_of_settings(tree: Mapping[str, Any]) -> str | None:
    """The digest of the data that every job of a sweep reads; None where the jobs differ in it."""
    from fourstage.data.dataset import dataset_digest
    from fourstage.data.samples import read_samples
    from fourstage.stages import UserError

    try:
        dataset = schema.dataset_settings(tree)
    except UserError:  # a job's own overrides complete it, or its run reports the mistake
        return None
    return dataset_digest(read_samples(dataset), dataset.hash, say)


def import_measuring(config: Config) -> None:
    """Import what a measurement of this configuration uses, so that it contains no import."""

    def libraries() -> None:
        from fourstage.models.load import import_libraries

        import_libraries(config)

    import_quickly("trust.gather", "models.loaded", then=libraries)


def import_quickly(*modules: str, then: Callable[[], None] = lambda: None) -> None:
    """Import what is heavy. GC is disabled during the imports, and what was imported is frozen afterwards: it makes
    start-up a second faster, and keeps a full collection over all of it from pausing a stage."""
    imported = len(sys.modules)
    gc.disable()
    try:
        for module in modules:
            import_module(f"fourstage.{module}")
        then()
        if len(sys.modules) > imported:
            gc.freeze()
    finally:
        gc.enable()
