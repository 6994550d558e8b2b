"""Images: what reaches the model is uint8 RGB, and folders are read in the order of their numbers."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fourstage.data.images import list_images, numbered, read_image
from fourstage.stages import SampleError


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


def test_sixteen_bits_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(SampleError, match=r"a\.png has mode I"):
        read_image(tmp_path / "a.png")


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
