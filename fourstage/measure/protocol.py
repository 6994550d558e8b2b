"""The protocol at work: warm-up, rounds over the samples, the page cache before each, the GPU after.

records: list[SampleRecord] = []
rounds = measure_rounds(config, pipeline, samples, keep=records.append)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fourstage.config.schema import Config
from fourstage.data import page_cache
from fourstage.measure.clock import Timing
from fourstage.measure.loop import measure
from fourstage.measure.machine import gpu_state
from fourstage.measure.plan import Planned, batches, plan_round
from fourstage.measure.warm_up import WarmUp, warm_up
from fourstage.models.base import StagedPipeline
from fourstage.models.device import TorchDevice
from fourstage.screen import Progress
from fourstage.stages import Sample, SampleRecord
from fourstage.stats.intervals import measurement_half_width


@dataclass
class Rounds:
    """What was planned so far, what became of the warm-up of each shape of input, and what the samples took."""

    planned: list[Planned] = field(default_factory=list)
    warm_up: dict[str, WarmUp] = field(default_factory=dict)
    totals: list[tuple[str, float]] = field(default_factory=list)  # for the interval that ends the rounds

    def note(self, record: SampleRecord) -> None:
        """Count a measured sample towards the interval that ends the rounds."""
        if record.role == "sample" and record.total_s is not None:
            self.totals.append((record.key, record.total_s))


def measure_rounds(
    config: Config,
    pipeline: StagedPipeline,
    samples: Sequence[Sample],
    keep: Callable[[SampleRecord], None],
    done: Sequence[SampleRecord] = (),
    timing: Timing | None = None,
) -> Rounds:
    """Hand each record to `keep` when it is made, so that a caller who is stopped has them.

    The first measurements are skipped where `done` has their records (whole batches).
    """
    if config.prompt is not None:
        pipeline.check_question(config.prompt, images=1)
    protocol, timing, rounds = config.protocol, timing or timing_of(config, pipeline), Rounds()
    questions = [question_of(sample, config) for sample in samples]
    least = protocol.repeats
    warm = False
    for record in done:
        rounds.note(record)
    with Progress(len(samples) * least, done=sum(record.role == "sample" for record in done)) as progress:
        for repeat in range(max(least, protocol.max_repeats)):
            if repeat >= least and _narrow_enough(rounds.totals, protocol.target_half_width):
                break
            round_ = plan_round(
                samples, questions, repeat, config.seed, protocol.order, protocol.sentinel, len(rounds.planned)
            )
            rounds.planned += round_
            progress.expect(len(samples) * (repeat + 1))
            if not (todo := [item for item in round_ if item.position >= len(done)]):
                continue
            if not warm:
                warm = True
                sizes = dict.fromkeys(len(batch) for batch in batches(todo, config.batch_size))
                pipeline.prepare([item.question for item in todo], tuple(sizes), config.sampling)
                rounds.warm_up |= warm_up(
                    pipeline, todo, config.sampling, timing, config.batch_size, protocol.warmup,
                    protocol.warmup_tolerance,
                )  # fmt: skip
            for record in measure(pipeline, todo, config.sampling, timing, config.batch_size):
                keep(record)
                rounds.note(record)
                if record.role == "sample":
                    progress.advance(record)
    return rounds


def plan_all(config: Config, samples: Sequence[Sample]) -> list[Planned]:
    """Every measurement that the protocol asks for at least, in order."""
    questions = [question_of(sample, config) for sample in samples]
    protocol, planned = config.protocol, list[Planned]()
    for repeat in range(max(protocol.repeats, protocol.max_repeats)):
        planned += plan_round(
            samples, questions, repeat, config.seed, protocol.order, protocol.sentinel, start=len(planned)
        )
    return planned


def timing_of(
    config: Config,
    pipeline: StagedPipeline,
    on_error: Callable[[Exception], None] = lambda _: None,
) -> Timing:
    """The clocks and the device, and what is done to a sample's files before it and read of the GPU after it."""
    device = pipeline.facts.device
    prepare = {"as_is": page_cache.cached_share, "warm": page_cache.warm, "cold": page_cache.drop}[config.protocol.io]

    def prepare_files(sample: Sample) -> float | None:
        try:
            return prepare(pipeline.files(sample))
        except Exception:  # a file that is not there, a path that no system takes: `load` says so on the record
            return None

    return Timing(
        TorchDevice(device), prepare_files=prepare_files, read_gpu=lambda: gpu_state(device), on_error=on_error
    )


def _narrow_enough(totals: Sequence[tuple[str, float]], target: float | None) -> bool:
    """Whether what repeating shows of the mean's noise is within the target; without a target, always."""
    if target is None or not totals:
        return True
    return measurement_half_width([seconds for _, seconds in totals], [key for key, _ in totals]) <= target


def question_of(sample: Sample, config: Config) -> str:
    """The run's prompt where one is set, else the sample's own question, else the dataset's."""
    return config.prompt or sample.question or config.dataset.question
