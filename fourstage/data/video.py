"""Video files: which frames of a clip the model sees, and decoding them through PyAV.

The frames are those that a player shows, upright: hidden ones are not counted, a rotation is applied. Leaves out
sound and seeking. A clip is decoded from its start: its frames depend on one another.

    clip = read_video(Path("mp4/gota.mp4"), frames=8, rule="linspace")
    clip.images, clip.indices, clip.length, clip.notes
"""

from __future__ import annotations

import math
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fourstage.data.containers import READ, check_whole
from fourstage.data.files import check_file
from fourstage.data.limits import MAX_SAMPLE_BYTES, check_decoded_bytes
from fourstage.stages import SampleError, UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

RULES = ("linspace", "arange", "head")

# a file may be a playlist under another name: only real containers are opened, and from them no other file
_OPEN = {"protocol_whitelist": "file", "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"}

# "strict": an error where the decoder would conceal damage; "serial": the same, one packet at a time, so that an
# error is known to be of a packet that is never shown; "tolerant": as a player does
_MODES = ("strict", "serial", "tolerant")
_STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
_LENIENT = ("tiff",)  # takes a tag that it does not know for damage

_FRAME_A_PACKET = ("h264", "hevc", "av1", "vp8")  # each packet is one frame, known by its time but in an AVI
_HELD_FRAMES = {"h264": 18, "hevc": 18, "vp9": 10, "av1": 12}  # by a decoder: its references, and those in work
_HELD_FRAMES_ELSE = 5
_KEPT_BYTES = 64 * 1024**2  # of packets, between counting and decoding; a larger file is read twice
_PACKET_BYTES = 1024  # of memory, about, that each takes beside its data
_MOST_PIXELS = 2**31 - 1  # a larger max_pixels is ignored
# of a clip's frames together: below, threads gain little, and where threads decode an error of the last packets is
# lost; a recheck decodes so much of what follows the last frame chosen
_SMALL_PIXELS = 16_000_000
# markers beside stuffing, restarts, and what stands between the scans of a progressive JPEG: tables, lengths, comments
_NOT_IN_A_SCAN = re.compile(rb"\xff[\x01-\xc3\xc5-\xcf\xd8\xd9\xde\xdf\xf0-\xfd]")
_GAP_S = 0.25  # that a duration may exceed the last frame's, beside twice the longest step


@dataclass(frozen=True)
class Clip:
    """Frames of a video file."""

    images: tuple[NDArray[np.uint8], ...]  # each [height, width, 3] RGB, upright
    indices: tuple[int, ...]  # position of each among the frames that are shown
    length: int  # frames that are shown
    notes: tuple[str, ...] = ()  # what was done to them, or left undone
    recheck: Callable[[], tuple[str, ...]] | None = None  # gives further notes of damage, by decoding once more


@dataclass(frozen=True)
class _Frames:
    images: dict[int, NDArray[np.uint8]]  # by position
    length: int
    notes: tuple[str, ...]
    interlaced: bool = False
    undecoded: int = 0  # frames after the last one wanted, which the packets promise


