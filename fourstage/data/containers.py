"""Video containers: which are read, and whether a file is all there by the sizes that it states itself.

Leaves out everything inside a frame, which is for the decoder. FFmpeg's demuxers read on past a missing end or
a damaged middle without a word, so the boxes (MP4), elements (Matroska) and chunks (AVI) are walked here: the
headers only, a few bytes each, and of an MP4 the tables of its samples.

    check_whole(Path("clip.mkv"))  # raises SampleError where the file is cut short or its structure is damaged
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

from fourstage.stages import SampleError

READ = "MP4, MOV, M4V, 3GP, Matroska (MKV), WebM and AVI"

_BOXES = (
    b"ftyp moov moof mdat mfra free skip wide uuid meta styp sidx ssix prft emsg pdin pnot udta PICT junk"
).split()
_BOXES.append(b"jP  ")  # Motion JPEG 2000 begins with it

# boxes that hold boxes, down to the tables of samples
_NESTS = (b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl", b"moof", b"traf")
# tables of samples whose count follows the version and the flags: bytes of an entry
_TABLES = {b"stts": 8, b"ctts": 8, b"stsc": 12, b"stco": 4, b"co64": 8, b"stss": 4}
_INDEX_BYTES = 64 * 1024**2  # of a moov or moof that is looked into: that of a day's video is smaller

# Matroska's element ids (RFC 9559)
_SEGMENT, _INFO, _CLUSTER, _GROUP = 0x18538067, 0x1549A966, 0x1F43B675, 0xA0
_TRACKS, _TRACK, _FRAME_NS, _TIMESTAMP, _SCALE, _DURATION = 0x1654AE6B, 0xAE, 0x23E383, 0xE7, 0x2AD7B1, 0x4489
_BLOCK, _SIMPLE_BLOCK, _BLOCK_DURATION = 0xA1, 0xA3, 0x9B
_MASTERS = (_SEGMENT, _INFO, _TRACKS, _TRACK, _CLUSTER, _GROUP)

_GAP_NS = 250_000_000  # that a duration may exceed the last frame's, beside twice the longest step
_MOST = 5_000_000  # boxes, chunks or elements: a day of video and sound has fewer


def check_whole(path: Path) -> None:
    """Compare a file with the sizes and the duration in its own headers.

    Raises SampleError where it is empty, in a container that is not read, cut short, or damaged in its
    structure.
    """
    with path.open("rb") as file:
        number, size = file.fileno(), os.fstat(file.fileno()).st_size

        def read(position: int, count: int) -> bytes:
            return os.pread(number, count, position)

        head = read(0, 12)
        if not head:
            raise SampleError(f"{path} is empty, expected a video; copy it again")
        if head[4:8] in _BOXES:
            _walk_boxes(path, read, size)
        elif head[:4] == b"\x1aE\xdf\xa3":
            _walk_elements(path, read, size)
        elif head[:4] == b"RIFF" and head[8:] in (b"AVI ", b"AVIX", b""):
            _walk_chunks(path, read, size)
        else:
            raise SampleError(
                f"{path} is in no container that is read, or its beginning is damaged; read are {READ}: "
                f"convert it (ffmpeg -i {path.name} {path.stem or 'clip'}.mp4)"
            )


_Read = Callable[[int, int], bytes]


def _walk_boxes(path: Path, read: _Read, size: int) -> None:
    """The boxes of an MP4, each with its size in front (ISO/IEC 14496-12, 4.2), and its fragments by their numbers."""
    at = count = 0
    found: set[bytes] = set()
    number: int | None = None
    steps: set[int] = set()
    while at + 8 <= size:
        length, kind = struct.unpack(">I4s", read(at, 8))
        if length == 1:
            length = int.from_bytes(read(at + 8, 8), "big")
        if length == 0 and kind in _BOXES:  # to the end of the file
            length = size - at
        known = kind in _BOXES or (kind.isalnum() and at + length <= size)
        if not known or length < 8:
            if b"moof" not in found and {b"moov", b"mdat"} <= found:
                break  # what follows the boxes is no part of the video
            raise SampleError(f"{path} is damaged at byte {at}: no box of an MP4 is there; copy it again")
        if at + length > size:
            raise _cut(path, at + length, size)
        if kind == b"moof" and read(at + 12, 4) == b"mfhd":
            now = int.from_bytes(read(at + 20, 4), "big")
            if number is not None and now > number:
                steps.add(now - number)
            number = now
        if kind in (b"moov", b"moof") and length <= _INDEX_BYTES:
            _check_tables(path, memoryview(read(at, length)), at)
        found.add(kind)
        at, count = at + length, count + 1
        if count > _MOST:
            raise _crowded(path)
    if b"moov" not in found:
        raise SampleError(f"{path} is truncated or damaged: its index (the moov box) is missing; copy it again")
    if len(steps) > 1:
        raise SampleError(f"{path} has a gap: some of its numbered fragments are missing; copy it again")


def _check_tables(path: Path, box: memoryview, at: int) -> None:
    """Raise SampleError where a table of samples, in this box or one within, counts more entries than it has bytes
    for: demuxers read such a table in part, each in its own way (ISO/IEC 14496-12, 8.6 to 8.8)."""
    start = 8
    while start + 8 <= len(box):
        length, kind = int.from_bytes(box[start : start + 4], "big"), bytes(box[start + 4 : start + 8])
        if length < 8 or start + length > len(box):  # no box, or its size is given elsewhere
            if kind in _NESTS or kind in _TABLES or kind in (b"stsz", b"stz2", b"trun"):
                raise SampleError(f"{path} is damaged at byte {at + start}: a box exceeds its parent; copy it again")
            return
        inner = box[start : start + length]
        if kind in _NESTS:
            _check_tables(path, inner, at + start)
        elif (needed := _table_bytes(kind, inner[8:])) > length - 8:
            raise SampleError(
                f"{path} is damaged at byte {at + start}: its table {kind.decode()} has {length - 8} bytes, "
                f"its entries need {needed}; copy it again"
            )
        start += length


def _table_bytes(kind: bytes, body: memoryview) -> int:
    """Bytes that the entries which a table counts take together, with its head; 0 for what is no table."""

    def number(at: int, size: int = 4) -> int:
        return int.from_bytes(body[at : at + size], "big")

    if kind in _TABLES:
        return 8 + number(4) * _TABLES[kind]
    if kind == b"stsz":  # a size for all, or one each
        return 12 + (0 if number(4) else 4 * number(8))
    if kind == b"stz2":
        return 12 + (number(7, 1) * number(8) + 7) // 8
    if kind == b"trun":
        flags = number(1, 3)
        entry = 4 * sum(bool(flags & bit) for bit in (0x100, 0x200, 0x400, 0x800))
        return 8 + 4 * bool(flags & 0x1) + 4 * bool(flags & 0x4) + number(4) * entry
    return 0


def _walk_chunks(path: Path, read: _Read, size: int) -> None:
    """The chunks of an AVI down to its frames. A recorder that was stopped leaves sizes of 0: these say nothing."""
    at, count, movi_end = 0, 0, 0
    while at + 8 <= size:
        kind, length = struct.unpack("<4sI", read(at, 8))
        list_kind = read(at + 8, 4)
        if kind == b"RIFF" or (kind == b"LIST" and list_kind == b"movi"):
            if length == 0:
                return
            movi_end = at + 8 + length
        elif at < movi_end and not all(32 <= letter < 127 for letter in kind):
            raise SampleError(f"{path} is damaged at byte {at}: no chunk of an AVI is there; copy it again")
        elif at >= movi_end and kind not in (b"JUNK", b"idx1", b"LIST"):
            return  # what follows the chunks is no part of the video
        if at + 8 + length > size + 8 * (kind == b"RIFF"):  # some writers count these 8 bytes in
            raise _cut(path, at + 8 + length, size)
        opens = kind == b"RIFF" or (kind == b"LIST" and list_kind in (b"movi", b"rec "))
        at, count = at + (12 if opens else 8 + length + length % 2), count + 1
        if count > _MOST:
            raise _crowded(path)


def _walk_elements(path: Path, read: _Read, size: int) -> None:
    """The elements of a Matroska file down to its blocks, and their timestamps against the duration."""
    at, count, ends, segment_end = 0, 0, [size], None
    scale, duration, cluster = 1_000_000, None, 0  # ns a tick; ticks
    now, last, widest, frame_ns = 0, None, 0, 0
    while at < size:
        while len(ends) > 1 and at == ends[-1]:
            ends.pop()
        if at == segment_end:
            break  # what follows is no part of the video
        header = read(at, 12)
        kind_bytes = _vint_length(header[0])
        size_bytes = _vint_length(header[kind_bytes]) if kind_bytes <= 4 and len(header) > kind_bytes else 9
        if size_bytes > 8 or len(header) < kind_bytes + size_bytes:
            if kind_bytes <= 4 and at + 12 > size:
                raise _cut(path, at + kind_bytes + size_bytes, size)
            raise SampleError(f"{path} is damaged at byte {at}: no Matroska element is there; copy it again")
        kind = int.from_bytes(header[:kind_bytes], "big")
        unknown = (1 << 7 * size_bytes) - 1
        length = int.from_bytes(header[kind_bytes : kind_bytes + size_bytes], "big") & unknown
        body = at + kind_bytes + size_bytes
        if length == unknown:  # as in a live recording: up to the parent's end
            if kind not in (_SEGMENT, _CLUSTER):
                raise SampleError(f"{path} is damaged at byte {at}: an element without a size; copy it again")
        else:
            if body + length > size:
                raise _cut(path, body + length, size)
            if body + length > ends[-1]:
                raise SampleError(f"{path} is damaged at byte {at}: an element exceeds its parent; copy it again")
            if kind in _MASTERS:
                ends.append(body + length)
            if kind == _SEGMENT:
                segment_end = body + length
        if kind == _SCALE:
            scale = int.from_bytes(read(body, min(length, 8)), "big")
        elif kind == _DURATION and length in (4, 8):
            (duration,) = struct.unpack(">f" if length == 4 else ">d", read(body, length))
        elif kind == _FRAME_NS:
            frame_ns = max(frame_ns, int.from_bytes(read(body, min(length, 8)), "big"))
        elif kind == _TIMESTAMP:
            cluster = int.from_bytes(read(body, min(length, 8)), "big")
        elif kind in (_BLOCK, _SIMPLE_BLOCK) and length >= 4:
            block = read(body, 12)
            now = cluster + int.from_bytes(block[_vint_length(block[0]) :][:2], "big", signed=True)
            last = now if last is None else last
            widest, last = max(widest, now - last), max(last, now)
        elif kind == _BLOCK_DURATION and last is not None:
            last = max(last, now + int.from_bytes(read(body, min(length, 8)), "big"))
        at, count = (body if kind in _MASTERS else body + length), count + 1
        if count > _MOST:
            raise _crowded(path)
    # the duration counts the last frame's own, which its block need not say
    step_ns = 2 * max(widest * scale, frame_ns)
    if duration is not None and last is not None and (duration - last) * scale - step_ns > _GAP_NS:
        raise SampleError(
            f"{path} is truncated: found frames up to {last * scale / 1e9:.2f} s, expected "
            f"{duration * scale / 1e9:.2f} s by its header; copy it again"
        )


def _vint_length(first: int) -> int:
    """Bytes of a number of variable length, by its first byte (RFC 8794, 4); 9 for none."""
    return 9 - first.bit_length()


def _cut(path: Path, expected: int, size: int) -> SampleError:
    return SampleError(f"{path} is truncated: found {size} bytes, expected {expected} by its headers; copy it again")


def _crowded(path: Path) -> SampleError:
    return SampleError(f"{path} has more than {_MOST:,} parts, which no video needs; encode it again")
