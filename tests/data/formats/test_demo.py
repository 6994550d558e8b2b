"""The demo dataset: what it promises about its files, its events, its words and its cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from fourstage.data.dataset import read_dataset
from fourstage.data.events import read_events, render_events
from fourstage.data.formats.demo import JSON_NAME, DemoSettings, make_demo, scene_events, simulate_events
from fourstage.data.formats.questions import KINDS
from fourstage.data.formats.scenes import HELD_OUT_VEHICLES, SPLITS, Renderer, draw_scene, held_out
from fourstage.data.media import read_event_images
from fourstage.stages import UserError

SMALL = DemoSettings(samples=2, seconds=0.3, width=96, height=64, fps=10, seed=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("cache"), SMALL)


def entries(root: Path) -> list[dict[str, Any]]:
    return json.loads((root / JSON_NAME).read_text(encoding="utf-8"))


def contents(root: Path) -> dict[str, bytes]:
    """Every file but the MP4s, whose bytes are the ffmpeg build's."""
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".mp4")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


# ---- the files ----


def test_same_settings_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    again = make_demo(tmp_path, SMALL)
    assert again.name == root.name
    assert contents(again) == contents(root)


def test_another_seed_gives_other_events_and_another_folder(root: Path, tmp_path: Path) -> None:
    other = make_demo(tmp_path, DemoSettings(**{**vars(SMALL), "seed": 4}))
    assert other.name != root.name
    ours, theirs = contents(root), contents(other)
    assert all(ours[name] != theirs[name] for name in ours if name.endswith((".npy", ".png", ".json")))


def test_a_larger_dataset_extends_a_smaller_one(root: Path, tmp_path: Path) -> None:
    larger = make_demo(tmp_path, DemoSettings(**{**vars(SMALL), "samples": 3}))
    assert entries(larger)[:2] == entries(root)
    big = contents(larger)
    assert all(big[name] == data for name, data in contents(root).items() if name != JSON_NAME)
    assert len({entry["id"] for entry in entries(larger)}) == 3


def test_every_path_of_the_json_is_there(root: Path) -> None:
    for entry in entries(root):
        assert (root / "event_npy" / entry["event_data"]).is_file()
        assert len(entry["event_image"]) == 5
        assert all((root / "event_image" / name).is_file() for name in entry["event_image"])
        assert (root / "video" / entry["video_data"]).is_dir()
        assert (root / "mp4" / entry["mp4_data"]).is_file()
        assert entry["mp4_data"] == entry["video_data"] + ".mp4"
        assert [turn["from"] for turn in entry["conversations"]] == ["human", "gpt"]
        assert entry["split"] == "test"
    assert [entry["event_data"].split("/")[0] for entry in entries(root)] == ["demo_day_00", "demo_night_00"]


def test_the_video_has_the_size_rate_and_frames_that_were_asked(root: Path) -> None:
    for entry in entries(root):
        with av.open(str(root / "mp4" / entry["mp4_data"])) as container:
            stream = container.streams.video[0]
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            assert stream.codec_context.name == "h264"
            assert stream.codec_context.pix_fmt == "yuv420p"
            assert stream.average_rate == SMALL.fps
        assert len(frames) == SMALL.frames == 3
        assert frames[0].shape == (SMALL.height, SMALL.width, 3)
        images = sorted((root / "video" / entry["video_data"]).iterdir())
        assert [path.name for path in images] == ["000000.png", "000001.png", "000002.png"]
        for path, frame in zip(images, frames, strict=True):
            with Image.open(path) as image:
                difference = np.abs(np.asarray(image).astype(int) - frame)
            assert difference.mean() < 12  # the same picture, compressed


