"""Video: the frames that a rule names are the frames that arrive, or the file is named."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourstage.data.formats.demo import make_demo
from fourstage.data.video import RULES, Clip, frame_indices, read_video
from fourstage.stages import SampleError, UserError
from tests.small import SIZE

MakeMp4 = Callable[..., Path]
NAMED = "MP4, MOV, M4V, 3GP, Matroska \\(MKV\\), WebM and AVI"


@given(total=st.integers(1, 5000), frames=st.integers(1, 64), rule=st.sampled_from(RULES))
def test_indices_are_sorted_within_the_clip_and_exactly_as_many_as_asked(total: int, frames: int, rule: str) -> None:
    indices = frame_indices(total, frames, rule)
    assert len(indices) == frames
    assert list(indices) == sorted(indices)
    assert indices[0] == 0
    assert indices[-1] < total
    assert all(type(index) is int for index in indices)


@given(total=st.integers(8, 5000), rule=st.sampled_from(RULES))
def test_a_long_clip_repeats_nothing(total: int, rule: str) -> None:
    assert len(set(frame_indices(total, 8, rule))) == 8


@given(total=st.integers(1, 2000))
def test_linspace_is_numpys_for_eight_frames(total: int) -> None:
    assert list(frame_indices(total, 8, "linspace")) == np.linspace(0, total - 1, 8).astype(int).tolist()


def test_the_rules_differ_as_documented() -> None:
    assert frame_indices(21, 8, "linspace") == (0, 2, 5, 8, 11, 14, 17, 20)
    assert frame_indices(21, 8, "arange") == (0, 2, 5, 7, 10, 13, 15, 18)
    assert frame_indices(21, 8, "head") == (0, 1, 2, 3, 4, 5, 6, 7)


def test_fewer_than_eight_frames_are_repeated() -> None:
    assert frame_indices(3, 8, "linspace") == (0, 0, 0, 0, 1, 1, 1, 2)
    assert frame_indices(3, 8, "arange") == (0, 0, 0, 1, 1, 1, 2, 2)
    assert frame_indices(3, 8, "head") == (0, 1, 2, 2, 2, 2, 2, 2)
    assert frame_indices(1, 1, "linspace") == (0,)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(SampleError, match="no frames"):
        frame_indices(0, 8, "linspace")
    with pytest.raises(UserError, match=r"unknown frame rule 'even'.*linspace, arange, head"):
        frame_indices(10, 8, "even")
    with pytest.raises(UserError, match="0 frames"):
        frame_indices(10, 0, "head")


# --- clips -----------------------------------------------------------------------------------------------------------


def make_clip(
    path: Path,
    codec: str,
    frames: int = 30,
    size: tuple[int, int] = (96, 64),
    pixels: str = "yuv420p",
    muxer: dict[str, str] | None = None,
    container_format: str | None = None,
    **options: str,
) -> Path:
    """A clip at 20 frames a second in which every frame differs: a square moves over a gradient."""
    import av

    width, height = size
    with av.open(str(path), "w", format=container_format, options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=20, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        across = np.linspace(0, 255, width, dtype=np.uint8)
        for i in range(frames):
            image = np.zeros((height, width, 3), np.uint8)
            image[..., 0], image[..., 1] = across, 8 * i % 256
            image[i % (height - 16) :][:16, 2 * i % (width - 16) :][:, :16, 2] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def h264(path: Path, frames: int = 30, **muxer: str) -> Path:
    return make_clip(path, "libx264", frames, muxer=muxer, g="10", bf="2")


HEALTHY: dict[str, dict[str, Any]] = {
    "h264.mp4": {"codec": "libx264", "bf": "2"},
    "h264_fragments.mp4": {"codec": "libx264", "g": "8", "muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "h264_open.mp4": {"codec": "libx264", "g": "8", "x264-params": "open-gop=1"},
    "h264_interlaced.mov": {"codec": "libx264", "flags": "+ildct+ilme"},
    "h264.mkv": {"codec": "libx264", "bf": "2"},
    "h264.avi": {"codec": "libx264", "bf": "2"},
    "hevc.mp4": {"codec": "libx265", "x265-params": "log-level=none:open-gop=1:keyint=8:scenecut=0:b-adapt=0"},
    "vp8.webm": {"codec": "libvpx", "auto-alt-ref": "1", "lag-in-frames": "8", "b": "200k"},
    "vp9.webm": {"codec": "libvpx-vp9", "lag-in-frames": "8", "b": "200k"},
    "mpeg4.avi": {"codec": "mpeg4", "bf": "2"},
    "mpeg4.mp4": {"codec": "mpeg4", "bf": "2"},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "ffv1.mkv": {"codec": "ffv1", "level": "3", "slicecrc": "1"},
    "prores.mov": {"codec": "prores_ks", "pixels": "yuv422p10le"},
    "tiff.mov": {"codec": "tiff", "pixels": "rgb24"},
}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("healthy")
    return {name: make_clip(folder / name, **options) for name, options in HEALTHY.items()}


def shown_by(ffmpeg: str, path: Path, image: np.ndarray[Any, Any], track: str = "0:V:0") -> np.ndarray[Any, Any]:
    """All frames of a clip [frames, height, width, 3] as ffmpeg's command line shows them, none repeated."""
    command = [ffmpeg, "-v", "error", "-i", str(path), "-map", track, "-fps_mode", "passthrough"]
    out = subprocess.run(
        [*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, timeout=60, check=True
    ).stdout
    return np.frombuffer(out, np.uint8).reshape(-1, *image.shape)


def assert_as_ffmpeg_shows(ffmpeg: str, path: Path, clip: Clip, track: str = "0:V:0") -> None:
    frames = shown_by(ffmpeg, path, clip.images[0], track)
    assert clip.length == len(frames)
    for index, image in zip(clip.indices, clip.images, strict=True):
        # versions of ffmpeg round colours differently
        assert np.abs(image.astype(int) - frames[index]).max() <= 4


# --- which frames ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("frames", [1, 5, 8, 21])
def test_the_frames_named_are_the_frames_decoded(tmp_path: Path, make_mp4: MakeMp4, rule: str, frames: int) -> None:
    clip = read_video(make_mp4(tmp_path / "a.mp4", 21), frames, rule)
    assert clip.length == 21
    assert clip.indices == frame_indices(21, frames, rule)
    assert clip.notes == ()
    assert len(clip.images) == frames
    for image, index in zip(clip.images, clip.indices, strict=True):
        assert (image.shape, image.dtype) == ((48, 64, 3), np.uint8)
        assert abs(float(image.mean()) - 10 * index) < 4


@pytest.mark.parametrize("name", [name for name in HEALTHY if "interlaced" not in name and "prores" not in name])
def test_frames_are_those_that_ffmpeg_shows(ffmpeg: str, healthy: dict[str, Path], name: str) -> None:
    for rule in RULES:
        assert_as_ffmpeg_shows(ffmpeg, healthy[name], read_video(healthy[name], 8, rule))


def test_no_healthy_clip_raises_a_false_alarm(healthy: dict[str, Path], tmp_path: Path) -> None:
    demo = make_demo(tmp_path / "demo", SIZE)
    clips = [*healthy.values(), *demo.rglob("*.mp4")]
    assert len(clips) > len(healthy)
    for path in clips:
        for rule in RULES:
            clip = read_video(path, 8, rule)
            assert (clip.notes, clip.recheck and clip.recheck()) in [((), None), ((), ())], path.name
            assert path.name not in healthy or clip.length == 30, path.name


@pytest.mark.parametrize("rule", RULES)
def test_a_file_too_large_to_keep_its_packets_gives_the_same(
    healthy: dict[str, Path], monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    for name in ("h264.mp4", "vp8.webm", "mpeg4.avi"):
        kept = read_video(healthy[name], 8, rule)
        with monkeypatch.context() as patch:
            patch.setattr("fourstage.data.video._KEPT_BYTES", 0)
            again = read_video(healthy[name], 8, rule)
        assert (again.indices, again.length) == (kept.indices, kept.length)
        np.testing.assert_array_equal(again.images, kept.images)


def test_colours_arrive_as_red_green_blue(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        pixels = np.full((48, 64, 3), (200, 90, 20), dtype=np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    (image,) = read_video(tmp_path / "a.mp4", 1, "head").images
    np.testing.assert_allclose(image[24, 32], (200, 90, 20), atol=6)


def test_a_short_clip_still_gives_eight_frames(tmp_path: Path, make_mp4: MakeMp4) -> None:
    clip = read_video(make_mp4(tmp_path / "a.mp4", 3), 8, "linspace")
    assert (len(clip.images), len(set(clip.indices)), clip.length) == (8, 3, 3)
    assert clip.images[0] is clip.images[1]


@pytest.mark.real
def test_packets_of_vp8_that_are_never_shown_are_not_counted(shared: Path, ffmpeg: str) -> None:
    path = shared / "field/02-vp8-altref/vp8_altref.webm"
    indices = {
        "linspace": (0, 8, 16, 25, 33, 42, 50, 59),
        "arange": (0, 7, 15, 22, 30, 37, 45, 52),
        "head": (0, 1, 2, 3, 4, 5, 6, 7),
    }
    for rule in RULES:
        clip = read_video(path, 8, rule)
        assert (clip.length, clip.indices) == (60, indices[rule])
        assert clip.notes == ()
        assert_as_ffmpeg_shows(ffmpeg, path, clip)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "length"), [("03-edit-list-trim/trim_edit.mp4", 16), ("04-avi-header-count/h264.avi", 60)]
)
def test_the_length_is_what_is_shown_whatever_the_header_counts(
    shared: Path, ffmpeg: str, name: str, length: int
) -> None:
    for rule in RULES:
        clip = read_video(shared / "field" / name, 8, rule)
        assert (clip.length, clip.indices, clip.notes) == (length, frame_indices(length, 8, rule), ())
        assert_as_ffmpeg_shows(ffmpeg, shared / "field" / name, clip)


@pytest.mark.parametrize("name", ["h264_open.mp4", "hevc.mp4", "mpeg4.mp4", "h264.mp4"])
def test_a_cut_between_key_frames_shows_what_it_was_cut_to(
    ffmpeg: str, healthy: dict[str, Path], tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    command = [ffmpeg, "-v", "error", "-ss", "0.5", "-i", str(healthy[name]), "-c", "copy", str(path)]
    subprocess.run(command, check=True, timeout=60)
    for rule in RULES:
        clip = read_video(path, 8, rule)
        assert clip.notes == ()
        assert_as_ffmpeg_shows(ffmpeg, path, clip)
    assert clip.length < 30


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_start_within_an_open_group_of_pictures_shows_what_ffmpeg_shows(
    tmp_path: Path, healthy: dict[str, Path], ffmpeg: str, suffix: str
) -> None:
    import av

    path = tmp_path / f"a.{suffix}"
    with av.open(str(healthy["hevc.mp4"])) as source, av.open(str(path), "w") as out:
        stream = source.streams.video[0]
        target = out.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        start = [i for i, packet in enumerate(packets) if packet.is_keyframe][1]
        before = packets[start].dts
        for packet in packets[start:]:
            packet.pts, packet.dts, packet.stream = packet.pts - before, packet.dts - before, target
            out.mux(packet)
    clip = read_video(path, 8, "linspace")
    assert clip.length < len(packets) - start  # what leads the key frame depends on what was cut away
    assert clip.notes == ()
    assert_as_ffmpeg_shows(ffmpeg, path, clip)


def test_two_frames_in_one_packet_are_two_frames(tmp_path: Path, healthy: dict[str, Path], ffmpeg: str) -> None:
    """DivX packs a B-frame behind the frame that it depends on, and fills its place with an empty packet."""
    import av

    with av.open(str(healthy["mpeg4.avi"])) as source, av.open(str(tmp_path / "packed.avi"), "w") as out:
        stream = source.streams.video[0]
        target = out.add_stream_from_template(stream)
        packets = [bytes(packet) for packet in source.demux(stream) if packet.size]
        kinds = [packet[packet.index(b"\0\0\1\xb6") + 4] >> 6 for packet in packets]  # 2: a B-frame
        packed, i = [], 0
        while i < len(packets):
            following = next((j for j in range(i + 1, len(packets)) if kinds[j] != 2), len(packets))
            if following > i + 1:
                packed += [packets[i] + packets[i + 1], *packets[i + 2 : following], b"\0\0\1\xb6\x50\0\x7f"]
            else:
                packed.append(packets[i])
            i = following
        packed[0] = bytes(stream.codec_context.extradata) + b"\0\0\1\xb2DivX503b1393p" + packed[0]
        for number, content in enumerate(packed):
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts, packet.time_base = target, number, number, Fraction(1, 20)
            packet.is_keyframe = number == 0
            out.mux(packet)
    clip = read_video(tmp_path / "packed.avi", 8, "linspace")
    assert clip.length == 30
    assert_as_ffmpeg_shows(ffmpeg, tmp_path / "packed.avi", clip)


@pytest.mark.real
@pytest.mark.parametrize("name", ["dadao", "gota"])
def test_real_clips_have_21_frames(shared: Path, ffmpeg: str, name: str) -> None:
    path = shared / f"real/mp4/{name}.mp4"
    clip = read_video(path, 8, "linspace")
    assert (clip.length, clip.indices, clip.notes) == (21, (0, 2, 5, 8, 11, 14, 17, 20), ())
    assert {image.shape for image in clip.images} == {(480, 640, 3)}
    assert_as_ffmpeg_shows(ffmpeg, path, clip)


# --- which stream, which way up --------------------------------------------------------------------------------------


def with_matrix(source: Path, path: Path, *matrix: float) -> Path:
    """A copy of an MP4 with a, b, c, d of its display matrix replaced."""
    content = bytearray(source.read_bytes())
    at = content.index(b"tkhd") + 44
    a, b, c, d = (round(65536 * value) for value in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("matrix", "turned", "note"),
    [
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1), "turned by 90 degrees clockwise"),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2), "turned by 180 degrees clockwise"),
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1), "turned by 270 degrees clockwise"),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1], "turned by 180 degrees clockwise and mirrored"),
        ((1, 0, 0, -1), lambda image: image[::-1], "mirrored"),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2), "turned by 90 degrees clockwise and mirrored"),
    ],
)
def test_the_display_matrix_is_applied_and_noted(
    tmp_path: Path,
    healthy: dict[str, Path],
    ffmpeg: str,
    matrix: tuple[float, ...],
    turned: Callable[[Any], Any],
    note: str,
) -> None:
    stored = read_video(healthy["h264.mp4"], 3, "linspace")
    path = with_matrix(healthy["h264.mp4"], tmp_path / "a.mp4", *matrix)
    clip = read_video(path, 3, "linspace")
    assert clip.notes == (f"{note}, as the display matrix asks",)
    for image, before in zip(clip.images, stored.images, strict=True):
        np.testing.assert_array_equal(image, turned(before))
        assert image.flags.c_contiguous
    assert_as_ffmpeg_shows(ffmpeg, path, clip)


