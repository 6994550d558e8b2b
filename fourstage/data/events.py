"""Raw events: reading them from disk, and rendering them to images.

Reads the pickled dictionary that EventGPT's users have, structured `.npy` arrays and `.npz`; not HDF5, which is
how DSEC ships them. A pickle can run code, so none is unpickled: see `plain_pickle.py`.

    images = render_events(read_events(Path("event_npy/sample1.npy")))  # five [height, width, 3]
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from fourstage.data.files import check_file, shown
from fourstage.data.images import image_bytes
from fourstage.data.limits import MAX_SAMPLE_BYTES, check_decoded_bytes
from fourstage.data.plain_pickle import PlainArray, read_plain_pickle
from fourstage.stages import SampleError, UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIELDS = ("x", "y", "t", "p")
MAX_SIDE = 4096  # pixels; the largest event sensors have 1280 x 720, and a canvas of this size takes 48 MiB

WHITE = 255
COLOURS = np.array([[0, 0, 255], [255, 0, 0]], dtype=np.uint8)  # blue where p == 0, else red


@dataclass(frozen=True)
class Events:
    """Events in the order of the file: four arrays, each [events], with the dtypes of the file."""

    x: NDArray[Any]  # pixels, whole and not negative
    y: NDArray[Any]
    t: NDArray[Any]  # microseconds, absolute or from the start of the clip
    p: NDArray[Any]  # polarity: 0, or anything else
    notes: tuple[str, ...] = ()  # what reading them changed


def read_events(path: Path, max_bytes: int = MAX_SAMPLE_BYTES) -> Events:
    """Read the fields x, y, t and p of `path`; further fields are ignored.

    Times in disorder are sorted and the polarities -1/1 and 1/2 become 0/1, with a note each. Raises SampleError naming
    the file, also where the fields take more than `max_bytes`.
    """
    size = check_file(path, "a .npy or .npz with the fields x, y, t, p")
    check_decoded_bytes(path, size, max_bytes)
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers in odd spellings
            magic = file.read(6)
            file.seek(0)
            if magic == npy.MAGIC_PREFIX:
                fields = _read_npy(file, path, size, max_bytes)
            elif magic[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
                fields = _read_npz(file, path, max_bytes)
            else:
                raise SampleError(f"{path} begins {magic!r}, neither .npy nor .npz; re-export it with np.save")
        return _checked(fields, path)
    except SampleError:
        raise
    except Exception as error:  # a damaged file raises whatever numpy, zipfile or zlib happens to hit
        reason = shown(str(error) or type(error).__name__)
        raise SampleError(f"{path} cannot be read, it is truncated or damaged ({reason}); copy it again") from error


def render_events(
    events: Events, images: int = 5, max_span_us: int | None = 100_000, max_bytes: int = MAX_SAMPLE_BYTES
) -> tuple[NDArray[np.uint8], ...]:
    """Draw events as `images` pictures, each uint8 [max(y)+1, max(x)+1, 3] RGB of its own slice of the events.

    Slices have equal counts, N // images in array order, and the last takes the remainder. The canvas is white,
    p == 0 is blue and any other polarity red, and the last event at a pixel wins. This is the rendering of
    EventGPT's own inference code (docs/datasets.md). Raises SampleError for fewer events
    than images, for a clip of `max_span_us` microseconds or more (None: any span), and for a canvas beyond MAX_SIDE or
    images beyond `max_bytes`.
    """
    if images < 1:
        raise UserError(f"events cannot be rendered to {images} images; ask for at least 1")
    count = len(events.x)
    if count < images:
        raise SampleError(f"{count} events cannot fill {images} images; expected at least {images} events in the clip")
    span_us = int(events.t.max()) - int(events.t.min())  # Python integers: uint16 would wrap
    if max_span_us is not None and span_us >= max_span_us:
        raise SampleError(
            f"the events span {span_us} us, expected less than {max_span_us} us; "
            "raise model.max_span_us, or set it to null for any span"
        )
    each = count // images
    borders = [i * each for i in range(images)] + [count]
    slices = [slice(start, stop) for start, stop in pairwise(borders)]
    sizes = [(int(events.y[part].max()) + 1, int(events.x[part].max()) + 1) for part in slices]  # height, width
    side = max(max(size) for size in sizes)
    if side > MAX_SIDE:
        raise SampleError(f"the events need a canvas {side} pixels wide or high, at most {MAX_SIDE} are drawn")
    # while one slice is drawn, a pixel takes two indices of 8 bytes and an event three
    drawing = 16 * max(height * width for height, width in sizes) + 24 * (count - (images - 1) * each)
    found = sum(image_bytes(width, height) for height, width in sizes) + drawing
    check_decoded_bytes(f"{images} images of the events", found, max_bytes)
    return tuple(
        _draw(events.x[part], events.y[part], events.p[part], *size) for part, size in zip(slices, sizes, strict=True)
    )


def _draw(x: NDArray[Any], y: NDArray[Any], p: NDArray[Any], height: int, width: int) -> NDArray[np.uint8]:
    """One slice of events [events] → uint8 [height, width, 3]."""
    pixel = y.astype(np.intp) * width + x.astype(np.intp)  # [events]
    # numpy does not promise which of several writes to one place stays, so the last event is looked up
    last = np.full(height * width, -1, dtype=np.intp)
    np.maximum.at(last, pixel, np.arange(len(pixel), dtype=np.intp))
    drawn = np.flatnonzero(last >= 0)
    canvas = np.full((height * width, 3), WHITE, dtype=np.uint8)
    canvas[drawn] = COLOURS[(p[last[drawn]] != 0).astype(np.intp)]
    return canvas.reshape(height, width, 3)


def _read_npy(file: IO[bytes], path: Path, size: int, max_bytes: int) -> Mapping[str, Any]:
    shape, fortran, dtype = _header(file, path)
    if dtype.hasobject:
        return _read_pickle(file, path, max_bytes)
    if dtype.names is None:
        raise SampleError(
            f"{path} holds a {dtype} array of shape {shape}; expected a dictionary or a structured array "
            "with the fields x, y, t, p"
        )
    array = _array(file, path, shape, fortran, dtype, size - file.tell())
    return {name: array[name] for name in dtype.names}


def _read_npz(file: IO[bytes], path: Path, max_bytes: int) -> Mapping[str, Any]:
    with zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        check_decoded_bytes(path, sum(members[name].file_size for name in FIELDS if name in members), max_bytes)
        fields: dict[str, Any] = dict.fromkeys(members)
        for name in members.keys() & set(FIELDS):
            with archive.open(members[name]) as member:
                shape, fortran, dtype = _header(member, path)
                if dtype.hasobject:
                    raise SampleError(f"{path}: field {name} has objects in it, expected an array of numbers")
                fields[name] = _array(member, path, shape, fortran, dtype, members[name].file_size)
    return fields


def _header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and dtype of a .npy."""
    version = npy.read_magic(file)
    if version == (1, 0):
        return npy.read_array_header_1_0(file)
    if version == (2, 0):
        return npy.read_array_header_2_0(file)
    raise SampleError(f"{path} has .npy version {version}, expected (1, 0) or (2, 0); re-export it with np.save")


