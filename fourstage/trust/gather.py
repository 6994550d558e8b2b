"""What the checks look at, gathered after a run: what was asked for, audits, and the device's limits.

evidence = gather(config, pipeline, planned, records)
checks = check_run(evidence)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fourstage.config.schema import Config
from fourstage.data.samples import read_samples
from fourstage.measure.cache import uncached
from fourstage.measure.plan import Planned
from fourstage.measure.protocol import question_of, timing_of
from fourstage.models.base import StagedPipeline
from fourstage.models.quantised import is_quantised, language_layers
from fourstage.models.shapes import Shapes
from fourstage.models.stand_ins import resolved
from fourstage.records.summary import tpot_over_context
from fourstage.records.units import first_few
from fourstage.stages import Sample, SampleRecord, UserError
from fourstage.trust.anew import answer_again
from fourstage.trust.audits import Audits, run_audits
from fourstage.trust.evidence import DTYPES, Evidence, Expected
from fourstage.trust.operations import count_operations
from fourstage.trust.peaks import device_peaks
from fourstage.trust.roofline import Peaks, Shares, run_shares

ANSWERS_AGAIN = 2  # measured answers that are made again; by protocol=strict, all


def gather(
    config: Config, pipeline: StagedPipeline, planned: Sequence[Planned], records: Sequence[SampleRecord] | Path
) -> Evidence:
    """Evidence on the measured samples, in memory or in a records.parquet; audits are made where they are asked for."""
    rest: dict[str, Any] = {
        "planned": [(item.sample.key, item.repeat) for item in planned if item.role == "sample"],
        "expected": expected(config, pipeline),
        "detokenise": pipeline.detokenise,
    }
    evidence = Evidence.read(records, **rest) if isinstance(records, Path) else Evidence.of(records, **rest)
    listed: dict[str, Sample] = {}
    try:  # anew: what was planned may be wrong
        listed = {sample.key: sample for sample in read_samples(config.dataset)}
        evidence = replace(evidence, listed=tuple(listed))
    except (UserError, OSError) as error:
        evidence = replace(evidence, no_listed=f"the dataset cannot be read again: {error}")
    audits, no_audits = _audits(config, pipeline, planned, evidence.sampled, listed)
    evidence = replace(evidence, audits=audits, no_audits=no_audits)
    try:
        shapes = uncached(pipeline).shapes()
    except (TypeError, AttributeError) as error:  # somebody's own model, whose parts are not known here
        return replace(evidence, no_shares=f"the model's shapes are not known: {error}")
    try:
        return replace(evidence, shares=device_shares(config, pipeline, evidence, shapes))
    except (RuntimeError, KeyError, OSError) as error:  # the device has no room for the copy: the run stands
        return replace(evidence, no_shares=f"the device's peaks could not be measured: {error}")


def expected(config: Config, pipeline: StagedPipeline) -> Expected:
    """What the composed settings asked for, as far as records can show it."""
    return Expected(
        precision=config.arithmetic,
        dtype=pipeline.facts.dtype,
        sources=config.model.media_sources,
        images=config.model.image_count,
        batch_size=config.batch_size,
        max_new_tokens=config.max_new_tokens,
        stop=config.stop,
        num_beams=config.num_beams,
        context=pipeline.facts.context,
        io=config.protocol.io,
        target_half_width=config.protocol.target_half_width,
        cached_stages=config.cached_stages,
        seed=config.seed,
        end_ids=pipeline.eos_ids,
        parameters=tuple(f"after the run, {text}" for text in unlike(config, pipeline)),
    )


def unlike(config: Config, pipeline: StagedPipeline) -> list[str]:
    """How the loaded parameters, all of them, differ from the settings, from the model that these name, and from what
    was recorded of them."""
    asked = (f"torch.{DTYPES[config.arithmetic]}", pipeline.facts.device)
    other: dict[tuple[str, str], list[str]] = {}
    count = 0
    for name, parameter in pipeline.model.named_parameters():
        count += parameter.numel()
        if (found := (str(parameter.dtype), str(parameter.device))) != asked:
            other.setdefault(found, []).append(name)
    texts = [
        f"{first_few(names, 1)} {'is' if len(names) == 1 else 'are'} {dtype.removeprefix('torch.')} on {device}, "
        f"precision={config.precision} on {asked[1]} asked for"
        for (dtype, device), names in other.items()
    ]
    named = pipeline.asked_parameters(resolved(config.weights, config.model.name))  # a stand-in is a checkpoint
    if named is not None and count != named:
        texts.append(f"the model has {count:,} parameters, {config.model.name} of these settings has {named:,}")
    texts += _quantised_otherwise(config, pipeline)
    if count != pipeline.facts.parameters:
        texts.append(f"the model has {count:,} parameters, {pipeline.facts.parameters:,} were recorded")
    return texts


def _quantised_otherwise(config: Config, pipeline: StagedPipeline) -> list[str]:
    """How the quantised parameters differ from those that `precision` asks for: the language model's linear layers."""
    found = {name for name, parameter in pipeline.model.named_parameters() if is_quantised(parameter)}
    wanted = set[str]()
    if config.precision in ("int8", "int4"):
        layers = {id(layer.weight) for layer in language_layers(pipeline.generator)}
        wanted = {name for name, parameter in pipeline.model.named_parameters() if id(parameter) in layers}
    return [
        f"{first_few(sorted(names), 1)} {word} quantised, against precision={config.precision}"
        for names, word in ((found - wanted, "is"), (wanted - found, "is not"))
        if names
    ]


