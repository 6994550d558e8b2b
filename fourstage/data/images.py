"""Images on disk: PNG and JPEG to uint8 RGB, and folders of numbered files in their true order.

Leaves out every other format on purpose: PIL would hand some of them to outside programs. An EXIF rotation
is not applied.

    image = read_image(list_images(Path("video/gota"))[0])  # [480, 640, 3]
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fourstage.stages import SampleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".png", ".jpg", ".jpeg")


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode a PNG or JPEG file to uint8 [height, width, 3] RGB; transparency is dropped, not blended.

    Raises SampleError naming the file: missing, truncated, another format, 16 bits a channel, or larger
    than PIL's limit against decompression bombs.
    """
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise SampleError(f"image file {path} does not exist; expected a PNG or JPEG")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                if image.mode.startswith(("I", "F")):  # PIL would clip its values
                    raise SampleError(f"{path} has mode {image.mode}, expected 8 bits a channel; convert the file")
                if image.mode in ("P", "PA"):  # PIL warns at palettes with transparency unless they become RGBA first
                    return np.array(image.convert("RGBA").convert("RGB"))
                return np.array(image.convert("RGB"))
    except SampleError:
        raise
    except UnidentifiedImageError as error:
        raise SampleError(f"{path} is not a PNG or JPEG image; replace the file") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise SampleError(f"{path} is refused for its size: {error}") from error
    except (OSError, SyntaxError, EOFError, struct.error, ValueError) as error:  # what PIL raises for damaged files
        raise SampleError(f"{path} cannot be decoded, it is truncated or damaged ({error}); copy it again") from error


def numbered(names: Iterable[str]) -> list[str]:
    """Sort names by the numbers in them: `clip_2.png` before `clip_10.png`."""
    return sorted(names, key=_by_number)


def list_images(folder: Path) -> list[Path]:
    """List the PNG and JPEG files of a folder in numbered order. Raises SampleError where there are none."""
    if not folder.is_dir():
        raise SampleError(f"image folder {folder} does not exist; expected a folder of PNG or JPEG files")
    names = numbered(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not names:
        raise SampleError(f"image folder {folder} holds no {', '.join(SUFFIXES)} file; expected at least one")
    return [folder / name for name in names]


def _by_number(name: str) -> tuple[list[str | int], str]:
    # split gives text, digits, text, …: like stands against like; the name itself tells 1 from 01
    parts: list[str | int] = [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]
    return parts, name
