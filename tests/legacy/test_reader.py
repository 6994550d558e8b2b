"""Result files of three layouts become runs; each check fires on a planted fault and is silent on a clean file."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from fourstage.config.values import SettingError
from fourstage.legacy.checks import NOT_IN_A_FILE, check_legacy
from fourstage.legacy.layouts import NoResultsError
from fourstage.legacy.reader import LegacyRun, read_legacy
from fourstage.stages import UserError
from fourstage.trust.check import Check
from fourstage.trust.checks import CHECKS
from tests.legacy_files import ids_of, lists, nested, prefixed, text_of, tokens_of
from tests.trust.test_checks import assert_reads_right

LAYOUTS: dict[str, Callable[..., Any]] = {"prefixed": prefixed, "lists": lists, "nested": nested}


def runs(document: Any, unit: str = "") -> dict[str, LegacyRun]:
    return {run.model: run for run in read_legacy(json.dumps(document), unit)}


def first(document: Any, unit: str = "") -> LegacyRun:
    return read_legacy(json.dumps(document), unit)[0]


def verdict(run: LegacyRun, name: str) -> Check:
    return next(check for check in check_legacy(run) if check.id == name)


def test_three_stages_leave_encode_and_decode_null_with_a_reason() -> None:
    found = runs(prefixed())
    assert list(found) == ["eventgpt", "llava-1.5-7b-hf"]
    run, row = found["eventgpt"], prefixed()[3]
    record = run.records[3]
    assert (record.key, record.sample_id, record.question) == ("drive/3.npy", "id3", "What is there?")
    assert (record.load_s, record.preprocess_s) == (row["egpt_stage1_time"], row["egpt_stage2_time"])
    assert record.encode_s is record.decode_s is record.prefill_s is record.ttft_s is record.tpot_ms is None
    assert "encode_s and decode_s are null" in record.notes[0]
    assert record.total_s == pytest.approx(sum(row[f"egpt_stage{k}_time"] for k in (1, 2, 3)), rel=1e-12)
    assert record.end_to_end_s == row["egpt_time"]
    assert run.facts[3].stage_s[2] == row["egpt_stage3_time"]
    assert (record.output, record.output_ids) == (row["egpt"], tuple(row["egpt_token_ids"]))
    assert (record.output_tokens, record.finish_reason) == (tokens_of(3), "stop")
    assert run.stage_of == {1: "load", 2: "preprocess", 3: "generate"}


def test_four_stages_are_ours() -> None:
    document = lists()
    run, row = runs(document)["videollava"], document["videollava_results"][2]
    record = run.records[2]
    stages = (record.load_s, record.preprocess_s, record.encode_s, record.decode_s)
    assert stages == tuple(row[f"stage{k}_time"] for k in (1, 2, 3, 4))
    assert record.prefill_s is None
    assert record.key == "drive/2.npy"
    assert record.output_tokens == len(record.output_ids) == row["tokens"]


def test_of_five_stages_the_fourth_is_prefill_and_the_fifth_its_steps() -> None:
    document = nested()
    run, row = runs(document)["eventgpt"], document["results"][4]["eventgpt"]
    record = run.records[4]
    assert record.prefill_s == row["stage4_time"]
    assert record.decode_s == pytest.approx(row["stage4_time"] + row["stage5_time"], rel=1e-12)
    assert record.ttft_s == pytest.approx(sum(row[f"stage{k}_time"] for k in (1, 2, 3, 4)), rel=1e-12)
    assert record.tpot_ms == pytest.approx(1000 * row["stage5_time"] / (row["output_tokens"] - 1), rel=1e-9)
    assert len(record.token_s) == row["output_tokens"] - 1
    assert any("token_s is the mean" in note for note in record.notes)
    assert run.facts[4].prefill_length == 640
    assert record.key == "4"


def test_settings_have_our_names_and_each_model_its_own() -> None:
    params = runs(lists())["eventgpt"].params
    assert params["temperature"] == "0.2"
    assert params["max_new_tokens"] == "512"
    assert params["precision"] == "fp16"
    assert params["config.note"] == "night run"
    own = runs(nested())
    assert own["eventgpt"].params["weights.path"] == "weights/EventGPT-7b"
    assert "weights.path" not in own["videollava"].params
    assert own["videollava"].params["dataset.name"] == "dsec_1s"


# the unit


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("unit", "scale"), [("s", 1.0), ("ms", 1000.0)])
def test_the_unit_is_found_by_what_a_token_can_take(layout: str, unit: str, scale: float) -> None:
    run = first(LAYOUTS[layout](scale=scale))
    assert (run.unit, "possible in" in run.unit_evidence) == (unit, True)
    assert run.records[0].load_s == pytest.approx(first(LAYOUTS[layout]()).records[0].load_s)


def slow_or_fast() -> dict[str, Any]:
    """1 a token: a second on a slow processor, or a millisecond on a fast device."""
    return lists(scale=50.0)


def test_a_unit_in_doubt_is_refused_with_what_to_add() -> None:
    with pytest.raises(UserError, match=r"seconds or milliseconds\? eventgpt takes .*: add unit=s or unit=ms"):
        runs(slow_or_fast())
    assert first(slow_or_fast(), "ms").records[0].load_s == pytest.approx(0.02 * 50 / 1000, rel=0.02)
    assert first(slow_or_fast(), "s").unit_evidence == "as given: unit=s"


def test_the_configuration_may_name_the_unit() -> None:
    document = slow_or_fast()
    document["config"]["time_unit"] = "milliseconds"
    assert first(document).unit == "ms"
    assert "config.time_unit" in first(document).unit_evidence


def test_a_statistic_with_a_unit_shows_that_of_the_samples() -> None:
    document = slow_or_fast()
    load = fmean(row["stage1_time"] for row in document["eventgpt_results"])
    assert first(document | {"statistics": {"eventgpt": {"avg_stage1_ms": load}}}).unit == "ms"
    assert first(document | {"statistics": {"eventgpt": {"avg_stage1_ms": 1000 * load}}}).unit == "s"


def test_a_wall_time_with_a_unit_shows_that_of_the_samples() -> None:
    document = slow_or_fast()
    whole = sum(
        row[f"stage{k}_time"] for name in ("eventgpt_results", "videollava_results") for row in document[name]
        for k in (1, 2, 3, 4)
    )  # fmt: skip
    assert first(document | {"statistics": {"wall_time_s": whole / 1000 / 0.9}}).unit == "ms"
    assert first(document | {"statistics": {"wall_time_s": whole / 0.9}}).unit == "s"


def test_keys_may_name_the_unit() -> None:
    document = json.loads(json.dumps(slow_or_fast()).replace("_time", "_time_ms"))
    run = first(document)
    assert (run.unit, run.unit_evidence) == ("ms", "the keys of the stages name it")
    assert run.records[0].load_s == pytest.approx(document["eventgpt_results"][0]["stage1_time_ms"] / 1000)
    with pytest.raises(SettingError, match="unit=s, but the keys of the stages say ms"):
        runs(document, "s")


def test_evidence_that_disagrees_is_refused() -> None:
    document = lists()
    document["config"]["time_unit"] = "ms"
    with pytest.raises(UserError, match=r"The file shows ms \(config.time_unit is 'ms'\) and s \(.*possible in s only"):
        runs(document)


# bad input


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON: Expecting property name"),
        ("", "not JSON"),
        ("3", "unknown layout: it holds int; known are a list of samples with keys such as egpt_stage1_time"),
        ('{"a": 1, "b": 2}', "unknown layout: the keys at its top are a, b; known are"),
        ('[{"x": 1}]', "unknown layout: the keys of its samples are x; known are"),
        ('{"results": [{"y": {}}]}', "unknown layout: the keys of its results are y; known are"),
        ("[" * 100_000, "nested too deep"),
        ("[" * 60 + "]" * 60, "nested over 50 deep"),
        ("[" + "1" * 5000 + "]", "not JSON that can be read"),
        ('[{"a_stage1_time": 1, "a_stage7_time": 1}]', "a has the stages 1, 7; known are"),
        ('[{"x_stage1_time": 1, "x-a": "", "x-b": ""}]', "which is the text of x_…: x-a or x-b?"),
    ],
)
def test_what_is_no_result_file_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        read_legacy(text)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"config": {}, "eventgpt_results": [], "videollava_results": []},
        {"results": [], "errors": [{"sample_idx": 0, "error": "out of memory"}]},
        {"results": [{"sample_idx": 0, "eventgpt": {"error": "no attribute"}}], "errors": []},
    ],
)
def test_a_file_without_results_is_refused(document: Any) -> None:
    with pytest.raises(NoResultsError, match="no results"):
        runs(document)


@pytest.mark.parametrize(
    ("key", "value", "message", "kind"),
    [
        ("egpt_stage2_time", None, "egpt_stage2_time is null", "missing"),
        ("egpt_stage2_time", "0.03", "egpt_stage2_time is str '0.03', expected a number", "value"),
        ("egpt_stage2_time", True, "egpt_stage2_time is bool True", "value"),
        ("egpt_stage2_time", -0.1, "egpt_stage2_time is float -0.1", "value"),
        ("egpt_stage2_time", float("nan"), "egpt_stage2_time is float nan", "value"),
        ("egpt_stage2_time", float("inf"), "egpt_stage2_time is float inf", "value"),
        ("egpt_stage2_time", 10**400, "egpt_stage2_time is int, expected", "value"),
        ("egpt_stage2_time", [1], "egpt_stage2_time is list", "value"),
        ("egpt_time", None, "egpt_time is null", "missing"),
        ("egpt", None, "egpt is null", "missing"),
        ("egpt_token_ids", [1, True], "egpt_token_ids is list, expected a list of whole numbers", "value"),
        ("egpt_token_ids", [2**70], "egpt_token_ids is list, expected ids", "value"),
    ],
)  # fmt: skip
def test_a_sample_with_a_value_that_cannot_be_has_failed_and_says_why(
    key: str, value: Any, message: str, kind: str
) -> None:
    rows = prefixed()
    rows[5][key] = value
    run = first(rows)
    assert [record.position for record in run.records if not record.ok] == [5]
    assert message in (run.records[5].error or "")
    assert run.facts[5].fault == kind
    check = verdict(run, "values_usable")
    assert check.verdict == ("warn" if kind == "missing" else "fail")
    assert message in check.detail
    assert verdict(run, "as_planned").verdict == "warn"


def test_a_missing_key_fails_its_sample_only() -> None:
    rows = prefixed()
    for key in ("egpt_stage3_time", "egpt_token_ids"):
        row = dict(rows[2])
        del row[key]
        run = first([*rows[:2], row, *rows[3:]])
        assert [record.position for record in run.records if not record.ok] == [2]
    errors = {record.error_stage for record in run.records if not record.ok}
    assert errors == {"decode"}


def test_a_model_without_a_row_has_failed_there() -> None:
    document = lists()
    del document["videollava_results"][7]
    found = runs(document)
    assert len(found["eventgpt"].records) == len(found["videollava"].records) == 20
    missing = [record for record in found["videollava"].records if not record.ok]
    assert [(record.key, record.error) for record in missing] == [
        ("drive/7.npy", "the file has no result of videollava")
    ]


def test_errors_of_a_file_are_failed_samples() -> None:
    document = nested()
    document["errors"] = [
        {"sample_idx": 20, "error": "CUDA out of memory"},
        {"sample_idx": 21, "model": "videollava", "error": "no video"},
    ]
    document["results"][3]["videollava"] = {"error": "no frames"}
    found = runs(document)
    assert [(r.key, r.error) for r in found["videollava"].records if not r.ok] == [
        ("3", "no frames"),
        ("20", "CUDA out of memory"),
        ("21", "no video"),
    ]
    # what only the other model has is missing here, and said so
    assert [r.key for r in found["eventgpt"].records if not r.ok] == ["20", "21"]


def test_a_sample_that_is_there_twice_is_a_repeat() -> None:
    rows = prefixed()
    rows.append(rows[0] | {"egpt_stage1_time": 0.021})
    run = first(rows)
    assert [(record.key, record.repeat) for record in run.records if record.key == "drive/0.npy"] == [
        ("drive/0.npy", 0),
        ("drive/0.npy", 1),
    ]
    assert verdict(run, "rows_once").verdict == "pass"


def test_samples_pair_by_what_every_model_has() -> None:
    document = lists()
    for row in document["eventgpt_results"]:
        row["event_data"] = row["sample"]
    found = runs(document)
    assert [r.key for r in found["eventgpt"].records] == [r.key for r in found["videollava"].records]


def test_half_a_surrogate_pair_and_control_characters_do_no_harm() -> None:
    rows = prefixed()
    rows[0]["egpt"] += " \ud800"
    rows[0]["event_data"] = "drive/\x1b[2J.npy"
    record = first(rows).records[0]
    assert (record.output or "").encode()
    assert record.key == "drive/\\x1b[2J.npy"


# checks


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_clean_file_is_silent(layout: str) -> None:
    for run in runs(LAYOUTS[layout]()).values():
        checks = {check.id: check for check in check_legacy(run)}
        assert [f"{c.id}: {c.detail}" for c in checks.values() if c.verdict in ("warn", "fail")] == []
        impossible = {name for name, check in checks.items() if check.verdict == "not possible"}
        assert set(NOT_IN_A_FILE) <= impossible
        own = {"prefixed": {"own_quotient"}, "lists": {"own_quotient"}, "nested": {"stages_close"}}
        assert impossible - set(NOT_IN_A_FILE) == own[layout]


def test_every_check_of_a_new_run_is_answered_under_its_name_and_sentence() -> None:
    checks = check_legacy(first(prefixed()))
    assert [check.id for check in checks][: len(CHECKS)] == [check.__name__ for check in CHECKS]
    assert len({check.id for check in checks}) == len(checks)
    assert verdict(first(prefixed()), "context_held").sentence.endswith("the model's context")


def spoil_prefixed(i: int, **values: Any) -> LegacyRun:
    rows = prefixed()
    rows[i] |= values
    return first(rows)


def spoil_nested(change: Callable[[dict[str, Any]], dict[str, Any]], rows: slice = slice(None)) -> LegacyRun:
    document = nested()
    for row in document["results"][rows]:
        row["eventgpt"] |= change(row["eventgpt"])
    return first(document, "s")


def spoil_lists(change: Callable[[dict[str, Any]], dict[str, Any]], rows: slice = slice(None)) -> LegacyRun:
    document = lists()
    for row in document["eventgpt_results"][rows]:
        row |= change(row)
    return first(document, "s")


ONE = slice(4, 5)
FAULTS: list[tuple[str, str, Callable[[], LegacyRun], str]] = [
    ("counts_are_the_ids", "fail", lambda: spoil_prefixed(4, egpt_token_ids=[338, 263, 6520, 29889, 2]),
     "drive/4.npy: 5 tokens for a text of"),
    ("counts_are_the_ids", "fail", lambda: spoil_lists(lambda row: {"tokens": row["tokens"] + 1}, ONE),
     "tokens stated"),
    ("counts_are_the_ids", "fail",
     lambda: spoil_lists(lambda row: {"tokens": row["tokens"] + 640, "prefill_length": 640}),
     "it includes the 640 of the prompt"),
    ("counts_are_the_ids", "fail", lambda: spoil_nested(lambda row: {"output_tokens": row["output_tokens"] + 640}),
     "it includes the 640 of the prompt"),
    ("counts_are_the_ids", "fail",
     lambda: spoil_nested(lambda row: {"output_tokens": row["output_tokens"] + 35, "prefill_length": 35}),
     "it includes the 35 of the prompt, as the file's time per token shows"),
    ("counts_are_the_ids", "fail", lambda: spoil_prefixed(4, egpt="What is there? " + text_of(tokens_of(4))),
     "the output begins with the question"),
    ("tokens_explain_time", "fail", lambda: spoil_nested(lambda row: {"output_tokens": row["output_tokens"] + 640}),
     "ms by dividing"),
    ("tokens_explain_time", "warn", lambda: spoil_prefixed(4, egpt_stage3_time=0.3, egpt_time=0.3505),
     "drive/4.npy: 68 tokens in 0.3 s, the others tell"),
    ("tokens_explain_time", "fail",
     lambda: first([row | {"egpt_stage3_time": 1.0 + 0.01 * (i % 3)} for i, row in enumerate(prefixed())], "s"),
     "more tokens do not take longer"),
    ("nothing_impossible", "fail",
     lambda: spoil_nested(lambda row: {"stage5_time": 0.001 * row["output_tokens"]}, ONE), "7e9 parameters of 2 bytes"),
    ("nothing_impossible", "fail", lambda: first(prefixed(scale=0.05), "s"), "at 8 TB/s"),
    ("stages_close", "fail",
     lambda: first([row | {"egpt_time": 1.2 * row["egpt_time"]} for row in prefixed()]), "is in no stage"),
    ("stages_close", "warn", lambda: spoil_prefixed(4, egpt_time=2.5), "drive/4.npy: stages sum to"),
    ("stages_measured", "fail", lambda: spoil_prefixed(4, egpt_stage2_time=0.0), "drive/4.npy preprocess"),
    ("stages_measured", "fail", lambda: spoil_prefixed(4, egpt_stage3_time=0), "drive/4.npy generate"),
    ("stages_measured", "fail", lambda: spoil_nested(lambda row: {"stage4_time": 0.0}, ONE), "4 prefill"),
    ("lengths_differ", "warn",
     lambda: spoil_lists(lambda row: {"tokens": 40, "token_ids": [*ids_of(40)[:-1], 9], "output": text_of(40)[:-1]}),
     "20 of 20 end at 40 tokens"),
    ("lengths_differ", "warn",
     lambda: spoil_nested(lambda row: {"output_text": text_of(50)[:-1], "output_tokens": 50}
                          if row["output_tokens"] > 50 else {}),
     "end at 50 tokens, in the middle of a text"),
    ("rows_once", "fail", lambda: first([*prefixed(), prefixed()[0]]), "drive/0.npy"),
    ("own_quotient", "fail", lambda: spoil_nested(lambda row: {"avg_token_time": 0.0131}, ONE), "13.1 ms stated"),
    ("as_planned", "fail", lambda: first(nested() | {"statistics": {"total_samples": 200}}),
     "the file speaks of 200 samples and has 20"),
    ("no_drift", "fail",
     lambda: first([row | {f"egpt_stage{k}_time": row[f"egpt_stage{k}_time"] * (1 + 0.01 * i) for k in (1, 2, 3)}
                    for i, row in enumerate(prefixed())]), "change over the run"),
    ("not_truncated", "warn",
     lambda: first(nested() | {"config": {"max_new_tokens": 60}}), "raise max_new_tokens"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected", "make", "detail"), FAULTS, ids=[f"{i}-{f[0]}" for i, f in enumerate(FAULTS)]
)
def test_a_planted_fault_is_found(name: str, expected: str, make: Callable[[], LegacyRun], detail: str) -> None:
    check = verdict(make(), name)
    assert check.verdict == expected
    assert detail in check.detail
    assert_reads_right(check)


@pytest.mark.parametrize(
    ("config", "why"),
    [({"batch_size": 4}, "a batch reads the weights once"), ({"dtype": "fp6"}, "how many bytes"), ({}, "")],
)
def test_a_speed_is_judged_only_by_weights_that_are_known(config: dict[str, Any], why: str) -> None:
    document = nested()
    document["config"] = config
    check = verdict(first(document), "nothing_impossible")
    assert check.verdict == ("not possible" if why else "pass")
    assert why in check.detail


def test_fewer_bits_may_be_faster() -> None:
    document = nested(scale=0.03)  # 0.6 ms a token
    assert verdict(first(document, "s"), "nothing_impossible").verdict == "fail"
    document["config"] = {"load_in_4bit": True}
    assert verdict(first(document, "s"), "nothing_impossible").verdict == "pass"


def test_lengths_alone_are_no_drift() -> None:
    rows = sorted(prefixed(), key=lambda row: len(row["egpt_token_ids"]))
    assert verdict(first(rows), "no_drift").verdict == "pass"


def test_reading_imports_neither_mlflow_nor_torch() -> None:
    code = "import sys, fourstage.legacy, fourstage.ingest; print([m for m in ('mlflow', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    1e308,
    float("nan"),
    "",
    "x",
    "0.5",
    [],
    {},
    [[1]],
    10**30,
    "\ud800",
    {"error": "e"},
]
ADDED = [
    "error",
    "sample",
    "errors",
    "results",
    "config",
    "stage_6",
    "x_results",
    "model",
    "_stage1_time",
    "wall_time_s",
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something is in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


@pytest.mark.parametrize("seed", range(200))
def test_whatever_is_changed_in_a_file_it_is_read_or_refused_in_one_line(seed: int) -> None:
    draw = random.Random(seed)
    document = draw.choice(list(LAYOUTS.values()))(3)
    for _ in range(draw.choice([1, 3, 10])):
        *path, last = draw.choice([place for place in places(document) if 0 < len(place) < 5])
        holder = document
        for key in path:
            holder = holder[key]
        if draw.random() < 0.6:
            holder[last] = draw.choice(ODD)
        elif draw.random() < 0.5:
            del holder[last]
        elif isinstance(holder, dict):
            holder[draw.choice(ADDED)] = draw.choice(ODD)
    found: tuple[LegacyRun, ...] = ()
    message = ""
    try:
        found = read_legacy(json.dumps(document), draw.choice(["", "s", "ms"]))
    except UserError as error:
        message = str(error)
    assert bool(found) != bool(message)
    assert "\n" not in message
    assert all(check_legacy(run) for run in found)


# the real file


@pytest.mark.real
def test_the_real_file_has_the_figures_that_are_in_it(shared: Path) -> None:
    text = (shared / "legacy" / "bench_3stage_example.json").read_text()
    rows = json.loads(text)
    found = {run.model: run for run in read_legacy(text)}
    assert list(found) == ["eventgpt", "llava-1.5-7b-hf"]
    event, video = found.values()
    assert event.unit == video.unit == "s"
    assert len(event.records) == len(video.records) == 20
    assert all(record.ok for run in found.values() for record in run.records)
    assert fmean(record.load_s or 0 for record in event.records) == pytest.approx(0.0205655, abs=1e-7)
    assert fmean(record.load_s or 0 for record in video.records) == pytest.approx(0.7606489, abs=1e-7)
    assert [record.output_tokens for record in event.records[:5]] == [41, 55, 37, 54, 53]
    assert [record.output_tokens for record in video.records[:5]] == [111, 115, 110, 103, 120]
    assert [record.end_to_end_s for record in video.records] == [row["llava_time"] for row in rows]
    assert [record.key for record in event.records] == [row["event_data"] for row in rows]
    assert event.records[0].peak_memory_bytes == round(13897.12353515625 * 2**20)


@pytest.mark.real
def test_the_answer_of_the_real_file_that_lost_its_first_tokens_is_found(shared: Path) -> None:
    found = read_legacy((shared / "legacy" / "bench_3stage_example.json").read_text())
    check = verdict(found[0], "counts_are_the_ids")
    assert check.verdict == "fail"
    assert check.detail == "interlaken_00_c/000016.npy: 5 tokens for a text of 49 words"
    assert [c.id for c in check_legacy(found[1]) if c.verdict in ("fail", "warn")] == []
