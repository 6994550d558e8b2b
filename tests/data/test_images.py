"""Images: what reaches the model is uint8 RGB as a person sees it; folders are read in the order of their numbers."""

from __future__ import annotations

import contextlib
import io
import os
import random
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fourstage.data.images import _size, folder_notes, list_images, numbered, read_image, read_images
from fourstage.stages import SampleError
from tests.faults.media import mutated


def noise(height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_png_is_read_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(noise()).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, noise())


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "1", "P", "RGB", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    original = Image.fromarray(noise()).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    original.save(path)
    image = read_image(path)
    assert image.shape == (12, 16, 3)
    if mode != "CMYK":
        np.testing.assert_array_equal(image, np.asarray(original.convert("RGB")))


def test_transparency_is_dropped_not_blended(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [10, 20, 30]


def test_a_palette_with_transparency_keeps_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(noise()).quantize(4)
    colour = image.convert("RGB").getpixel((0, 0))
    image.save(tmp_path / "a.png", transparency=bytes([0, 128, 255, 255]))
    assert tuple(read_image(tmp_path / "a.png")[0, 0].tolist()) == colour


def decoded_by_ffmpeg(ffmpeg: str, path: Path) -> np.ndarray:
    command = [ffmpeg, "-v", "error", "-i", path, "-f", "image2pipe", "-c:v", "ppm", "-"]
    return np.array(Image.open(io.BytesIO(subprocess.run(command, check=True, capture_output=True).stdout)))


def blocks() -> np.ndarray:
    """Squares of 8 pixels in colours of their own: [24, 40, 3]."""
    colours = np.random.default_rng(0).integers(0, 256, (3, 5, 3))
    return np.kron(colours, np.ones((8, 8, 1))).astype(np.uint8)


def png(width: int, height: int, depth: int, colour: int, pixels: bytes, **chunks: bytes) -> bytes:
    """A PNG put together by hand; `pixels` are the raw lines, without filters."""
    line = len(pixels) // height
    lines = b"".join(b"\0" + pixels[line * i : line * (i + 1)] for i in range(height))
    parts = [("IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)), *chunks.items()]
    parts += [("IDAT", zlib.compress(lines)), ("IEND", b"")]
    out = b"\x89PNG\r\n\x1a\n"
    for name, content in parts:
        body = name.encode() + content
        out += struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
    return out


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_is_applied_as_ffmpeg_does(tmp_path: Path, ffmpeg: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix in ("jpg", "png"):
        Image.fromarray(blocks()).save(tmp_path / f"a.{suffix}", exif=exif.tobytes())
    expected = decoded_by_ffmpeg(ffmpeg, tmp_path / "a.jpg")
    for suffix in ("jpg", "png"):
        (image,), notes = read_images([tmp_path / f"a.{suffix}"])
        assert image.shape == expected.shape == ((24, 40, 3) if orientation < 5 else (40, 24, 3))
        assert np.abs(image.astype(int) - expected).mean() < 8  # JPEG; a wrong turn gives over 70
        assert notes == (() if orientation == 1 else (f"EXIF orientation {orientation} applied",))


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x09", b"junk" * 20])
def test_a_damaged_exif_leaves_the_image_as_it_is_stored(tmp_path: Path, exif: bytes) -> None:
    Image.fromarray(blocks()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), blocks())


@pytest.mark.real
def test_a_picture_taken_upright_is_seen_upright(shared: Path, ffmpeg: str) -> None:
    path = shared / "field/09-exif-orientation/exif6.jpg"
    (image,), notes = read_images([path])
    assert image.shape == (100, 60, 3)
    assert notes == ("EXIF orientation 6 applied",)
    assert np.abs(image.astype(int) - decoded_by_ffmpeg(ffmpeg, path)).mean() < 8


@pytest.mark.parametrize("mode", ["CMYK", "L", "LA", "1", "P", "RGBA"])
def test_every_mode_is_decoded_as_ffmpeg_does(tmp_path: Path, ffmpeg: str, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(blocks()).convert(mode).save(path)
    command = [ffmpeg, "-v", "error", "-i", path, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    expected = np.frombuffer(raw, np.uint8).reshape(24, 40, 3)
    assert np.abs(read_image(path).astype(int) - expected).mean() < (2 if mode == "CMYK" else 1e-9)


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_refused_rather_than_cut(tmp_path: Path, colour: int, channels: int) -> None:
    pixels = np.full((4, 4, channels), 4000, ">u2").tobytes()  # 12 bits in use: by the upper byte nearly black
    (tmp_path / "a.png").write_bytes(png(4, 4, 16, colour, pixels))
    with pytest.raises(SampleError, match=r"a\.png has 16 bits a channel.*convert it to 8 bits"):
        read_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(png(4, 4, 8, colour, bytes([200]) * 16 * channels))
    assert read_image(tmp_path / "b.png")[0, 0].tolist() == [200, 200, 200]


@pytest.mark.real
def test_twelve_bits_in_sixteen_are_refused(shared: Path) -> None:
    with pytest.raises(SampleError, match=r"rgb12\.png has 16 bits a channel"):
        read_image(shared / "field/12-png-16-bit-rgb/rgb12.png")


def test_an_image_of_several_pictures_gives_its_first_and_a_note(tmp_path: Path) -> None:
    first, second = Image.fromarray(blocks()), Image.new("RGB", (40, 24))
    first.save(tmp_path / "a.png", save_all=True, append_images=[second])
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    (animated, stereo), notes = read_images([tmp_path / "a.png", tmp_path / "a.jpg"])
    np.testing.assert_array_equal(animated, blocks())
    assert stereo.mean() == pytest.approx(blocks().mean(), abs=8)
    assert notes == ("first of 2 pictures in the image file",)


def test_pixels_that_are_not_square_are_noted(tmp_path: Path) -> None:
    Image.fromarray(blocks()).save(tmp_path / "a.jpg", dpi=(72, 144))
    Image.fromarray(blocks()).save(tmp_path / "a.png", dpi=(72, 144))
    (tmp_path / "b.png").write_bytes(png(4, 4, 8, 2, bytes(48), pHYs=struct.pack(">IIB", 16, 11, 0)))
    for name in ("a.jpg", "a.png", "b.png"):
        (note,) = read_images([tmp_path / name])[1]
        assert note.startswith("pixels not square by the image's header (")
    Image.fromarray(blocks()).save(tmp_path / "c.png", dpi=(72, 72))
    assert read_images([tmp_path / "c.png"])[1] == ()


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_a_truncated_image_is_named(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(64, 64)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(SampleError, match=f"a.{suffix}"):
        read_image(path)


@given(place=st.integers(8, 10_000), value=st.integers(0, 255))
def test_a_damaged_png_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    Image.fromarray(noise(4, 4)).save(path)
    content = bytearray(path.read_bytes())
    content[8 + place % (len(content) - 8)] = value
    path.write_bytes(content)
    with contextlib.suppress(SampleError):
        read_image(path)


def test_a_png_with_a_bit_turned_over_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(noise()).save(path, compress_level=0)  # stored: zlib finds nothing wrong until its end
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(SampleError, match=r"a\.png is truncated or damaged \(checksum"):
        read_image(path)
    path.write_bytes(png(4, 4, 8, 2, bytes(48)) + b"left over")
    assert read_image(path).shape == (4, 4, 3)


def test_mutated_images_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    rng = random.Random(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = []
    for suffix, mode, options in (
        ("png", "RGB", {"exif": exif.tobytes()}),
        ("png", "P", {"transparency": bytes([0, 128])}),
        ("jpg", "CMYK", {}),
        ("jpg", "RGB", {"exif": exif.tobytes()}),
        ("jpg", "L", {"progressive": True}),
    ):
        file = tmp_path / f"seed.{suffix}"
        Image.fromarray(blocks()).convert(mode).save(file, **options)
        seeds.append(file.read_bytes())
    read = 0
    for i in range(200):
        content = mutated(seeds[i % len(seeds)], rng)
        if content.startswith(b"\x89PNG") and rng.random() < 0.5:  # let some pass the checksums
            content = mended(content)
        path = tmp_path / "mutated.png"
        path.write_bytes(content)
        with contextlib.suppress(SampleError):
            (image,), _ = read_images([path], max_bytes=50_000_000)
            assert image.dtype == np.uint8
            assert image.ndim == 3
            read += 1
    assert 10 < read < 190


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("L", {"progressive": True}),
        ("CMYK", {"icc_profile": bytes(70_000)}),
        ("RGB", {"comment": b"\xff\xc0\x00\x11\x08"}),
    ],
)
def test_a_jpeg_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, options: Any) -> None:
    path, opened = tmp_path / "a.jpg", []
    Image.fromarray(noise(12, 16)).convert(mode).save(path, **options)
    open_image = Image.open
    monkeypatch.setattr(Image, "open", lambda *a, **k: opened.append(a) or open_image(*a, **k))
    with path.open("rb") as file:
        assert _size(file) == (16, 12)
    assert opened == []
    (image,), _ = read_images([path])
    assert (image.shape, len(opened)) == ((12, 16, 3), 1)


def mended(content: bytes) -> bytes:
    """A PNG with the checksums that its chunks ask for, as far as there are chunks."""
    out, start = bytearray(content), 8
    while start + 12 <= len(out):
        end = start + 8 + int.from_bytes(out[start : start + 4], "big")
        if end + 4 > len(out):
            break
        out[end : end + 4] = zlib.crc32(out[start + 4 : end]).to_bytes(4, "big")
        start = end + 4
    return bytes(out)


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("/dev/zero")
    (tmp_path / "c.png").mkdir()
    for name, words in (("a", "a FIFO"), ("b", "a FIFO, device"), ("c", "a folder"), ("d" * 300, "File name too long")):
        with pytest.raises(SampleError, match=rf"{name[0]}+\.png .*{words}.*expected a PNG or JPEG"):
            read_images([tmp_path / f"{name}.png"])


@pytest.mark.real
@pytest.mark.parametrize("name", ["png-strip-1x80M", "png-strip-1000000x1"])
def test_strips_are_refused_by_what_a_model_makes_of_them(shared: Path, name: str) -> None:
    with pytest.raises(SampleError, match=rf"{name}\.png .*GiB decoded.*dataset\.max_sample_bytes"):
        read_images([shared / f"field/bad/23-picture-strips/{name}--{name}.png"])


@pytest.mark.real
def test_a_picture_of_88_megapixels_listed_forty_times_is_refused_unread(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.Image.Image.load", None)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    name = "png-bomb-88Mpx-forty"
    path = shared / f"field/bad/08-88Mpx-picture-listed-forty-times/{name}--{name}.png"
    with pytest.raises(SampleError, match=rf"{name}\.png in a list of 40 images takes .*dataset\.max_sample_bytes"):
        read_images([path] * 40)


def test_a_list_of_many_images_is_refused_before_one_is_opened(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"a list of 20000 images takes .*2\.00 GiB"):
        read_images([tmp_path / "gone.png"] * 20_000)


def test_the_limit_is_on_what_all_images_take_together(tmp_path: Path) -> None:
    Image.fromarray(noise(100, 100)).save(tmp_path / "a.png")
    one = 100 * 100 * 3 + 336 * 336 * 3 * 4
    assert len(read_images([tmp_path / "a.png"] * 3, max_bytes=3 * one + 11 * 100 * 100)[0]) == 3
    with pytest.raises(SampleError, match=r"a\.png in a list of 3 images"):
        read_images([tmp_path / "a.png"] * 3, max_bytes=3 * one + 11 * 100 * 100 - 1)


@pytest.mark.parametrize("content", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_png_or_jpeg_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(SampleError, match=r"a\.png is not a PNG or JPEG"):
        read_image(tmp_path / "a.png")


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"gone\.png does not exist"):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize("limit", [50, 150])  # of 192 pixels: PIL raises above twice its limit, warns above it
def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    Image.fromarray(noise()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(SampleError, match=r"a\.png is refused for its size"):
        read_image(tmp_path / "a.png")


def test_numbers_sort_by_number() -> None:
    assert numbered(["c_10.png", "c_2.png", "c_1.png"]) == ["c_1.png", "c_2.png", "c_10.png"]
    assert numbered(["b2_1", "b10_0", "a3", "7", "07"]) == ["07", "7", "a3", "b2_1", "b10_0"]


def test_a_dot_between_digits_is_a_decimal_point() -> None:
    times = ["f_0.png", "f_0.05.png", "f_0.1.png", "f_0.15.png", "f_1.png", "f_1.5.png", "f_10.png"]
    assert numbered(reversed(times)) == times
    assert numbered(["1.0.png", "0.95.png", "0.9.png", "0.0.png"]) == ["0.0.png", "0.9.png", "0.95.png", "1.0.png"]
    long = [f"{1_700_000_000_000_000_000 + i}.png" for i in range(3)]
    assert numbered(reversed(long)) == long
    assert numbered(["0.30000000000000004.png", "0.3.png"]) == ["0.3.png", "0.30000000000000004.png"]
    assert numbered(["9" * 5000, "1" + "0" * 5000]) == ["9" * 5000, "1" + "0" * 5000]


def test_versions_dates_and_counted_parts_are_whole_numbers() -> None:
    assert numbered(["v1.10.0.png", "v1.9.1.png", "v1.9.0.png"]) == ["v1.9.0.png", "v1.9.1.png", "v1.10.0.png"]
    counted = [f"scene2.{i}.png" for i in range(1, 13)]
    assert numbered(reversed(counted)) == counted
    padded = [f"scene2.{i:02d}.png" for i in range(1, 101)]
    assert numbered(reversed(padded)) == padded
    assert numbered(["take.10.png", "take.9.png"]) == ["take.9.png", "take.10.png"]


@pytest.mark.real
def test_frames_named_by_time_are_in_the_order_of_the_number(shared: Path) -> None:
    folder = shared / "field/11-frames-named-by-time/video/a"
    names = [f"frame_{number}.png" for number in "0 0.05 0.1 0.15 0.2 0.25 0.3 0.35 0.4 0.45 0.5 0.55".split()]  # noqa: SIM905
    assert [path.name for path in list_images(folder)] == names


@pytest.mark.real
def test_what_macos_and_windows_leave_among_frames_is_no_frame(shared: Path) -> None:
    folder = shared / "field/10-apple-double/video/a"
    assert (folder / "._frame_0.png").is_file()
    assert [path.name for path in list_images(folder)] == [f"frame_{i}.png" for i in range(12)]
    assert folder_notes(folder) == ()


def test_pictures_of_other_formats_among_frames_are_noted(tmp_path: Path) -> None:
    for name in ("1.png", "2.webp", "10.TIF", "._3.webp", "notes.txt", "desktop.ini"):
        (tmp_path / name).touch()
    (tmp_path / "4.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["1.png"]
    assert folder_notes(tmp_path) == ("pictures neither PNG nor JPEG left out: 2.webp, 2 in all",)


@given(st.lists(st.text(st.sampled_from("a_.0129²é"), max_size=6)))
def test_numbering_loses_nothing_and_does_not_depend_on_the_order_given(names: list[str]) -> None:
    assert sorted(numbered(names)) == sorted(names)
    assert numbered(names) == numbered(reversed(names))


def test_a_folder_lists_its_images_only_in_order(tmp_path: Path) -> None:
    for name in ("10.png", "9.JPG", "8.jpeg", "notes.txt", "11.npy"):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["8.jpeg", "9.JPG", "10.png"]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SampleError, match=r"holds no \.png"):
        list_images(tmp_path)
    with pytest.raises(SampleError, match="gone does not exist"):
        list_images(tmp_path / "gone")


def test_a_header_whose_sum_is_wrong_is_damage_not_a_size(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path in paths:
        Image.new("RGB", (20, 10)).save(path)
    content = bytearray(paths[1].read_bytes())
    content[16] = 0x20  # a width of half a thousand million
    paths[1].write_bytes(content)
    with pytest.raises(SampleError, match=r"1\.png .*(damaged|PNG)") as raised:
        read_images(paths)
    assert "max_sample_bytes" not in str(raised.value)
