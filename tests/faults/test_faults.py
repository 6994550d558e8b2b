"""Generated bad input of every kind, given to the real command; `python -m tests.faults` does more of it."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourstage.data.media import read_event_images, read_video_frames
from fourstage.stages import Media, Sample, SampleError
from tests.faults.__main__ import faults_of_screen
from tests.faults.cases import SHARES
from tests.faults.decode import wrong_picture
from tests.faults.media import CLIPS, clip, events, flipped, picture, zeroed

CASES, SEED = 320, 11


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg on PATH; install it")
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--cases", str(CASES), "--seed", str(SEED), "--json"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=290,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("kind", SHARES)
def test_bad_input_ends_in_a_message_a_record_or_the_right_picture(found: dict[str, Any], kind: str) -> None:
    assert found["kinds"][kind] > 5
    assert [fault for fault in found["faults"] if f"] {kind} " in fault] == []


def test_all_of_it_is_three_hundred_cases_without_a_hang_within_3_gib(found: dict[str, Any]) -> None:
    assert found["faults"] == []
    assert found["cases"] >= 300
    assert found["peak_bytes"] < 3 << 30


@pytest.mark.parametrize("name", ["vp8.webm", "fragments.mp4", "mjpeg.avi", "h264.mp4"])
@pytest.mark.parametrize("rule", ["linspace", "head"])
def test_damage_inside_a_frame_is_refused_noted_or_harmless(name: str, rule: str, tmp_path: Path) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg on PATH; install it")
    (tmp_path / "mp4").mkdir()
    whole = clip(tmp_path / name, **CLIPS[name]).read_bytes()
    rng = random.Random(f"{name} {rule}")
    sample = Sample(key="a", id="a", root=tmp_path, mp4_data=name)
    seen = set()
    for change in (flipped, zeroed) * 10:
        (tmp_path / "mp4" / name).write_bytes(change(whole, rng))
        try:
            media = read_video_frames(sample, rule=rule)
        except SampleError:
            seen.add("refused")
            continue
        if any("may be wrong" in note or "may be lost" in note for note in media.all_notes()):
            seen.add("noted")
            continue
        assert wrong_picture(media, sample) == ""
        seen.add("right")
    assert len(seen) > 1
    (tmp_path / "mp4" / name).write_bytes(whole)
    healthy = read_video_frames(sample, rule=rule)
    assert (healthy.all_notes(), wrong_picture(healthy, sample)) == ((), "")


# ---- the judges see what is wrong ----


@pytest.mark.parametrize(
    ("screen", "fault"),
    [
        (b"error: x\n", ""),
        (b"error: \x1b[31mx\n", "to the terminal"),
        ("x \u202e".encode(), "to the terminal"),
        (b"\xff", "no UTF-8"),
        (b"Traceback (most recent call last):\n", "a traceback"),
        (b"x\n" * 200, "200 lines"),
    ],
)
def test_a_screen_is_judged(screen: bytes, fault: str) -> None:
    said = "; ".join(faults_of_screen(screen))
    assert fault in said
    assert bool(fault) == bool(said)


def test_a_picture_that_is_another_is_seen(tmp_path: Path) -> None:
    for folder in ("mp4", "event_npy", "event_image"):
        (tmp_path / folder).mkdir()
    rng = random.Random(0)
    clip(tmp_path / "mp4" / "a.mp4", "libx264", {"bf": "2"})
    events(tmp_path / "event_npy" / "a.npy", rng)
    picture(tmp_path / "event_image" / "a.png", rng)
    samples = {
        "clip": Sample(key="k", id="k", root=tmp_path, mp4_data="a.mp4"),
        "events": Sample(key="k", id="k", root=tmp_path, event_data="a.npy"),
        "picture": Sample(key="k", id="k", root=tmp_path, event_image=("a.png",)),
    }
    for kind, sample in samples.items():
        media = read_video_frames(sample) if kind == "clip" else read_event_images(sample)
        assert wrong_picture(media, sample) == ""
        assert "differs by" in wrong_picture(changed(media), sample)


def changed(media: Media) -> Media:
    images = [image.copy() for image in media.images]
    images[-1][0, 0, 0] ^= np.uint8(0x80)
    return Media(tuple(images), media.source, media.indices, media.clip_length, media.bytes_read, media.notes)
