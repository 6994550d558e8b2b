"""Video: the frames that a rule names are the frames that arrive, or the file is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourstage.data.video import RULES, frame_indices, read_video
from fourstage.stages import SampleError, UserError

MakeMp4 = Callable[..., Path]


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


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("frames", [1, 5, 8, 21])
def test_the_frames_named_are_the_frames_decoded(tmp_path: Path, make_mp4: MakeMp4, rule: str, frames: int) -> None:
    images, indices, length = read_video(make_mp4(tmp_path / "a.mp4", 21), frames, rule)
    assert length == 21
    assert indices == frame_indices(21, frames, rule)
    assert len(images) == frames
    for image, index in zip(images, indices, strict=True):
        assert (image.shape, image.dtype) == ((48, 64, 3), np.uint8)
        assert abs(float(image.mean()) - 10 * index) < 4


def test_colours_arrive_as_red_green_blue(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        pixels = np.full((48, 64, 3), (200, 90, 20), dtype=np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    (image,), _, _ = read_video(tmp_path / "a.mp4", 1, "head")
    np.testing.assert_allclose(image[24, 32], (200, 90, 20), atol=6)


def test_a_short_clip_still_gives_eight_frames(tmp_path: Path, make_mp4: MakeMp4) -> None:
    images, indices, length = read_video(make_mp4(tmp_path / "a.mp4", 3), 8, "linspace")
    assert (len(images), len(set(indices)), length) == (8, 3, 3)
    assert images[0] is images[1]


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_an_mp4_without_its_end_is_named(
    tmp_path: Path, make_mp4: MakeMp4, capfd: pytest.CaptureFixture[str], share: float
) -> None:
    path = make_mp4(tmp_path / "a.mp4", 21)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(SampleError, match=r"a\.mp4.*(moov|truncated)"):
        read_video(path, 8, "linspace")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("share", [0.6, 0.8, 0.95])
def test_an_mp4_whose_index_comes_first_is_counted(
    tmp_path: Path, make_mp4: MakeMp4, capfd: pytest.CaptureFixture[str], rule: str, share: float
) -> None:
    path = make_mp4(tmp_path / "a.mp4", 21, movflags="faststart")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(SampleError, match=r"a\.mp4 is truncated: found \d+ whole .*expected 21"):
        read_video(path, 3, rule)
    assert capfd.readouterr() == ("", "")


def test_an_mp4_cut_between_two_frames_is_noticed(tmp_path: Path, make_mp4: MakeMp4) -> None:
    import av

    path = make_mp4(tmp_path / "a.mp4", 21, movflags="faststart")
    with av.open(str(path)) as container:
        border = sorted(packet.pos for packet in container.demux(video=0) if packet.size)[10]
    path.write_bytes(path.read_bytes()[:border])
    with pytest.raises(SampleError, match="found 10 whole and 0 broken frames, expected 21"):
        read_video(path, 3, "head")


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


def test_decoding_less_than_was_counted_is_an_error(
    tmp_path: Path, make_mp4: MakeMp4, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fourstage.data.video._count_frames", lambda path: 30)
    with pytest.raises(SampleError, match=r"a\.mp4 decodes to 21 frames, expected 30"):
        read_video(make_mp4(tmp_path / "a.mp4", 21), 8, "arange")


def test_a_missing_video_is_named(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"gone\.mp4 does not exist"):
        read_video(tmp_path / "gone.mp4", 8, "linspace")


@pytest.mark.parametrize("content", [b"", b"not a video", b"ffconcat version 1.0\nfile other.mp4\n"])
def test_what_is_no_video_is_refused_and_playlists_open_no_other_file(
    tmp_path: Path, make_mp4: MakeMp4, capfd: pytest.CaptureFixture[str], content: bytes
) -> None:
    make_mp4(tmp_path / "other.mp4", 9)
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(SampleError, match=r"a\.mp4 cannot be decoded"):
        read_video(tmp_path / "a.mp4", 8, "linspace")
    assert capfd.readouterr() == ("", "")


@pytest.mark.real
@pytest.mark.parametrize("name", ["dadao", "gota"])
def test_real_clips_have_21_frames(shared: Path, name: str) -> None:
    images, indices, length = read_video(shared / f"real/mp4/{name}.mp4", 8, "linspace")
    assert (length, indices) == (21, (0, 2, 5, 8, 11, 14, 17, 20))
    assert {image.shape for image in images} == {(480, 640, 3)}
