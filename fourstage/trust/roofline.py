"""How near the device's limits: bytes and operations of each stage, and the time below which none can be.

A call has to do its operations and to move its bytes, so it takes at least as long as the slower of the two does
at the device's measured peak (the roofline of Williams, Waterman and Patterson, CACM 52(4), 2009). Counts are of
the least work that the call can do: weights once, every product once, of causal attention only what the mask
leaves, of the KV cache one read and one write. So a share of the floor is never flattered, and one above 1 means
that the time, the count or the peak is wrong.

Left out, as small or as not needed by every implementation: activations between layers, norms, softmax and
activation functions, the embedding rows that are looked up (`hidden` values a token), copies of the KV cache.

    cost = decode_step_cost(shapes, context=640)
    floor_s(cost, peaks, "bf16")                   # seconds
    run_shares(columns, records, shapes, peaks, "bf16").decode_mbu

A model's `Shapes` are read off it by `models/shapes.py`; a device's `Peaks` are measured by `peaks.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fourstage.models.shapes import LanguageModel, Shapes
from fourstage.records.columns import Codes, Columns, Floats, Ints
from fourstage.stages import SampleRecord

KINDS = ("encode", "prefill", "decode")


@dataclass(frozen=True)
class Cost:
    """What a call has to do at the least."""

    flops: int  # a multiply-add is two
    bytes: int  # read from and written to the device's memory


def encode_cost(shapes: Shapes, images: int) -> Cost:
    """The tower, the projector and the adaptor on `images` images in one call.

    Operations: two per parameter of every product and token (Kaplan et al., Scaling Laws for Neural Language
    Models, 2020, section 2.1), the patch embedding on patches only, and per layer the two products of attention,
    each tokens × tokens × hidden multiply-adds (every token sees every token). Bytes: weights once, pixels once.
    """
    vision = shapes.vision
    patches = vision.tokens - 1
    per_token = vision.layers * vision.layer_matrices + sum(
        linear.inputs * linear.outputs for linear in shapes.after_tower
    )
    attention = vision.layers * 2 * vision.tokens**2 * vision.hidden
    pixels = patches * vision.patch_inputs
    flops = 2 * (pixels * vision.hidden + vision.tokens * per_token + attention)
    return Cost(flops=images * flops, bytes=shapes.bytes_per_value * (shapes.encoder_parameters + images * pixels))


def prefill_cost(shapes: Shapes, rows: int, batch: int = 1) -> Cost:
    """The language model on `batch` prompts of `rows` embeddings each, padding included, up to the first logits.

    Operations: two per parameter of the layers and row (Kaplan et al. 2020); the head on the last row only, as
    transformers' `generate()` asks for it (`logits_to_keep=1`, generation/utils.py); attention on the rows that a
    causal mask leaves, rows (rows + 1) / 2 pairs. PaLM's appendix B (Chowdhery et al. 2022) counts the whole
    square, as does torch's FlopCounterMode; kernels that know the mask skip half of it, so it is no floor.
    Bytes: weights once, the embeddings read once, the KV cache written once.
    """
    language = shapes.language
    pairs = rows * (rows + 1) // 2
    flops = 2 * (
        rows * language.layers * language.layer_matrices
        + language.layers * attention_products(language, pairs)
        + language.vocab * language.hidden
    )
    moved = rows * (language.hidden * shapes.bytes_per_value + shapes.kv_bytes_per_token)
    return Cost(flops=batch * flops, bytes=shapes.language_bytes + batch * moved)


def decode_step_cost(shapes: Shapes, context: int, batch: int = 1) -> Cost:
    """One new token for each of `batch` sequences, `context` tokens of each in the KV cache before it.

    Operations: two per parameter of layers and head (Kaplan et al. 2020), and attention to the context and the
    token itself. Bytes: weights once for the whole batch, the cache of each sequence read once, one token of it
    written (the numerator of Databricks' model bandwidth utilisation: parameters and KV cache).
    """
    language = shapes.language
    flops = 2 * (
        language.layers * (language.layer_matrices + attention_products(language, context + 1))
        + language.vocab * language.hidden
    )
    return Cost(
        flops=batch * flops,
        bytes=shapes.language_bytes + batch * (context + 1) * shapes.kv_bytes_per_token,
    )


def attention_products(language: LanguageModel, pairs: int) -> int:
    """Multiply-adds of one layer's two products of attention on pairs of a query and a key."""
    return 2 * pairs * language.heads * language.head_dim


@dataclass(frozen=True)
class Peaks:
    """What a device was seen to reach at its best. Raises ValueError for what no device measures.

    `bandwidths` holds (bytes in use, bytes per second), ascending in bytes: what fits into a cache moves faster.
    """

    device: str
    bandwidths: tuple[tuple[int, float], ...]
    flops_per_s: Mapping[str, float]  # of a square product, by precision: fp32, bf16, fp16
    fp32_precision: str  # torch's float32_matmul_precision: "highest" is IEEE, "high" and "medium" may be TF32
    measured_unix_s: float

    def __post_init__(self) -> None:
        sizes = [size for size, _ in self.bandwidths]
        rates = [*(rate for _, rate in self.bandwidths), *self.flops_per_s.values()]
        if not sizes or not self.flops_per_s or sizes != sorted(set(sizes)):
            raise ValueError(f"peaks of {self.device} need ascending sizes and a product, got {sizes}")
        if not all(0 < rate < math.inf for rate in rates):
            raise ValueError(f"peaks of {self.device} must be above 0 and finite, got {rates}")

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """The memory's own, behind all caches."""
        return self.bandwidths[-1][1]

    def bandwidth_at(self, size: int) -> float:
        """Bytes per second that a call moving `size` bytes cannot exceed.

        That of the largest measured size not above it: a smaller set can be the faster one, never the slower. So a
        small model that lives in a CPU's cache is held against the cache.
        """
        fitting = [rate for measured, rate in self.bandwidths if measured <= size]
        return fitting[-1] if fitting else self.bandwidths[0][1]

    def flops_at(self, dtype: str) -> float:
        """Operations per second in a precision. Raises ValueError for one that was not measured."""
        if dtype not in self.flops_per_s:
            raise ValueError(f"no product in {dtype} was measured on {self.device}, only {', '.join(self.flops_per_s)}")
        return self.flops_per_s[dtype]


def floor_s(cost: Cost, peaks: Peaks, dtype: str) -> float:
    """Seconds that the cost takes at the least: its operations or its bytes at their peak, whichever is longer.

    Raises ValueError for a precision that was not measured.
    """
    return max(cost.flops / peaks.flops_at(dtype), cost.bytes / peaks.bandwidth_at(cost.bytes))


@dataclass(frozen=True)
class Achieved:
    """Shares of the device's peaks that a call reached, 0 to 1; above 1 is impossible."""

    mbu: float  # of the bandwidth
    mfu: float  # of the matrix throughput
    floor: float  # the floor's share of the time: the larger of the two


def shares(cost: Cost, seconds: float, peaks: Peaks, dtype: str) -> Achieved:
    """What a call of this cost reached in `seconds`; infinite where no time passed.

    MFU is PaLM's model FLOPs utilisation (Chowdhery et al. 2022, appendix B): operations of the model, whatever the
    implementation really did, by what the device could have done in that time. MBU is the same of bytes (model
    bandwidth utilisation, Databricks, LLM Inference Performance Engineering, 2023). Both are against measured
    peaks, not against a data sheet's. Raises ValueError for a precision that was not measured.
    """
    mbu = _ratio(cost.bytes / peaks.bandwidth_at(cost.bytes), seconds)
    mfu = _ratio(cost.flops / peaks.flops_at(dtype), seconds)
    return Achieved(mbu, mfu, max(mbu, mfu))


@dataclass(frozen=True)
class Fastest:
    """The largest share of the floor that a sample reached, and which one; above 1 is impossible."""

    key: str  # of a batch, its first sample's
    seconds: float  # of a batch, the whole call's
    floor_s: float

    @property
    def share(self) -> float:
        """The floor as a share of the measured time."""
        return _ratio(self.floor_s, self.seconds)


@dataclass(frozen=True)
class Shares:
    """What a run reached. None, or no entry, where no record has that time."""

    encode_mfu: float | None  # median over calls
    prefill_mfu: float | None  # median over calls
    decode_mbu: float | None  # median over decode steps, of the sampled records
    roofline_share: float | None  # all floors of encode, prefill and decode steps by all their seconds
    fastest: Mapping[str, Fastest]  # encode, prefill, decode → over a sample's steps together


def run_shares(
    run: Columns, sampled: Sequence[SampleRecord], shapes: Shapes, peaks: Peaks, dtype: str, beams: int = 1
) -> Shares:
    """How near a run came to the device's limits; records in the order in which they were measured.

    Every record of `run` is held against its floor. Single decode steps are known of whole records only: their
    median is over `sampled`, which are all of a short run, and whole calls of a long one.

    Each decode step is held against its own context: the prompt's tokens and the steps before it. A batch is one
    call, of its images together, padded to its longest prompt, read off the records that share it; a batch of
    which a record is missing is left out. `beams` sequences are decoded for each sample. Raises ValueError for a
    precision that was not measured.
    """
    calls = _calls_of(run.done, beams)
    seconds = {"encode": calls.encode_s, "prefill": calls.prefill_s, "decode": calls.steps_s}
    mfu: dict[str, float | None] = {}
    floors: dict[str, Floats] = {}
    sized: tuple[tuple[str, Callable[[int, int], Cost], Floats], ...] = (
        ("encode", lambda images, _: encode_cost(shapes, images), calls.images),
        ("prefill", lambda rows, sequences: prefill_cost(shapes, rows, sequences), calls.rows),
    )
    for kind, cost, sizes in sized:
        operations_s, floors[kind] = _least_s(cost, sizes, calls.sequences, peaks, dtype)
        mfu[kind] = _median(_ratios(operations_s, seconds[kind]))
    floors["decode"] = _decode_floors(calls, shapes, peaks, dtype)

    fastest: dict[str, Fastest] = {}
    floor = taken = 0.0
    for kind in KINDS:
        known = ~np.isnan(floors[kind]) & ~np.isnan(seconds[kind])
        if known.any():
            i = int(np.nanargmax(_ratios(floors[kind], seconds[kind])))
            fastest[kind] = Fastest(calls.keys[calls.key_codes[i]], float(seconds[kind][i]), float(floors[kind][i]))
            floor += float(floors[kind][known].sum())
            taken += float(seconds[kind][known].sum())
    return Shares(
        encode_mfu=mfu["encode"],
        prefill_mfu=mfu["prefill"],
        decode_mbu=_median(_step_mbu(sampled, shapes, peaks, dtype, beams)),
        roofline_share=_ratio(floor, taken) if fastest else None,
        fastest=fastest,
    )


@dataclass(frozen=True, eq=False)
class _Calls:
    """Calls of the model as arrays of one length; NaN where a record of the call lacks the value."""

    key_codes: Codes  # of the first record
    keys: tuple[str, ...]
    first: Ints  # index of that record
    sequences: Ints
    images: Floats
    rows: Floats  # of the longest prompt
    encode_s: Floats
    prefill_s: Floats
    steps: Ints  # of the longest answer
    steps_s: Floats  # their sum; NaN where there is none


def _calls_of(done: Columns, beams: int) -> _Calls:
    """The calls of which every record is there."""
    calls = done.calls
    first, sizes = np.flatnonzero(np.diff(calls, prepend=-1)), np.bincount(calls)
    whole = sizes == done.batch_size[first]
    steps = np.maximum.reduceat(done.steps, first)[whole]
    # the steps of a shorter answer are the first of the longest one's
    steps_s = np.maximum.reduceat(done.token_sum_s, first)[whole]
    return _Calls(
        key_codes=done.key_codes[first][whole],
        keys=done.keys,
        first=first[whole],
        sequences=sizes[whole] * beams,
        images=np.add.reduceat(done.images, first)[whole],
        rows=np.maximum.reduceat(done.input_tokens, first)[whole],
        encode_s=(done.encode_s[first] * sizes)[whole],  # a record holds its share of the batch's time
        prefill_s=done.prefill_s[first][whole],
        steps=steps,
        steps_s=np.where(steps > 0, steps_s, np.nan),
    )


def _least_s(
    cost: Callable[[int, int], Cost], sizes: Floats, sequences: Ints, peaks: Peaks, dtype: str
) -> tuple[Floats, Floats]:
    """Seconds of each call's operations alone, and its floor; NaN where its size is not known."""
    radix = int(sequences.max(initial=0)) + 1  # so that one number stands for both, and each cost is counted once
    different, which = np.unique(sizes * radix + sequences, return_inverse=True)
    costs = [None if np.isnan(both) else cost(*divmod(int(both), radix)) for both in different]
    operations_s = [math.nan if found is None else found.flops / peaks.flops_at(dtype) for found in costs]
    floors = [math.nan if found is None else floor_s(found, peaks, dtype) for found in costs]
    return np.array(operations_s)[which], np.array(floors)[which]


def _decode_floors(calls: _Calls, shapes: Shapes, peaks: Peaks, dtype: str) -> Floats:
    """Seconds that the steps of each call take at the least; NaN where it has none or its prompt is not known."""
    floors = np.full(len(calls.rows), np.nan)
    known = ~np.isnan(calls.rows) & (calls.steps > 0)
    for sequences in np.unique(calls.sequences[known]):
        these = known & (calls.sequences == sequences)
        start = calls.rows[these].astype(np.int64)
        end = start + calls.steps[these]
        contexts = range(int(start.min()), int(end.max()))
        each = [floor_s(decode_step_cost(shapes, context, int(sequences)), peaks, dtype) for context in contexts]
        below = np.concatenate([[0.0], np.cumsum(each)])  # the steps of all shorter contexts
        floors[these] = below[end - contexts.start] - below[start - contexts.start]
    return floors


def _step_mbu(records: Sequence[SampleRecord], shapes: Shapes, peaks: Peaks, dtype: str, beams: int) -> Floats:
    """The share of the bandwidth that each decode step reached."""
    done = [record for record in records if record.ok]
    calls = _calls_of(Columns.of(done), beams)
    found: list[float] = []
    for first, rows, sequences in zip(calls.first, calls.rows, calls.sequences, strict=True):
        if not np.isnan(rows):
            batch = done[first : first + done[first].batch_size]
            steps = max((record.token_s for record in batch), key=lambda steps: len(steps))
            costs = (decode_step_cost(shapes, int(rows) + step, int(sequences)) for step in range(len(steps)))
            found += [shares(cost, taken, peaks, dtype).mbu for cost, taken in zip(costs, steps, strict=True)]
    return np.array(found)


def _median(values: Floats) -> float | None:
    present = values[~np.isnan(values)]
    return float(np.median(present)) if len(present) else None


def _ratios(floors: Floats, seconds: Floats) -> Floats:
    """As `_ratio` has it; NaN where either is."""
    ratios = np.full(len(floors), math.inf)
    ratios[np.isnan(floors) | np.isnan(seconds)] = np.nan
    np.divide(floors, seconds, out=ratios, where=seconds > 0)
    return ratios


def _ratio(floor: float, seconds: float) -> float:
    return floor / seconds if seconds > 0 else math.inf
