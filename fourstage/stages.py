"""The contract: four stages, what flows between them, and the record of one sample.

    sample ──load──▶ media ──preprocess──▶ inputs ──encode──▶ features ──decode──▶ generation

A pipeline has one method per arrow. Data moves one way, and nothing is computed twice: what `encode`
made, `decode` consumes. The pipeline holds no clock; whoever calls it does (`loop.py`).

This module knows nobody: it imports torch for types only and nothing else of fourstage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Image = NDArray[np.uint8]  # [height, width, 3], RGB

STAGES = ("load", "preprocess", "encode", "decode")


class UserError(ValueError):
    """Something that the user can mend; its message is one line and needs no traceback."""


class SampleError(UserError):
    """A fault of one sample: it is put on that sample's record, and the run goes on."""


class MeasurementError(Exception):
    """The run took place and its numbers cannot be trusted."""


@dataclass(frozen=True)
class Sample:
    """One entry of a dataset. Paths are as written in the dataset, relative to folders under `root`."""

    key: str  # pairs the sample across runs: event_data, else video_data, else id
    id: str
    root: Path
    event_data: str | None = None  # under event_npy/
    event_image: tuple[str, ...] = ()  # under event_image/, in order
    video_data: str | None = None  # folder under video/ and stem under mp4/
    mp4_data: str | None = None  # under mp4/, with its suffix
    file: str | None = None  # all of its media in one file or folder under `root`, instead of the paths above
    question: str = ""  # "": the run's own prompt is asked
    reference: str = ""  # "": no quality is scored
    extra: Mapping[str, Any] = field(default_factory=dict)  # further keys of the entry, kept
    max_bytes: int = 2 * 1024**3  # decoded: the setting dataset.max_sample_bytes
    notes: tuple[str, ...] = ()  # what was changed in the entry, for the record

    @property
    def options(self) -> tuple[str, ...]:
        """The options of a multiple choice, from the entry's `options`; () where there are none."""
        options = self.extra.get("options")
        if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
            return ()
        return tuple(options)

    @property
    def answer(self) -> str:
        """The letter of the right option, from the entry's `answer`."""
        answer = self.extra.get("answer")
        return answer if isinstance(answer, str) else ""


@dataclass(frozen=True)
class Fill:
    """How a sample came into the cache, before the measurement (`cache.py`)."""

    stages: tuple[str, ...]  # that the cache serves: "load", or "load" and "preprocess" (its images, not its text)
    seconds: float  # of these stages, once, to fill it
    cached_share: float | None  # of the sample's files, in the page cache just before


@dataclass(frozen=True)
class Media:
    """What `load` read: uint8 images in host memory, and the facts of how they were read."""

    images: tuple[Image, ...]  # event images or video frames, each [height, width, 3] RGB
    source: str  # "png", "npy", "mp4" or "images"
    indices: tuple[int, ...]  # position of each image in its clip
    clip_length: int  # images or frames that the clip has
    bytes_read: int  # size of the files behind it
    notes: tuple[str, ...] = ()  # what a reader of the record should know, e.g. repeated frames
    fill: Fill | None = None  # where they came from the cache
    recheck: Callable[[], tuple[str, ...]] | None = None  # gives further notes; its work is not the stage's

    def all_notes(self) -> tuple[str, ...]:
        """The notes with those of `recheck`, which may decode the files once more: never call it in a timed region."""
        return (*self.notes, *(self.recheck() if self.recheck else ()))


@dataclass(frozen=True)
class Inputs:
    """What `preprocess` made of a batch: tensors on the device, and token ids with a placeholder for the media."""

    pixel_values: Tensor  # [images of all samples, 3, size, size] in the run's dtype
    images_per_sample: tuple[int, ...]
    input_ids: tuple[Tensor, ...]  # per sample [tokens] int64, on the device
    prompts: tuple[str, ...]  # the text that was tokenised


@dataclass(frozen=True)
class Features:
    """What `encode` made of a batch: per sample [visual tokens, hidden] in the run's dtype, on the device."""

    visual: tuple[Tensor, ...]


@dataclass(frozen=True)
class Generation:
    """What `decode` made of a batch. Token ids are the new ones only, without prompt and padding."""

    token_ids: tuple[tuple[int, ...], ...]  # with the end token, where the model wrote one
    texts: tuple[str, ...]
    finish_reasons: tuple[str, ...]  # "stop": the model ended; "length": max_new_tokens ended it
    text_tokens: tuple[int, ...]  # prompt tokens without the media's
    visual_tokens: tuple[int, ...]


