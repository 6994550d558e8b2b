"""Raw events: every form is read, nothing in a file is ever run, and the rendering is EventGPT's own."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import struct
import time
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
from tests.faults.media import mutated

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


PROTO = b"\x80\x02"
ENCODED = b"c_codecs\nencode\nh\0X\6\0\0\0latin1\x86R"  # a copy of the text stored as 0


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        pytest.param(PROTO + b"}" + b")" + b"\x85" * 200_000 + b"Ns.", "nested too deep", id="tuples as a key"),
        pytest.param(PROTO + b"}" + b")" + b"\x85" * 300 + b"0.", "nested too deep", id="tuples"),
        pytest.param(PROTO + b"(" * 30_000 + b"t" * 29_999 + b".", "nested too deep", id="marks"),
        pytest.param(PROTO + b"]" * 30_000 + b"a" * 29_999 + b".", "a list of objects", id="lists"),
        pytest.param(
            PROTO + b"}X\1\0\0\0a" * 10_000 + b"N" + b"s" * 10_000 + b".", "is missing the fields", id="dictionaries"
        ),
        pytest.param(PROTO + b"](" + b"N" * 1_000_000 + b"e.", "more than 200000 steps", id="objects"),
        pytest.param(
            PROTO
            + b"}("
            + b"".join(b"\x8a\x0c" + (i * (2**61 - 1)).to_bytes(12, "little") + b"N" for i in range(30_000))
            + b"u.",
            "is missing the fields",
            id="keys of one hash",
        ),
        pytest.param(
            PROTO + b"](X" + struct.pack("<I", 10**7) + b"a" * 10**7 + b"q\0" + ENCODED * 600 + b"e.",
            "a list of objects",
            id="600 copies of 10 MB",
        ),
        pytest.param(
            b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.", "damaged pickle", id="bytes that are not there"
        ),
        pytest.param(PROTO + b"]q\0h\0a.", "a list of objects", id="a list of itself"),
        pytest.param(PROTO + b"I" + b"9" * 100_000 + b"\n.", "damaged pickle", id="digits"),
        pytest.param(PROTO + b"}X\3\0\0\0\xed\xa0\xbdNs.", r"found \\ud83d,", id="half an emoji"),
        pytest.param(PROTO + b"}X\2\0\0\0\x1b[Ns.", r"found \\x1b\[,", id="an escape sequence"),
        pytest.param(PROTO + b"ios\nsystem\n.", "wants to build an object", id="INST"),
    ],
)
def test_a_pickle_cannot_crash_hang_or_fill_memory(tmp_path: Path, stream: bytes, words: str) -> None:
    import tracemalloc

    path = save_pickle(tmp_path / "a.npy", stream)
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(SampleError, match=rf"a\.npy.*{words}"):
            read_events(path)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(stream) + 60 * 2**20
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 15


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("01-npy-deep-tuple-segfault/npy-tuple-deep-hash-200k", "nested too deep"),
        ("24-npy-recursion/npy-dict-key-deep", "nested too deep"),
        ("27-polarity-fractions/npy-value-p-fraction", "field p has fractions"),
        ("27-polarity-fractions/npy-value-p-half", "field p has fractions"),
    ],
)
def test_hostile_files_are_refused_and_named(shared: Path, name: str, words: str) -> None:
    folder, file = name.split("/")
    with pytest.raises(SampleError, match=rf"{file}\.npy.*{words}"):
        read_events(shared / "field/bad" / folder / f"{file}--{file}.npy")


def test_an_npz_is_refused_by_what_it_unpacks_to(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    fields = {name: np.zeros(1_000_000, "i8") for name in "xytp"}  # 32 MB
    np.savez_compressed(path, **fields)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(SampleError, match=r"a\.npz takes 30\.5 MiB decoded, more than the limit of 16\.0 MiB; raise"):
        read_events(path, max_bytes=16 * 2**20)
    assert len(read_events(path).x) == 1_000_000


def test_an_npz_with_objects_or_a_password_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **some_fields() | {"p": np.array([None] * 20)})
    with pytest.raises(SampleError, match=r"a\.npz: field p has objects"):
        read_events(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **some_fields())
    content = bytearray((tmp_path / "b.npz").read_bytes())
    for at in (i for i in range(len(content)) if content[i : i + 4] in (b"PK\x03\x04", b"PK\x01\x02")):
        content[at + (6 if content[at + 2] == 3 else 8)] |= 1  # the flag of encryption
    (tmp_path / "b.npz").write_bytes(content)
    with pytest.raises(SampleError, match=r"b\.npz cannot be read.*encrypted"):
        read_events(tmp_path / "b.npz")


TABLE = "[('x','<u2'),('y','<u2'),('t','<i8'),('p','u1')]"


@pytest.mark.parametrize(
    "header",
    [
        "-" * 9000 + "1",
        "(" * 9000,
        "[" * 5000 + "]" * 5000,
        "9**9**9",
        "{'descr': " + "[('x'," * 1200 + "'u1'" + ")]" * 1200 + ", 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<u2\\d', 'fortran_order': False, 'shape': (1,)}",
        f"{{'descr': {TABLE}, 'fortran_order': False, 'shape': (10000000000,)}}",
        f"{{'descr': {TABLE}, 'fortran_order': False, 'shape': (4294967296, 4294967296)}}",
        f"{{'descr': {TABLE}, 'fortran_order': False, 'shape': (-5,)}}",
        f"{{'descr': {TABLE}, 'fortran_order': False, 'shape': (True, -5, -2)}}",
        "{'descr': [('x','V2000000000'),('y','<u2')], 'fortran_order': False, 'shape': (1,)}",
        "{'descr': [('x','V0'),('y','V0'),('t','V0'),('p','V0')], 'fortran_order': False, 'shape': (99999999999,)}",
    ],
)
def test_a_header_cannot_crash_or_claim_memory(tmp_path: Path, header: str) -> None:
    text = header.encode() + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + bytes(130))
    with pytest.raises(SampleError, match=r"a\.npy"):
        read_events(tmp_path / "a.npy")


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


def test_mutated_files_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    rng = random.Random(0)
    fields = some_fields(50)
    table = np.zeros(50, dtype=list(DTYPES.items()))
    for name in "xytp":
        table[name] = fields[name]
    np.save(tmp_path / "table.npy", table)
    np.savez(tmp_path / "stored.npz", **fields)
    np.savez_compressed(tmp_path / "deflated.npz", **fields)
    seeds = [(tmp_path / name).read_bytes() for name in ("table.npy", "stored.npz", "deflated.npz")]
    for protocol in (0, 2, 4):
        stream = pickle.dumps(np.array(fields, dtype=object), protocol=protocol)
        seeds.append(save_pickle(tmp_path / "pickle.npy", stream).read_bytes())
    read = 0
    for i in range(300):
        (tmp_path / "mutated.npy").write_bytes(mutated(seeds[i % len(seeds)], rng))
        with contextlib.suppress(SampleError):
            images = render_events(read_events(tmp_path / "mutated.npy", 10**8), 5, None, 10**8)
            assert [image.ndim for image in images] == [3] * 5
            read += 1
    assert 10 < read < 290


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npy")
    (tmp_path / "b.npy").symlink_to("/dev/zero")
    (tmp_path / "c.npy").mkdir()
    for name, words in (("a", "a FIFO"), ("b", "a FIFO, device"), ("c", "a folder"), ("d" * 300, "File name too long")):
        with pytest.raises(SampleError, match=rf"{name[0]}+\.npy .*{words}"):
            read_events(tmp_path / f"{name}.npy")


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
        ({"t": None, "p": None}, "is missing the fields t, p; found x, y"),
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


@pytest.mark.parametrize(
    ("coding", "dtype", "words"),
    [
        ((0, 1), "u1", None),
        ((0, 1), "?", None),
        ((0, 1), "f4", None),
        ((-1, 1), "i1", "polarity coded -1 and 1, read as 0 and 1"),
        ((-1, 1), "f8", "polarity coded -1 and 1, read as 0 and 1"),
        ((1, 2), "u1", "polarity coded 1 and 2, read as 0 and 1"),
        ((1, 2), "i8", "polarity coded 1 and 2, read as 0 and 1"),
    ],
)
def test_every_plain_coding_of_polarity_gives_the_same_images(
    tmp_path: Path, coding: tuple[int, int], dtype: str, words: str | None
) -> None:
    fields = some_fields()
    expected = render_events(read_events(save(tmp_path / "plain.npy", fields)))
    coded = np.array(coding)[fields["p"]].astype(dtype)
    table = np.zeros(20, dtype=[*list(DTYPES.items())[:3], ("p", dtype)])
    for name, values in (fields | {"p": coded}).items():
        table[name] = values
    save(tmp_path / "a.npy", fields | {"p": coded})
    np.save(tmp_path / "b.npy", table)
    np.savez(tmp_path / "c.npz", **fields | {"p": coded})
    for name in ("a.npy", "b.npy", "c.npz"):
        events = read_events(tmp_path / name)
        for image, other in zip(render_events(events), expected, strict=True):
            np.testing.assert_array_equal(image, other)
        assert events.notes == ((words,) if words else ())


@pytest.mark.parametrize(
    ("value", "drawn", "words"),
    [
        (0, (0, 0, 255), None),
        (1, (255, 0, 0), "every event has polarity 1: drawn as on"),
        (-1, (0, 0, 255), "polarity coded -1 (alone), read as 0 and 1"),
    ],
)
def test_one_polarity_alone_is_noted_where_its_coding_cannot_be_seen(
    tmp_path: Path, value: int, drawn: tuple[int, ...], words: str | None
) -> None:
    events = read_events(save(tmp_path / "a.npy", some_fields() | {"p": np.full(20, value, np.int8)}))
    assert events.notes == ((words,) if words else ())
    (image,) = render_events(events, images=1)
    assert {tuple(pixel) for pixel in image.reshape(-1, 3).tolist()} <= {drawn, (255, 255, 255)}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([2] * 20, "values 2;"),
        ([0, 2] * 10, "values 0, 2;"),
        ([-1, 0] * 10, "values -1, 0;"),
        ([-1, 0, 1, 1] * 5, "values -1, 0, 1;"),
        ([0, 255] * 10, "values 0, 255;"),
        (list(range(20)), "values 0, 1, 2, 3, 4, …;"),
        ([0.5] * 20, "fractions"),
        ([0.0, 1.0, 1.5, 0.0] * 5, "fractions"),
        ([np.nan] * 20, "not finite"),
    ],
)
def test_polarity_of_no_plain_coding_is_refused(tmp_path: Path, values: list[float], words: str) -> None:
    with pytest.raises(SampleError, match=rf"a\.npy: field p has .*{words}"):
        read_events(save(tmp_path / "a.npy", some_fields() | {"p": np.array(values)}))


@pytest.mark.real
def test_polarity_minus_one_and_one_gives_the_images_of_zero_and_one(shared: Path) -> None:
    folder = shared / "field/13-polarity-minus-one"
    plain, coded = read_events(folder / "ok.npy"), read_events(folder / "pol_minus1.npy")
    np.testing.assert_array_equal(render_events(coded), render_events(plain))
    assert plain.notes == ()
    assert coded.notes == ("polarity coded -1 and 1, read as 0 and 1",)


def test_events_out_of_time_order_are_sorted_and_noted(tmp_path: Path) -> None:
    fields = some_fields(200)
    fields["t"] = np.sort(np.random.default_rng(1).integers(0, 60_000, 200)).astype(np.uint16)
    mixed = np.argsort(fields["p"], kind="stable")  # all of one polarity, then all of the other
    events = read_events(save(tmp_path / "a.npy", {name: values[mixed] for name, values in fields.items()}))
    assert events.notes == ("events out of time order (1 steps back), sorted by time",)
    order = np.lexsort((fields["p"], fields["t"]))  # at equal times the order of the file stands
    assert_same(events, {name: values[order] for name, values in fields.items()})


@pytest.mark.parametrize("dtype", ["u2", "i2"])
def test_times_that_overflowed_are_refused(tmp_path: Path, dtype: str) -> None:
    times = np.linspace(0, 90_000, 20).astype(np.int64)
    times[10:14] = [65_534, 65_535, 65_536, 65_537]
    with pytest.raises(SampleError, match=r"a\.npy: field t falls by 65535 us, as it does when u?int16 overflows"):
        read_events(save(tmp_path / "a.npy", some_fields() | {"t": (times - (dtype == "i2") * 2**15).astype(dtype)}))


def naive(events: Events, images: int) -> list[NDArray[np.uint8]]:
    """The rendering by its definition, one event after the other."""
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


def test_images_that_a_model_would_blow_up_are_refused_before_they_are_drawn() -> None:
    strip = events_at([4095, 0] * 5, [0] * 10, [0, 1] * 5)
    with pytest.raises(SampleError, match=r"5 images of the events takes 25\.8 GiB decoded.*dataset\.max_sample_bytes"):
        render_events(strip)
    large = events_at([4095] * 64, [4095] * 64, [0] * 64)
    with pytest.raises(SampleError, match=r"64 images of the events"):
        render_events(large, images=64)


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
def test_real_recordings_are_read_as_they_are(shared: Path) -> None:
    for path in (*(shared / "real/event_npy").iterdir(), shared / "reference/eventgpt/A/synthetic_events.npy"):
        events, saved = read_events(path), np.load(path, allow_pickle=True).item()
        assert_same(events, saved)
        assert events.notes == ()


@pytest.mark.real
def test_absolute_times_of_dsec_are_read(shared: Path) -> None:
    events = read_events(shared / "real/event_npy/interlaken_00_d_000089.npy")
    assert events.t.dtype == np.int64
    assert len(render_events(events)) == 5
