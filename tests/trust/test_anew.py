"""Measured answers against the model's own, made again from the files: faults planted, on both models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourstage.data.formats.demo import DemoSettings, make_demo
from fourstage.data.media import read_video_frames
from fourstage.measure.protocol import question_of, timing_of
from fourstage.stages import Media, SampleRecord
from fourstage.trust.anew import Again, answer_again, plain_media
from fourstage.trust.audits import Audits
from fourstage.trust.check import Check
from fourstage.trust.checks.answers import answers_repeat, images_are_the_files
from fourstage.trust.checks.plan import plan_is_dataset
from tests.trust.test_checks import evidence
from tests.trust.test_settings_seen import MODELS, Run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(
        tmp_path_factory.mktemp("data"), DemoSettings(samples=4, seconds=1.0, width=160, height=120, seed=9)
    )


def again(run: Run, asked: int | None = 2) -> Again:
    """What is found on the run's records; the pipeline is as it was, unless a test left a fault in it."""
    samples = {sample.key: sample for sample in run.samples}
    return answer_again(
        run.pipeline,
        samples,
        {key: question_of(sample, run.config) for key, sample in samples.items()},
        run.records,
        run.config.sampling,
        timing_of(run.config, run.pipeline).device,
        run.config.precision,
        asked,
    )


def judged(found: Again) -> Check:
    return answers_repeat(replace(evidence(n=8), audits=Audits(1, 1, {}, None, again=found)))


@MODELS
@pytest.mark.parametrize(
    "overrides",
    [(), ("temperature=0.8",), ("batch_size=2",), ("num_beams=2",), ("precision=bf16",), ("generation=fixed",),
     ("model.source=images",), ("cache=frames",)],
)  # fmt: skip
def test_the_answers_of_an_honest_run_are_made_again(root: Path, model: str, overrides: tuple[str, ...]) -> None:
    found = again(Run(root, model, *overrides).measure(), asked=None)
    assert (judged(found).verdict, found.answers, found.left_out) == ("pass", 4, ()), found


@pytest.mark.parametrize("source", ["npy", "mp4"])
def test_other_sources_are_read_by_plain_code(root: Path, source: str) -> None:
    run = Run(root, "eventgpt", f"model.source={source}", *(["model.mp4_folder=mp4"] if source == "mp4" else []))
    found = again(run.measure(), asked=None)
    assert (judged(found).verdict, found.answers, found.left_out) == ("pass", 4, ()), found


@MODELS
@pytest.mark.parametrize("rule", ["arange", "head"])
def test_plain_images_are_those_of_stage_1(root: Path, model: str, rule: str) -> None:
    overrides = [f"model.frame_rule={rule}"] if model == "videollava" else []
    run = Run(root, model, *overrides).measure()
    for sample, record in zip(run.samples, run.records, strict=True):
        plain = plain_media(sample, record, run.pipeline.settings).images
        stage_1 = run.pipeline.load(sample).images
        assert all(np.array_equal(one, other) for one, other in zip(plain, stage_1, strict=True))


def swapped(records: list[SampleRecord]) -> list[SampleRecord]:
    """Texts and ids exchanged together."""
    return [
        replace(record, output_ids=other.output_ids, output=other.output)
        for record, other in zip(records, reversed(records), strict=True)
    ]


def first_dropped(records: list[SampleRecord]) -> list[SampleRecord]:
    return [
        replace(record, output_ids=record.output_ids[2:], token_s=record.token_s[2:], output_tokens=10)
        for record in records
    ]


def one_answer(records: list[SampleRecord]) -> list[SampleRecord]:
    return [replace(record, output_ids=records[0].output_ids, output=records[0].output) for record in records]


@MODELS
@pytest.mark.parametrize("plant", [swapped, first_dropped, one_answer])
def test_answers_that_were_changed_on_the_record_are_found(
    root: Path, model: str, plant: Callable[[list[SampleRecord]], list[SampleRecord]]
) -> None:
    run = Run(root, model).measure()
    run.records = plant(run.records)
    check = judged(again(run))
    assert check.verdict == "fail"
    assert "the model's own generate() gives" in check.detail


@MODELS
def test_sampling_in_the_measurement_alone_is_found(root: Path, model: str) -> None:
    run = Run(root, model)
    honest = run.pipeline.decode
    run.pipeline.decode = lambda inputs, features, sampling, tick: honest(  # type: ignore[method-assign, assignment]
        inputs, features, replace(sampling, temperature=1.0), tick
    )
    assert judged(again(run.measure(), asked=None)).verdict == "fail"


TINY = ("weights=random", "weights.size=tiny")  # whose answers change with any change of the pictures