@pytest.mark.parametrize(("seconds", "fps", "frames"), [(0.5, 20, 10), (0.1, 30, 3), (1.0, 7, 7)])
def test_frames_are_seconds_times_fps(seconds: float, fps: int, frames: int, tmp_path: Path) -> None:
    made = make_demo(tmp_path, DemoSettings(samples=1, seconds=seconds, width=64, height=64, fps=fps))
    with av.open(str(made / "mp4" / entries(made)[0]["mp4_data"])) as container:
        assert sum(1 for _ in container.decode(video=0)) == frames


# ---- the events ----


def test_events_lie_in_the_frame_in_order_within_100_ms(root: Path) -> None:
    for entry in entries(root):
        events = read_events(root / "event_npy" / entry["event_data"])
        assert (events.x.dtype, events.y.dtype, events.t.dtype, events.p.dtype) == ("u2", "u2", "i8", "u1")
        assert events.x.max() < SMALL.width
        assert events.y.max() < SMALL.height
        assert np.all(np.diff(events.t) >= 0)
        assert 105_000 <= events.t[0] <= events.t[-1] <= 195_000  # the middle 90 ms of 0.3 s
        assert set(np.unique(events.p)) == {0, 1}


def test_the_default_size_has_thousands_of_events(tmp_path: Path) -> None:
    made = make_demo(tmp_path, DemoSettings(samples=2, seconds=0.1))
    for entry in entries(made):
        assert 3000 < len(read_events(made / "event_npy" / entry["event_data"]).t) < 200_000


def test_event_images_are_a_rendering_of_the_events(root: Path) -> None:
    for entry in entries(root):
        rendered = render_events(read_events(root / "event_npy" / entry["event_data"]), images=5)
        for name, fresh in zip(entry["event_image"], rendered, strict=True):
            with Image.open(root / "event_image" / name) as image:
                assert np.array_equal(np.asarray(image), fresh)


def test_the_mp4_of_event_images_shows_the_same_images(root: Path) -> None:
    for sample in read_dataset(root, JSON_NAME):
        png, mp4 = read_event_images(sample, "png"), read_event_images(sample, "mp4")
        assert (mp4.source, mp4.indices, mp4.clip_length, mp4.notes) == ("mp4", (0, 1, 2, 3, 4), 5, ())
        for image, frame in zip(png.images, mp4.images, strict=True):
            height, width = image.shape[:2]
            assert frame.shape == (SMALL.height, SMALL.width, 3)
            assert np.abs(frame[:height, :width].astype(int) - image).max() <= 2  # the rounding of YUV
            assert frame[height:].min(initial=255) >= 253  # no event there: white
            assert frame[:, width:].min(initial=255) >= 253


def bar(left: int, width: int = 10) -> np.ndarray[Any, Any]:
    """Log intensity of a bar ten times as bright as its ground: [4, 64]."""
    image = np.full((4, 64), 0.1)
    image[:, left : left + width] = 1.0
    return np.log(image)


def test_a_moving_bar_makes_on_events_before_it_and_off_events_behind() -> None:
    threshold = np.full((4, 64), 0.2)
    events = simulate_events((bar(10 + step) for step in range(5)), [0, 1000, 2000, 3000, 4000], threshold)
    assert set(events.x[events.p == 1]) == {20, 21, 22, 23}  # where the bar arrives
    assert set(events.x[events.p == 0]) == {10, 11, 12, 13}  # where it left
    per_pixel = int(np.log(10) / 0.2)  # 11 thresholds lie between dark and bright
    assert len(events.t) == 2 * 4 * 4 * per_pixel

    first = events.t[(events.x == 20) & (events.y == 0)]
    assert first.tolist() == [round(1000 * n * 0.2 / np.log(10)) for n in range(1, per_pixel + 1)]
    third = events.t[(events.x == 22) & (events.y == 0)]
    assert np.array_equal(third, first + 2000)  # it arrives two frames later


