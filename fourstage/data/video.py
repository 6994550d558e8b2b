"""Video files: which frames of a clip the model sees, and decoding them through PyAV.

Leaves out sound, seeking and rotation. A clip is decoded from its start: its frames depend on one another.

    images, indices, length = read_video(Path("mp4/gota.mp4"), frames=8, rule="linspace")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fourstage.data.limits import MAX_SAMPLE_BYTES
from fourstage.stages import SampleError, UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

RULES = ("linspace", "arange", "head")

# a file may be a playlist under another name: only real containers are opened, and from them no other file
_OPEN = {"protocol_whitelist": "file", "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"}


def frame_indices(total: int, frames: int, rule: str) -> tuple[int, ...]:
    """Choose exactly `frames` positions of a clip of `total` frames, ascending; a short clip repeats some.

    `linspace`: floor(i (N-1) / (frames-1)), from the first to the last. `arange`: `np.arange(0, N, N / frames)`
    cut to int. `head`: the first ones, then the last again (shared/DATASET.md, "Video").
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


def read_video(
    path: Path, frames: int, rule: str, max_bytes: int = MAX_SAMPLE_BYTES
) -> tuple[tuple[NDArray[np.uint8], ...], tuple[int, ...], int]:
    """Decode the frames that `rule` chooses: images uint8 [height, width, 3] RGB, their positions, the clip's length.

    The length is that of the packets in the file, counted without decoding. Repeated positions give the same
    array. Raises SampleError naming the file where it is missing, truncated, damaged or without video.
    """
    import av

    if not path.is_file():
        raise SampleError(f"video file {path} does not exist; expected an MP4")
    av.logging.set_level(None)  # ffmpeg's messages come back as exceptions; on stderr they would break the screen
    try:
        total = _count_frames(path)
        indices = frame_indices(total, frames, rule)
        images = _decode(path, set(indices), total)
    except av.error.FFmpegError as error:
        hint = " (an MP4 cut short lacks its moov atom)" if isinstance(error, av.error.InvalidDataError) else ""
        raise SampleError(
            f"{path} cannot be decoded: {error.strerror}{hint}; it is truncated, damaged or no MP4; copy it again"
        ) from error
    return tuple(images[index] for index in indices), indices, total


def _count_frames(path: Path) -> int:
    """Frames that decoding will give: packets of the video stream, without those that an edit list hides."""
    import av

    with av.open(str(path), options=_OPEN) as container:
        stream = _video_stream(container, path)
        whole = broken = hidden = 0
        for packet in container.demux(stream):
            if packet.size:  # the last packet is empty: it only flushes the decoder
                whole += not packet.is_corrupt
                broken += packet.is_corrupt
                hidden += packet.is_discard
        if broken or whole < stream.frames:
            expected = f"{stream.frames} by its header" if stream.frames else "none broken"
            raise SampleError(
                f"{path} is truncated: found {whole} whole and {broken} broken frames, expected {expected}; "
                "copy it again"
            )
        if whole == hidden:
            raise SampleError(f"{path} has a video stream without frames, expected at least 1; encode it again")
        return whole - hidden


def _decode(path: Path, wanted: set[int], total: int) -> dict[int, NDArray[np.uint8]]:
    import av

    images: dict[int, NDArray[np.uint8]] = {}
    decoded = 0
    with av.open(str(path), options=_OPEN) as container:
        stream = _video_stream(container, path)
        stream.thread_type = "AUTO"
        for index, frame in enumerate(container.decode(stream)):
            decoded += 1
            if index not in wanted:
                continue
            if frame.is_corrupt:
                raise SampleError(f"{path} is damaged at frame {index}: the decoder marks it corrupt; encode it again")
            images[index] = frame.to_ndarray(format="rgb24")
            if len(images) == len(wanted):
                return images
    raise SampleError(f"{path} decodes to {decoded} frames, expected {total} as it has packets; encode it again")


def _video_stream(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise SampleError(f"{path} has no video stream; expected an MP4 with one")
    return container.streams.video[0]
