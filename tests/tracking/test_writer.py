"""A run leaves its params, metrics, tags and artifacts in MLflow."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fourstage.quality.chrf import score
from fourstage.records.summary import summarise_run
from fourstage.records.table import read_records
from fourstage.records.units import significant
from fourstage.stages import STAGES, SampleRecord, UserError
from fourstage.tracking.destination import Destination
from fourstage.tracking.writer import TrackedRun

pytestmark = [
    # mlflow 3.17 with SQLAlchemy 2.1, and mlflow's own pyfunc, while they are imported
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

START = 1760000000.25
RECORD = SampleRecord(
    key="a/b.npy",
    sample_id="7",
    position=0,
    started_unix_s=START,
    source="png",
    images=5,
    load_s=0.125,
    preprocess_s=0.25,
    encode_s=0.5,
    decode_s=2.0,
    total_s=2.875,
    end_to_end_s=2.9,
    prefill_s=0.5,
    ttft_s=1.375,
    token_s=(0.5, 0.5, 0.5),
    text_tokens=10,
    visual_tokens=582,
    output_tokens=4,
    finish_reason="stop",
    prompt="What?",
    output="A car.",
    output_ids=(1, 2, 3, 4),
)
FAILED = SampleRecord(
    key="c", sample_id="8", position=2, started_unix_s=START, load_s=0.5, error="black image", error_stage="preprocess"
)
RECORDS = [RECORD, replace(RECORD, key="b", position=1, decode_s=4.0, output_tokens=8), FAILED]


@pytest.fixture(scope="module")
def destination(tmp_path_factory: pytest.TempPathFactory) -> Destination:
    folder = tmp_path_factory.mktemp("runs")
    return Destination(f"sqlite:///{folder}/mlflow.db", None, "study")


@pytest.fixture
def run(destination: Destination) -> TrackedRun:
    return TrackedRun.start(destination, "eventgpt-bf16", {"precision": "bf16"}, {"git.commit": "1a2b3c"})


def _fetch(run: TrackedRun) -> Any:
    return run._client.get_run(run.run_id)


def _artifact(run: TrackedRun, name: str, folder: Path) -> Path:
    return Path(run._client.download_artifacts(run.run_id, name, str(folder)))


def _traces(run: TrackedRun) -> list[Any]:
    return list(run._client.search_traces(locations=[run.experiment_id], run_id=run.run_id))


def test_a_started_run_is_running_and_says_what_and_who(run: TrackedRun) -> None:
    stored = _fetch(run)
    assert stored.info.status == "RUNNING"
    assert stored.info.run_name == stored.data.tags["mlflow.runName"] == run.name == "eventgpt-bf16"
    assert stored.info.experiment_id == run.experiment_id
    assert stored.data.params == {"precision": "bf16"}
    assert stored.data.tags["git.commit"] == "1a2b3c"
    assert stored.data.tags["mlflow.user"]
    assert stored.data.tags["mlflow.source.name"]


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_ends_as_told(run: TrackedRun, status: str) -> None:
    run.end(status)
    assert _fetch(run).info.status == status


def test_many_and_long_parameters_are_kept(destination: Destination) -> None:
    params: dict[str, object] = {f"p.{n}": n for n in range(250)} | {"long": "x" * 7000, "none": None, "empty": ""}
    stored = _fetch(TrackedRun.start(destination, "n", params, {})).data.params
    assert len(stored) == 253
    assert stored["long"].startswith("x" * 5900)
    assert stored["long"].endswith("(cut: 7000 characters, see config.yaml)")
    assert stored["none"] == "None"
    assert stored["empty"] == ""


def test_a_refused_parameter_fails_the_run_and_says_so(destination: Destination) -> None:
    with pytest.raises(UserError, match=r"a\(b\)"):
        TrackedRun.start(destination, "refused", {"a(b)": 1}, {})
    client = TrackedRun.start(destination, "n", {}, {})._client
    (refused,) = client.search_runs(["1"], "attributes.run_name = 'refused'")
    assert refused.info.status == "FAILED"


def test_samples_become_metrics_by_place_in_the_run(run: TrackedRun) -> None:
    run.log_samples(RECORDS)
    run.log_samples(RECORDS)  # again, after a failure half way: each is there once
    decode = run._client.get_metric_history(run.run_id, "stage4_decode_s")
    load = run._client.get_metric_history(run.run_id, "stage1_load_s")
    assert [(m.step, m.value) for m in decode] == [(0, 2.0), (1, 4.0)]  # the failed one has none
    assert [(m.step, m.value) for m in load] == [(0, 0.125), (1, 0.125), (2, 0.5)]
    assert load[0].timestamp == round(1000 * START)
    assert set(_fetch(run).data.metrics) == {
        "stage1_load_s",
        "stage2_preprocess_s",
        "stage3_encode_s",
        "stage4_decode_s",
        "total_s",
        "prefill_s",
        "ttft_s",
        "sample_tpot_ms",
        "output_tokens",
    }


def test_a_thousand_samples_are_logged_in_seconds(run: TrackedRun) -> None:
    began = time.monotonic()
    run.log_samples([replace(RECORD, position=n) for n in range(1000)])
    assert time.monotonic() - began < 10  # 1 s on two cores
    assert len(run._client.get_metric_history(run.run_id, "sample_tpot_ms")) == 1000


def test_figures_and_tags_of_the_run_are_kept(run: TrackedRun) -> None:
    figures = summarise_run(RECORDS)
    run.log_metrics(figures)
    run.log_tags({"fourstage.valid": "true", "long": "x" * 9000})
    stored = _fetch(run).data
    assert stored.metrics == figures
    assert stored.tags["fourstage.valid"] == "true"
    assert len(stored.tags["long"]) <= 8000


def test_the_table_has_all_samples_and_failed_ones_too(run: TrackedRun, tmp_path: Path) -> None:
    run.log_results(RECORDS)
    table = json.loads(_artifact(run, "samples.json", tmp_path).read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["sample"] for row in rows] == ["a/b.npy", "b", "c"]
    assert rows[0]["output"] == "A car."
    assert rows[0]["input_tokens"] == 592
    assert (rows[2]["error"], rows[2]["load_s"], rows[2]["decode_s"]) == ("black image", 0.5, None)
    assert '"type": "table"' in _fetch(run).data.tags["mlflow.loggedArtifacts"]


def test_records_and_plots_are_files_of_the_run(run: TrackedRun, tmp_path: Path) -> None:
    run.log_results(RECORDS)
    assert read_records(_artifact(run, "records.parquet", tmp_path)) == RECORDS
    plots = {file.path for file in run._client.list_artifacts(run.run_id, "plots")}
    assert plots == {f"plots/{name}.png" for name in ("stages", "output_tokens", "decode_s_against_output_tokens")}


def test_a_run_in_which_all_failed_still_leaves_its_samples(run: TrackedRun, tmp_path: Path) -> None:
    run.log_results([FAILED])
    assert read_records(_artifact(run, "records.parquet", tmp_path)) == [FAILED]
    assert run._client.list_artifacts(run.run_id, "plots") == []


def test_files_are_kept_as_written(run: TrackedRun, tmp_path: Path) -> None:
    run.log_dict("environment.json", {"device": "cpu"})
    assert json.loads(_artifact(run, "environment.json", tmp_path).read_text()) == {"device": "cpu"}


def test_the_dataset_is_an_input_of_the_run(run: TrackedRun) -> None:
    run.log_dataset("demo", "0123456789" * 6, "/data/demo", samples=3)
    (logged,) = _fetch(run).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("demo", ("0123456789" * 4)[:36])
    assert json.loads(logged.dataset.source) == {"uri": "/data/demo"}
    assert json.loads(logged.dataset.profile) == {"samples": 3}


def test_a_trace_has_four_spans_laid_end_to_end(run: TrackedRun) -> None:
    run.log_traces([RECORD], limit=1)
    (trace,) = _traces(run)
    spans = [span for span in trace.data.spans if span.name != "prefill"]
    root, *stages = sorted(spans, key=lambda span: (span.parent_id is not None, span.start_time_ns))
    assert root.name == "sample"
    assert tuple(span.name for span in stages) == STAGES
    assert {span.parent_id for span in stages} == {root.span_id}
    seconds = [(span.end_time_ns - span.start_time_ns) / 1e9 for span in stages]
    assert seconds == [0.125, 0.25, 0.5, 2.0]
    assert stages[0].start_time_ns == root.start_time_ns == round(START * 1e9)
    assert all(before.end_time_ns == after.start_time_ns for before, after in pairwise(stages))
    assert root.end_time_ns == stages[-1].end_time_ns
    assert trace.info.execution_duration == 2875


def test_a_trace_carries_texts_and_token_counts_and_belongs_to_the_run(run: TrackedRun) -> None:
    run.log_traces([RECORD], limit=5)
    (trace,) = _traces(run)
    (root,) = [span for span in trace.data.spans if span.parent_id is None]
    assert root.inputs == {"question": RECORD.question, "sample": RECORD.key}
    assert root.attributes["prompt"] == "What?"
    assert next(iter(root.inputs)) == "question"  # what the list of traces shows first
    assert root.outputs == {"text": "A car."}
    assert trace.info.token_usage == {"input_tokens": 592, "output_tokens": 4, "total_tokens": 596}
    assert trace.info.experiment_id == run.experiment_id
    assert trace.info.state.value == "OK"


def test_a_failed_sample_has_a_failed_trace(run: TrackedRun) -> None:
    run.log_traces([FAILED], limit=1)
    (trace,) = _traces(run)
    status = {span.name: (span.status.status_code.value, span.status.description) for span in trace.data.spans}
    assert status["sample"] == status["preprocess"] == ("ERROR", "black image")
    assert status["load"] == ("OK", "")
    assert set(status) == {"sample", "load", "preprocess"}
    assert trace.info.state.value == "ERROR"


def test_traces_stop_at_the_limit(run: TrackedRun) -> None:
    run.log_traces(RECORDS, limit=2)
    assert len(_traces(run)) == 2
    run.log_traces(RECORDS, limit=0)
    assert len(_traces(run)) == 2


def test_traces_leave_no_thread(run: TrackedRun) -> None:
    before = set(threading.enumerate())
    run.log_traces(RECORDS, limit=3)
    assert set(threading.enumerate()) <= before


def test_two_runs_with_one_seed_have_traces_of_their_own(
    destination: Destination, fixed_seed: Callable[[], None]
) -> None:
    runs = []
    for name in ("first", "second"):
        run = TrackedRun.start(destination, name, {}, {})
        fixed_seed()
        run.log_traces([RECORD], limit=1)
        runs.append(run)
    assert [len(_traces(run)) for run in runs] == [1, 1]


@pytest.fixture
def fixed_seed() -> Callable[[], None]:
    import random

    return lambda: random.seed(0)


def test_prefill_is_a_span_inside_decode(run: TrackedRun) -> None:
    run.log_traces([RECORD], limit=1)
    (trace,) = _traces(run)
    spans = {span.name: span for span in trace.data.spans}
    prefill, decode = spans["prefill"], spans["decode"]
    assert RECORD.prefill_s is not None
    assert (prefill.parent_id, prefill.start_time_ns) == (decode.span_id, decode.start_time_ns)
    assert prefill.end_time_ns - prefill.start_time_ns == round(RECORD.prefill_s * 1e9)


def test_inputs_of_a_sample_are_equal_in_runs_whose_prompts_differ(destination: Destination) -> None:
    inputs = []
    for prompt in ("USER: What?", "[INST] What? [/INST]"):
        run = TrackedRun.start(destination, prompt, {}, {})
        run.log_traces([replace(RECORD, prompt=prompt)], limit=1)
        (trace,) = _traces(run)
        (root,) = [span for span in trace.data.spans if span.parent_id is None]
        inputs.append((root.inputs, trace.info.request_preview))
    assert inputs[0] == inputs[1]


def test_a_trace_has_its_figures_in_ms_with_three_digits_and_the_reference(run: TrackedRun) -> None:
    record = replace(RECORD, load_s=0.1234567, reference="A red car.", cached_stages=("preprocess",))
    run.log_traces([record], limit=1)
    (trace,) = _traces(run)
    found = {item.name: item for item in trace.info.assessments}
    values = {name: item.feedback.value for name, item in found.items() if item.feedback}
    assert values["load_ms"] == 123
    assert values["preprocess_cached_ms"] == 250
    assert "preprocess_ms" not in values
    assert (values["encode_ms"], values["decode_ms"]) == (500, 2000)
    assert (values["input_tokens"], values["output_tokens"], values["valid"]) == (592, 4, True)
    assert values["chrf"] == significant(score("A car.", "A red car."), 3)
    assert found["reference"].expectation.value == "A red car."
    assert {item.source.source_id for item in found.values()} == {"fourstage"}


def test_a_sample_without_reference_has_no_score_and_one_of_an_invalid_run_is_not_valid(run: TrackedRun) -> None:
    run.log_traces([replace(RECORD, reference="")], limit=1, fault="failed no_drift")
    (trace,) = _traces(run)
    found = {item.name: item for item in trace.info.assessments}
    assert not {"chrf", "reference"} & set(found)
    assert (found["valid"].feedback.value, found["valid"].rationale) == (False, "its run failed no_drift")


def test_lost_traces_are_not_passed_over(run: TrackedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    from fourstage.tracking import writer

    monkeypatch.setattr(writer, "write_traces", lambda *_: ["tr-of-a-store-that-lost-it"])
    with pytest.raises(UserError, match="0 of 3 traces arrived"):
        run.log_traces(RECORDS, limit=3)


def test_nothing_is_printed(destination: Destination, capfd: pytest.CaptureFixture[str]) -> None:
    run = TrackedRun.start(destination, "quiet", {}, {})
    run.log_samples(RECORDS)
    run.log_results(RECORDS)
    run.log_traces(RECORDS, limit=3)
    run.end("FINISHED")
    assert capfd.readouterr() == ("", "")
