"""Raw events: reading them from disk, and rendering them to images.

Reads the pickled dictionary that EventGPT's users have, structured `.npy` arrays and `.npz`; not HDF5, which is
how DSEC ships them. A pickle can run code, so none of it reaches Python's or numpy's own constructors: the few
names that a saved array needs are answered by stand-ins, and any other name is an error.

    images = render_events(read_events(Path("event_npy/sample1.npy")))  # five [height, width, 3]
"""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from fourstage.stages import SampleError, UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIELDS = ("x", "y", "t", "p")
MAX_MEMO = 100_000  # objects that a pickle may refer back to
MAX_SIDE = 4096  # pixels; the largest event sensors have 1280 x 720, and a canvas of this size takes 48 MiB

WHITE = 255
COLOURS = np.array([[0, 0, 255], [255, 0, 0]], dtype=np.uint8)  # blue where p == 0, else red


@dataclass(frozen=True)
class Events:
    """Events in the order of the file: four arrays, each [events], with the dtypes of the file."""

    x: NDArray[Any]  # pixels, whole and not negative
    y: NDArray[Any]
    t: NDArray[Any]  # microseconds, absolute or from the start of the clip
    p: NDArray[Any]  # polarity: 0, or 1; some files have -1 and 1


def read_events(path: Path) -> Events:
    """Read the fields x, y, t and p of `path`; further fields are ignored. Raises SampleError naming the file."""
    if not path.is_file():
        raise SampleError(f"event file {path} does not exist; expected a .npy or .npz with the fields x, y, t, p")
    try:
        with path.open("rb") as file:
            magic = file.read(6)
            file.seek(0)
            if magic == npy.MAGIC_PREFIX:
                fields = _read_npy(file, path)
            elif magic[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
                fields = _read_npz(file)
            else:
                raise SampleError(f"{path} begins {magic!r}, neither .npy nor .npz; re-export it with np.save")
    except SampleError:
        raise
    except (OSError, EOFError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise SampleError(f"{path} cannot be read, it is truncated or damaged ({error}); copy it again") from error
    return _checked(fields, path)


def render_events(events: Events, images: int = 5, max_span_us: int | None = 100_000) -> tuple[NDArray[np.uint8], ...]:
    """Draw events as `images` pictures, each uint8 [max(y)+1, max(x)+1, 3] RGB of its own slice of the events.

    Slices have equal counts, N // images in array order, and the last takes the remainder. The canvas is white,
    p == 0 is blue and any other polarity red, and the last event at a pixel wins. This is the rendering of
    EventGPT's own inference code (shared/DATASET.md, "Rendering to images"). Raises SampleError for fewer events
    than images, for a clip of `max_span_us` microseconds or more (None: any span), and for a canvas beyond MAX_SIDE.
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
    side = 1 + max(int(events.x.max()), int(events.y.max()))
    if side > MAX_SIDE:
        raise SampleError(f"the events need a canvas {side} pixels wide or high, at most {MAX_SIDE} are drawn")
    each = count // images
    borders = [i * each for i in range(images)] + [count]
    return tuple(
        _draw(events.x[start:stop], events.y[start:stop], events.p[start:stop]) for start, stop in pairwise(borders)
    )


def _draw(x: NDArray[Any], y: NDArray[Any], p: NDArray[Any]) -> NDArray[np.uint8]:
    """One slice of events [events] → uint8 [height, width, 3]."""
    height, width = int(y.max()) + 1, int(x.max()) + 1
    pixel = y.astype(np.intp) * width + x.astype(np.intp)  # [events]
    # numpy does not promise which of several writes to one place stays, so the last event is looked up
    last = np.full(height * width, -1, dtype=np.intp)
    np.maximum.at(last, pixel, np.arange(len(pixel), dtype=np.intp))
    drawn = np.flatnonzero(last >= 0)
    canvas = np.full((height * width, 3), WHITE, dtype=np.uint8)
    canvas[drawn] = COLOURS[(p[last[drawn]] != 0).astype(np.intp)]
    return canvas.reshape(height, width, 3)


def _read_npy(file: IO[bytes], path: Path) -> Mapping[str, Any]:
    version = npy.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = npy.read_array_header_2_0(file)
    else:
        raise SampleError(f"{path} has .npy version {version}, expected (1, 0) or (2, 0); re-export it with np.save")
    if dtype.hasobject:
        return _unpickle(file, path)
    if dtype.names is None:
        raise SampleError(
            f"{path} holds a {dtype} array of shape {shape}; expected a dictionary or a structured array "
            "with the fields x, y, t, p"
        )
    file.seek(0)
    array = np.load(file, allow_pickle=False)
    return {name: array[name] for name in dtype.names}


def _read_npz(file: IO[bytes]) -> Mapping[str, Any]:
    with np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] if name in FIELDS else None for name in archive.files}


def _unpickle(file: IO[bytes], path: Path) -> Mapping[str, Any]:
    start = file.tell()
    try:
        for opcode, argument, _ in pickletools.genops(file):
            # CPython fills memory up to the index that a file claims (gh-115952); real files stay below a hundred
            if opcode.name == "LONG_BINPUT" and (argument is None or argument > MAX_MEMO):
                raise SampleError(f"{path} holds a pickle that stores object {argument}, at most {MAX_MEMO} are read")
        file.seek(start)
        saved = _Unpickler(file).load()
    except (SampleError, OSError):
        raise
    except _ForbiddenError as refused:
        raise SampleError(
            f"{path} wants to import {refused}, and only arrays, dtypes and scalars are admitted; nothing of it was "
            "run; re-export it as a plain dictionary of arrays"
        ) from refused
    except Exception as error:  # a damaged pickle raises whatever it happens to hit (docs of pickle.UnpicklingError)
        raise SampleError(f"{path} holds a truncated or damaged pickle ({error}); copy it again") from error
    if isinstance(saved, _Array) and isinstance(saved.data, list) and len(saved.data) == 1:
        saved = saved.data[0]
    if not isinstance(saved, dict):
        found = "an array" if isinstance(saved, _Array) else f"a {type(saved).__name__}"
        raise SampleError(f"{path} holds {found} of objects, expected one dictionary with the fields x, y, t, p")
    try:
        return {
            str(name): value.array() if isinstance(value, _Array) and name in FIELDS else value
            for name, value in saved.items()
        }
    except (ValueError, TypeError, OverflowError) as error:
        raise SampleError(f"{path} holds a damaged array ({error}); copy it again") from error


def _checked(fields: Mapping[str, Any], path: Path) -> Events:
    missing = [name for name in FIELDS if name not in fields]
    if missing:
        found = ", ".join(sorted(fields)) or "none"
        raise SampleError(f"{path} lacks the fields {', '.join(missing)}; found {found}, expected x, y, t, p")
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
        if values.dtype.kind == "f" and name != "p" and (values != np.trunc(values)).any():
            unit = "microseconds" if name == "t" else "pixels"
            raise SampleError(f"{path}: field {name} has fractions, expected whole {unit}")
        if values.dtype.kind in "if" and name in "xy" and (values < 0).any():
            raise SampleError(f"{path}: field {name} goes down to {values.min()}, expected no negative coordinate")
    lengths = {name: len(fields[name]) for name in FIELDS}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise SampleError(f"{path}: the fields have unequal lengths ({found}), expected one value each per event")
    return Events(x=fields["x"], y=fields["y"], t=fields["t"], p=fields["p"])


class _ForbiddenError(Exception):
    """A pickle named something that no saved array needs."""


class _Unpickler(pickle.Unpickler):
    """Unpickles dictionaries of arrays without numpy: what it builds is data that nobody has acted on yet."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        # a pickle can set attributes on whatever it is given, so the functions are made anew for each name
        admitted: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy", "ndarray"): lambda *_: None,  # only ever an argument of _reconstruct
            ("numpy", "dtype"): lambda code, *_: _Dtype(code),
            ("_codecs", "encode"): lambda text, encoding: _latin1(text, encoding),
        }
        for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
            admitted[core, "_reconstruct"] = lambda *_: _Array()
            admitted[core, "scalar"] = lambda *_: None  # further fields only, and they are ignored
        if (module, name) not in admitted:
            raise _ForbiddenError(f"{module}.{name}")
        return admitted[module, name]


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes, as pickle protocols 0 to 2 write them."""
    if encoding != "latin1":
        raise _ForbiddenError(f"_codecs.encode with {encoding!r}")
    return text.encode("latin1")


class _Dtype:
    """Stands in for a numpy dtype: a code such as "u2", and a byte order."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        if not re.fullmatch(r"[<>|=][A-Za-z]\d{1,2}", f"{self.order}{self.code}") or self.code[0] == "O":
            raise ValueError(f"dtype {self.order}{self.code}")
        return np.dtype(f"{self.order}{self.code}")


class _Array:
    """Stands in for a numpy array: its shape, dtype and bytes; a list of objects where the dtype is object."""

    shape: Any = ()
    dtype: Any = None
    fortran: Any = False
    data: Any = b""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.fortran, self.data = state

    def array(self) -> NDArray[Any]:
        if not isinstance(self.dtype, _Dtype) or not isinstance(self.data, bytes):
            raise ValueError("an array of objects")
        values: NDArray[Any] = np.frombuffer(self.data, dtype=self.dtype.numpy())
        return values.reshape(self.shape, order="F" if self.fortran else "C")
