"""Stage 1: which source is read, what is recorded of it, and that nothing is read in its place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourstage.data.dataset import read_dataset
from fourstage.data.media import event_files, read_event_file, read_event_images, read_video_frames, video_files
from fourstage.stages import Sample, SampleError, UserError

MakeMp4 = Callable[..., Path]


def a_sample(root: Path, **fields: Any) -> Sample:
    return Sample(key="k", id="k", root=root, **fields)


def make_images(folder: Path, names: list[str]) -> int:
    """Images of grey levels 10 i in the order of `names`; gives their size in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        Image.new("RGB", (8, 6), (10 * i,) * 3).save(folder / name)
    return sum((folder / name).stat().st_size for name in names)


def make_events(root: Path, span_us: int = 50_000) -> int:
    (root / "event_npy").mkdir(exist_ok=True)
    path = root / "event_npy/a.npy"
    fields = {
        "x": np.arange(20, dtype=np.uint16),
        "y": np.zeros(20, np.uint16),
        "t": np.linspace(0, span_us, 20).astype(np.int64),
        "p": np.ones(20, np.uint8),
    }
    np.save(path, np.array(fields, dtype=object), allow_pickle=True)
    return path.stat().st_size


def levels(images: tuple[Any, ...]) -> list[int]:
    return [int(image[0, 0, 0]) for image in images]


FIVE = [f"a_{i}.png" for i in range(5)]


def test_auto_prefers_the_pngs_that_an_entry_lists(tmp_path: Path) -> None:
    size = make_images(tmp_path / "event_image", FIVE)
    make_events(tmp_path)
    media = read_event_images(a_sample(tmp_path, event_image=tuple(FIVE), event_data="a.npy"))
    assert (media.source, media.indices, media.clip_length) == ("png", (0, 1, 2, 3, 4), 5)
    assert media.bytes_read == size
    assert media.notes == ()
    assert levels(media.images) == [0, 10, 20, 30, 40]


def test_auto_renders_the_events_where_no_png_is_listed(tmp_path: Path) -> None:
    size = make_events(tmp_path)
    media = read_event_images(a_sample(tmp_path, event_data="a.npy"))
    assert (media.source, media.indices, media.clip_length) == ("npy", (0, 1, 2, 3, 4), 5)
    assert media.bytes_read == size
    assert [image.shape for image in media.images] == [(1, 4 * (i + 1), 3) for i in range(5)]


def test_a_source_can_be_asked_for_by_name(tmp_path: Path) -> None:
    make_images(tmp_path / "event_image", FIVE)
    make_events(tmp_path)
    sample = a_sample(tmp_path, event_image=tuple(FIVE), event_data="a.npy")
    assert read_event_images(sample, source="npy").source == "npy"
    assert read_event_images(sample, source="png").source == "png"


def test_a_listed_png_that_is_missing_is_the_error_though_events_exist(tmp_path: Path) -> None:
    make_images(tmp_path / "event_image", FIVE[:4])
    make_events(tmp_path)
    with pytest.raises(SampleError, match=r"a_4\.png does not exist"):
        read_event_images(a_sample(tmp_path, event_image=tuple(FIVE), event_data="a.npy"))


def test_another_count_of_pngs_is_noted(tmp_path: Path) -> None:
    make_images(tmp_path / "event_image", FIVE[:3])
    media = read_event_images(a_sample(tmp_path, event_image=tuple(FIVE[:3])))
    assert len(media.images) == media.clip_length == 3
    assert media.notes == ("3 event images listed, 5 expected",)


def test_pngs_keep_the_order_of_the_entry(tmp_path: Path) -> None:
    make_images(tmp_path / "event_image", FIVE)
    assert levels(read_event_images(a_sample(tmp_path, event_image=tuple(FIVE[::-1]))).images) == [40, 30, 20, 10, 0]


def test_a_long_clip_is_named_with_the_setting(tmp_path: Path) -> None:
    make_events(tmp_path, span_us=150_000)
    sample = a_sample(tmp_path, event_data="a.npy")
    with pytest.raises(SampleError, match=r"a\.npy: .*150000 us.*model\.max_span_us"):
        read_event_images(sample)
    assert len(read_event_images(sample, max_span_us=None).images) == 5


def test_a_sample_without_events_says_so(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="sample 'k' has no event data: "):
        read_event_images(a_sample(tmp_path, video_data="v"))
    with pytest.raises(SampleError, match="lists no event_image"):
        read_event_images(a_sample(tmp_path, event_data="a.npy"), source="png")
    with pytest.raises(SampleError, match="has no event_data"):
        read_event_images(a_sample(tmp_path, event_image=("a.png",)), source="npy")


