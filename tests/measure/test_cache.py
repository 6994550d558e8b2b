"""The cache: what it serves is the same, its cost is told apart, and only what was asked for is forgiven."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourstage.cli.run import main
from fourstage.config.compose import compose
from fourstage.config.schema import Config, check
from fourstage.data.dataset import read_dataset
from fourstage.data.formats.demo import JSON_NAME, DemoSettings, make_demo
from fourstage.measure import cache
from fourstage.measure.cache import CachedPipeline, fill, uncached, with_cache
from fourstage.measure.clock import Timing
from fourstage.measure.loop import measure
from fourstage.measure.plan import Planned
from fourstage.measure.protocol import measure_rounds
from fourstage.models.base import StagedPipeline
from fourstage.models.eventgpt import Model as EventGPT
from fourstage.models.videollava import Model as VideoLlava
from fourstage.records.columns import Columns
from fourstage.records.figures import ENCODE, LOAD, TOTAL
from fourstage.records.summary import summarise_run
from fourstage.report.run_table import fill_line, heading
from fourstage.stages import Sample, SampleRecord, Sampling, UserError
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import RunFacts, find_runs, run_records
from fourstage.tracking.store import open_store
from fourstage.trust.checks import check_run
from fourstage.trust.evidence import Evidence, Expected
from fourstage.trust.gather import gather
from tests.fakes import FakeClock, FakeDevice
from tests.settings import EVENTGPT, TINY, VIDEOLLAVA

SERVED = {"none": (), "frames": ("load",), "tensors": ("load", "preprocess")}
FIXED = ["generation=fixed", "max_new_tokens=6"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("data"), DemoSettings(samples=3, seconds=0.4, width=96, height=64))


@pytest.fixture(scope="module")
def samples(root: Path) -> list[Sample]:
    return read_dataset(root, JSON_NAME)


@pytest.fixture(scope="module", params=["eventgpt", "videollava"])
def pipeline(request: pytest.FixtureRequest) -> StagedPipeline:
    if request.param == "eventgpt":
        return EventGPT.from_weights(EVENTGPT, TINY, "cpu", "fp32", "sdpa")
    return VideoLlava.from_weights(VIDEOLLAVA, TINY, "cpu", "fp32", "sdpa")


def configured(root: Path, pipeline: StagedPipeline, *overrides: str) -> Config:
    model = "eventgpt" if isinstance(pipeline, EventGPT) else "videollava"
    return check(
        compose(
            [f"model={model}", "dataset=eventgpt_json", f"dataset.root={root}", "protocol=quick", *FIXED, *overrides]
        )
    )


def measured(
    root: Path, pipeline: StagedPipeline, samples: list[Sample], *overrides: str
) -> tuple[list[SampleRecord], StagedPipeline, list[Planned], Config]:
    config = configured(root, pipeline, *overrides)
    behind, _ = with_cache(config, pipeline, samples)
    records: list[SampleRecord] = []
    rounds = measure_rounds(config, behind, samples, records.append)
    return records, behind, rounds.planned, config


# ---- what is served ----


@pytest.mark.parametrize("level", ["frames", "tensors"])
@pytest.mark.parametrize("batch", [1, 2])
def test_cached_pixels_are_those_that_are_made_each_time(
    level: str, batch: int, root: Path, pipeline: StagedPipeline, samples: list[Sample]
) -> None:
    behind, _ = with_cache(configured(root, pipeline, f"cache={level}"), pipeline, samples)
    questions = ["Why?", "What else is there?"][:batch]
    fresh = pipeline.preprocess([pipeline.load(sample) for sample in samples[:batch]], questions)
    kept = behind.preprocess([behind.load(sample) for sample in samples[:batch]], questions)
    assert torch.equal(fresh.pixel_values, kept.pixel_values)
    assert fresh.images_per_sample == kept.images_per_sample
    assert [ids.tolist() for ids in fresh.input_ids] == [ids.tolist() for ids in kept.input_ids]
    assert fresh.prompts == kept.prompts


@pytest.mark.parametrize("level", ["frames", "tensors"])
def test_a_cached_run_answers_as_one_without_and_encodes_each_time(
    level: str, root: Path, pipeline: StagedPipeline, samples: list[Sample]
) -> None:
    plain, _, _, _ = measured(root, pipeline, samples)
    cached, behind, _, _ = measured(root, pipeline, samples, f"cache={level}", "batch_size=2")
    assert [record.output_ids for record in cached] == [record.output_ids for record in plain]
    assert [record.source for record in cached] == [record.source for record in plain]
    assert {record.vision_calls for record in cached} == {1}
    assert uncached(behind) is pipeline


def test_without_a_cache_the_pipeline_is_handed_back(
    root: Path, pipeline: StagedPipeline, samples: list[Sample]
) -> None:
    behind, filled = with_cache(configured(root, pipeline), pipeline, samples)
    assert behind is pipeline
    assert filled.metrics == {}
    assert filled.tags == {"fourstage.cached_stages": "none"}


def test_the_files_are_read_while_the_cache_is_filled_and_never_again(
    root: Path, pipeline: StagedPipeline, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    behind, _ = with_cache(configured(root, pipeline, "cache=frames"), pipeline, samples)
    monkeypatch.setattr(type(pipeline), "load", lambda *_: pytest.fail("a file was read"))
    assert [behind.load(sample).source for sample in samples]
    assert behind.files(samples[0]) == []


def test_a_copy_with_other_pixels_is_not_served_from_the_cache(
    root: Path, pipeline: StagedPipeline, samples: list[Sample]
) -> None:
    behind, _ = with_cache(configured(root, pipeline, "cache=tensors"), pipeline, samples)
    media = behind.load(samples[0])
    white = replace(media, images=tuple(np.full_like(image, 255) for image in media.images))
    assert not torch.equal(
        behind.preprocess([white], ["?"]).pixel_values, behind.preprocess([media], ["?"]).pixel_values
    )


def test_a_sample_that_cannot_be_read_tells_it_when_it_is_measured(
    root: Path, pipeline: StagedPipeline, samples: list[Sample]
) -> None:
    gone = replace(samples[1], key="gone", event_data="no.npy", event_image=(), mp4_data="no.mp4", video_data=None)
    records, behind, planned, config = measured(root, pipeline, [gone, samples[0]], "cache=tensors")
    assert [(record.error_stage, record.cached_stages) for record in records] == [
        ("load", ()),
        (None, ("load", "preprocess")),
    ]
    assert "does not exist" in (records[0].error or "")
    verdicts = {found.id: found.verdict for found in check_run(gather(config, behind, planned, records))}
    assert verdicts.pop("plan_is_dataset") == "fail"  # the dataset does not list it
    assert verdicts["as_planned"] == "warn"
    assert "fail" not in verdicts.values()


# ---- what it costs ----


class Slow:
    """Loading takes 3 s, pixels 5 s, on a clock of its own."""

    def __init__(self, clock: FakeClock):
        self.clock = clock
        self.facts = type("Facts", (), {"device": "cpu"})

    def load(self, sample: Sample) -> Any:
        from fourstage.stages import Media

        self.clock.sleep(3)
        return Media((np.zeros((4, 5, 3), np.uint8),) * 2, "png", (0, 0), 1, 10)

    def pixels(self, media: Any) -> torch.Tensor:
        self.clock.sleep(5)
        return torch.zeros(2, 3, 2, 2)


def slow() -> tuple[Any, Timing]:
    clock = FakeClock()
    return Slow(clock), Timing(FakeDevice(clock), clock, prepare_files=lambda _: 0.25)


@pytest.mark.parametrize(("level", "seconds", "size"), [("frames", 3, 60), ("tensors", 8, 60 + 4 * 24)])
def test_filling_is_timed_for_each_sample_by_itself(level: str, seconds: float, size: int) -> None:
    pipeline, timing = slow()
    entries = fill(pipeline, [Sample(key, key, Path()) for key in "abc"], SERVED[level], timing)
    fills = [entry.media.fill for entry in entries.values()]
    assert [(found.seconds, found.stages, found.cached_share) for found in fills if found] == [
        (pytest.approx(seconds), SERVED[level], 0.25)
    ] * 3
    assert {entry.size_bytes for entry in entries.values()} == {size}  # an image that a clip repeats counts once


def test_what_does_not_fit_is_refused_after_the_first_sample_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, timing = slow()
    pipeline.pixels = lambda _: torch.zeros(2**18)  # 1 MiB
    monkeypatch.setattr(cache, "available_bytes", lambda: 10 * 2**20)
    with pytest.raises(UserError) as told:
        fill(pipeline, [Sample(str(n), str(n), Path()) for n in range(100)], SERVED["tensors"], timing)
    assert str(told.value) == (
        "the cache needs about 100 MiB for 100 samples (1.00 MiB each), beside 1.00 MiB that it holds "
        "10.0 MiB of memory are "
        "available: set cache=none, or dataset.limit=10"
    )
    assert pipeline.clock() == 106  # the warm-up and one sample were read
    assert len(fill(pipeline, [Sample(str(n), str(n), Path()) for n in range(10)], SERVED["tensors"], timing)) == 10


# ---- what is said of it ----


@pytest.mark.parametrize("level", ["none", "frames", "tensors"])
def test_the_record_says_what_was_cached_and_what_filling_took(
    level: str, root: Path, pipeline: StagedPipeline, samples: list[Sample]
) -> None:
    records, _, _, _ = measured(root, pipeline, samples, f"cache={level}")
    assert {record.cached_stages for record in records} == {SERVED[level]}
    assert all((record.cache_fill_s or 0) > 0 for record in records) == (level != "none")
    metrics = summarise_run(records)
    for name, stage in (("stage1_load", "load"), ("stage2_preprocess", "preprocess"), ("stage3_encode", "encode")):
        assert (f"{name}_cached_s.median" in metrics) == (stage in SERVED[level])
        assert (f"{name}_s.median" in metrics) != (stage in SERVED[level])  # never shown as a fast stage


def test_the_screen_heads_cached_columns_and_tells_the_filling() -> None:
    assert heading(LOAD, ("load",)) == "load\ncached"
    assert heading(TOTAL, ("load",)) == "total\nwithout fill"
    assert heading(ENCODE, ("load",)) == "encode"
    assert heading(TOTAL, ()) == "total"
    record = SampleRecord("a", "a", 0, cached_stages=("load",), cache_fill_s=0.01, load_s=1e-6)
    records = [record, replace(record, repeat=1), replace(record, key="b", cache_fill_s=0.03)]
    assert "cached[/yellow] load: filling took 20.0 ms a sample (median), 40.0 ms in all" in fill_line(
        Columns.of(records)
    )
    assert fill_line(Columns.of([replace(record, cached_stages=(), cache_fill_s=None)])) == ""


@pytest.mark.parametrize("io", ["as_is", "warm", "cold"])
@pytest.mark.parametrize("level", ["frames", "tensors"])
def test_a_run_is_not_invalid_for_the_cache_that_it_was_asked_for(
    level: str, io: str, root: Path, pipeline: StagedPipeline, samples: list[Sample]
) -> None:
    records, behind, planned, config = measured(
        root, pipeline, samples, f"cache={level}", f"protocol.io={io}", "protocol.audit=true"
    )
    found = {each.id: each for each in check_run(gather(config, behind, planned, records))}
    assert found["no_caching"].verdict in ("pass", "not possible"), found["no_caching"]  # on a busy machine
    assert found["no_caching"].detail.endswith(f"; {' and '.join(SERVED[level])} cached, as asked")
    assert found["config_used"].verdict == "pass"
    assert found["staged_equals_own"].verdict == "pass"
    share = records[0].cached_share
    if share is not None and io == "warm":
        assert found["io_held"].verdict == "pass"
    assert found["io_held"].verdict != "fail" or share is not None  # where the system cannot drop (tmpfs)


def keeps_features(pipeline: StagedPipeline) -> Any:
    """The same pipeline, with a cache of features by their pixels that nobody asked for."""
    kept: dict[bytes, Any] = {}

    class Keeping(CachedPipeline):
        def encode(self, inputs: Any) -> Any:
            key = inputs.pixel_values.numpy().tobytes()[:20_000]
            if key not in kept:
                for _ in range(10):  # dear, so that a busy machine hides nothing
                    kept[key] = self.inner.encode(inputs)
            return kept[key]

    return Keeping(pipeline, {})


def keeps_pixels(pipeline: StagedPipeline, samples: list[Sample], timing: Timing) -> Any:
    """The same pipeline behind a full cache that nobody asked for."""
    return CachedPipeline(pipeline, fill(pipeline, samples, SERVED["tensors"], timing))


@pytest.mark.parametrize("level", ["none", "frames", "tensors"])
def test_an_unasked_cache_of_features_is_caught_behind_any_cache(
    level: str, root: Path, pipeline: StagedPipeline, samples: list[Sample]
) -> None:
    config = configured(root, pipeline, f"cache={level}", "protocol.audit=true")
    behind, _ = with_cache(config, keeps_features(pipeline), samples)
    records: list[SampleRecord] = []
    rounds = measure_rounds(config, behind, samples, records.append)
    evidence = gather_without_shares(config, behind, rounds.planned, records)
    found = next(each for each in check_run(evidence) if each.id == "no_caching")
    assert (found.verdict, found.detail[:6]) == ("fail", "encode")


def gather_without_shares(
    config: Config, pipeline: Any, planned: list[Planned], records: list[SampleRecord]
) -> Evidence:
    from fourstage.measure.protocol import timing_of
    from fourstage.trust.audits import run_audits
    from fourstage.trust.gather import expected

    return Evidence.of(
        records,
        planned=[(item.sample.key, item.repeat) for item in planned],
        expected=expected(config, pipeline),
        audits=run_audits(pipeline, planned, config.sampling, timing_of(config, pipeline)),
    )


@pytest.mark.parametrize("asked", ["none", "frames"])
def test_more_cached_than_was_asked_for_is_caught_on_the_records(
    asked: str, root: Path, pipeline: StagedPipeline, samples: list[Sample]
) -> None:
    config = configured(root, pipeline, f"cache={asked}", "protocol.audit=true")
    _, timing = slow()
    behind = keeps_pixels(pipeline, samples, timing)
    records: list[SampleRecord] = []
    rounds = measure_rounds(config, behind, samples, records.append)
    found = {each.id: each for each in check_run(gather_without_shares(config, behind, rounds.planned, records))}
    assert found["config_used"].verdict == "fail"
    assert f"2 stages served from the cache, {len(SERVED[asked])} asked for" in found["config_used"].detail
    assert found["no_caching"].verdict == "fail"  # its preprocessing is too cheap


def test_a_cache_that_was_asked_for_and_not_used_is_caught() -> None:
    record = SampleRecord("a", "a", 0, source="png", images=1, output_tokens=1, output_ids=(1,))
    expected = Expected("fp32", "float32", ("png",), 1, 1, 100, "natural", 1, 2048, cached_stages=("load",))
    found = {each.id: each for each in check_run(Evidence.of([record], planned=[("a", 0)], expected=expected))}
    assert "0 stages served from the cache, 1 asked for" in found["config_used"].detail


def test_a_failed_sample_keeps_the_word_that_its_load_was_cached() -> None:
    from tests.fakes import fake
    from tests.fakes import samples as fakes

    pipeline, timing = fake(faulty={"s0": "encode"})
    entries = fill(pipeline, fakes(1), ("load",), timing)  # type: ignore[arg-type]
    (record,) = measure(
        CachedPipeline(pipeline, entries),  # type: ignore[arg-type]
        [Planned(fakes(1)[0], "?", 0, 0, 0)],
        Sampling(0, 1, 0, 4),
        timing,
    )
    assert (record.error_stage, record.cached_stages, record.cache_fill_s) == ("encode", ("load",), pytest.approx(0.01))


# ---- a whole run ----


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> Callable[..., tuple[int, RunFacts, Destination]]:
    monkeypatch.chdir(tmp_path)
    store = Destination(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"), "fourstage")

    def call(*overrides: str) -> tuple[int, RunFacts, Destination]:
        code = main(["dataset=eventgpt_json", f"dataset.root={root}", "protocol=quick", "tracking.traces=1", *FIXED,
                     f"tracking.uri={store.uri}", f"tracking.artifacts={store.artifacts}", *overrides])  # fmt: skip
        return code, find_runs(store)[0], store

    return call


def test_a_run_leaves_its_cache_apart_and_a_full_memory_refuses_it(
    run: Callable[..., tuple[int, RunFacts, Destination]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, facts, store = run("cache=tensors")
    assert (code, facts.status, facts.params["cache"]) == (0, "FINISHED", "tensors")
    assert facts.tags["fourstage.cached_stages"] == "load,preprocess"
    found = run_records(store, facts.run_id)
    assert facts.metrics["cache_fill_s"] == pytest.approx(sum(record.cache_fill_s or 0 for record in found))
    assert facts.metrics["cache_bytes"] > 3 * 5 * 3 * 112 * 112 * 4  # the tensors, and their images
    assert "stage1_load_cached_s" in facts.metrics  # per sample
    assert not [name for name in facts.metrics if name.startswith(("stage1_load_s", "stage2_preprocess_s"))]
    assert "cached load and preprocess (images; text is tokenised each time): filling took" in capsys.readouterr().out
    client, _ = open_store(store)
    table = json.loads(Path(client.download_artifacts(facts.run_id, "samples.json")).read_text())
    row = dict(zip(table["columns"], table["data"][0], strict=True))
    assert row["cached_stages"] == ["load", "preprocess"]
    assert row["cache_fill_s"] > 0

    monkeypatch.setattr(cache, "available_bytes", lambda: 1000)
    code, facts, _ = run("cache=frames")
    assert (code, facts.status) == (1, "FAILED")
    err = capsys.readouterr().err
    assert "error: the cache needs about" in err
    assert len(err.strip().splitlines()) == 1
    assert facts.tags["fourstage.error"].startswith("the cache needs about")
    assert "samples_ok" not in facts.metrics or facts.metrics["samples_ok"] == 0
