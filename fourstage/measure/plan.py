"""Which measurements are made, in which order, with which seeds.

planned = plan_round(samples, questions, repeat=0, seed=0)
for batch in batches(planned, 4):
    ...
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from fourstage.stages import (
    Sample,
)


@dataclass(frozen=True)
class Planned:
    """One measurement to be made: a sample, the question asked of it, its position and its seed."""

    sample: Sample
    question: str
    position: int  # in the run, from 0
    repeat: int
    seed: int
    role: str = "sample"


def plan_round(
    samples: Sequence[Sample],
    questions: Sequence[str],
    repeat: int,
    seed: int,
    order: str = "as_is",
    sentinel: int = 0,
    start: int = 0,
) -> list[Planned]:
    """One round over all samples, from position `start`; after each `sentinel` of them the first one again.

    A sample's seed depends on nothing but seed, key and repeat, so that order and subset change no answer (a batch
    has one seed, its first sample's, which is on the record of each).
    `order="shuffled"` draws a new order each round from `seed`.
    """
    pairs = list(zip(samples, questions, strict=True))
    watched = pairs[0]
    if order == "shuffled":
        random.Random(f"{seed}:{repeat}").shuffle(pairs)
    planned: list[Planned] = []

    def add(pair: tuple[Sample, str], role: str) -> None:
        sample, question = pair
        seed_of_sample = sample_seed(seed, sample.key, repeat)
        planned.append(Planned(sample, question, start + len(planned), repeat, seed_of_sample, role))

    for number, pair in enumerate(pairs, start=1):
        add(pair, "sample")
        if sentinel and number % sentinel == 0:
            add(watched, "sentinel")
    return planned


def sample_seed(seed: int, key: str, repeat: int) -> int:
    """A seed of 63 bits: the same for the same sample in any order and in any subset of a dataset."""
    digest = hashlib.sha256(f"{seed}:{key}:{repeat}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def whole_batches(planned: Sequence[Planned], done: int, batch_size: int) -> int:
    """How many of the first `done` planned measurements are whole batches: a batch shares its time and its seed."""
    counted = 0
    for batch in batches(planned, batch_size):
        if counted + len(batch) > done:
            break
        counted += len(batch)
    return counted


def batches(planned: Sequence[Planned], size: int) -> Iterator[Sequence[Planned]]:
    """Consecutive items, `size` at a time, never over the border of a round, and a sentinel always alone."""
    start = 0
    while start < len(planned):
        kind = (planned[start].repeat, planned[start].role)
        batch = list(takewhile(lambda item: (item.repeat, item.role) == kind, planned[start : start + size]))  # noqa: B023
        yield batch
        start += len(batch)