def device_shares(config: Config, pipeline: StagedPipeline, evidence: Evidence, shapes: Shapes) -> Shares:
    """How near the run came to the device's measured limits.

    Where a sample seems faster than they allow, they are measured once more and the higher ones hold: a peak that
    was taken on a busy machine is too low.
    """
    device = pipeline.facts.device

    def against(peaks: Peaks) -> Shares:
        return run_shares(evidence.columns, evidence.sampled, shapes, peaks, config.arithmetic, beams=config.num_beams)

    shares = against(device_peaks(device))
    if any(found.share > 1 for found in shares.fastest.values()):
        shares = against(device_peaks(device, again=True))
    return shares


def figures(evidence: Evidence) -> dict[str, float]:
    """What only the evidence tells, as metrics: shares of the device's limits, and how a token's time grows with
    the context that it attends to. What was not measured is absent."""
    shares, growth = evidence.shares, tpot_over_context(evidence.sampled)
    named = {
        "encode_mfu": shares.encode_mfu if shares else None,
        "prefill_mfu": shares.prefill_mfu if shares else None,
        "decode_mbu": shares.decode_mbu if shares else None,
        "roofline_share": shares.roofline_share if shares else None,
        "tpot_ms_per_1000_context_tokens": growth.slope.slope if growth else None,
    }
    return {name: value for name, value in named.items() if value is not None and math.isfinite(value)}


def _audits(
    config: Config,
    pipeline: StagedPipeline,
    planned: Sequence[Planned],
    records: Sequence[SampleRecord],
    listed: Mapping[str, Sample],
) -> tuple[Audits | None, str]:
    """The audits, or why there are none: a fault in them takes nothing from what was measured before."""
    if not config.protocol.audit:
        return None, f"no audits were made (protocol.audit=false in protocol={config.protocol.name})"
    try:
        timing = timing_of(config, pipeline)
        audits = run_audits(pipeline, planned, config.sampling, timing, records=records)
        asked = None if config.protocol.name == "strict" else ANSWERS_AGAIN
        questions = {key: question_of(sample, config) for key, sample in listed.items()}
        again = answer_again(
            uncached(pipeline), listed, questions, records, config.sampling, timing.device, config.arithmetic, asked
        )
        done = {record.key for record in records if record.ok}
        first = next((item for item in planned if item.sample.key in done), None)
        operations = count_operations(uncached(pipeline), first) if first else audits.operations
        return replace(audits, again=again, operations=operations), ""
    except Exception as error:
        return None, f"the audits failed: {type(error).__name__}: {error}"
