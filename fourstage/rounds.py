"""The protocol at work: warm-up, rounds over the samples, the page cache before each, the GPU after.

records: list[SampleRecord] = []
rounds = measure_rounds(config, pipeline, samples, keep=records.append)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fourstage.analysis.statistics import measurement_half_width
from fourstage.config import Config
from fourstage.data import page_cache
from fourstage.environment import gpu_state
from fourstage.measure import Planned, Timing, WarmUp, measure, plan_round, warm_up
from fourstage.models.device import TorchDevice
from fourstage.models.pipeline import StagedPipeline
from fourstage.screen import Progress
from fourstage.stages import Sample, SampleRecord, UserError


@dataclass(frozen=True)
class Rounds:
    """What was planned, and what became of the warm-up of each shape of input."""

    planned: list[Planned]
    warm_up: dict[str, WarmUp]


def measure_rounds(
    config: Config, pipeline: StagedPipeline, samples: Sequence[Sample], keep: Callable[[SampleRecord], None]
) -> Rounds:
    """Hand each record to `keep` when it is made, so that a caller who is stopped has them."""
    if config.prompt is not None:
        pipeline.check_question(config.prompt, images=1)
    protocol, timing = config.protocol, timing_of(config, pipeline)
    questions = [question_of(sample, config) for sample in samples]
    planned: list[Planned] = []
    warmed: dict[str, WarmUp] = {}
    totals: list[tuple[str, float]] = []  # key and seconds, for the interval that ends the rounds
    with Progress(len(samples) * protocol.repeats) as progress:
        for repeat in range(max(protocol.repeats, protocol.max_repeats)):
            if repeat >= protocol.repeats and _narrow_enough(totals, protocol.target_half_width):
                break
            round_ = plan_round(
                samples, questions, repeat, config.seed, protocol.order, protocol.sentinel, start=len(planned)
            )
            if repeat == 0:
                warmed = warm_up(
                    pipeline, round_, config.sampling, timing, config.batch_size, protocol.warmup,
                    protocol.warmup_tolerance,
                )  # fmt: skip
            planned += round_
            progress.expect(len(samples) * (repeat + 1))
            for record in measure(pipeline, round_, config.sampling, timing, config.batch_size):
                keep(record)
                if record.role == "sample":
                    progress.advance(record)
                if protocol.target_half_width and record.role == "sample" and record.total_s is not None:
                    totals.append((record.key, record.total_s))
    return Rounds(planned, warmed)


def timing_of(config: Config, pipeline: StagedPipeline) -> Timing:
    """The clocks and the device, and what is done to a sample's files before it and read of the GPU after it."""
    device = pipeline.facts.device
    prepare = {"as_is": page_cache.cached_share, "warm": page_cache.warm, "cold": page_cache.drop}[config.protocol.io]

    def prepare_files(sample: Sample) -> float | None:
        try:
            return prepare(pipeline.files(sample))
        except UserError:  # a file that is not there: `load` says so on the sample's record
            return None

    return Timing(TorchDevice(device), prepare_files=prepare_files, read_gpu=lambda: gpu_state(device))


def _narrow_enough(totals: Sequence[tuple[str, float]], target: float | None) -> bool:
    """Whether what repeating shows of the mean's noise is within the target; without a target, always."""
    if target is None or not totals:
        return True
    return measurement_half_width([seconds for _, seconds in totals], [key for key, _ in totals]) <= target


def question_of(sample: Sample, config: Config) -> str:
    """The run's prompt where one is set, else the sample's own question, else the dataset's."""
    return config.prompt or sample.question or config.dataset.question