def first_sample(run: Run, media: Media) -> Media:
    return type(run.pipeline).load(run.pipeline, run.samples[0])


def one_image(run: Run, media: Media) -> Media:
    return replace(media, images=(media.images[0],) * len(media.images))


def other_order(run: Run, media: Media) -> Media:
    return replace(media, images=media.images[::-1])


@pytest.mark.parametrize(
    ("model", "plant"),
    [("eventgpt", first_sample), ("eventgpt", one_image),  # in any order: it averages over its images
     ("videollava", first_sample), ("videollava", one_image), ("videollava", other_order)],
)  # fmt: skip
def test_other_media_than_the_sample_has_are_found(root: Path, model: str, plant: Any) -> None:
    run = Run(root, model, *TINY)
    honest = run.pipeline.load
    run.pipeline.load = lambda sample: plant(run, honest(sample))  # type: ignore[method-assign]
    found = again(run.measure(), asked=None)  # the fault is in the pipeline still: the files are read without it
    assert judged(found).verdict == "fail", found


def test_the_first_frames_under_the_indices_of_spread_ones_are_found(root: Path) -> None:
    run = Run(root, "videollava", *TINY)
    honest = run.pipeline.load

    def first_frames(sample: Any) -> Media:
        return replace(honest(sample), images=read_video_frames(sample, frames=8, rule="head").images)

    run.pipeline.load = first_frames  # type: ignore[method-assign]
    assert judged(again(run.measure(), asked=None)).verdict == "fail"


def images(found: Again) -> Check:
    return images_are_the_files(replace(evidence(n=8), audits=Audits(1, 1, {}, None, again=found)))


@MODELS
@pytest.mark.parametrize("overrides", [(), ("model.source=images",), ("cache=frames",), ("batch_size=2",)])
def test_the_images_of_an_honest_run_are_those_of_the_files(root: Path, model: str, overrides: tuple[str, ...]) -> None:
    check = images(again(Run(root, model, *overrides).measure(), asked=None))
    assert (check.verdict, check.detail) == ("pass", "4 samples")


@MODELS
def test_other_indices_on_the_record_than_were_read_are_found(root: Path, model: str) -> None:
    run = Run(root, model).measure()
    run.records = [replace(record, image_indices=tuple(1 + i for i in record.image_indices)) for record in run.records]
    check = images(again(run))
    assert (check.verdict, check.value) == ("fail", 2)
    assert "the record names images [1, " in check.detail
    assert "the settings choose [0, " in check.detail


def test_the_first_frames_in_place_of_spread_ones_are_found(root: Path) -> None:
    run = Run(root, "videollava")
    run.pipeline.load = lambda sample: read_video_frames(sample, frames=8, rule="head")  # type: ignore[method-assign]
    check = images(again(run.measure()))
    assert check.verdict == "fail"
    assert "the record names images [0, 1, 2, 3, 4, 5, 6, 7] of 20, the settings choose [0, 2, 5, " in check.detail
    assert "levels on average" in check.detail


@MODELS
def test_one_image_in_place_of_all_is_seen_in_its_pixels(root: Path, model: str) -> None:
    run = Run(root, model)
    honest = run.pipeline.load
    run.pipeline.load = lambda sample: one_image(run, honest(sample))  # type: ignore[method-assign]
    assert "levels on average" in images(again(run.measure())).detail


@MODELS
def test_of_a_long_answer_the_beginning_is_made_again(root: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourstage.trust.anew.TOKENS", 5)
    run = Run(root, model, "temperature=0.8").measure()
    assert judged(again(run)).verdict == "pass"
    run.records = first_dropped(run.records)
    assert judged(again(run)).verdict == "fail"


def test_what_plain_code_does_not_cover_is_left_out_and_does_not_pass(root: Path) -> None:
    run = Run(root, "videollava", *TINY).measure()
    run.records = [replace(record, notes=("rotated by 90 degrees",)) for record in run.records]
    check = judged(again(run))
    assert (check.verdict, check.detail.count("noted: rotated")) == ("not possible", 2)


def test_a_sample_that_was_never_planned_or_is_another_is_found() -> None:
    found = evidence(n=8)
    assert plan_is_dataset(found).verdict == "pass"
    never = plan_is_dataset(replace(found, listed=(*(found.listed or ()), "s8")))
    assert (never.verdict, never.detail) == ("fail", "not planned s8")
    replaced = plan_is_dataset(replace(found, listed=(*(found.listed or ())[:-1], "s8")))
    assert (replaced.verdict, replaced.detail) == ("fail", "not planned s8; not in the dataset s7")