def test_a_pixel_remembers_the_level_of_its_last_event() -> None:
    logs = [np.full((1, 1), level) for level in (0.0, 0.15, 0.3, 0.15, 0.45)]
    events = simulate_events(logs, [0, 100, 200, 300, 400], np.full((1, 1), 0.2))
    assert events.p.tolist() == [1, 1]  # 0.2 on the way to 0.3; 0.15 is too near to 0.2; then 0.4
    assert events.t.tolist() == [133, 383]


def test_a_still_scene_makes_no_events() -> None:
    assert len(simulate_events([bar(10)] * 3, [0, 1, 2], np.full((4, 64), 0.2)).t) == 0


# ---- the scenes ----


def test_the_splits_share_no_scene() -> None:
    drawn = {split: [draw_scene(seed, index, split) for seed in (0, 1) for index in range(5)] for split in SPLITS}
    places = {split: {scene.things[0].z for scene in scenes} for split, scenes in drawn.items()}
    assert all(not places[one] & places[other] for one in SPLITS for other in SPLITS if one != other)


def test_only_held_out_scenes_have_the_combinations_that_are_held_out() -> None:
    for split in SPLITS:
        found = [held_out(draw_scene(0, index, split).attributes) for index in range(60)]
        assert all(
            vehicles and motion if split == "held_out" else not (vehicles or motion) for vehicles, motion in found
        )
    kinds = {draw_scene(0, index).attributes["time"] for index in range(2)}
    assert kinds == {"day", "night"}
    assert len(HELD_OUT_VEHICLES) == 3


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown split 'dev'; choose one of test, train"):
        draw_scene(0, 0, "dev")


def other(index: int, **changes: Any) -> Any:
    """A scene, and what it would be with other attributes."""
    scene = draw_scene(5, index)
    return scene, replace(scene, attributes={**scene.attributes, **changes})


@pytest.mark.parametrize("direction", ["left", "right"])
@pytest.mark.parametrize("speed", ["slow", "fast"])
def test_a_video_at_20_frames_per_second_does_not_show_how_the_lamps_run(direction: str, speed: str) -> None:
    scene, changed = other(0, light={"direction": direction, "speed": speed})
    for frame in range(0, 20, 5):
        one, two = (Renderer(drawn, 160, 120).frame(frame / 20) for drawn in (scene, changed))
        assert np.abs(one - two).max() < 1e-3


def test_events_show_how_the_lamps_run() -> None:
    settings = DemoSettings(width=160, height=120)
    found = [
        scene_events(other(0, light={"direction": direction, "speed": speed})[1], settings)
        for direction in ("left", "right")
        for speed in ("slow", "fast")
    ]
    images = [render_events(events, images=5)[2] for events in found]
    assert all(one.shape != two.shape or (one != two).any() for one, two in pairwise(images))


def test_events_hold_neither_colours_nor_the_time_of_day() -> None:
    scene = draw_scene(5, 4)
    assert scene.attributes["vehicles"]
    painted = tuple(replace(thing, colour=(0.9, 0.1, 0.1)) if thing.kind in {"car", "van", "truck"} else thing
                    for thing in scene.things)  # fmt: skip
    settings = DemoSettings(width=96, height=64)
    one, two = (scene_events(drawn, settings) for drawn in (scene, replace(scene, time="night", things=painted)))
    assert all(np.array_equal(getattr(one, name), getattr(two, name)) for name in "xytp")


def test_questions_of_all_kinds_are_asked(tmp_path: Path) -> None:
    settings = DemoSettings(samples=len(KINDS), seconds=0.1, width=64, height=64)
    found = entries(make_demo(tmp_path, settings))
    questions = [entry["conversations"][0]["value"].removeprefix("<event>\n") for entry in found]
    assert questions[0] == "What are the key elements in this scene?"
    assert len(set(questions)) >= len(KINDS) - 1  # a scene without a vehicle is asked for the time in place of a colour
    (choice,) = (entry for entry in found if "options" in entry)
    assert choice["answer"] in "ABCD"
    assert choice["conversations"][1]["value"].startswith(choice["answer"])


# ---- the cache ----

