"""Cutting DSEC's raw sequences into clips: the windows, what is in them, resuming, and what cannot be read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import h5py
import hdf5plugin
import numpy as np
import pytest
from PIL import Image

from fourstage.cli.prepare import main
from fourstage.data import dsec
from fourstage.data.dataset import read_dataset
from fourstage.data.dsec import JSON_NAME, DsecSettings, prepare, read_window
from fourstage.data.events import read_events, render_events
from fourstage.stages import SampleError, UserError

T0 = 51_000_000_000  # microseconds; DSEC's clocks begin anywhere
WIDTH, HEIGHT = 64, 48


def write_sequence(root: Path, name: str, images: int = 41, seed: int = 0, quiet: tuple[float, float] = (9, 9)) -> None:
    """A sequence at 20 images a second, with events but for the seconds `quiet`, compressed as DSEC's are."""
    rng = np.random.default_rng(seed)
    end_us = images * 50_000
    t = np.sort(rng.integers(0, end_us, 6000))
    t = t[(t < quiet[0] * 1e6) | (t >= quiet[1] * 1e6)]
    columns = {
        "x": rng.integers(0, WIDTH, len(t)).astype(np.uint16), "y": rng.integers(0, HEIGHT, len(t)).astype(np.uint16),
        "p": rng.integers(0, 2, len(t)).astype(np.uint8), "t": t.astype(np.uint32),
    }  # fmt: skip
    path = root / name / dsec.EVENTS
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        for key, values in columns.items():
            file.create_dataset(f"events/{key}", data=values, chunks=(512,), **hdf5plugin.Blosc(cname="zstd"))
        file["t_offset"] = np.int64(T0)
    (folder := root / name / dsec.IMAGES).mkdir(parents=True)
    for i in range(images):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), i * 5, np.uint8)).save(folder / f"{i:06d}.png")
    (root / name / dsec.TIMES).write_text("".join(f"{T0 + i * 50_000}\n" for i in range(images)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences of 2.05 and 1.25 s."""
    folder = tmp_path_factory.mktemp("dsec")
    write_sequence(folder, "interlaken_00_c")
    write_sequence(folder, "zurich_city_00_a", images=25, seed=1)
    return folder


@pytest.fixture(scope="module")
def out(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips of both, by one process."""
    folder = tmp_path_factory.mktemp("out") / "clips"
    prepare(DsecSettings(root, folder, duration_s=1, step_s=0.5))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_windows_begin_at_the_first_image_and_end_before_the_last(out: Path) -> None:
    listed = json.loads((out / JSON_NAME).read_text())
    starts = [(entry["id"].split("/")[0], (entry["start_us"] - T0) / 1e6) for entry in listed]
    # 2.0 s from the first to the last image, then 1.2 s
    assert starts == [("interlaken_00_c", 0.0), ("interlaken_00_c", 0.5), ("interlaken_00_c", 1.0),
                      ("zurich_city_00_a", 0.0)]  # fmt: skip


def test_a_clip_holds_the_events_and_images_of_its_window(root: Path, out: Path) -> None:
    with h5py.File(root / "interlaken_00_c" / dsec.EVENTS) as file:
        every: Any = {key: file[f"events/{key}"][:] for key in "xypt"}
    within = (every["t"] >= 500_000) & (every["t"] < 1_500_000)
    found = read_events(out / "event_npy/interlaken_00_c/000001.npy")
    assert found.notes == ()
    assert np.array_equal(found.t, every["t"][within].astype(np.int64) + T0)
    for key in "xyp":
        assert np.array_equal(getattr(found, key), every[key][within])
    frames = sorted((out / "video/interlaken_00_c/000001").iterdir())
    assert [np.asarray(Image.open(path))[0, 0, 0] for path in frames] == [i * 5 for i in range(10, 30)]
    with av.open(str(out / "mp4/interlaken_00_c/000001.mp4")) as container:
        stream = container.streams.video[0]
        decoded = [frame.to_ndarray(format="rgb24")[0, 0, 0] for frame in container.decode(stream)]
    assert stream.average_rate == 20
    assert np.abs(np.array(decoded, dtype=int) - [i * 5 for i in range(10, 30)]).max() <= 6


def test_event_images_are_those_that_the_events_render_to(out: Path) -> None:
    listed = json.loads((out / JSON_NAME).read_text())
    assert [len(entry["event_image"]) for entry in listed] == [5] * 4
    rendered = render_events(read_events(out / "event_npy" / listed[0]["event_data"]), 5, max_span_us=None)
    for name, image in zip(listed[0]["event_image"], rendered, strict=True):
        assert np.array_equal(np.asarray(Image.open(out / "event_image" / name)), image)


def test_the_dataset_is_read_as_any_other(out: Path) -> None:
    samples = read_dataset(out, JSON_NAME, None)
    assert [sample.key for sample in samples][:2] == ["interlaken_00_c/000000.npy", "interlaken_00_c/000001.npy"]


def test_several_processes_write_the_same_files(root: Path, out: Path, tmp_path: Path) -> None:
    made = prepare(DsecSettings(root, tmp_path / "clips", duration_s=1, step_s=0.5, workers=2))
    assert (made.clips, made.new, made.failed) == (4, 4, [])
    assert contents(tmp_path / "clips") == contents(out)


def test_an_interrupted_call_is_completed_and_whole_clips_are_left_alone(
    root: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DsecSettings(root, tmp_path / "clips", duration_s=1, step_s=0.5)
    written = dsec._write_mp4

    def interrupted(images: Any, mp4: Path, settings: DsecSettings) -> None:
        written(images, mp4, settings)
        if "000001" in mp4.name:
            raise KeyboardInterrupt

    monkeypatch.setattr(dsec, "_write_mp4", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(settings)
    monkeypatch.setattr(dsec, "_write_mp4", written)
    first = settings.out / "mp4/interlaken_00_c/000000.mp4"
    before = first.stat().st_mtime_ns
    made = prepare(settings)
    assert (made.clips, made.new) == (4, 3)
    assert first.stat().st_mtime_ns == before
    assert contents(settings.out) == contents(out)
    assert prepare(settings).new == 0


@pytest.mark.parametrize(("duration", "images"), [(0.5, 2), (1.0, 5), (2.0, 10)])
def test_event_images_grow_with_the_duration(root: Path, tmp_path: Path, duration: float, images: int) -> None:
    settings = DsecSettings(root, tmp_path / "clips", duration, sequences=("interlaken_00_c",), limit=1)
    prepare(settings)
    (entry,) = json.loads((tmp_path / "clips" / JSON_NAME).read_text())
    assert len(entry["event_image"]) == images
    assert len(list((tmp_path / "clips/video" / entry["video_data"]).iterdir())) == duration * 20


def test_a_window_without_events_makes_no_clip_and_is_counted(tmp_path: Path) -> None:
    write_sequence(tmp_path / "raw", "dark", images=45, quiet=(0.4, 1.6))
    made = prepare(DsecSettings(tmp_path / "raw", tmp_path / "clips", duration_s=0.5, step_s=0.5))
    listed = json.loads((tmp_path / "clips" / JSON_NAME).read_text())
    assert [entry["id"] for entry in listed] == ["dark/000000", "dark/000003"]
    assert (made.clips, made.skipped) == (2, 2)
    assert prepare(DsecSettings(tmp_path / "raw", tmp_path / "clips", duration_s=0.5, step_s=0.5)).skipped == 2


def test_other_settings_do_not_mix_with_clips_that_are_there(root: Path, out: Path) -> None:
    with pytest.raises(UserError, match=r"was made with duration_s=1.*, now it is 2"):
        prepare(DsecSettings(root, out, duration_s=2, step_s=0.5))


def test_a_damaged_sequence_is_reported_and_the_others_are_made(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_sequence(raw, "good", images=25)
    write_sequence(raw, "cut", images=25)
    write_sequence(raw, "uneven", images=25)
    events = raw / "cut" / dsec.EVENTS
    events.write_bytes(events.read_bytes()[: events.stat().st_size // 3])
    next((raw / "uneven" / dsec.IMAGES).glob("*.png")).unlink()
    made = prepare(DsecSettings(raw, tmp_path / "clips", duration_s=1, step_s=0.5))
    assert made.clips == 1
    assert [line.split(":")[0].split("/")[0] for line in made.failed] == ["cut", "uneven"]
    assert "25 times" in made.failed[1]
    assert "24 images" in made.failed[1]


def test_a_file_without_events_says_what_was_expected(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "events.h5", "w") as file:
        file["other"] = [1, 2]
    with pytest.raises(SampleError, match="expected HDF5 with events/x, y, t, p"):
        read_window(tmp_path / "events.h5", 0, 1)


def test_settings_that_cannot_be_are_one_line(root: Path, tmp_path: Path) -> None:
    settings = DsecSettings(root, tmp_path / "clips")
    for change, message in (
        ({"duration_s": float("nan")}, "duration is nan s"), ({"step_s": 0.0}, "step is 0 s"),
        ({"workers": 0}, "workers is 0"), ({"crf": 99}, "crf is 99"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            replace(settings, **change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"no sequence 'thun' under .*; there are interlaken_00_c"):
        prepare(replace(settings, sequences=("thun",)))
    with pytest.raises(UserError, match="no sequence under"):
        prepare(replace(settings, root=tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match="has other files in it"):
        prepare(replace(settings, out=tmp_path / "mine"))


def test_the_command_says_what_it_made_and_what_comes_next(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "clips"
    assert main(["dsec", f"root={root}", f"out={out}", "sequences=zurich_city_00_a"]) == 0
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "zurich_city_00_a: 1 clip (1 of 1 windows new)"
    assert shown[-1] == f"run them: fourstage run dataset=eventgpt_json dataset.root={out}"
    assert main(["dsec", f"root={root}", f"out={out}", "duration=two"]) == 2
    assert main(["dsce", f"root={root}"]) == 2
    assert "did you mean 'dsec'" in capsys.readouterr().err