def test_a_sample_without_video_says_so(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="sample 'k' has no video data: "):
        read_video_frames(a_sample(tmp_path, event_data="a.npy"))
    with pytest.raises(SampleError, match="has no video_data"):
        read_video_frames(a_sample(tmp_path, mp4_data="a.mp4"), source="images")


def test_unknown_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown event source 'jpg'; expected one of auto, png, images, npy, mp4"):
        read_event_images(a_sample(tmp_path, event_data="a.npy"), source="jpg")
    with pytest.raises(UserError, match="unknown video source 'png'; expected one of auto, mp4, images"):
        read_video_frames(a_sample(tmp_path, video_data="a"), source="png")


@pytest.mark.parametrize("path", ["../secret.npy", "/etc/passwd"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(SampleError, match="relative"):
        read_event_images(a_sample(tmp_path, event_data=path))
    with pytest.raises(SampleError, match="relative"):
        read_event_images(a_sample(tmp_path, event_image=(path,)))
    for fields in ({"video_data": path}, {"mp4_data": path}):
        with pytest.raises(SampleError, match="relative"):
            read_video_frames(a_sample(tmp_path, **fields))


def test_auto_prefers_the_mp4_that_exists(tmp_path: Path, make_mp4: MakeMp4) -> None:
    path = make_mp4(tmp_path / "mp4/seq/a.mp4", 21)
    make_images(tmp_path / "video/seq/a", ["0.png"])
    media = read_video_frames(a_sample(tmp_path, video_data="seq/a"))
    assert (media.source, media.indices, media.clip_length) == ("mp4", (0, 2, 5, 8, 11, 14, 17, 20), 21)
    assert media.bytes_read == path.stat().st_size
    assert media.notes == ()


def test_a_named_mp4_that_is_missing_is_the_error_though_the_folder_exists(tmp_path: Path) -> None:
    make_images(tmp_path / "video/a", ["0.png"])
    with pytest.raises(SampleError, match=r"mp4/b\.mp4 does not exist"):
        read_video_frames(a_sample(tmp_path, video_data="a", mp4_data="b.mp4"))


def test_the_folder_is_read_by_number_where_no_mp4_is(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(12)]
    make_images(tmp_path / "video/a", names)
    media = read_video_frames(a_sample(tmp_path, video_data="a"), frames=3)
    assert (media.source, media.indices, media.clip_length) == ("images", (0, 5, 11), 12)
    assert levels(media.images) == [0, 50, 110]
    assert media.bytes_read == sum((tmp_path / "video/a" / names[i]).stat().st_size for i in (0, 5, 11))


def test_neither_mp4_nor_folder_names_both_places(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"mp4/a\.mp4 nor the folder .*video/a exists"):
        read_video_frames(a_sample(tmp_path, video_data="a"))


def test_fewer_than_eight_frames_are_repeated_and_noted(tmp_path: Path, make_mp4: MakeMp4) -> None:
    size = make_images(tmp_path / "video/a", [f"{i}.png" for i in range(5)])
    make_mp4(tmp_path / "mp4/b.mp4", 5)
    for name, source in (("a", "images"), ("b", "mp4")):
        media = read_video_frames(a_sample(tmp_path, video_data=name))
        assert (media.source, len(media.images), media.clip_length) == (source, 8, 5)
        assert media.indices == (0, 0, 1, 1, 2, 2, 3, 4)
        assert media.notes == ("5 frames repeated to 8",)
    assert read_video_frames(a_sample(tmp_path, video_data="a")).bytes_read == size


def test_the_rule_reaches_the_clip(tmp_path: Path, make_mp4: MakeMp4) -> None:
    make_mp4(tmp_path / "mp4/a.mp4", 21)
    assert read_video_frames(a_sample(tmp_path, mp4_data="a.mp4"), rule="head").indices == tuple(range(8))


def test_the_files_of_events_are_those_that_are_read(tmp_path: Path) -> None:
    make_images(tmp_path / "event_image", FIVE)
    make_events(tmp_path)
    sample = a_sample(tmp_path, event_image=tuple(FIVE), event_data="a.npy")
    for source in ("auto", "png", "npy"):
        files = event_files(sample, source)
        assert sum(path.stat().st_size for path in files) == read_event_images(sample, source).bytes_read
    assert event_files(sample) == [tmp_path / "event_image" / name for name in FIVE]
    assert event_files(sample, "npy") == [tmp_path / "event_npy/a.npy"]


def test_the_files_of_a_clip_are_those_that_are_read(tmp_path: Path, make_mp4: MakeMp4) -> None:
    mp4 = make_mp4(tmp_path / "mp4/a.mp4", 21)
    names = [f"{i}.png" for i in range(12)]
    make_images(tmp_path / "video/a", names)
    sample = a_sample(tmp_path, video_data="a")
    assert video_files(sample) == video_files(sample, "mp4") == [mp4]
    assert video_files(sample, "images", frames=3) == [tmp_path / f"video/a/{i}.png" for i in (0, 5, 11)]
    for frames, rule in ((3, "linspace"), (8, "head"), (20, "arange")):
        files = video_files(sample, "images", frames, rule)
        assert len(files) == len(set(files))
        size = read_video_frames(sample, "images", frames, rule).bytes_read
        assert sum(path.stat().st_size for path in files) == size


def test_images_is_another_word_for_the_pngs(tmp_path: Path) -> None:
    make_images(tmp_path / "event_image", FIVE)
    sample = a_sample(tmp_path, event_image=tuple(FIVE), event_data="a.npy")
    assert read_event_images(sample, "images").source == "png"
    assert event_files(sample, "images") == event_files(sample, "png")
    with pytest.raises(SampleError, match="lists no event_image"):
        read_event_images(a_sample(tmp_path, event_data="a.npy"), "images")


def test_event_images_come_evenly_from_an_mp4_of_them(tmp_path: Path, make_mp4: MakeMp4) -> None:
    mp4 = make_mp4(tmp_path / "event_mp4/seq/a.mp4", 21)
    sample = a_sample(tmp_path, event_data="seq/a.npy", mp4_data="camera.mp4")
    media = read_event_images(sample, "mp4")
    assert (media.source, media.indices, media.clip_length) == ("mp4", (0, 5, 10, 15, 20), 21)
    assert media.bytes_read == mp4.stat().st_size
    assert event_files(sample, "mp4") == [mp4]
    assert read_event_file(mp4, 3).indices == (0, 10, 20)
    assert read_event_images(sample, "mp4", images=24).notes == ("21 frames repeated to 24",)


def test_the_cameras_mp4_is_read_as_event_images_only_where_that_is_asked_for(
    tmp_path: Path, make_mp4: MakeMp4
) -> None:
    mp4 = make_mp4(tmp_path / "mp4/a.mp4", 5)
    sample = a_sample(tmp_path, event_data="a.npy", video_data="a")
    with pytest.raises(SampleError, match=r"event_mp4/a\.mp4 does not exist: encode .* or set model\.mp4_folder=mp4"):
        read_event_images(sample, "mp4")
    assert read_event_images(sample, "mp4", mp4_folder="mp4").clip_length == 5
    assert event_files(sample, "mp4", "mp4") == [mp4]


def test_files_are_listed_without_being_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(tmp_path / "video/a", ["0.png"])
    monkeypatch.setattr(Path, "open", None)
    monkeypatch.setattr("builtins.open", None)
    assert event_files(a_sample(tmp_path, event_image=("gone.png",))) == [tmp_path / "event_image/gone.png"]
    assert video_files(a_sample(tmp_path, mp4_data="gone.mp4")) == [tmp_path / "mp4/gone.mp4"]
    assert video_files(a_sample(tmp_path, video_data="a")) == [tmp_path / "video/a/0.png"]


@pytest.mark.parametrize(
    ("fields", "arguments"),
    [
        ({"video_data": "v"}, {}),
        ({"event_data": "a.npy"}, {"source": "png"}),
        ({"event_image": ("a.png",)}, {"source": "npy"}),
        ({"event_data": "../a.npy"}, {}),
        ({"event_data": "a.npy"}, {"source": "mp4"}),
        ({"event_image": ("a.png",)}, {"source": "mp4"}),
        ({"event_data": "../a.npy"}, {"source": "mp4"}),
        ({"event_data": "a.npy"}, {"source": "mp4", "mp4_folder": "mp4"}),
        ({"event_data": "a.npy"}, {"source": "jpeg"}),
    ],
)
def test_event_files_fail_as_reading_fails(tmp_path: Path, fields: Any, arguments: Any) -> None:
    with pytest.raises(UserError) as reading:
        read_event_images(a_sample(tmp_path, **fields), **arguments)
    with pytest.raises(type(reading.value)) as listing:
        event_files(a_sample(tmp_path, **fields), **arguments)
    assert str(listing.value) == str(reading.value)


@pytest.mark.parametrize(
    ("fields", "arguments"),
    [
        ({"event_data": "a.npy"}, {}),
        ({"mp4_data": "clip.mp4"}, {"source": "images"}),
        ({"video_data": "gone"}, {}),
        ({"video_data": "gone"}, {"source": "images"}),
        ({"video_data": "empty"}, {}),
        ({"video_data": "/etc"}, {}),
        ({"video_data": "a"}, {"source": "png"}),
        ({"video_data": "a"}, {"rule": "best"}),
        ({"video_data": "a"}, {"frames": 0}),
        ({"mp4_data": "clip.mp4"}, {"rule": "best"}),
        ({"mp4_data": "clip.mp4"}, {"frames": 0}),
    ],
)
def test_video_files_fail_as_reading_fails(tmp_path: Path, make_mp4: MakeMp4, fields: Any, arguments: Any) -> None:
    make_images(tmp_path / "video/a", ["0.png"])
    (tmp_path / "video/empty").mkdir()
    make_mp4(tmp_path / "mp4/clip.mp4", 3)
    with pytest.raises(UserError) as reading:
        read_video_frames(a_sample(tmp_path, **fields), **arguments)
    with pytest.raises(type(reading.value)) as listing:
        video_files(a_sample(tmp_path, **fields), **arguments)
    assert str(listing.value) == str(reading.value)


def test_what_was_done_to_a_sample_is_on_its_record(tmp_path: Path) -> None:
    make_events(tmp_path)
    events = np.load(tmp_path / "event_npy/a.npy", allow_pickle=True).item()  # written above
    events["p"] = np.array([1, 2] * 10)
    np.save(tmp_path / "event_npy/a.npy", np.array(events, dtype=object), allow_pickle=True)
    media = read_event_images(a_sample(tmp_path, event_data="a.npy"))
    assert media.notes == ("polarity coded 1 and 2, read as 0 and 1",)
    make_images(tmp_path / "video/a", ["0.png", "1.png"])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(tmp_path / "video/a/2.jpg", exif=exif.tobytes())
    (tmp_path / "video/a/3.webp").touch()
    media = read_video_frames(a_sample(tmp_path, video_data="a"), frames=4)
    assert media.images[-1].shape == (8, 6, 3)
    assert media.notes == (
        "3 frames repeated to 4",
        "pictures neither PNG nor JPEG left out: 3.webp, 1 in all",
        "EXIF orientation 6 applied",
    )


def test_the_limit_of_a_sample_holds_for_every_source(tmp_path: Path) -> None:
    make_images(tmp_path / "event_image", FIVE)
    make_images(tmp_path / "video/a", FIVE)
    make_events(tmp_path)
    sample = a_sample(tmp_path, event_image=tuple(FIVE), event_data="a.npy", video_data="a", max_bytes=1_000_000)
    for source in ("png", "npy"):
        with pytest.raises(SampleError, match=r"dataset\.max_sample_bytes"):
            read_event_images(sample, source)
    with pytest.raises(SampleError, match=r"dataset\.max_sample_bytes"):
        read_video_frames(sample)


@pytest.mark.parametrize("field", ["event_data", "event_image", "video_data", "mp4_data"])
@pytest.mark.parametrize("name", ["n" * 5000, "a/" * 3000 + "a", "\ud83d", "loop"])
def test_a_path_that_the_system_refuses_is_the_fault_of_its_sample(tmp_path: Path, field: str, name: str) -> None:
    for folder in ("event_npy", "event_image", "video", "mp4"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "loop").symlink_to(tmp_path / folder / "loop")
    sample = a_sample(tmp_path, **{field: (name,) if field == "event_image" else name})
    read = read_event_images if field.startswith("event") else read_video_frames
    with pytest.raises(SampleError):
        read(sample)


def test_a_fifo_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    (tmp_path / "mp4").mkdir()
    os.mkfifo(tmp_path / "mp4/a.mp4")
    with pytest.raises(SampleError, match=r"a\.mp4 is a FIFO"):
        read_video_frames(a_sample(tmp_path, video_data="a"))
    with pytest.raises(SampleError, match=r"a\.mp4 is a FIFO"):
        read_event_file(tmp_path / "mp4/a.mp4")


@pytest.mark.real
def test_every_real_sample_loads_from_what_it_has(shared: Path) -> None:
    dadao, gota, sample1, interlaken = read_dataset(shared / "real", "EventGPT_Instruction_Subset.json")
    assert [read_event_images(s).source for s in (dadao, gota, sample1, interlaken)] == ["png", "png", "npy", "npy"]
    assert [read_video_frames(s).source for s in (dadao, gota)] == ["mp4", "mp4"]
    folder = read_video_frames(gota, source="images")
    assert (folder.source, folder.clip_length) == ("images", 21)


@pytest.mark.real
def test_the_mp4_shows_the_frames_of_the_folder(shared: Path) -> None:
    gota = read_dataset(shared / "real", "EventGPT_Instruction_Subset.json")[1]
    mp4, folder = read_video_frames(gota, source="mp4"), read_video_frames(gota, source="images")
    assert mp4.indices == folder.indices
    for one, other in zip(mp4.images, folder.images, strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).mean() < 8
