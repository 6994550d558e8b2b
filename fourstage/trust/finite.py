"""Are the numbers inside the model finite? Looked at after the run, on a few samples, never in a timed region.

found = examine(pipeline, items, sampling)
found.faults        # ("a.npy: last logits are not finite (NaN or infinite: 512 of 512)",)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fourstage.measure.plan import Planned
from fourstage.stages import Inputs, Pipeline, SampleRecord, Sampling

REPEATED = 8  # tokens: an answer of so many equal ones is examined


@dataclass(frozen=True)
class Finite:
    """What was found."""

    samples: int = 0  # that were examined
    faults: tuple[str, ...] = ()
    suspicious: tuple[str, ...] = ()  # answers that led to an examination


def suspicious(records: Sequence[SampleRecord]) -> dict[str, str]:
    """Keys of samples with an empty answer, or one token all the way, and what was seen."""
    found: dict[str, str] = {}
    for record in records:
        if not record.ok:
            continue
        ids = record.output_ids
        if len(ids) >= REPEATED and len(set(ids)) == 1:
            found.setdefault(record.key, f"{record.key} is answered by token {ids[0]} {len(ids)} times")
        elif record.output is not None and not record.output.strip():
            found.setdefault(record.key, f"{record.key} has an empty answer")
    return found


def examine(pipeline: Pipeline, items: Sequence[Planned], sampling: Sampling, seen: Sequence[str] = ()) -> Finite:
    """Features, first and last logits of the samples; none where the pipeline has no tensors to look at."""
    faults, samples = list[str](), 0
    for item in items:
        inputs = pipeline.preprocess([pipeline.load(item.sample)], [item.question])
        with logits_of(pipeline) as logits:
            features = pipeline.encode(inputs)
            generation = pipeline.decode(inputs, features, sampling, _nothing)
        if not logits:  # an engine that does not call the head
            logits |= _engine_logits(pipeline, inputs, generation.token_ids[0])
        values = [("features", value) for value in features.visual] + [
            (f"{name} logits", value) for name, value in logits.items()
        ]
        bad = [(name, count) for name, value in values if (count := _not_finite(value))]
        faults += [
            f"{item.sample.key}: {name} are not finite ({count:,} values NaN or infinite)" for name, count in bad
        ]
        samples += any(hasattr(value, "isfinite") for _, value in values)
    return Finite(samples, tuple(faults), tuple(seen))


@contextmanager
def logits_of(pipeline: Any) -> Iterator[dict[str, Any]]:
    """The first and the last output of the language model's head while the block runs."""
    found: dict[str, Any] = {}
    generator = getattr(pipeline, "generator", None)
    head = generator.get_output_embeddings() if generator is not None else None
    if head is None:
        yield found
        return

    def keep(_module: Any, _args: Any, out: Any) -> None:
        found.setdefault("first", out)
        found["last"] = out

    hook = head.register_forward_hook(keep)
    try:
        yield found
    finally:
        hook.remove()


def _engine_logits(pipeline: Any, inputs: Inputs, ids: Sequence[int]) -> dict[str, Any]:
    """The first and the last logits of an answer from an engine that exposes them."""
    found = pipeline.logits(inputs, ids) if hasattr(pipeline, "logits") and ids else None
    return {} if found is None else {"first": found[:, 0], "last": found[:, -1]}


def _not_finite(value: Any) -> int:
    return int((~value.isfinite()).sum()) if hasattr(value, "isfinite") else 0


def _nothing(at: float | None = None, /) -> None:
    pass
