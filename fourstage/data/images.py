"""Images on disk: PNG and JPEG to uint8 RGB as a person sees them, and folders of numbered files in their true order.

An EXIF orientation is applied. Leaves out every other format on purpose: PIL would hand some of them to outside
programs. What a reader of the record should know is noted: that an image was turned, that its file holds more
pictures than the first, that its pixels are not square.

    images, notes = read_images(list_images(Path("video/gota"))[:8])  # each [480, 640, 3]
"""

from __future__ import annotations

import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fourstage.data.files import check_file, is_folder, shown
from fourstage.data.limits import MAX_SAMPLE_BYTES, check_decoded_bytes
from fourstage.stages import SampleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".png", ".jpg", ".jpeg")
# pictures of formats that are not read: among frames they are worth a note, other files are not
UNREAD = (".apng", ".avif", ".bmp", ".exr", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl", ".pbm",
          ".pgm", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp")  # fmt: skip

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK")  # PIL's modes of 8 bits a channel or less
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112  # EXIF's tag: 1 is upright

MOST_SEGMENTS = 64  # of a JPEG, before its scan
MODEL_SIDE = 336  # pixels: models resize the shorter side to this or less
DECODER_BYTES = 11  # a pixel, while PIL decodes it: 4 as stored, 4 converted, 3 copied out

# digits, one dot, digits, where no further dot and digits make it a version or a date
_DECIMAL = r"(?<![0-9]\.)(?<![0-9])[0-9]+\.[0-9]+(?!\.?[0-9])"


def read_images(
    paths: Sequence[Path], max_bytes: int = MAX_SAMPLE_BYTES
) -> tuple[tuple[NDArray[np.uint8], ...], tuple[str, ...]]:
    """Decode the images of one sample: uint8 [height, width, 3] RGB each, and what is to be noted of them.

    What all of them take is read from their headers first. Raises SampleError where that exceeds `max_bytes`, and as
    `read_image` does.
    """
    check_decoded_bytes(f"a list of {len(paths)} images", len(paths) * image_bytes(1, 1), max_bytes)
    found = largest = 0
    for path in paths:
        check_file(path, "a PNG or JPEG")
        with _faults(path), path.open("rb", buffering=0) as file:
            width, height = _size(file)
        found += image_bytes(width, height)
        largest = max(largest, width * height)
        check_decoded_bytes(f"{path} in a list of {len(paths)} images", found + DECODER_BYTES * largest, max_bytes)
    read = [_decode(path, max_bytes) for path in paths]
    return tuple(image for image, _ in read), tuple(dict.fromkeys(note for _, notes in read for note in notes))


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode a PNG or JPEG file to uint8 [height, width, 3] RGB, upright; transparency is dropped, not blended.

    Raises SampleError naming the file: missing, truncated, damaged, another format, more than 8 bits a channel, or
    larger than PIL's limit against decompression bombs.
    """
    return _decode(path, MAX_SAMPLE_BYTES)[0]


def image_bytes(width: int, height: int) -> int:
    """What an image takes: its RGB pixels, and the float32 pixels that a model makes of it, which resizes the shorter
    side and so makes much of a strip."""
    short, long = sorted((max(width, 1), max(height, 1)))
    return 3 * width * height + 4 * 3 * MODEL_SIDE * (MODEL_SIDE * long // short)


def numbered(names: Iterable[str]) -> list[str]:
    """Sort names by the numbers in them: `clip_2.png` before `clip_10.png`, `t_0.05.png` before `t_0.1.png`.

    One dot between digits is a decimal point; two or more (`1.2.3`) separate whole numbers. One dot does so too where
    the digits after it were counted: their number differs, and some end in 0 (`s1.9.png`, `s1.10.png`).
    """
    names = list(names)
    fractions = {found.rpartition(".")[2] for name in names for found in re.findall(_DECIMAL, name)}
    counted = len({len(digits) for digits in fractions}) > 1 and any(
        len(digits) > 1 and digits.endswith("0") for digits in fractions
    )
    number = re.compile("([0-9]+)" if counted else f"({_DECIMAL}|[0-9]+)")
    # split gives text, number, text, …: like stands against like; the name itself tells 1 from 01
    return sorted(
        names,
        key=lambda name: ([_value(part) if i % 2 else part for i, part in enumerate(number.split(name))], name),
    )


def list_images(folder: Path) -> list[Path]:
    """List the PNG and JPEG files of a folder in numbered order.

    Left out are folders, hidden files (`._frame_0.png` of macOS) and files with other suffixes (`Thumbs.db`). Raises
    SampleError where no image is left.
    """
    names = numbered(_files_of(folder, SUFFIXES))
    if not names:
        raise SampleError(f"image folder {folder} holds no {', '.join(SUFFIXES)} file; expected at least one")
    return [folder / name for name in names]


def is_picture(path: Path) -> bool:
    """Whether a path is named as a picture that is read."""
    return path.suffix.lower() in SUFFIXES and not is_folder(path)


def folder_notes(folder: Path) -> tuple[str, ...]:
    """What is to be noted of a folder of frames: pictures in it that `list_images` leaves out."""
    names = numbered(_files_of(folder, UNREAD))
    return (f"pictures neither PNG nor JPEG left out: {shown(names[0])}, {len(names)} in all",) if names else ()


def _files_of(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    expected = "a folder of PNG or JPEG files"
    if not is_folder(folder):
        raise SampleError(f"image folder {folder} does not exist; expected {expected}")
    try:
        with os.scandir(folder) as entries:
            return [
                entry.name
                for entry in entries
                if entry.name.lower().endswith(suffixes) and not entry.name.startswith(".") and not entry.is_dir()
            ]
    except OSError as error:
        raise SampleError(f"image folder {folder} cannot be read: {error.strerror}; expected {expected}") from error


def _size(file: IO[bytes]) -> tuple[int, int]:
    """Width and height by the header: a PNG's first chunk (PNG specification, 11.2.2), a JPEG's frame header; where
    these are not plain PIL looks for them, which takes longer."""
    start = file.read(33)
    if len(start) == 33 and start.startswith(PNG_MAGIC) and zlib.crc32(start[12:29]) == int.from_bytes(start[29:]):
        return int.from_bytes(start[16:20]), int.from_bytes(start[20:24])
    if start.startswith(b"\xff\xd8\xff") and (size := _jpeg_size(file)) is not None:
        return size
    file.seek(0)
    with _opened(file) as image:
        return int(image.width), int(image.height)


def _jpeg_size(file: IO[bytes]) -> tuple[int, int] | None:
    """Width and height by the frame header, the last one before the scan; None where no plain segments lead there
    (ITU-T T.81, B.1 and B.2.2)."""
    at, found = 2, None
    for _ in range(MOST_SEGMENTS):
        file.seek(at)
        head = file.read(9)
        if head[:2] == b"\xff\xda":
            return found
        length = int.from_bytes(head[2:4], "big")
        if len(head) < 9 or head[0] != 0xFF or not 0xC0 <= head[1] < 0xFF or 0xD0 <= head[1] <= 0xD9 or length < 2:
            return None
        if 0xC0 <= head[1] <= 0xCF and head[1] not in (0xC4, 0xC8, 0xCC):
            found = int.from_bytes(head[7:9], "big"), int.from_bytes(head[5:7], "big")
        at += 2 + length
    return None


def _decode(path: Path, max_bytes: int) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """One image, and the notes on it."""
    with _faults(path):
        check_decoded_bytes(path, check_file(path, "a PNG or JPEG"), max_bytes)
        content = path.read_bytes()
        if content.startswith(PNG_MAGIC):
            _check_png(content, path)
        with _opened(BytesIO(content)) as image:
            area = image.width * image.height
            check_decoded_bytes(path, image_bytes(*image.size) + DECODER_BYTES * area, max_bytes)
            if image.mode not in MODES:
                raise SampleError(f"{path} has mode {image.mode}, expected 8 bits a channel; convert the file")
            image.load()
            notes = _notes(image)
            turn, turned = _turn(image.info.get("exif"))
            if image.mode in ("P", "PA"):  # PIL warns at palettes with transparency unless they become RGBA first
                image = image.convert("RGBA")
            if image.mode != "RGB":
                image = image.convert("RGB")
            return np.array(image if turn is None else image.transpose(turn)), (*turned, *notes)


def _value(number: str) -> tuple[int, str, str]:
    """Sorts as the value does, exactly and whatever the number of digits."""
    whole, _, fraction = number.partition(".")
    whole = whole.lstrip("0")
    return len(whole), whole, fraction.rstrip("0")


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    """Every exception that a file's content causes, as a SampleError naming the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except SampleError:
        raise
    except UnidentifiedImageError as error:
        raise SampleError(f"{path} is not a PNG or JPEG image; replace the file") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise SampleError(f"{path} is refused for its size: {error}") from error
    except Exception as error:  # damaged files raise whatever PIL happens to hit
        reason = shown(str(error) or type(error).__name__)
        raise SampleError(f"{path} cannot be decoded, it is truncated or damaged ({reason}); copy it again") from error


@contextmanager
def _opened(file: IO[bytes]) -> Iterator[Any]:
    """The image of an open file, its pixels not decoded yet."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata and further pictures, which are looked at here anyway
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file, formats=("PNG", "JPEG")) as image:
            yield image


def _check_png(content: bytes, path: Path) -> None:
    """Raise SampleError for 16 bits a channel, of which PIL drops the lower, and for damage that it passes over."""
    if content[24:25] == b"\x10":
        raise SampleError(
            f"{path} has 16 bits a channel, and no file says how many of them are used; convert it to 8 bits a channel"
        )
    start = len(PNG_MAGIC)
    while start + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, start)
        kind, end = content[start + 4 : start + 8], start + 8 + length
        # lower case: nothing that the pixels depend on
        if kind[:1].isupper() and zlib.crc32(memoryview(content)[start + 4 : end]) != int.from_bytes(
            content[end : end + 4], "big"
        ):
            raise SampleError(f"{path} is truncated or damaged (checksum of {kind!r}); copy it again")
        if kind == b"IEND":
            return
        start = end + 4


def _turn(exif: bytes | None) -> tuple[Any, tuple[str, ...]]:
    """How PIL is to transpose an image with this EXIF, None for not at all, and the note on it."""
    from PIL import Image

    if not exif:
        return None, ()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = Image.Exif()
            data.load(exif)
            orientation = data.get(ORIENTATION)
    except Exception as error:  # a damaged EXIF raises whatever PIL happens to hit, and the picture is whole
        reason = shown(str(error) or type(error).__name__)
        return None, (f"EXIF that cannot be read ({reason}): image taken as it is stored",)
    how = Image.Transpose
    turns = {
        2: how.FLIP_LEFT_RIGHT,
        3: how.ROTATE_180,
        4: how.FLIP_TOP_BOTTOM,
        5: how.TRANSPOSE,
        6: how.ROTATE_270,
        7: how.TRANSVERSE,
        8: how.ROTATE_90,
    }
    if not isinstance(orientation, int) or orientation not in turns:
        return None, ()
    return turns[orientation], (f"EXIF orientation {orientation} applied",)


def _notes(image: Any) -> tuple[str, ...]:
    """What is to be noted of an image that was decoded."""
    notes = []
    pictures = getattr(image, "n_frames", 1)  # APNG; MPO, which phones write as .jpg
    if pictures > 1:
        notes.append(f"first of {pictures} pictures in the image file")
    info = image.info
    x, y = info.get("jfif_density") or info.get("aspect") or info.get("dpi") or (1, 1)
    if min(x, y) > 0 and max(x, y) > 1.01 * min(x, y):  # dots per metre are rounded
        notes.append(f"pixels not square by the image's header ({x:g} x {y:g} dots), taken as square")
    return tuple(notes)