@dataclass(frozen=True)
class Sampling:
    """How stage 4 chooses tokens."""

    temperature: float  # 0: greedy
    top_p: float
    top_k: int  # 0: no limit
    max_new_tokens: int
    num_beams: int = 1
    stop: str = "natural"  # "natural": at the end token; "fixed": exactly max_new_tokens

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken at each step."""
        return self.temperature == 0


class OnToken(Protocol):
    """What a pipeline calls once for each token."""

    def __call__(self, at: float | None = None, /) -> None:
        """The batch's next tokens are known: now, once the device has finished, or since `at`.

        `at` is in seconds of `time.perf_counter()`, for a pipeline that must not wait for the device between tokens.
        """


class Pipeline(Protocol):
    """A model in four stages. All methods but `load` take and give a batch; a single sample is a batch of one."""

    vision_calls: int  # forward passes of the vision tower so far, counted at the tower itself, replayed ones too

    def load(self, sample: Sample) -> Media:
        """Disk → uint8 images. Raises SampleError where the sample cannot be read."""
        ...

    def preprocess(self, media: Sequence[Media], questions: Sequence[str]) -> Inputs:
        """uint8 images and questions → tensors on the device."""
        ...

    def encode(self, inputs: Inputs) -> Features:
        """Vision tower, projector and what follows, once."""
        ...

    def decode(self, inputs: Inputs, features: Features, sampling: Sampling, on_token: OnToken) -> Generation:
        """Prefill and one token at a time → ids, text. `on_token` is called once each token of the batch is known."""
        ...

    def unstaged(self, inputs: Inputs, sampling: Sampling) -> tuple[tuple[int, ...], ...]:
        """New ids by the model's own `generate()`, which encodes inside: what the stages are checked against."""
        ...


@dataclass(frozen=True)
class SampleRecord:
    """One sample, measured once: the raw truth from which every figure is recomputed.

    Seconds are None where a stage was not reached. With batch_size > 1 the four stages, their sum and the
    end-to-end time are the batch's, divided equally among its samples; `prefill_s`, `ttft_s` and
    `token_s` stay what one sample waits.
    """

    key: str
    sample_id: str
    position: int  # in the run, from 0
    repeat: int = 0
    replicate: int = 0  # which of the run's fresh processes measured it
    role: str = "sample"  # "sentinel": the first sample measured again to watch the machine; in no figure
    batch_size: int = 1
    seed: int = 0
    started_unix_s: float = 0.0  # wall clock at the start of `load`
    cached_share: float | None = None  # of the sample's files, in the page cache just before they were read
    cached_stages: tuple[str, ...] = ()  # that were served from the run's own cache: their times are the cache's
    cache_fill_s: float | None = None  # what filling it with this sample took, before the measurement
    source: str | None = None
    images: int | None = None
    image_indices: tuple[int, ...] = ()  # which of the clip they were
    clip_length: int | None = None
    bytes_read: int | None = None
    notes: tuple[str, ...] = ()
    load_s: float | None = None
    preprocess_s: float | None = None
    encode_s: float | None = None
    decode_s: float | None = None
    total_s: float | None = None  # sum of the four stages
    end_to_end_s: float | None = None  # from clock readings of its own
    prefill_s: float | None = None  # start of decode to the first token
    ttft_s: float | None = None  # start of load to the first token
    token_s: tuple[float, ...] = ()  # seconds of each decode step after the first token
    text_tokens: int | None = None
    visual_tokens: int | None = None
    output_tokens: int | None = None
    finish_reason: str | None = None
    vision_calls: int | None = None
    peak_memory_bytes: int | None = None
    gpu_clock_mhz: int | None = None  # of the GPU just after the sample, where NVML answers
    gpu_power_w: float | None = None
    gpu_temperature_c: int | None = None
    gpu_throttle: tuple[str, ...] = ()  # reasons for which the clocks are held down
    question: str | None = None  # that was asked
    prompt: str | None = None  # the whole text around it
    output: str | None = None
    output_ids: tuple[int, ...] = ()
    reference: str = ""
    attributes: str = ""  # the entry's own, as JSON: what is true of a demo scene
    options: tuple[str, ...] = ()  # of a multiple choice
    answer: str = ""  # the letter of the right option
    quality_accuracy: float | None = None  # scores, 0 to 100; None where the sample has nothing to score against
    quality_choice: float | None = None
    quality_chrf: float | None = None
    quality_bleu: float | None = None
    quality_rouge_l: float | None = None
    error: str | None = None
    error_stage: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the sample was measured without an error."""
        return self.error is None

    @property
    def input_tokens(self) -> int | None:
        """Text and visual tokens of the prompt; None where either is missing."""
        if self.text_tokens is None or self.visual_tokens is None:
            return None
        return self.text_tokens + self.visual_tokens

    @property
    def tpot_ms(self) -> float | None:
        """Milliseconds per decode step: per output token after the first (beams: per token of the search)."""
        return 1000 * sum(self.token_s) / len(self.token_s) if self.token_s else None