def _array(
    file: IO[bytes], path: Path, shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any], most: int
) -> NDArray[Any]:
    """The array behind a header, where at most `most` bytes can follow."""
    expected = math.prod(shape) * dtype.itemsize
    if not 0 < expected <= most:
        raise SampleError(f"{path} holds {most} bytes of an array of {expected}, it is truncated or damaged")
    data = file.read(expected)
    if len(data) < expected:
        raise SampleError(f"{path} holds {len(data)} bytes of an array of {expected}, it is truncated; copy it again")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _read_pickle(file: IO[bytes], path: Path, max_bytes: int) -> Mapping[str, Any]:
    saved = read_plain_pickle(file, path, max_bytes)
    if isinstance(saved, PlainArray) and isinstance(saved.data, list) and len(saved.data) == 1:
        saved = saved.data[0]
    if not isinstance(saved, dict):
        found = "an array" if isinstance(saved, PlainArray) else f"a {type(saved).__name__}"
        raise SampleError(f"{path} holds {found} of objects, expected one dictionary with the fields x, y, t, p")
    try:
        return {
            name: value.array() if isinstance(value, PlainArray) and name in FIELDS else value
            for name, value in saved.items()
        }
    except (ValueError, TypeError, OverflowError) as error:
        raise SampleError(f"{path} holds a damaged array ({error}); copy it again") from error


