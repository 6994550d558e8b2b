"""Files and settings from people's reports: which test holds each to its value, and all files through the command."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from fourstage.cli.run import main
from fourstage.data.formats.demo import JSON_NAME
from fourstage.stages import SampleRecord
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import find_runs, run_records
from tests.faults.media import whole
from tests.small import SMALL, into, on

TESTS = {
    "01-rotation": "tests.data.test_video:test_a_phones_clip_is_upright",
    "02-vp8-altref": "tests.data.test_video:test_packets_of_vp8_that_are_never_shown_are_not_counted",
    "03-edit-list-trim": "tests.data.test_video:test_the_length_is_what_is_shown_whatever_the_header_counts",
    "04-avi-header-count": "tests.data.test_video:test_the_length_is_what_is_shown_whatever_the_header_counts",
    "06-audio-with-cover": "tests.data.test_video:test_a_picture_attached_to_sound_is_no_video",
    "08-truncated-matroska": "tests.data.test_video:test_a_matroska_file_cut_short_is_refused",
    "09-exif-orientation": "tests.data.test_images:test_a_picture_taken_upright_is_seen_upright",
    "10-apple-double": "tests.data.test_images:test_what_macos_and_windows_leave_among_frames_is_no_frame",
    "11-frames-named-by-time": "tests.data.test_images:test_frames_named_by_time_are_in_the_order_of_the_number",
    "12-png-16-bit-rgb": "tests.data.test_images:test_twelve_bits_in_sixteen_are_refused",
    "13-polarity-minus-one": "tests.data.test_events:test_polarity_minus_one_and_one_gives_the_images_of_zero_and_one",
    "14-lone-surrogate": "tests.test_hostile_text:test_the_dataset_that_ends_in_half_an_emoji_finishes",
    "22-other-containers":
        "tests.data.test_video:test_a_gif_of_people_is_refused_with_the_names_of_those_that_are_read",
    "bad/01-npy-deep-tuple-segfault": "tests.data.test_events:test_hostile_files_are_refused_and_named",
    "bad/08-88Mpx-picture-listed-forty-times":
        "tests.data.test_images:test_a_picture_of_88_megapixels_listed_forty_times_is_refused_unread",
    "bad/10-mp4-12288x12288": "tests.data.test_video:test_eight_frames_of_151_megapixels_are_refused_within_the_limit",
    "bad/13-tokenizer-panic": "tests.models.test_bad_checkpoints:test_a_panic_of_the_tokenizers_library_is_one_line",
    "bad/23-picture-strips": "tests.data.test_images:test_strips_are_refused_by_what_a_model_makes_of_them",
    "bad/24-npy-recursion": "tests.data.test_events:test_hostile_files_are_refused_and_named",
    "bad/25-h264-damage-concealed": "tests.data.test_video:test_damage_that_the_decoder_conceals_is_refused",
    "bad/27-polarity-fractions": "tests.data.test_events:test_hostile_files_are_refused_and_named",
}  # fmt: skip
WITHOUT_FILES = {
    "29-hanging-server":  # its program is tests.servers.proxy here
        "tests.tracking.test_patience:test_a_server_that_never_comes_to_an_answer_holds_a_run_for_its_bound_and_once",
    "data rewritten at equal size": "tests.runs.test_sweep:test_data_that_changed_at_equal_size_is_a_new_sweep",
    "what now?": "tests.test_hostile_text:test_a_working_folders_name_is_no_url",
    "3e563": "tests.test_hostile_text:test_a_free_text_stays_as_it_was_typed",
    "it\\'s": "tests.test_hostile_text:test_a_sweeps_name_with_quotes_is_found_again",
    "dataset.root=~/": "tests.test_hostile_text:test_the_home_folder_is_known_wherever_a_path_is_taken",
    "hydra.job.chdir=true": "tests.test_hostile_text:test_what_no_number_path_or_place_can_be_is_refused_in_one_line",
    "hydra.sweep.subdir": "tests.test_hostile_text:test_what_no_number_path_or_place_can_be_is_refused_in_one_line",
}  # fmt: skip


@pytest.fixture(scope="module")
def field(shared: Path) -> Path:
    return shared / "field"


@pytest.mark.real
def test_every_case_has_a_test(field: Path) -> None:
    cases = {str(path.relative_to(field)) for path in [*field.glob("[0-9]*"), *field.glob("bad/[0-9]*")]}
    assert cases - {"bad/29-hanging-server"} == set(TESTS)


@pytest.mark.parametrize("case", [*TESTS, *WITHOUT_FILES])
def test_the_test_of_a_case_is_there_and_knows_it(case: str) -> None:
    module, _, name = (TESTS | WITHOUT_FILES)[case].partition(":")
    found = importlib.import_module(module)
    assert callable(getattr(found, name))
    if case in TESTS:
        assert case.removeprefix("bad/") in inspect.getsource(found)


def records(store: Destination, root: Path, entries: list[dict[str, Any]], *words: str) -> list[SampleRecord]:
    """Of a run of the command over these entries."""
    (root / JSON_NAME).write_text(json.dumps(entries))
    assert main([*into(store), *SMALL, "max_new_tokens=2", "tracking.traces=0", *on(root), *words]) == 0
    return run_records(store, find_runs(store, newest=1)[0].run_id)


@pytest.mark.real
def test_all_clips_in_one_run(
    field: Path, store: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = {
        "01-rotation/rot90.mp4": 60, "02-vp8-altref/vp8_altref.webm": 60, "03-edit-list-trim/trim_edit.mp4": 16,
        "04-avi-header-count/h264.avi": 60, "06-audio-with-cover/song.mp4": "has no video stream",
        "08-truncated-matroska/base.mkv": 60, "08-truncated-matroska/trunc.mkv": "truncated",
        "22-other-containers/k.gif": "Matroska (MKV), WebM and AVI",
        "bad/10-mp4-12288x12288/mp4-bomb-12k--mp4-bomb-12k.mp4": "max_sample_bytes",
        "bad/25-h264-damage-concealed/mp4-flip-mdat-gota-00--mp4-flip-mdat-gota-00.mp4": "damaged",
        "bad/25-h264-damage-concealed/mp4-flip-mdat-dadao-01--mp4-flip-mdat-dadao-01.mp4": "damaged",
    }  # fmt: skip
    (tmp_path / "mp4").symlink_to(field)
    entries = [whole(name) | {"mp4_data": name} for name in expected]
    (tmp_path / "video").mkdir()
    for name in ("10-apple-double", "11-frames-named-by-time"):
        (tmp_path / "video" / name).symlink_to(field / name / "video" / "a")
        entries.append(whole(name) | {"video_data": name})
    found = records(store, tmp_path, entries, "model=videollava")
    for record, right in zip(found, [*expected.values(), 12, 12], strict=True):
        if isinstance(right, int):
            assert (record.error, record.clip_length) == (None, right), record.sample_id
        else:
            assert right in (record.error or ""), record.sample_id
    screen = "".join(capfd.readouterr())
    assert "Traceback" not in screen


@pytest.mark.real
def test_all_events_and_pictures_in_one_run(
    field: Path, store: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "event_npy").symlink_to(field)
    (tmp_path / "event_image").symlink_to(field)
    events = {
        "13-polarity-minus-one/ok.npy": "", "13-polarity-minus-one/pol_minus1.npy": "",
        "bad/01-npy-deep-tuple-segfault/npy-tuple-deep-hash-200k--npy-tuple-deep-hash-200k.npy": "nested too deep",
        "bad/24-npy-recursion/npy-dict-key-deep--npy-dict-key-deep.npy": "nested too deep",
        "bad/27-polarity-fractions/npy-value-p-fraction--npy-value-p-fraction.npy": "field p has fractions",
        "bad/27-polarity-fractions/npy-value-p-half--npy-value-p-half.npy": "field p has fractions",
    }  # fmt: skip
    bomb = "bad/08-88Mpx-picture-listed-forty-times/png-bomb-88Mpx-forty--png-bomb-88Mpx-forty.png"
    strip = "bad/23-picture-strips/png-strip-{0}--png-strip-{0}.png"
    pictures = {
        ("09-exif-orientation/exif6.jpg",): "", ("12-png-16-bit-rgb/rgb12.png",): "has 16 bits a channel",
        (bomb,) * 40: "max_sample_bytes", (strip.format("1x80M"),): "max_sample_bytes",
        (strip.format("1000000x1"),): "max_sample_bytes",
    }  # fmt: skip
    entries = [whole(name) | {"event_data": name} for name in events]
    entries += [whole(names[0]) | {"event_image": list(names)} for names in pictures]
    found = records(store, tmp_path, entries, "model=eventgpt", "model.max_span_us=null")
    for record, right in zip(found, [*events.values(), *pictures.values()], strict=True):
        assert (record.error is None) == (not right), (record.sample_id, record.error)
        assert right in (record.error or ""), (record.sample_id, record.error)
    assert "polarity coded -1 and 1, read as 0 and 1" in found[1].notes
    assert "EXIF orientation 6 applied" in found[6].notes
