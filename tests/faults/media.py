"""Bad images, videos and events, generated from a seed: healthy files that are cut, changed, renamed or replaced.

for case in pictures(folder, random.Random(0), count=40):
    case.entry      # what a dataset lists; its files lie below `folder`
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

EVIL = "\x1b[31mred\x1b]0;title\x07\r\x9b2J\u202egnp.\u2066x\u200f"


@dataclass(frozen=True)
class Case:
    """One entry of a dataset, with what was done to its files."""

    name: str
    entry: dict[str, Any]


def whole(name: str) -> dict[str, Any]:
    """An entry without media."""
    talk = [{"from": "human", "value": "What is this?"}, {"from": "gpt", "value": "A street."}]
    return {"id": name, "conversations": talk}


# ---- what is done to the bytes of any file ----


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def beheaded(content: bytes, rng: random.Random) -> bytes:
    return content[rng.randrange(1, len(content)) :]


def flipped(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 3, 30])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def zeroed(content: bytes, rng: random.Random) -> bytes:
    start, size = rng.randrange(len(content)), rng.choice([4, 100, 5000])
    return content[:start] + bytes(len(content[start : start + size])) + content[start + size :]


def inserted(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    return content[:start] + rng.randbytes(rng.choice([1, 7, 300])) + content[start:]


def taken_out(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    return content[:start] + content[start + rng.choice([1, 8, 700]) :]


def twice(content: bytes, rng: random.Random) -> bytes:
    return content + content[rng.randrange(len(content)) :]


def huge_number(content: bytes, rng: random.Random) -> bytes:
    """Four bytes of the first kilobyte, where headers keep sizes, become a large number."""
    start = rng.randrange(min(len(content), 1000))
    order = rng.choice("<>")
    number = rng.choice([2**31 - 1, 2**32 - 1, 2**31, 2**24, 0])
    return content[:start] + struct.pack(f"{order}I", number) + content[start + 4 :]


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Changed at one to three places: bits flipped, bytes put in or taken out."""
    for _ in range(rng.randint(1, 3)):
        content = rng.choice((flipped, flipped, inserted, taken_out))(content, rng) if content else content
    return content


BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    cut, beheaded, flipped, flipped, zeroed, inserted, taken_out, twice, huge_number,
)  # fmt: skip


def in_place_of(path: Path, rng: random.Random) -> str:
    """Put there what is no file, or nothing; gives its name."""
    path.unlink(missing_ok=True)
    kind = rng.choice(["nothing", "empty", "FIFO", "device", "folder", "link to itself", "text", "zeros"])
    if kind == "empty":
        path.touch()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to(rng.choice(["/dev/zero", "/dev/stdin", "/dev/full"]))
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to itself":
        path.symlink_to(path.name)
    elif kind == "text":
        path.write_text("#EXTM3U\n/etc/passwd\n")
    elif kind == "zeros":
        path.touch()
        os.truncate(path, rng.choice([1, 10**6, 3 << 30]))
    return kind


def spoilt(path: Path, rng: random.Random, others: list[Path]) -> str:
    """Change a file's bytes, or put something else in its place; gives what was done."""
    draw = rng.random()
    if draw < 0.12:
        return in_place_of(path, rng)
    if draw < 0.18:
        shutil.copyfile(other := rng.choice(others), path)
        return f"is {other.name}"
    if draw < 0.24:
        return "unchanged"
    change = rng.choice(BYTES)
    path.write_bytes(change(path.read_bytes(), rng))
    return change.__name__


# ---- videos ----

# without its assembly, whose rate control differs from time to time, x264 writes the same file each time
SAME = {"x264-params": "threads=1:asm=0"}
CLIPS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"codec": "libx264", "options": SAME | {"bf": "2", "g": "8"}},
    "h264.mov": {"codec": "libx264", "options": SAME | {"bf": "2", "g": "8"}},
    "fragments.mp4": {
        "codec": "libx264",
        "options": SAME | {"g": "8"},
        "muxer": {"movflags": "frag_keyframe+empty_moov"},
    },
    "h264.mkv": {"codec": "libx264", "options": SAME | {"bf": "2", "g": "8"}},
    "h264.avi": {"codec": "libx264", "options": SAME | {"bf": "2", "g": "8"}},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "8", "b": "200k"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
}


