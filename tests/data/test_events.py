"""Raw events: every form is read, nothing in a file is ever run, and the rendering is EventGPT's own."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fourstage.data.events import Events, read_events, render_events
from fourstage.stages import SampleError, UserError

DTYPES = {"x": "u2", "y": "u2", "t": "i8", "p": "u1"}


def some_fields(count: int = 20) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.integers(0, 9, count).astype(np.uint16),
        "y": rng.integers(0, 7, count).astype(np.uint16),
        "t": np.arange(count, dtype=np.int64) + 51_836_949_776,
        "p": rng.integers(0, 2, count).astype(np.uint8),
    }


def save(path: Path, saved: Any) -> Path:
    np.save(path, np.array(saved, dtype=object), allow_pickle=True)
    return path


def save_pickle(path: Path, stream: bytes) -> Path:
    """A .npy of an object array whose pickle is `stream`."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(stream)
    return path


def assert_same(events: Events, fields: dict[str, Any]) -> None:
    for name in "xytp":
        assert getattr(events, name).dtype == fields[name].dtype
        np.testing.assert_array_equal(getattr(events, name), fields[name])


def test_a_pickled_dictionary_is_read(tmp_path: Path) -> None:
    fields = some_fields()
    assert_same(read_events(save(tmp_path / "a.npy", fields)), fields)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_every_pickle_protocol_that_numpy_wrote_is_read(tmp_path: Path, protocol: int) -> None:
    fields = some_fields()
    stream = pickle.dumps(np.array(fields, dtype=object), protocol=protocol)
    assert_same(read_events(save_pickle(tmp_path / "a.npy", stream)), fields)


