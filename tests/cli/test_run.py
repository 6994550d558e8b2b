"""One run, whole: what it leaves in MLflow, and what bad input, faults and signals do to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourstage.cli.run import main
from fourstage.data.formats.demo import JSON_NAME, DemoSettings, make_demo
from fourstage.runs.signals import Terminated, signals_held
from fourstage.stages import SampleRecord
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import RunFacts, find_runs, run_records
from fourstage.tracking.store import open_store
from tests.small import SMALL, Run, finished, jobs_since, on


def entries(root: Path) -> list[dict[str, Any]]:
    return list(json.loads((root / JSON_NAME).read_text()))


def rewrite(root: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    listed = entries(root)
    changed = change(listed)
    (root / JSON_NAME).write_text(json.dumps(listed if changed is None else changed))


@pytest.mark.parametrize("model", ["eventgpt", "videollava"])
def test_a_run_leaves_everything_that_the_design_names(model: str, run: Run, store: Destination, dataset: Path) -> None:
    facts = finished(run(*on(dataset), f"model={model}"))
    assert facts.params["model.name"] == model
    assert facts.params["precision"] == "fp32"
    assert facts.params["temperature"] == "0.0"
    for stage in ("stage1_load_s", "stage2_preprocess_s", "stage3_encode_s", "stage4_decode_s", "total_s", "ttft_s"):
        assert facts.metrics[f"{stage}.median"] > 0
        assert stage in facts.metrics  # per sample
    assert facts.metrics["samples_ok"] == 3
    assert facts.metrics["samples_failed"] == 0
    assert facts.metrics["output_tokens.mean"] == 6
    assert facts.metrics["truncated_share"] > 0.3  # six tokens are too few for some answers
    medians = sorted(record.tpot_ms or 0 for record in records(store, facts))
    assert facts.metrics["tpot_ms"] == pytest.approx(medians[1], rel=1e-3)  # the run's, not the last sample's
    assert facts.metrics["load_model_s"] > 0
    assert facts.metrics["peak_memory_bytes"] > 0
    for tag in (
        "version",
        "host",
        "device",
        "checkpoint_hash",
        "dataset_hash",
        "parameters",
        "identity",
        "source_read",
    ):
        assert facts.tags[f"fourstage.{tag}"]
    client, experiment = open_store(store)
    files = {item.path for item in client.list_artifacts(facts.run_id)}
    assert {"config.yaml", "environment.json", "records.parquet", "samples.json", "model.json", "plots"} <= files
    assert client.get_run(facts.run_id).inputs.dataset_inputs
    traces = client.search_traces(locations=[experiment], run_id=facts.run_id)
    assert [[span.name for span in trace.data.spans] for trace in traces] == [
        ["sample", "load", "preprocess", "encode", "decode", "prefill"]
    ] * 2


def records(store: Destination, facts: RunFacts) -> list[SampleRecord]:
    return run_records(store, facts.run_id)


@pytest.mark.parametrize("model", ["eventgpt", "videollava"])
def test_the_stages_close_on_the_end_to_end_time_within_one_percent(
    model: str, run: Run, store: Destination, dataset: Path
) -> None:
    found = records(store, finished(run(*on(dataset), f"model={model}", "max_new_tokens=32", "protocol.warmup=1")))
    gaps = sorted(abs(record.end_to_end_s - record.total_s) / record.end_to_end_s for record in found)  # type: ignore[operator]
    assert gaps[len(gaps) // 2] < 0.01


def test_greedy_runs_repeat_token_for_token(run: Run, store: Destination, dataset: Path) -> None:
    ids = [[record.output_ids for record in records(store, finished(run(*on(dataset))))] for _ in range(2)]
    assert ids[0] == ids[1]


def test_sampled_runs_repeat_with_their_seed_in_any_subset(run: Run, store: Destination, dataset: Path) -> None:
    warm = [*on(dataset), "temperature=1.0"]
    whole = records(store, finished(run(*warm, "seed=5")))
    one = records(store, finished(run(*warm, "seed=5", "dataset.limit=1")))
    other = records(store, finished(run(*warm, "seed=6")))
    assert one[0].output_ids == whole[0].output_ids
    assert [record.output_ids for record in other] != [record.output_ids for record in whole]


@pytest.mark.parametrize(
    ("model", "source", "read"),
    [
        ("eventgpt", "auto", "png"),
        ("eventgpt", "npy", "npy"),
        ("eventgpt", "images", "png"),
        ("eventgpt", "mp4", "mp4"),
        ("videollava", "auto", "mp4"),
        ("videollava", "images", "images"),
    ],
)
def test_the_source_is_a_setting_and_the_run_says_which_was_read(
    model: str, source: str, read: str, run: Run, store: Destination, dataset: Path
) -> None:
    facts = finished(run(*on(dataset), f"model={model}", f"model.source={source}"))
    assert facts.tags["fourstage.source_read"] == read
    assert {record.source for record in records(store, facts)} == {read}


def test_the_runs_prompt_is_asked_of_every_sample(run: Run, store: Destination, dataset: Path) -> None:
    facts = finished(run(*on(dataset), 'prompt="Is it day, or night?"'))
    assert all("Is it day, or night?" in (record.prompt or "") for record in records(store, facts))


def test_a_sample_without_a_question_is_asked_the_datasets(run: Run, store: Destination, root: Path) -> None:
    rewrite(root, lambda listed: listed[0].pop("conversations") and None)
    found = records(store, finished(run(*on(root), 'dataset.question="Anything new?"')))
    assert "Anything new?" in (found[0].prompt or "")
    assert "Anything new?" not in (found[1].prompt or "")


def test_a_batch_gives_the_ids_of_single_samples(run: Run, store: Destination, dataset: Path) -> None:
    alone = records(store, finished(run(*on(dataset))))
    together = records(store, finished(run(*on(dataset), "batch_size=3")))
    assert [record.batch_size for record in together] == [3, 3, 3]
    assert [record.output_ids for record in together] == [record.output_ids for record in alone]


# ---- faults of samples: on the record, and the run goes on ----


def spoil_png(root: Path, entry: dict[str, Any]) -> None:
    path = root / "event_image" / entry["event_image"][2]
    path.write_bytes(path.read_bytes()[:200])


def remove_png(root: Path, entry: dict[str, Any]) -> None:
    (root / "event_image" / entry["event_image"][2]).unlink()


def spoil_mp4(root: Path, entry: dict[str, Any]) -> None:
    path = root / "mp4" / entry["mp4_data"]
    path.write_bytes(path.read_bytes()[:-300])


def few_events(root: Path, entry: dict[str, Any]) -> None:
    one = np.array([1], dtype=np.uint16)
    np.save(root / "event_npy" / entry["event_data"], np.array({"x": one, "y": one, "t": one, "p": one}))


def missing_fields(root: Path, entry: dict[str, Any]) -> None:
    one = np.array([1], dtype=np.uint16)
    np.save(root / "event_npy" / entry["event_data"], np.array({"x": one, "y": one}))


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("was_run"),)


def harmful(root: Path, entry: dict[str, Any]) -> None:
    np.save(root / "event_npy" / entry["event_data"], np.array(Harmful(), dtype=object), allow_pickle=True)


def climbing(root: Path, entry: dict[str, Any]) -> None:
    rewrite(root, lambda listed: listed[1].update(event_image=["../../etc/passwd"]))


def absolute(root: Path, entry: dict[str, Any]) -> None:
    rewrite(root, lambda listed: listed[1].update(mp4_data="/etc/passwd"))


@pytest.mark.parametrize(
    ("spoil", "model", "source", "message"),
    [
        (spoil_png, "eventgpt", "png", "truncated"),
        (remove_png, "eventgpt", "png", "does not exist"),
        (spoil_mp4, "videollava", "mp4", ".mp4"),
        (few_events, "eventgpt", "npy", "1 event"),
        (missing_fields, "eventgpt", "npy", "is missing the fields t, p"),
        (harmful, "eventgpt", "npy", "pathlib"),
        (climbing, "eventgpt", "png", ".."),
        (absolute, "videollava", "mp4", "absolute"),
    ],
)
def test_a_faulty_sample_is_on_its_record_and_the_run_goes_on(
    spoil: Callable[[Path, dict[str, Any]], None],
    model: str,
    source: str,
    message: str,
    run: Run,
    store: Destination,
    root: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(root, entries(root)[1])
    facts = finished(run(*on(root), f"model={model}", f"model.source={source}"))
    assert (facts.metrics["samples_ok"], facts.metrics["samples_failed"]) == (2, 1)
    first, fallen, last = records(store, facts)
    assert first.ok
    assert last.ok
    assert fallen.error_stage == "load"
    assert message in (fallen.error or "")
    assert not Path("was_run").exists()
    assert "failed" in capsys.readouterr().out


def test_a_video_of_fewer_than_eight_frames_is_repeated_and_says_so(
    run: Run, store: Destination, tmp_path: Path
) -> None:
    short = make_demo(tmp_path, DemoSettings(samples=1, seconds=0.25, width=96, height=64))
    (record,) = records(store, finished(run(*on(short), "model=videollava")))
    assert (record.images, record.clip_length) == (8, 5)
    assert any("5 frames" in note for note in record.notes)


def test_a_run_without_a_successful_sample_is_failed(run: Run, root: Path) -> None:
    rewrite(root, lambda listed: [entry.pop("event_image") and entry.pop("event_data") for entry in listed] and None)
    code, facts = run(*on(root), "model=eventgpt")
    assert facts is not None
    assert (code, facts.status) == (1, "FAILED")
    assert facts.metrics["samples_failed"] == 3
    assert "total_s.mean" not in facts.metrics


# ---- what cannot be used at all: one line, non-zero, no run ----


def broken_json(root: Path) -> None:
    (root / JSON_NAME).write_text('[{"id": 1,]')


def no_list(root: Path) -> None:
    (root / JSON_NAME).write_text('{"samples": []}')


def empty(root: Path) -> None:
    (root / JSON_NAME).write_text("[]")


def no_json(root: Path) -> None:
    (root / JSON_NAME).rename(root / "other.json")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(broken_json, "line 1"), (no_list, "list"), (empty, "is an empty list"), (no_json, "other.json")],
)
def test_a_dataset_that_cannot_be_used_is_one_line(
    spoil: Callable[[Path], None], message: str, run: Run, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(root)
    assert run(*on(root)) == (2, None)
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_missing_dataset_root_is_one_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*on(Path("nowhere"))) == (2, None)
    assert "nowhere" in capsys.readouterr().err


def test_a_store_that_cannot_be_written_is_one_line(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("in the way")
    assert main([*on(dataset), *SMALL, "tracking.uri=sqlite:///file/mlflow.db"]) == 2
    err = capsys.readouterr().err
    assert "file/mlflow.db" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["weights=pretrained", "weights.path=nowhere"], "nowhere is not a folder"),
        (["weights=pretrained"], "needs weights.path=<folder>"),
        (["model=videollava", "weights=pretrained", "weights.path=./nowhere"], "no hub id"),
        (['prompt="<event> what?"'], "the prompt holds <event>"),
        (["device=cuda:7"], "CUDA devices found"),
    ],
)
def test_what_cannot_work_is_told_before_a_run_is_tracked(
    overrides: list[str], message: str, run: Run, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*on(dataset), *overrides) == (2, None)
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_model_that_cannot_be_loaded_leaves_a_failed_run_that_says_why(
    run: Run, dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text('{"model_type": "llama"}')
    code, facts = run(*on(dataset), "weights=pretrained", f"weights.path={tmp_path / 'checkpoint'}")
    assert facts is not None
    assert (code, facts.status) == (1, "FAILED")
    assert "describes model_type 'llama'" in facts.tags["fourstage.error"]
    assert facts.tags["fourstage.valid"] == "false"


def test_an_artifact_folder_that_cannot_be_written_is_told_before_the_measurement(
    run: Run, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert run(*on(dataset), f"tracking.artifacts={tmp_path / 'file' / 'artifacts'}") == (2, None)
    assert "set tracking.artifacts" in capsys.readouterr().err


def test_a_store_that_fails_while_recording_loses_nothing(
    run: Run, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fourstage.stages import UserError
    from fourstage.tracking.writer import TrackedRun

    def full(*_: object) -> None:
        raise UserError("tracking store: database or disk is full")

    monkeypatch.setattr(TrackedRun, "log_samples", full)
    code, facts = run(*on(dataset))
    assert facts is not None
    assert (code, facts.status) == (3, "FINISHED")
    assert "disk is full" in facts.tags["fourstage.undelivered"]
    out, err = capsys.readouterr()
    assert "disk is full; the run stays in mlruns/hydra/" in err.replace(str(Path.cwd()) + "/", "")
    assert "median" in out  # what was measured is on the screen all the same


@pytest.mark.parametrize(
    "broken",
    [
        "fourstage.records.table.RecordFile.close",
        "fourstage.records.quality.quality",
        "fourstage.report.run_table.print_run",
    ],
)
def test_whatever_fails_at_the_end_no_run_stays_running(
    broken: str, run: Run, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(broken, fail)
    code, facts = run(*on(dataset))
    assert facts is not None
    assert (code, facts.status) == (1, "FAILED")
    assert "No space left on device" in capsys.readouterr().err


def test_an_audit_that_fails_or_a_model_of_unknown_shapes_takes_nothing_from_the_measurement(
    run: Run, store: Destination, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    def unknown(_: object) -> None:
        raise TypeError("OwnPipeline has no shapes here")

    monkeypatch.setattr("fourstage.trust.gather.run_audits", fail)
    monkeypatch.setattr("fourstage.models.eventgpt.Model.shapes", unknown)
    facts = finished(run(*on(dataset), "protocol.audit=true"))
    client, _ = open_store(store)
    checks = json.loads(Path(client.download_artifacts(facts.run_id, "checks.json")).read_text())["checks"]
    for name, why in (("staged_equals_own", "out of memory"), ("nothing_impossible", "OwnPipeline has no shapes")):
        (found,) = [check for check in checks if check["id"] == name]
        assert found["verdict"] == "not possible"
        assert why in found["detail"]


def test_lost_traces_take_nothing_from_a_measurement(
    run: Run, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fourstage.stages import UserError
    from fourstage.tracking.writer import TrackedRun

    def lost(*_: object, **__: object) -> None:
        raise UserError("0 of 2 traces arrived")

    monkeypatch.setattr(TrackedRun, "log_traces", lost)
    facts = finished(run(*on(dataset)))
    assert facts.tags["fourstage.traces_error"] == "0 of 2 traces arrived"
    assert "warning: 0 of 2 traces arrived" in capsys.readouterr().err


@pytest.mark.parametrize(("stop", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_waits_for_what_must_not_be_cut_in_half(stop: signal.Signals, raised: type[BaseException]) -> None:
    done = []

    def work() -> None:
        with signals_held():
            signal.raise_signal(stop)
            done.append("all of it")

    with pytest.raises(raised):
        work()
    assert done == ["all of it"]


def test_a_run_prompt_that_does_not_fit_fails_before_a_sample_is_measured(run: Run, dataset: Path) -> None:
    code, facts = run(*on(dataset), f"prompt={'word ' * 3000}")
    assert facts is not None
    assert (code, facts.status) == (1, "FAILED")
    assert "context ends at" in facts.tags["fourstage.error"]


def test_an_unexpected_error_leaves_its_traceback(
    run: Run, store: Destination, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object, **__: object) -> Iterator[SampleRecord]:
        raise RuntimeError("out of luck")

    monkeypatch.setattr("fourstage.measure.protocol.measure", explode)
    code, facts = run(*on(dataset))
    assert facts is not None
    assert (code, facts.status) == (1, "FAILED")
    client, _ = open_store(store)
    assert "traceback.txt" in {item.path for item in client.list_artifacts(facts.run_id)}


# ---- sweeps ----


def test_a_sweep_runs_each_combination_and_goes_on_past_a_failed_one(
    run: Run, store: Destination, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(root, lambda listed: [entry.pop("event_image") and entry.pop("event_data") for entry in listed] and None)
    before = len(find_runs(store))
    code, _ = run(*on(root), "-m", "model=eventgpt,videollava", "precision=fp32,bf16")
    made = jobs_since(store, before)
    assert code == 1
    assert sorted((facts.params["model.name"], facts.params["precision"], facts.status) for facts in made) == [
        ("eventgpt", "bf16", "FAILED"),
        ("eventgpt", "fp32", "FAILED"),
        ("videollava", "bf16", "FINISHED"),
        ("videollava", "fp32", "FINISHED"),
    ]
    assert len({facts.tags["fourstage.sweep"] for facts in made}) == 1


def test_runs_of_a_sweep_have_names_that_tell_them_apart(run: Run, store: Destination, dataset: Path) -> None:
    before = len(find_runs(store))
    code, _ = run(*on(dataset), "seed=1,2", "-m", "batch_size=1,3")
    made = jobs_since(store, before)
    assert code == 0
    assert sorted(facts.name for facts in made) == [
        f"eventgpt-demo-fp32-greedy-seed={seed}-batch_size={size}" for seed in (1, 2) for size in (1, 3)
    ]


def test_jobs_that_share_a_model_load_it_once_and_no_other_stays(
    run: Run, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import weakref

    from fourstage.models import loaded as kept

    loaded: list[weakref.ref[Any]] = []
    alive_at_load: list[int] = []
    real = kept.load_pipeline

    def watched(config: Any) -> Any:
        alive_at_load.append(sum(reference() is not None for reference in loaded))
        pipeline = real(config)
        loaded.append(weakref.ref(pipeline.model))
        return pipeline

    monkeypatch.setattr(kept, "load_pipeline", watched)
    run(*on(dataset), "-m", "model=eventgpt,videollava", "precision=fp32,bf16", "seed=0,1", "dataset.limit=1")
    assert alive_at_load == [0, 0, 0, 0]


# ---- Ctrl-C and kill ----


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_is_killed_and_keeps_what_was_finished(
    stop: signal.Signals, code: int, store: Destination, dataset: Path, tmp_path: Path
) -> None:
    experiment = Destination(store.uri, store.artifacts, f"stopped-{stop.name}")
    process = subprocess.Popen(
        [sys.executable, "-m", "fourstage.run", *on(dataset), *SMALL, "max_new_tokens=64", "protocol.repeats=1000",
         f"tracking.uri={store.uri}", f"tracking.artifacts={store.artifacts}",
         f"tracking.experiment={experiment.experiment}"],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not _begun(tmp_path):
        time.sleep(0.1)
    process.send_signal(stop)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    (facts,) = find_runs(experiment)
    assert facts.status == "KILLED"
    found = run_records(experiment, facts.run_id)
    assert 0 < len(found) < 3000
    assert facts.metrics["samples_ok"] == len(found)


def _begun(folder: Path) -> bool:
    """Whether a run below the folder has a sample on record."""
    return any(journal.stat().st_size for journal in folder.glob("mlruns/hydra/*/*/journal.jsonl"))


# ---- it must hold ----


def test_help_composes_without_torch_mlflow_or_av() -> None:
    code = (
        "import sys; from fourstage.cli.run import main; main(['--cfg', 'job']); "
        "print(sorted({'torch', 'mlflow', 'av', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_memory_does_not_grow_with_the_number_of_samples(dataset: Path) -> None:
    import psutil

    from fourstage.data.dataset import read_dataset
    from fourstage.measure.clock import Timing
    from fourstage.measure.loop import measure
    from fourstage.models.device import TorchDevice
    from fourstage.models.eventgpt import Model as EventGPT
    from fourstage.stages import Sampling
    from tests.fakes import plan
    from tests.settings import EVENTGPT, TINY

    pipeline = EventGPT.from_weights(EVENTGPT, TINY, "cpu", "fp32", "sdpa")
    listed = read_dataset(dataset, JSON_NAME)[:1] * 1000
    planned = plan(listed, ["Why?"] * 1000, repeats=1, seed=0)
    resident = []
    for record in measure(pipeline, planned, Sampling(0, 1, 0, max_new_tokens=1), Timing(TorchDevice("cpu"))):
        assert record.ok
        resident.append(psutil.Process().memory_info().rss)
    assert resident[-1] - resident[200] < 8e6  # an image kept would be 18 kB a sample, features 5 kB


@pytest.mark.real
@pytest.mark.parametrize(("model", "ok"), [("eventgpt", 4), ("videollava", 2)])
def test_real_recordings_run_through_both_models(
    model: str, ok: int, run: Run, shared: Path, store: Destination
) -> None:
    facts = finished(run(*on(shared / "real"), f"model={model}", "precision=bf16"))
    found = records(store, facts)
    assert facts.metrics["samples_ok"] == ok
    sources = {record.key: record.source for record in found if record.ok}
    if model == "eventgpt":
        assert sorted(sources.values()) == ["npy", "npy", "png", "png"]
    else:
        assert set(sources.values()) == {"mp4"}
        assert all("no video" in (record.error or "") for record in found if not record.ok)