TINY = DemoSettings(samples=2, seconds=0.1, width=64, height=64)


def test_a_made_dataset_is_used_again(tmp_path: Path) -> None:
    calls: list[int] = []
    first = make_demo(tmp_path, TINY, progress=calls.append)
    stamp = (first / JSON_NAME).stat().st_mtime_ns
    assert make_demo(tmp_path, TINY, progress=calls.append) == first
    assert (first / JSON_NAME).stat().st_mtime_ns == stamp
    assert calls == [1, 2]
    assert list(tmp_path.iterdir()) == [first]  # no temporaries are left


def test_an_interrupted_attempt_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path, TINY, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_half_made_folder_is_made_again(tmp_path: Path) -> None:
    half = tmp_path / TINY.name
    (half / "mp4").mkdir(parents=True)
    (half / "mp4" / "stray").write_text("left by an earlier attempt")
    root = make_demo(tmp_path, TINY)
    assert root == half
    assert len(entries(root)) == 2
    assert not (root / "mp4" / "stray").exists()
    assert list(tmp_path.iterdir()) == [root]


def test_temporaries_are_removed_when_they_are_old_and_never_used(tmp_path: Path) -> None:
    dead, living = tmp_path / f".{TINY.name}.dead", tmp_path / f".{TINY.name}.living"
    for folder in (dead, living):
        folder.mkdir()
        (folder / JSON_NAME).write_text("[]")
    old = time.time() - 2 * 3600
    os.utime(dead, (old, old))
    root = make_demo(tmp_path, TINY)
    assert len(entries(root)) == 2
    assert sorted(tmp_path.iterdir()) == sorted([root, living])


def test_two_processes_at_once_give_one_valid_dataset(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fourstage.data.formats.demo import *;"
        "print(make_demo(Path(sys.argv[1]), DemoSettings(samples=2, seconds=0.1, width=64, height=64)))"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=60)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert printed == [str(tmp_path / TINY.name)] * 2
    assert list(tmp_path.iterdir()) == [tmp_path / TINY.name]
    assert len(entries(tmp_path / TINY.name)) == 2


def test_one_that_finishes_second_uses_what_the_first_made(tmp_path: Path) -> None:
    made: list[Path] = []

    def overtake(done: int) -> None:
        if done == 2 and not made:
            made.append(tmp_path)  # so that the inner call does not nest again
            made.append(make_demo(tmp_path, TINY))
            (made[1] / "mark").touch()

    root = make_demo(tmp_path, TINY, progress=overtake)
    assert (root / "mark").exists()
    assert list(tmp_path.iterdir()) == [root]


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "cache"
    with pytest.raises(UserError, match=r"file/cache: Not a directory; set dataset\.cache"):
        make_demo(cache, TINY)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"samples": 0}, "samples is 0; give a whole number from 1"),
        ({"width": 62}, "width is 62; give a whole number from 64"),
        ({"width": 321}, "width is 321; H.264"),
        ({"height": 65}, "height is 65; H.264"),
        ({"height": 70_000}, "height is 70000; .* to 4096"),
        ({"width": 320.5}, r"width is 320\.5; give a whole number"),
        ({"fps": 0}, "fps is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seconds": 0.05}, r"seconds is 0\.05"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"seconds": 0.1, "fps": 10}, r"0\.1 s at 10 fps is 1 frame\(s\); at least 2"),
    ],
)
def test_settings_that_cannot_be_drawn_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DemoSettings(**setting)


def test_other_settings_have_another_folder() -> None:
    changes = (
        {},
        {"samples": 5},
        {"seconds": 2.0},
        {"width": 322},
        {"height": 242},
        {"fps": 10},
        {"seed": 1},
        {"split": "train"},
    )
    names = {DemoSettings(**change).name for change in changes}  # type: ignore[arg-type]
    assert len(names) == len(changes)
    assert DemoSettings(seconds=1).name == DemoSettings(seconds=1.0).name