@pytest.mark.parametrize("core", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_files_of_old_and_new_numpy_are_read(tmp_path: Path, core: bytes) -> None:
    fields = some_fields()
    stream = pickle.dumps(np.array(fields, dtype=object), protocol=2)
    for written in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        stream = stream.replace(b"c" + written + b"\n", b"c" + core + b"\n")
    assert_same(read_events(save_pickle(tmp_path / "a.npy", stream)), fields)


def test_big_endian_and_float_fields_are_read(tmp_path: Path) -> None:
    fields = some_fields() | {"x": np.arange(20, dtype=">u2"), "t": np.arange(20, dtype=np.float64)}
    assert_same(read_events(save(tmp_path / "a.npy", fields)), fields)


def test_further_fields_are_ignored(tmp_path: Path) -> None:
    further = {
        "width": np.uint16(640),
        "ratio": 1.5,
        "name": "clip",
        "flags": np.array([True]),
        "names": np.array(["a"]),
        "nested": {"list": [1, None]},
        "objects": np.array([None, "a"], dtype=object),
    }
    fields = some_fields()
    assert_same(read_events(save(tmp_path / "a.npy", fields | further)), fields)


def test_structured_arrays_and_npz_are_read(tmp_path: Path) -> None:
    fields = some_fields()
    table = np.zeros(20, dtype=[*DTYPES.items(), ("further", "f4")])
    for name in "xytp":
        table[name] = fields[name]
    np.save(tmp_path / "a.npy", table)
    np.savez_compressed(tmp_path / "a.npz", **fields, further=np.zeros(3))
    assert_same(read_events(tmp_path / "a.npy"), fields)
    assert_same(read_events(tmp_path / "a.npz"), fields)


class Malice:
    """Unpickled in the ordinary way, it runs a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_wants_to_run_a_command_does_not_run_it(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "it-ran"
    saved = np.array(some_fields() | {"further": Malice(marker)}, dtype=object)
    path = save_pickle(tmp_path / "a.npy", pickle.dumps(saved, protocol=protocol))
    with pytest.raises(SampleError, match=r"a\.npy wants to import posix\.system"):
        read_events(path)
    assert not marker.exists()
    np.load(path, allow_pickle=True)  # the same file is dangerous
    assert marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins eval",
        "builtins getattr",
        "numpy load",
        "numpy.core.multiarray fromfile",
        "numpy frombuffer",
        "os path",
    ],
)
def test_any_other_name_is_refused_and_told(tmp_path: Path, name: str) -> None:
    module, attribute = name.split()
    path = save_pickle(tmp_path / "a.npy", f"c{module}\n{attribute}\n.".encode())
    with pytest.raises(SampleError, match=f"{module}.{attribute}"):
        read_events(path)


@pytest.mark.parametrize("name", ["dtype", "ndarray"])
@pytest.mark.parametrize("state", [b"}X\x0c\x00\x00\x00__defaults__)s", b"N}X\x0c\x00\x00\x00__defaults__)s\x86"])
def test_what_a_pickle_changes_ends_with_its_file(tmp_path: Path, name: str, state: bytes) -> None:
    with pytest.raises(SampleError, match=r"bad\.npy"):
        read_events(save_pickle(tmp_path / "bad.npy", b"cnumpy\n" + name.encode() + b"\n" + state + b"b."))
    fields = some_fields()
    assert_same(read_events(save(tmp_path / "good.npy", fields)), fields)


def test_a_pickle_cannot_claim_gigabytes(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="stores object 2147483647"):
        read_events(save_pickle(tmp_path / "a.npy", b"Nr\xff\xff\xff\x7f."))


def test_only_latin1_is_encoded(tmp_path: Path) -> None:
    path = save_pickle(tmp_path / "a.npy", b"c_codecs\nencode\n(Vabc\nVzip\ntR.")
    with pytest.raises(SampleError, match="encode with 'zip'"):
        read_events(path)


@pytest.mark.parametrize("keep", [3, 40, 150, 400, -1, -200])
@pytest.mark.parametrize("kind", ["pickle", "structured", "npz"])
def test_a_truncated_file_is_named(tmp_path: Path, kind: str, keep: int) -> None:
    path = tmp_path / ("a.npz" if kind == "npz" else "a.npy")
    if kind == "pickle":
        save(path, some_fields(200))
    elif kind == "npz":
        np.savez(path, **some_fields(200))
    else:
        np.save(path, np.zeros(200, dtype=list(DTYPES.items())))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SampleError, match=path.name):
        read_events(path)


@given(place=st.integers(0, 2000), value=st.integers(0, 255))
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    path = save(tmp_path_factory.getbasetemp() / "damaged.npy", some_fields(100))
    content = bytearray(path.read_bytes())
    place = 128 + place % (len(content) - 128)  # behind the header, which numpy guards
    content[place] = value
    path.write_bytes(content)
    with contextlib.suppress(SampleError):
        read_events(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "neither"), (b"hello world", "neither"), (pickle.dumps({"x": 1}), "neither"), (b"PK\x03\x04", "damaged")],
)
def test_what_is_no_npy_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(SampleError, match=f"a.npy.*{words}"):
        read_events(tmp_path / "a.npy")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"gone\.npy does not exist"):
        read_events(tmp_path / "gone.npy")


def test_a_plain_array_is_no_dictionary(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 4)))
    with pytest.raises(SampleError, match=r"float64 array of shape \(4, 4\)"):
        read_events(tmp_path / "a.npy")


@pytest.mark.parametrize("saved", [[1, 2, 3], "text", None])
def test_pickles_of_anything_else_are_refused(tmp_path: Path, saved: Any) -> None:
    with pytest.raises(SampleError, match="expected one dictionary"):
        read_events(save(tmp_path / "a.npy", saved))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"t": None, "p": None}, "lacks the fields t, p; found x, y"),
        ({"x": np.zeros(3, np.uint16)}, "unequal lengths"),
        ({"y": np.zeros((4, 5), np.uint16)}, r"field y has shape \(4, 5\)"),
        ({"x": np.array(["a"] * 20)}, "field x has dtype"),
        ({"x": [1, 2, 3]}, "field x is no array"),
        ({"t": np.int64(3)}, "field t is no array"),
        ({"p": np.zeros(20, complex)}, "field p has dtype complex128"),
        ({"x": np.full(20, -1, np.int16)}, "field x goes down to -1"),
        ({"y": np.full(20, np.nan)}, "field y has values that are not finite"),
        ({"t": np.full(20, np.inf)}, "field t has values that are not finite"),
        ({"x": np.full(20, 0.5)}, "field x has fractions"),
        ({"p": np.array([None] * 20, dtype=object)}, "array of objects"),
    ],
)
def test_wrong_fields_are_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    fields = {name: value for name, value in (some_fields() | change).items() if value is not None}
    with pytest.raises(SampleError, match=rf"a\.npy.*{words}"):
        read_events(save(tmp_path / "a.npy", fields))


def naive(events: Events, images: int) -> list[NDArray[np.uint8]]:
    """The rendering as DATASET.md says it, one event after the other."""
    each = len(events.x) // images
    drawn = []
    for i in range(images):
        stop = len(events.x) if i == images - 1 else (i + 1) * each
        x, y, p = (values[i * each : stop].tolist() for values in (events.x, events.y, events.p))
        canvas = np.full((max(y) + 1, max(x) + 1, 3), 255, dtype=np.uint8)
        for column, row, polarity in zip(x, y, p, strict=True):
            canvas[row, column] = (0, 0, 255) if polarity == 0 else (255, 0, 0)
        drawn.append(canvas)
    return drawn


@st.composite
def clips(draw: st.DrawFn) -> tuple[Events, int]:
    images = draw(st.integers(1, 6))
    count = draw(st.integers(images, 60))
    coordinate = arrays(np.uint16, count, elements=st.integers(0, 12))
    polarity = st.sampled_from([(np.uint8, [0, 1]), (np.int8, [-1, 1, 0]), (np.float32, [0, 1]), (np.bool_, [0, 1])])
    dtype, values = draw(polarity)
    p = draw(arrays(dtype, count, elements=st.sampled_from(values).map(lambda value: np.dtype(dtype).type(value))))
    return Events(draw(coordinate), draw(coordinate), np.arange(count, dtype=np.uint16), p), images


@given(clips())
def test_rendering_equals_drawing_event_by_event(clip: tuple[Events, int]) -> None:
    events, images = clip
    rendered = render_events(events, images)
    assert len(rendered) == images
    for one, other in zip(rendered, naive(events, images), strict=True):
        assert one.dtype == np.uint8
        np.testing.assert_array_equal(one, other)


def events_at(x: list[int], y: list[int], p: list[int], t: list[int] | None = None, dtype: str = "u2") -> Events:
    times = np.array(t if t is not None else range(len(x)))
    return Events(np.array(x, dtype), np.array(y, dtype), times, np.array(p, np.int8))


def test_the_last_event_at_a_pixel_wins() -> None:
    (image,) = render_events(events_at([0, 0, 1, 1], [0, 0, 0, 0], [0, 1, -1, 0]), images=1)
    assert image.tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_the_last_slice_takes_the_remainder() -> None:
    images = render_events(events_at(list(range(8)), [0] * 8, [1] * 8), images=3)
    assert [image.shape for image in images] == [(1, 2, 3), (1, 4, 3), (1, 8, 3)]


def test_small_integer_types_do_not_overflow() -> None:
    (image,) = render_events(events_at([255], [255], [1], dtype="u1"), images=1)
    assert image.shape == (256, 256, 3)
    times = np.array([65_535, 0], np.uint16)
    events = Events(np.zeros(2, np.uint16), np.zeros(2, np.uint16), times, np.zeros(2, np.uint8))
    assert len(render_events(events, images=1)) == 1


def test_a_coordinate_beyond_every_sensor_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(SampleError, match="65536 pixels"):
        render_events(events_at([65_535, 0], [65_535, 0], [1, 1]), images=1)


def test_fewer_events_than_images_are_refused() -> None:
    with pytest.raises(SampleError, match="4 events cannot fill 5 images"):
        render_events(events_at([0] * 4, [0] * 4, [0] * 4))


def test_a_long_clip_is_refused_with_the_setting_to_change() -> None:
    events = events_at([0] * 5, [0] * 5, [0] * 5, t=[7, 0, 0, 0, 100_000])
    with pytest.raises(SampleError, match=r"span 100000 us, expected less than 100000 us.*model\.max_span_us"):
        render_events(events)
    assert len(render_events(events, max_span_us=100_001)) == 5
    assert len(render_events(events, max_span_us=None)) == 5


def test_no_image_at_all_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(UserError, match="0 images"):
        render_events(events_at([0], [0], [0]), images=0)


@pytest.mark.real
@pytest.mark.parametrize(
    ("file", "reference"),
    [
        ("real/event_npy/sample1.npy", "reference.npz"),
        ("reference/eventgpt/A/synthetic_events.npy", "synthetic_events_ref.npz"),
    ],
)
def test_rendering_equals_the_reference(shared: Path, file: str, reference: str) -> None:
    events = read_events(shared / file)
    with np.load(shared / "reference/eventgpt/A" / reference) as expected:
        for name in set("xytp") & set(expected.files):
            np.testing.assert_array_equal(getattr(events, name), expected[name])
        for i, image in enumerate(render_events(events)):
            np.testing.assert_array_equal(image, expected[f"event_image_{i}"])


@pytest.mark.real
def test_absolute_times_of_dsec_are_read(shared: Path) -> None:
    events = read_events(shared / "real/event_npy/interlaken_00_d_000089.npy")
    assert events.t.dtype == np.int64
    assert len(render_events(events)) == 5