def test_a_turn_is_known_where_pyav_does_not_list_the_side_data(tmp_path: Path, healthy: dict[str, Path]) -> None:
    path = with_matrix(healthy["tiff.mov"], tmp_path / "a.mov", 0, 1, -1, 0)
    clip, stored = (read_video(file, 3, "linspace") for file in (path, healthy["tiff.mov"]))
    assert clip.notes == ("turned by 90 degrees clockwise, as the display matrix asks",)
    np.testing.assert_array_equal(clip.images, [np.rot90(image, -1) for image in stored.images])


def test_a_turn_that_is_no_quarter_is_noted_and_left(tmp_path: Path, healthy: dict[str, Path]) -> None:
    path = with_matrix(healthy["h264.mp4"], tmp_path / "a.mp4", 0.866, 0.5, -0.5, 0.866)
    assert read_video(path, 1, "head").notes == ("the display matrix asks for a turn of 30 degrees: not applied",)


@pytest.mark.real
def test_a_phones_clip_is_upright(shared: Path, ffmpeg: str) -> None:
    path = shared / "field/01-rotation/rot90.mp4"
    clip = read_video(path, 8, "linspace")
    assert {image.shape for image in clip.images} == {(160, 120, 3)}
    assert clip.length == 60
    assert clip.notes == ("turned by 270 degrees clockwise, as the display matrix asks",)
    assert_as_ffmpeg_shows(ffmpeg, path, clip)