def _checked(fields: Mapping[str, Any], path: Path) -> Events:
    missing = [name for name in FIELDS if name not in fields]
    if missing:
        found = ", ".join(shown(name) for name in sorted(fields)[:20]) or "none"
        raise SampleError(f"{path} is missing the fields {', '.join(missing)}; found {found}, expected x, y, t, p")
    for name in FIELDS:
        values = fields[name]
        if not isinstance(values, np.ndarray):
            raise SampleError(f"{path}: field {name} is no array, expected one of numbers, one per event")
        if values.ndim != 1:
            raise SampleError(f"{path}: field {name} has shape {values.shape}, expected one dimension")
        if values.dtype.kind not in ("biuf" if name == "p" else "iuf"):
            raise SampleError(f"{path}: field {name} has dtype {values.dtype}, expected numbers")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise SampleError(f"{path}: field {name} has values that are not finite")
        if values.dtype.kind == "f" and (values != np.trunc(values)).any():
            unit = {"t": "microseconds", "p": "polarities"}.get(name, "pixels")
            raise SampleError(f"{path}: field {name} has fractions, expected whole {unit}")
        if values.dtype.kind in "if" and name in "xy" and (values < 0).any():
            raise SampleError(f"{path}: field {name} goes down to {values.min()}, expected no negative coordinate")
    lengths = {name: len(fields[name]) for name in FIELDS}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise SampleError(f"{path}: the fields have unequal lengths ({found}), expected one value each per event")
    return _in_order(_plain_polarity(Events(*(fields[name] for name in FIELDS)), path), path)


def _plain_polarity(events: Events, path: Path) -> Events:
    """The events with polarities 0 and 1, from any coding that leaves no doubt."""
    p = events.p
    if not len(p):
        return events
    low, high = p.min(), p.max()
    if p.dtype.kind != "b" and (low < 0 or high > 1):
        values = np.unique(p)
        codings = {(-1, 1): "-1 and 1", (-1,): "-1 (alone)", (1, 2): "1 and 2"}
        words = codings.get(tuple(values.tolist()))
        if words is None:
            shown = ", ".join(f"{value:g}" for value in values[:5]) + (", …" if len(values) > 5 else "")
            raise SampleError(f"{path}: field p has the values {shown}; expected 0 and 1, -1 and 1, or 1 and 2")
        on = (p > 1 if high == 2 else p > 0).astype(np.uint8)
        return replace(events, p=on, notes=(*events.notes, f"polarity coded {words}, read as 0 and 1"))
    if low == 1:
        return replace(events, notes=(*events.notes, "every event has polarity 1: drawn as on"))
    return events


def _in_order(events: Events, path: Path) -> Events:
    """The events in the order of time; the order of the file stands where times are equal."""
    t = events.t
    earlier = t[1:] < t[:-1]
    count = int(np.count_nonzero(earlier))
    if not count:
        return events
    if t.dtype.kind in "iu":
        limits = np.iinfo(t.dtype)
        at = np.flatnonzero(earlier)
        fall = int((t[at].astype(np.uint64) - t[at + 1].astype(np.uint64)).max())  # exact for every integer type
        if fall > (int(limits.max) - int(limits.min)) // 16 * 15:
            raise SampleError(
                f"{path}: field t falls by {fall} us, as it does when {t.dtype} overflows; save t in a wider type"
            )
    order = np.argsort(t, kind="stable")
    x, y, t, p = (values[order] for values in (events.x, events.y, t, events.p))
    return Events(x, y, t, p, (*events.notes, f"events out of time order ({count} steps back), sorted by time"))