def clip(path: Path, codec: str, options: dict[str, str] | None = None, pixels: str = "yuv420p",
         muxer: dict[str, str] | None = None, frames: int = 24) -> Path:  # fmt: skip
    """A clip in which every frame differs: a square moves over a gradient."""
    import av

    width, height = 96, 64
    with av.open(str(path), "w", options={"fflags": "+bitexact"} | (muxer or {})) as container:
        stream = container.add_stream(codec, rate=20, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.thread_count = 1  # the same file each time, so that a seed stands for its cases
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        for i in range(frames):
            image = np.zeros((height, width, 3), np.uint8)
            image[..., 0], image[..., 1] = np.linspace(0, 255, width, dtype=np.uint8), 8 * i % 256
            image[i % (height - 16) :][:16, 2 * i % (width - 16) :][:, :16, 2] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def clips(root: Path, rng: random.Random, count: int) -> Iterator[Case]:
    """Entries with a video; their files are made below `root`/mp4."""
    (folder := root / "mp4").mkdir(parents=True)
    (originals := root / "originals").mkdir()
    healthy = [clip(originals / name, **options) for name, options in CLIPS.items()]
    others = [picture(originals / "x.png", rng), events(originals / "x.npy", rng), *healthy]
    for number in range(count):
        source = rng.choice(healthy)
        path = folder / f"{number}{source.suffix}"
        shutil.copyfile(source, path)
        done = "unchanged" if number == 0 else spoilt(path, rng, others)
        yield Case(f"{source.name} {done}", whole(f"clip {number}") | {"mp4_data": path.name})


# ---- pictures ----

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16")


def picture(path: Path, rng: random.Random, size: tuple[int, int] = (48, 32)) -> Path:
    """A picture with a gradient and noise in any mode that the format takes; some lie on their side."""
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, size[0], dtype=np.uint8)
    image = Image.fromarray(pixels)
    jpeg = path.suffix != ".png"
    mode = rng.choice([mode for mode in MODES if mode not in (("LA", "P", "RGBA", "1", "I;16") if jpeg else ("CMYK",))])
    image = Image.fromarray(np.zeros((size[1], size[0]), np.uint16)) if mode == "I;16" else image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = rng.choice([1, 1, 1, 2, 3, 6, 8])
    image.save(path, exif=exif)
    return path