def test_pixels_that_are_not_square_are_noted_and_not_scaled(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    clip = read_video(tmp_path / "a.mp4", 1, "head")
    assert clip.images[0].shape == (64, 96, 3)
    assert clip.notes == ("pixels of 4:3, not square: not scaled",)


def test_a_video_without_pictures_is_named(tmp_path: Path) -> None:
    import av

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44_100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(SampleError, match=r"a\.mp4 has no video stream"):
        read_video(path, 8, "linspace")


@pytest.mark.real
def test_a_picture_attached_to_sound_is_no_video(shared: Path) -> None:
    with pytest.raises(SampleError, match=r"song\.mp4 has no video stream"):
        read_video(shared / "field/06-audio-with-cover/song.mp4", 8, "linspace")


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_default_track_goes_before_the_first_and_a_cover_never(
    tmp_path: Path, healthy: dict[str, Path], ffmpeg: str, suffix: str
) -> None:
    def mux(name: str, second: Path, *dispositions: str) -> Path:
        path = tmp_path / name
        options = [word for i, value in enumerate(dispositions) for word in (f"-disposition:v:{i}", value)]
        inputs = ["-i", str(healthy["h264.mp4"]), "-i", str(second), "-map", "0:v", "-map", "1:v", "-c", "copy"]
        subprocess.run([ffmpeg, "-v", "error", *inputs, *options, str(path)], check=True, timeout=60)
        return path

    other = make_clip(tmp_path / "other.mp4", "libx264", 12, size=(64, 48))
    path = mux(f"two.{suffix}", other, "0", "default")
    clip = read_video(path, 8, "linspace")
    assert (clip.length, clip.images[0].shape, clip.notes) == (12, (48, 64, 3), ("video track 2 of 2",))
    assert_as_ffmpeg_shows(ffmpeg, path, clip, "0:v:1")
    if suffix == "mp4":
        cover = make_clip(tmp_path / "cover.mov", "mjpeg", 1, size=(48, 48), pixels="yuvj420p")
        clip = read_video(mux("cover.mp4", cover, "0", "attached_pic"), 8, "linspace")
        assert (clip.length, clip.images[0].shape, clip.notes) == (30, (64, 96, 3), ())


# --- truncation and damage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize(
    "name",
    ["h264.mp4", "h264_fragments.mp4", "h264.mkv", "vp8.webm", "vp9.webm", "h264.avi", "mjpeg.avi", "prores.mov"],
)
def test_a_file_without_its_end_is_refused(
    tmp_path: Path, healthy: dict[str, Path], capfd: pytest.CaptureFixture[str], name: str, share: float
) -> None:
    content = healthy[name].read_bytes()
    (tmp_path / name).write_bytes(content[: min(round(share * len(content)), len(content) - 1)])
    for rule in RULES:
        with pytest.raises(SampleError, match=rf"{name} .*(truncated|damaged)"):
            read_video(tmp_path / name, 8, rule)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("share", [0.6, 0.8, 0.95, 0.999])