def frame_indices(total: int, frames: int, rule: str) -> tuple[int, ...]:
    """Choose exactly `frames` positions of a clip of `total` frames, ascending; a short clip repeats some.

    `linspace`: floor(i (N-1) / (frames-1)), from the first to the last. `arange`: `np.arange(0, N, N / frames)`
    cut to int. `head`: the first ones, then the last again (docs/datasets.md).
    Raises SampleError for an empty clip, UserError for an unknown rule or `frames` below 1.
    """
    if rule not in RULES:
        raise UserError(f"unknown frame rule {rule!r}; expected one of {', '.join(RULES)}")
    if frames < 1:
        raise UserError(f"{frames} frames are asked for; ask for at least 1")
    if total < 1:
        raise SampleError("the clip has no frames, expected at least 1")
    if rule == "linspace":
        return tuple(i * (total - 1) // max(frames - 1, 1) for i in range(frames))
    if rule == "arange":
        # the float steps can yield one value too many, never one too few
        return tuple(np.arange(0, total, total / frames)[:frames].astype(int).tolist())
    return tuple(min(i, total - 1) for i in range(frames))


def read_video(path: Path, frames: int, rule: str, max_bytes: int = MAX_SAMPLE_BYTES) -> Clip:
    """Decode the frames that `rule` chooses of those that a player shows; repeated positions give the same array.

    The display matrix is applied. `max_bytes` bounds the memory of the frames chosen and of those that the
    decoder holds. What only a second decoding can tell is left to `recheck`: a reading is timed. Raises SampleError
    naming the file: missing, no regular file, in another container, truncated, damaged, without video, of several
    sizes, or above the limit.
    """
    frame_indices(1, frames, rule)  # a rule that is refused is refused before anything is read
    check_file(path, f"one in {READ}")
    try:
        check_whole(path)
        return _read(path, frames, rule, max_bytes)
    except UserError:
        raise
    except Exception as error:  # whatever the library raises, the file is its cause
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise SampleError(f"{path} cannot be decoded: {reason}; it is truncated or damaged, copy it again") from error


def _read(path: Path, frames: int, rule: str, max_bytes: int) -> Clip:
    import av

    av.logging.set_level(None)  # ffmpeg's messages come back as exceptions; on stderr they would break the screen
    found: _Frames | None = None
    with _open(path, max_bytes) as (container, stream, notes):
        packets, shown, leading = _demux(path, container, stream)
        length, wanted = len(shown), frame_indices(len(shown), frames, rule)
        frame_a_packet = (codec := _codec(stream)) in _FRAME_A_PACKET
        exact = shown if frame_a_packet and container.format.name != "avi" else None
        modes = _MODES[stream.width * stream.height * len(shown) < _SMALL_PIXELS :]
        _prepare(path, stream, modes[0], len(set(wanted)), max_bytes)
        if packets is not None:
            found = _decode(path, stream, packets, wanted, exact, modes[0])
            found = _complete(found, length - leading) if modes[0] == "strict" else found
    for mode in modes if packets is None or found is not None else modes[1:]:
        while found is None or found.length != length:
            if found is not None:  # another length than the packets promise chooses other frames: once more
                length, exact = found.length, None
            wanted = frame_indices(length, frames, rule)
            with _open(path, max_bytes) as (container, stream, _):
                _prepare(path, stream, mode, len(set(wanted)), max_bytes)
                found = _decode(path, stream, container.demux(stream), wanted, exact, mode)
                found = _complete(found, len(shown) - leading) if mode == "strict" else found
            if found is None:
                break
        if found is not None:
            break
    else:
        raise AssertionError("the last way to decode gives frames or raises")
    if frame_a_packet and length < len(shown) - leading and not found.interlaced:  # else a packet may be a field
        notes = (*notes, f"{len(shown)} packets give {length} frames: some may be lost")
    if mode == "tolerant":
        notes = (*notes, "the decoder met errors and passed over them: frames may be wrong")
    few = 0 < found.undecoded * stream.width * stream.height < _SMALL_PIXELS
    recheck = None
    if mode != "tolerant" and (few or codec in ("vp8", "mjpeg")):
        recheck = partial(_recheck, path, codec, found.images, length if few else None, max_bytes)
    return Clip(tuple(found.images[index] for index in wanted), wanted, length, (*notes, *found.notes), recheck)


def _recheck(
    path: Path, codec: str, images: dict[int, NDArray[np.uint8]], length: int | None, max_bytes: int
) -> tuple[str, ...]:
    """Notes of damage that takes more than one decoding: whether a second decoder of VP8 gives the same `images`,
    whether the pictures of MJPEG are whole, and whether as many frames decode as the packets promise, `length`."""
    notes = []
    try:
        if codec == "vp8" and not _second_decoder_agrees(path, images, max_bytes):
            notes.append("two decoders of VP8 disagree: frames may be wrong")
        if codec == "mjpeg" and (unsound := _unsound_jpegs(path, max_bytes)):
            notes.append(f"{unsound} pictures of MJPEG are damaged: frames may be wrong")
        if length is not None and (count := _decodable(path, max_bytes)) != length:
            shown = "frames with errors" if count is None else f"{count} frames"
            notes.append(f"{length} packets give {shown}: some may be lost")
    except Exception as error:  # whatever the library raises; the frames that were read stay
        notes.append(f"a second decoding failed ({type(error).__name__}): frames may be wrong")
    return tuple(notes)


def _unsound_jpegs(path: Path, max_bytes: int) -> int:
    with _open(path, max_bytes) as (container, stream, _):
        return sum(not _sound_jpeg(bytes(packet)) for packet in container.demux(stream) if packet.size)


def _decodable(path: Path, max_bytes: int) -> int | None:
    """How many frames decode, one packet at a time; None where the decoder objects."""
    with _open(path, max_bytes) as (container, stream, _):
        _prepare(path, stream, "serial", 0, max_bytes)
        try:
            found = _decode(path, stream, container.demux(stream), (), None, "serial")
        except SampleError:  # of frames that the reading did not take
            return None
    return None if found is None else found.length


def _second_decoder_agrees(path: Path, images: dict[int, NDArray[np.uint8]], max_bytes: int) -> bool:
    """Whether another decoder gives the same images of a VP8 clip; True where there is none.

    VP8 has no checksums, and its decoders are exact: they differ where damage makes one read past its data.
    """
    import av

    if "libvpx" not in av.codecs_available:
        return True
    with _open(path, max_bytes) as (container, stream, _):
        decoder: Any = av.CodecContext.create("libvpx", "r")
        found: dict[int, NDArray[np.uint8]] = {}
        count = 0
        try:
            for packet in chain(container.demux(stream), (None,)):
                for frame in decoder.decode(packet) if packet is None or packet.size else ():
                    if count in images:
                        found[count], _ = _upright(frame)
                    count += 1
                if len(found) == len(images):
                    break
        except av.error.FFmpegError:
            return False
    return found.keys() == images.keys() and all(np.array_equal(images[at], image) for at, image in found.items())


def _complete(found: _Frames | None, promised: int) -> _Frames | None:
    """None where frames are missing: where threads decode, an error of the last packets is lost with their frames."""
    return None if found is None or (found.length < promised and not found.interlaced) else found


@contextmanager
def _open(path: Path, max_bytes: int) -> Iterator[tuple[Any, Any, tuple[str, ...]]]:
    """The container, the stream to read, and notes on it."""
    import av

    # "file:" keeps a name with a colon from being taken for a protocol
    options = {**_OPEN, "max_pixels": str(min(max(max_bytes // 8, 1), _MOST_PIXELS))}
    with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
        stream, notes = _choose_stream(path, container)
        yield container, stream, notes


def _prepare(path: Path, stream: Any, mode: str, images: int, max_bytes: int) -> None:
    """Set the decoder of a stream up for `mode`, within `max_bytes` for it and `images` frames of RGB."""
    codec = stream.codec_context
    width, height = max(codec.width, codec.coded_width), max(codec.height, codec.coded_height)
    bits = codec.format.padded_bits_per_pixel if codec.format else 24
    threads = 1 if mode == "serial" else min((os.cpu_count() or 1) + 1, 16)  # ffmpeg's own choice; each holds a frame

    def needed(threads: int) -> int:
        held = _HELD_FRAMES.get(_codec(stream), _HELD_FRAMES_ELSE) + threads
        return int(width * height * (3 * images + held * bits / 8))

    if needed(threads) > max_bytes:
        threads = 1
    check_decoded_bytes(path, needed(threads), max_bytes)
    stream.thread_type = "NONE" if threads == 1 else "AUTO"
    codec.options = {
        # a larger frame later on is refused by the decoder before it takes memory
        "max_pixels": str(min((width + 256) * (height + 256), _MOST_PIXELS)),
        **(_STRICT if mode != "tolerant" and _codec(stream) not in _LENIENT else {}),
    }


def _choose_stream(path: Path, container: Any) -> tuple[Any, tuple[str, ...]]:
    """The default video track, else the first. Pictures attached to sound are no video."""
    from av.stream import Disposition

    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    tracks = [stream for stream in container.streams.video if not stream.disposition & pictures]
    if not tracks:
        raise SampleError(f"{path} has no video stream; expected one in {READ}")
    chosen = next((track for track in tracks if track.disposition & Disposition.default), tracks[0])
    if chosen.codec_context is None:
        raise SampleError(f"{path} has video in a codec that is not read; encode it as H.264")
    notes = []
    if len(tracks) > 1:
        notes.append(f"video track {tracks.index(chosen) + 1} of {len(tracks)}")
    aspect = chosen.sample_aspect_ratio or chosen.codec_context.sample_aspect_ratio
    if aspect and aspect > 0 and aspect != 1:
        notes.append(f"pixels of {aspect.numerator}:{aspect.denominator}, not square: not scaled")
    return chosen, tuple(notes)


def _demux(path: Path, container: Any, stream: Any) -> tuple[list[Any] | None, list[int | None], int]:
    """The packets of a stream, or None where they are too many bytes to keep; the presentation times of the frames
    that they promise, ascending; and how many of these lead the first key frame, without which they may depend on
    frames that a cut took away. Raises SampleError where packets are missing or broken."""
    kept: list[Any] | None = []
    size = broken = 0
    shown: list[int | None] = []
    starts: list[int] = []
    first: int | None = None
    end = 0
    hides = _codec(stream) == "vp8"
    for packet in container.demux(stream):
        if not packet.size:
            continue
        size += packet.size + _PACKET_BYTES
        if kept is not None:
            kept.append(packet)
            if size > _KEPT_BYTES:
                kept = None
        broken += packet.is_corrupt
        if packet.pts is not None:
            first = packet.pts if first is None else first
            starts.append(packet.pts)
            end = max(end, packet.pts + (packet.duration or 0))
        # VP8's frame header has a bit for "shown" (RFC 6386, 9.1)
        if not packet.is_discard and not (hides and not memoryview(packet)[0] & 0x10):
            shown.append(packet.pts)
    if broken:
        raise SampleError(f"{path} is truncated or damaged: {broken} of its packets are broken; copy it again")
    if _is_mp4(container) and starts and stream.duration:
        starts.sort()
        widest = max((after - before for before, after in pairwise(starts)), default=0)
        if (stream.duration - end - 2 * widest) * stream.time_base > _GAP_S:
            raise SampleError(
                f"{path} is truncated: found {float(end * stream.time_base):.2f} s of video, expected "
                f"{float(stream.duration * stream.time_base):.2f} s by its header; copy it again"
            )
    if not shown:
        raise SampleError(f"{path} has a video stream without frames, expected at least 1; encode it again")
    if None in shown:
        return kept, shown, 0
    times = sorted(time for time in shown if time is not None)
    return kept, [*times], bisect_left(times, first) if first is not None else 0


def _sound_jpeg(data: bytes) -> bool:
    """Whether a JPEG has its end, and no marker in its scans that cannot stand there (ITU-T T.81, B.1)."""
    begin, end = data.find(b"\xff\xda"), data.rfind(b"\xff\xd9")  # the first scan, and the picture's end
    if not 0 < begin < end or data[end + 2 :].strip(b"\0\xff"):
        return False
    return not _NOT_IN_A_SCAN.search(data, begin + 2, end)


def _decode(
    path: Path, stream: Any, packets: Iterable[Any], wanted: tuple[int, ...], exact: list[int | None] | None, mode: str
) -> _Frames | None:
    """Decode all packets, or, while each frame has the presentation time that `exact` gives it, up to the last one
    wanted. None where the decoder objects and another mode may not."""
    import av

    chosen = set(wanted)
    images: dict[int, NDArray[np.uint8]] = {}
    notes: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    count, interlaced = 0, False
    # an empty packet in the middle would end the decoder
    for packet in (*packets, None) if isinstance(packets, list) else chain(packets, (None,)):
        if packet is not None and not packet.size:
            continue
        try:
            decoded = stream.decode(packet)
        except av.error.FFmpegError:
            if mode == "tolerant":
                raise
            if mode == "serial" and packet is not None and packet.is_discard:
                continue  # never shown: in an open group of pictures that was cut, frames it depends on are missing
            return None
        for frame in decoded:
            if frame.is_corrupt:
                raise SampleError(f"{path} is damaged at frame {count}, which the decoder conceals; copy it again")
            size = size or (frame.width, frame.height)
            if (frame.width, frame.height) != size:
                raise SampleError(
                    f"{path} changes its size from {size[0]}x{size[1]} to {frame.width}x{frame.height} at frame "
                    f"{count}; encode it again in one size"
                )
            if exact is not None and (count >= len(exact) or frame.pts != exact[count]):
                exact = None
            if count in chosen:
                images[count], notes = _upright(frame)
                interlaced = interlaced or frame.interlaced_frame
            count += 1
            if exact is not None and len(images) == len(chosen):
                return _Frames(images, len(exact), notes, interlaced, len(exact) - count)
    if not count:
        raise SampleError(f"{path} has a video stream that decodes to no frames; encode it again")
    return _Frames(images, count, notes, interlaced)


def _upright(frame: Any) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """The image [height, width, 3] as its display matrix turns it, and a note of what was done.

    The matrix maps x to a x + c y and y to b x + d y (ISO/IEC 14496-12, 6.2.2). Quarter turns and mirrors are
    applied, as ffmpeg does.
    """
    image = frame.to_ndarray(format="rgb24", interpolation="BICUBIC")  # as ffmpeg scales chroma
    a, b, c, d = _display_matrix(frame)
    angle = math.degrees(math.atan2(b, a)) % 360
    if min(angle % 90, 90 - angle % 90) > 1:
        return image, (f"the display matrix asks for a turn of {angle:.0f} degrees: not applied",)
    across = abs(b) > abs(a)
    if across:
        image = image.transpose(1, 0, 2)
    left_right, upside_down = (c < 0, b < 0) if across else (a < 0, d < 0)
    if left_right:
        image = image[:, ::-1]
    if upside_down:
        image = image[::-1]
    if not (across or left_right or upside_down):
        return image, ()
    turn = round(angle / 90) % 4 * 90
    done = [f"turned by {turn} degrees clockwise"] if turn else []
    if (across + left_right + upside_down) % 2:
        done.append("mirrored")
    return np.ascontiguousarray(image), (f"{' and '.join(done)}, as the display matrix asks",)


def _display_matrix(frame: Any) -> tuple[float, float, float, float]:
    """a, b, c, d of the display matrix that maps x to a x + c y and y to b x + d y; the identity where none is."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV lists no side data where it does not know one kind, but knows the angle
        angle = math.radians(-frame.rotation)
        return math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle)
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    return a, b, c, d


def _is_mp4(container: Any) -> bool:
    return "mp4" in container.format.name.split(",")


def _codec(stream: Any) -> str:
    return str(stream.codec_context.codec.canonical_name)