def claims(path: Path, width: int, height: int) -> None:
    """A PNG of a few bytes whose header says that it is so large, and whose data unpacks to zeros without end."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(min(3 * width * height, 10**7)), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


SIZES = [(20000, 20000), (9400, 9400), (1, 80_000_000), (80_000_000, 1), (2**31 - 1, 2**31 - 1), (0, 0), (1, 10**6)]


def one_picture(path: Path, rng: random.Random, others: list[Path]) -> str:
    """A picture there, spoilt or huge; gives what was done."""
    if rng.random() < 0.15:
        claims(path, *(size := rng.choice(SIZES)))
        return f"claims {size}"
    picture(path, rng)
    return spoilt(path, rng, others)


def pictures(root: Path, rng: random.Random, count: int) -> Iterator[Case]:
    """Entries with event images; their files are made below `root`/event_image."""
    (folder := root / "event_image").mkdir(parents=True)
    (originals := root / "originals").mkdir()
    others = [clip(originals / "x.mp4", "mpeg4", frames=3), events(originals / "x.npy", rng)]
    for number in range(count):
        names = [f"{number}-{i}{rng.choice(['.png', '.jpg'])}" for i in range(rng.choice([1, 2, 5]))]
        for name in names:
            picture(folder / name, rng)
        done = "unchanged"
        if number == 0:
            for name in names:
                Image.new("RGB", (48, 32), "red").save(folder / name)
        else:
            done = one_picture(folder / names[-1], rng, others)
        if number and rng.random() < 0.08:
            names, done = [names[-1]] * rng.choice([40, 20_000]), f"{done}, listed often"
        yield Case(f"picture {done}", whole(f"picture {number}") | {"event_image": names})


ODD_NAMES = ("._0.png", ".DS_Store", "Thumbs.db", "notes.txt", "x.gif", "desktop.ini", "00.PNG", "frame 1.5.jpg")


def frame_folders(root: Path, rng: random.Random, count: int) -> Iterator[Case]:
    """Entries with a folder of frames, below `root`/video."""
    (root / "video").mkdir(parents=True)
    (originals := root / "originals").mkdir()
    others = [clip(originals / "x.mp4", "mpeg4", frames=3), events(originals / "x.npy", rng)]
    for number in range(count):
        (folder := root / "video" / f"{number}").mkdir()
        names = [f"{rng.choice(['f', 'f_', ''])}{i}{rng.choice(['', '', '.5'])}.png" for i in range(rng.randint(1, 10))]
        for name in names:
            picture(folder / name, rng) if number else Image.new("RGB", (48, 32), "red").save(folder / name)
        done = "unchanged"
        if number and (draw := rng.random()) < 0.5:
            done = one_picture(folder / rng.choice(names), rng, others)
        elif number and draw < 0.9:
            odd = rng.choice(ODD_NAMES)
            done = f"with {odd}, which {spoilt(picture_as(folder / odd, rng), rng, others)}"
        elif number:
            shutil.rmtree(folder)
            done = in_place_of(folder, rng)
        yield Case(f"folder {done}", whole(f"folder {number}") | {"video_data": folder.name})


def picture_as(path: Path, rng: random.Random) -> Path:
    picture(made := path.with_name("made.png"), rng)
    return made.rename(path)


# ---- events ----


def fields(rng: random.Random, count: int = 400) -> dict[str, Any]:
    draw = np.random.default_rng(rng.randrange(2**32))
    return {
        "x": draw.integers(0, 60, count).astype(np.uint16),
        "y": draw.integers(0, 40, count).astype(np.uint16),
        "t": np.sort(draw.integers(0, 50_000, count)).astype(np.int64),
        "p": draw.integers(0, 2, count).astype(np.uint8),
    }


def events(path: Path, rng: random.Random) -> Path:
    save(path, fields(rng), "dictionary")
    return path


def save(path: Path, saved: dict[str, Any], layout: str) -> None:
    if layout == "npz":
        np.savez_compressed(path.with_suffix(".npz"), **saved)
    elif layout == "table":
        table = np.zeros(len(saved["x"]), dtype=[(name, np.asarray(values).dtype) for name, values in saved.items()])
        for name, values in saved.items():
            table[name] = values
        np.save(path, table)
    else:
        np.save(path, np.array(saved, dtype=object), allow_pickle=True)


def unbounded(path: Path, rng: random.Random) -> str:
    """An event file of few bytes that means much memory, or a nest too deep."""
    kind = rng.choice(["deep list", "deep key", "claims", "many", "zip of zeros", "memo"])
    head = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"
    if kind == "deep list":
        path.write_bytes(head + b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".")
    elif kind == "deep key":
        path.write_bytes(head + b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s.")
    elif kind == "many":
        path.write_bytes(head + b"\x80\x02](" + b"]" * 3_000_000 + b"e.")
    elif kind == "memo":
        path.write_bytes(head + b"\x80\x02](" + b"T" + struct.pack("<i", 10**6) + b"x" * 10**6 + b"2" * 50_000 + b"e.")
    elif kind == "claims":
        text = "{'descr': [('x', '<u8'), ('y', '<u8'), ('t', '<u8'), ('p', '<u8')], 'fortran_order': False, "
        text += f"'shape': ({rng.choice([10**8, 10**15, 2**62])},), }}"
        path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n" + bytes(4000))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
            for _ in range(60):
                member.write(bytes(10**6))
    return kind


def coded(saved: dict[str, Any], rng: random.Random) -> str:
    """Change the fields' values or types; gives what was done."""
    name = rng.choice(["x", "y", "t", "p"])
    values, count = saved[name], len(saved[name])
    changes: dict[str, Callable[[], Any]] = {
        "-1 and 1": lambda: 2 * saved["p"].astype(np.int8) - 1,
        "1 and 2": lambda: saved["p"] + 1,
        "0, 1 and 2": lambda: np.arange(count) % 3,
        "fractions": lambda: values + 0.25,
        "NaN": lambda: np.where(np.arange(count) == 7, np.nan, values),
        "infinity": lambda: np.where(np.arange(count) == 7, np.inf, values),
        "floats": lambda: values.astype(np.float64),
        "backwards": lambda: values[::-1].copy(),
        "huge": lambda: values.astype(np.int64) + rng.choice([10**4, 10**6, 10**9, 2**62]),
        "negative": lambda: -values.astype(np.int64),
        "complex": lambda: values.astype(complex),
        "texts": lambda: values.astype(str),
        "empty": lambda: values[:0],
        "shorter": lambda: values[:-1],
        "two dimensions": lambda: values.reshape(2, -1),
        "a list": lambda: values.tolist(),
        "big endian": lambda: values.astype(">i8"),
        "uint16 that overflowed": lambda: (values.astype(np.int64) * 7).astype(np.uint16),
    }
    kind = rng.choice(list(changes))
    if kind in ("-1 and 1", "1 and 2", "0, 1 and 2"):
        name = "p"
    saved[name] = changes[kind]()
    return f"{name} {kind}"


def event_files(root: Path, rng: random.Random, count: int) -> Iterator[Case]:
    """Entries with raw events, below `root`/event_npy."""
    (folder := root / "event_npy").mkdir(parents=True)
    (originals := root / "originals").mkdir()
    others = [clip(originals / "x.mp4", "mpeg4", frames=3), picture(originals / "x.png", rng)]
    for number in range(count):
        path, saved = folder / f"{number}.npy", fields(rng)
        layout = rng.choice(["dictionary", "table", "npz"])
        if number == 0:
            save(path, saved, layout)
            done = "unchanged"
        elif (draw := rng.random()) < 0.12:
            layout, done = "dictionary", unbounded(path, rng)
        elif draw < 0.6:
            done = coded(saved, rng)
            try:
                save(path, saved, layout)
            except ValueError:  # such fields are no table
                save(path, saved, layout := "dictionary")
        else:
            save(path, saved, layout)
            done = spoilt(path.with_suffix(".npz") if layout == "npz" else path, rng, others)
        name = path.with_suffix(".npz").name if layout == "npz" else path.name
        yield Case(f"{layout} {done}", whole(f"events {number}") | {"event_data": name})