def test_an_mp4_whose_index_comes_first_is_truncated_too(tmp_path: Path, share: float) -> None:
    path = h264(tmp_path / "a.mp4", movflags="faststart")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(SampleError, match=rf"a\.mp4 is truncated: found {path.stat().st_size} bytes, expected"):
        read_video(path, 3, "head")


def test_a_live_recording_cut_between_two_clusters_is_told_by_its_duration(tmp_path: Path, ffmpeg: str) -> None:
    source = h264(tmp_path / "a.mkv", 60)
    command = [ffmpeg, "-v", "error", "-i", str(source), "-c", "copy", "-cluster_time_limit", "500", "-f", "matroska"]
    live = subprocess.run([*command, "-"], check=True, timeout=60, stdout=subprocess.PIPE).stdout
    whole, cut = tmp_path / "whole.mkv", tmp_path / "cut.mkv"
    whole.write_bytes(live)  # through a pipe, so that the segment states no size
    assert read_video(whole, 8, "linspace").length == 60
    clusters = [i for i in range(len(live)) if live[i : i + 4] == b"\x1f\x43\xb6\x75"]
    cut.write_bytes(live[: clusters[len(clusters) // 2]])
    with pytest.raises(SampleError, match=r"cut\.mkv is truncated: found frames up to 1\.\d\d s, expected 3\.00 s"):
        read_video(cut, 8, "linspace")


def test_an_mp4_that_lacks_one_of_its_fragments_is_refused(tmp_path: Path, healthy: dict[str, Path]) -> None:
    content = healthy["h264_fragments.mp4"].read_bytes()
    starts = [i - 4 for i in range(len(content)) if content[i : i + 4] == b"moof"]
    assert len(starts) == 4
    (tmp_path / "a.mp4").write_bytes(content[: starts[1]] + content[starts[2] :])
    with pytest.raises(SampleError, match=r"a\.mp4 has a gap"):
        read_video(tmp_path / "a.mp4", 8, "linspace")


@pytest.mark.parametrize("name", ["h264_fragments.mp4", "h264.mkv", "vp8.webm", "h264.avi"])
@pytest.mark.parametrize("fill", [False, True])
def test_a_hole_in_the_middle_is_found(tmp_path: Path, healthy: dict[str, Path], name: str, fill: bool) -> None:
    content = healthy[name].read_bytes()
    start, end = len(content) // 3, 3 * len(content) // 5
    (tmp_path / name).write_bytes(content[:start] + bytes(end - start) * fill + content[end:])
    with pytest.raises(SampleError, match=rf"{name} .*(truncated|damaged|has a gap)"):
        read_video(tmp_path / name, 8, "linspace")


@pytest.mark.parametrize("table", ["stts", "ctts", "stsc", "stsz", "stco", "stss", "trun"])
def test_a_table_of_samples_that_is_larger_than_its_box_is_refused(
    tmp_path: Path, healthy: dict[str, Path], table: str
) -> None:
    name = "h264_fragments.mp4" if table == "trun" else "h264.mp4"
    content = bytearray(healthy[name].read_bytes())
    at = content.index(table.encode()) - 4
    size = int.from_bytes(content[at : at + 4], "big")
    count = at + (16 if table == "stsz" else 12)
    (number,) = struct.unpack_from(">I", content, count)
    for wrong in (number + 1, 2**31):
        struct.pack_into(">I", content, count, wrong)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SampleError, match=rf"damaged at byte {at}: its table {table} has {size - 8} bytes, its"):
            read_video(tmp_path / name, 8, "linspace")
    struct.pack_into(">I", content, count, number)
    struct.pack_into(">I", content, at, size + 2**20)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SampleError, match=f"damaged at byte {at}: a box exceeds its parent"):
        read_video(tmp_path / name, 8, "linspace")


def test_frames_after_the_last_one_taken_are_decoded_outside_the_reading(
    tmp_path: Path, healthy: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = healthy["h264_fragments.mp4"].read_bytes()
    last = content.rindex(b"mdat") + 4
    end = last - 8 + int.from_bytes(content[last - 8 : last - 4])
    path = tmp_path / "a.mp4"
    path.write_bytes(content[: last + 40] + bytes(end - last - 40) + content[end:])
    clip = read_video(path, 4, "head")
    assert (clip.notes, clip.indices) == ((), (0, 1, 2, 3))
    assert clip.recheck is not None
    assert clip.recheck() == ("30 packets give frames with errors: some may be lost",)
    path.unlink()
    assert clip.recheck() == ("a second decoding failed (FileNotFoundError): frames may be wrong",)


def test_packets_that_cannot_be_decoded_at_the_end_are_noted_or_refused(
    tmp_path: Path, healthy: dict[str, Path], ffmpeg: str
) -> None:
    content, seen = healthy["mpeg4.avi"].read_bytes(), 0
    for start in range(len(content) // 2, len(content), len(content) // 40):
        (tmp_path / "a.avi").write_bytes(content + content[start:])
        with suppress(SampleError):
            clip = read_video(tmp_path / "a.avi", 8, "linspace")
            seen += 1
            if "the decoder met errors and passed over them: frames may be wrong" not in clip.notes:
                assert_as_ffmpeg_shows(ffmpeg, tmp_path / "a.avi", clip)
    assert seen


@pytest.mark.real
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["01-rotation/rot90.mp4", "08-truncated-matroska/base.mkv"])
def test_healthy_clips_of_people_are_read(shared: Path, ffmpeg: str, name: str, rule: str) -> None:
    clip = read_video(shared / "field" / name, 8, rule)
    assert clip.length == 60
    assert_as_ffmpeg_shows(ffmpeg, shared / "field" / name, clip)


@pytest.mark.real
def test_a_matroska_file_cut_short_is_refused(shared: Path) -> None:
    with pytest.raises(SampleError, match=r"trunc\.mkv is truncated: found 10239 bytes, expected 17066"):
        read_video(shared / "field/08-truncated-matroska/trunc.mkv", 8, "linspace")


@pytest.mark.real
@pytest.mark.parametrize("name", ["dadao-01", "gota-00"])
def test_damage_that_the_decoder_conceals_is_refused(shared: Path, name: str) -> None:
    path = shared / f"field/bad/25-h264-damage-concealed/mp4-flip-mdat-{name}--mp4-flip-mdat-{name}.mp4"
    with pytest.raises(SampleError, match=r"\.mp4 is damaged at frame \d+, which the decoder conceals"):
        read_video(path, 8, "linspace")


@pytest.mark.parametrize("name", ["h264.mp4", "h264_fragments.mp4", "h264.mkv", "vp9.webm", "mpeg4.avi", "mjpeg.avi"])
def test_damaged_files_end_in_frames_or_an_error_and_soon(
    tmp_path: Path, healthy: dict[str, Path], capfd: pytest.CaptureFixture[str], name: str
) -> None:
    whole = healthy[name].read_bytes()
    draw = random.Random(name)
    path = tmp_path / name
    messages = []
    for _ in range(25):
        content = bytearray(whole)
        for _ in range(draw.choice([1, 3, 20])):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        start = time.monotonic()
        try:
            clip = read_video(path, 8, "linspace")
            assert len(clip.images) == 8
            assert clip.indices == frame_indices(clip.length, 8, "linspace")
        except SampleError as error:
            messages.append(str(error))
        assert time.monotonic() - start < 10
    assert messages
    assert all(name in message and "\n" not in message for message in messages)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error", [OverflowError("too big"), MemoryError(), EOFError("end"), ValueError("3"), KeyError(31)]
)
def test_whatever_the_library_raises_is_a_fault_of_the_file(
    healthy: dict[str, Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("fourstage.data.video._demux", fail)
    with pytest.raises(SampleError, match=r"h264\.mp4 cannot be decoded: .*copy it again"):
        read_video(healthy["h264.mp4"], 8, "linspace")


def test_a_clip_that_changes_its_size_is_refused(tmp_path: Path, ffmpeg: str) -> None:
    for name, size in (("a", (64, 48)), ("b", (96, 64))):
        make_clip(tmp_path / f"{name}.webm", "libvpx", 10, size=size)
    (tmp_path / "list").write_text("file a.webm\nfile b.webm\n")
    command = [ffmpeg, "-v", "error", "-f", "concat", "-i", "list", "-c", "copy", "c.webm"]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=60)
    with pytest.raises(SampleError, match=r"c\.webm changes its size from 64x48 to 96x64 at frame 10"):
        read_video(tmp_path / "c.webm", 8, "linspace")


# --- what is read at all ---------------------------------------------------------------------------------------------


def test_a_missing_video_is_named(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"gone\.mp4 does not exist"):
        read_video(tmp_path / "gone.mp4", 8, "linspace")
    with pytest.raises(SampleError, match=r"cannot be read: File name too long"):
        read_video(tmp_path / ("a" * 5000), 8, "linspace")


@pytest.mark.parametrize("content", [b"", b"not a video", b"ffconcat version 1.0\nfile other.mp4\n"])
def test_what_is_no_video_is_refused_and_playlists_open_no_other_file(
    tmp_path: Path, make_mp4: MakeMp4, capfd: pytest.CaptureFixture[str], content: bytes
) -> None:
    make_mp4(tmp_path / "other.mp4", 9)
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(SampleError, match=r"a\.mp4 is (empty|in no container that is read)"):
        read_video(tmp_path / "a.mp4", 8, "linspace")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("suffix", "codec"), [("gif", "gif"), ("ts", "libx264"), ("flv", "libx264"), ("mpg", "mpeg2video"), ("nut", "ffv1")]
)
def test_another_container_is_refused_with_the_names_of_those_that_are_read(
    tmp_path: Path, suffix: str, codec: str
) -> None:
    path = make_clip(tmp_path / f"a.{suffix}", codec, 5, pixels="rgb8" if codec == "gif" else "yuv420p")
    with pytest.raises(SampleError, match=rf"a\.{suffix} is in no container that is read.*{NAMED}.*ffmpeg -i"):
        read_video(path, 8, "linspace")


@pytest.mark.real
def test_a_gif_of_people_is_refused_with_the_names_of_those_that_are_read(shared: Path) -> None:
    with pytest.raises(SampleError, match=rf"k\.gif is in no container that is read.*{NAMED}"):
        read_video(shared / "field/22-other-containers/k.gif", 8, "linspace")


def test_a_container_is_known_by_its_content_and_a_colon_is_no_protocol(
    tmp_path: Path, healthy: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("clip.gif", "http:clip", "concat:a|b"):
        Path(name).write_bytes(healthy["h264.mkv"].read_bytes())
        assert read_video(Path(name), 8, "linspace").length == 30


def test_a_fifo_a_device_and_a_folder_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "link.mp4").symlink_to("/dev/zero")
    for path in (tmp_path / "fifo.mp4", tmp_path / "link.mp4", tmp_path):
        with pytest.raises(SampleError, match=r"is a FIFO, device or socket|is a folder"):
            read_video(path, 8, "linspace")


# --- memory ----------------------------------------------------------------------------------------------------------


def test_a_clip_above_the_limit_is_refused_before_it_is_decoded(
    healthy: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = healthy["h264.mp4"]
    frames = 8 * 96 * 64 * 3
    assert read_video(path, 8, "linspace", max_bytes=frames + 40 * 96 * 64 * 2).length == 30
    monkeypatch.setattr("fourstage.data.video._decode", None)
    with pytest.raises(
        SampleError, match=r"h264\.mp4 takes .* decoded, more than the limit .*dataset\.max_sample_bytes"
    ):
        read_video(path, 8, "linspace", max_bytes=frames)


@pytest.mark.real
def test_eight_frames_of_151_megapixels_are_refused_within_the_limit(shared: Path) -> None:
    path = shared / "field/bad/10-mp4-12288x12288/mp4-bomb-12k--mp4-bomb-12k.mp4"
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from fourstage.data.video import read_video; from fourstage.stages import SampleError\n"
        "try: read_video(Path(sys.argv[1]), 8, 'linspace')\n"
        "except SampleError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    message, peak_kib = ran.stdout.splitlines()
    assert "more than the limit of 2.00 GiB; raise dataset.max_sample_bytes" in message
    assert int(peak_kib) < 1024**2
