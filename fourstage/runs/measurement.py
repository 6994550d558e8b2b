"""What a process measures of a run: its records as they are made, and the checks of all of them at the end.

measurement.open(earlier_records)
measurement.measure()
measurement.check()
measurement.close()
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fourstage.config.schema import Config
from fourstage.runs.prepare import Shared
from fourstage.stages import Sample, SampleRecord

if TYPE_CHECKING:
    from fourstage.measure.cache import Filled
    from fourstage.measure.protocol import Rounds
    from fourstage.models.base import StagedPipeline
    from fourstage.records.table import Journal, RecordFile
    from fourstage.tracking.folder import RunFolder
    from fourstage.trust.check import Check

TAGGED = ("captured", "compiled", "kernels", "why", "encode_captured")  # of what an engine ran
MOST_TRACEBACKS = 3  # of samples that failed, saved with the run


@dataclass
class Measurement:
    """The measurement of one run so far, or of one replicate of it."""

    config: Config
    samples: Sequence[Sample]
    shared: Shared
    folder: RunFolder
    replicate: int = 0
    checks: list[Check] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)  # that the checks' evidence gives
    tracebacks: dict[str, None] = field(default_factory=dict)
    file: RecordFile | None = None
    _journal: Journal | None = None
    _rounds: Rounds | None = None
    _filled: Filled | None = None
    _earlier: Sequence[SampleRecord] = ()
    _busy: float | None = None  # share of the processors that others used meanwhile
    _unlike: tuple[str, ...] = ()  # how loaded parameters differ from the settings, before the measurement

    @property
    def succeeded(self) -> bool:
        """Whether any sample succeeded."""
        return self.file is not None and self.file.count > self.file.failed

    @property
    def fault(self) -> str:
        """Why the run is FAILED where it did not succeed."""
        return "no sample succeeded"

    def open(self, earlier: Sequence[SampleRecord]) -> None:
        """Open the files of the records, and write those of a half-done run first."""
        from fourstage.records.table import Journal, RecordFile

        self._earlier = earlier
        making = self.folder.journal.with_name("journal.making")
        making.unlink(missing_ok=True)
        self._journal, self.file = Journal(making), RecordFile(self.folder.records)
        for record in earlier:
            self._save(record)
        # the old journal's last line may have been cut short; a kill before this line loses no record
        making.replace(self.folder.journal)

    def measure(self) -> None:
        """Load the model where it is not, warm up, and measure every sample."""
        from fourstage.measure.cache import behind, with_cache
        from fourstage.measure.machine import ProcessorTimes, processors_busy
        from fourstage.measure.protocol import measure_rounds, timing_of
        from fourstage.models.device import use_threads
        from fourstage.trust.gather import unlike

        config, samples = self.config, self.samples
        use_threads(config.threads, config.device)
        pipeline, load_s = self.shared.models.get(config)
        self._unlike = tuple(f"before the run, {text}" for text in unlike(config, pipeline))
        self._record_model(pipeline, load_s)
        _, self._filled = with_cache(config, pipeline, samples)
        self.folder.add_metrics(self._filled.metrics)
        self.folder.add_tags(self._filled.tags)
        pipeline = behind(self._filled, pipeline)
        timing = timing_of(config, pipeline, self._save_traceback)
        begun = ProcessorTimes.now()
        try:
            self._rounds = measure_rounds(config, pipeline, samples, self._save, self._earlier, timing)
        except BaseException:
            pipeline.engine.release()  # what it captured is no part of another job's peak; else `check` does it
            raise
        if not self.folder.gone:  # a file would make it again, and nobody would be told
            self._record_engine(pipeline)
        self._busy = processors_busy(begun)

    def check(self) -> None:
        """Close the records and compute the checks of them."""
        from fourstage.measure.cache import behind
        from fourstage.trust.checks import check_run
        from fourstage.trust.gather import figures, gather

        config = self.config
        assert self.file is not None
        assert self._rounds is not None
        assert self._filled is not None
        self.file.close()
        self.close()
        pipeline = behind(self._filled, self.shared.models.get(config)[0])
        try:
            evidence = gather(config, pipeline, self._rounds.planned, self.file.path)
        finally:
            pipeline.engine.release()
        wanted = replace(evidence.expected, parameters=(*self._unlike, *evidence.expected.parameters))
        evidence = replace(evidence, expected=wanted, busy=self._busy, warm_up=self._rounds.warm_up)
        busy = {} if self._busy is None else {"busy_share": self._busy}
        self.checks, self.figures = check_run(evidence), figures(evidence) | busy
        self._record_gpu("after", pipeline.facts.device)

    def environment(self) -> Mapping[str, Any]:
        """The machine and the software that were used."""
        from fourstage.runs.environment import environment

        root = self.samples[0].root
        if root not in self.shared.environments:
            self.shared.environments[root] = environment(root)
        return self.shared.environments[root]

    def close(self) -> None:
        """Close the journal, from which the records are read where the run does not come to its end."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _save(self, record: SampleRecord) -> None:
        assert self.file is not None
        assert self._journal is not None
        record = replace(record, replicate=self.replicate)
        self.file.append(record)
        self._journal.append(record)

    def _save_traceback(self, error: Exception) -> None:
        if len(self.tracebacks) < MOST_TRACEBACKS:
            self.tracebacks["".join(traceback.format_exception(error))] = None

    def _record_model(self, pipeline: StagedPipeline, load_s: float) -> None:
        """The model's facts on the run; `load_model_s` is 0 where an earlier job had loaded it."""
        facts = asdict(pipeline.facts)
        self.folder.add_metrics({"load_model_s": load_s})
        self.folder.add_tags(
            {f"fourstage.{key}": str(value) for key, value in facts.items()}
            | {"fourstage.reused_model": str(load_s == 0).lower()}
        )
        self.folder.add_file("model.json", facts)
        self._record_gpu("before", pipeline.facts.device)

    def _record_engine(self, pipeline: StagedPipeline) -> None:
        """What the engine really ran, as `engine.json`, and its bytes beside the model's as metrics."""
        ran = dict(pipeline.engine.report)
        self.folder.add_file("engine.json", {"name": pipeline.engine.settings.name} | ran)
        self.folder.add_tags({f"fourstage.engine.{key}": str(value) for key, value in ran.items() if key in TAGGED})
        self.folder.add_metrics({f"engine_{key}": value for key, value in ran.items() if key.endswith("_bytes")})

    def _record_gpu(self, when: str, device: str) -> None:
        """Clocks, power, temperature and what throttles the GPU, `before` and `after` the measurement."""
        from fourstage.measure.machine import gpu_state, nvml_reason

        if device.startswith("cuda"):
            state = gpu_state(device)
            self.folder.add_file(f"gpu_{when}.json", asdict(state) if state else {"reason": nvml_reason(device)})
