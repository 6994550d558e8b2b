"""Whether two engines give the same answers: their logits step by step, under the same forced tokens.

Rounding differs between engines, so in bf16 and fp16 two correct ones may choose differently where two tokens are
nearly level. That is a near-tie; a choice that differs by more is a fault of one of them.

    found = first_divergence(reference, candidate, dtype=torch.bfloat16)   # None: the same token at every step
    assert found is None or found.near_tie, found
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDINGS = {torch.float32: 64.0, torch.bfloat16: 4.0, torch.float16: 8.0}
"""How many roundings of the largest logit a near-tie may be wide (docs/engines.md has what was measured)."""


@dataclass(frozen=True)
class Divergence:
    """The first step at which two engines choose different tokens."""

    step: int
    row: int
    reference_id: int
    candidate_id: int
    margin: float  # by which the reference prefers its own token to the candidate's, in its logits
    threshold: float  # the largest margin of a near-tie at this step
    near_tie: bool


def first_divergence(reference: Tensor, candidate: Tensor, dtype: torch.dtype) -> Divergence | None:
    """The first difference of greedy choice between logits [B, steps, V] of two engines; None where there is none.

    `dtype` is that of the models' weights. A margin of at most `ROUNDINGS[dtype]` spacings of `dtype` at the largest
    logit's magnitude is a near-tie: bf16 4 * 2^-8, fp16 8 * 2^-11, fp32 64 * 2^-24, each times that magnitude.
    Raises ValueError where the shapes differ or logits are not finite: then nothing can be said.
    """
    if reference.shape != candidate.shape or reference.ndim != 3:
        raise ValueError(
            f"logits must be [batch, steps, vocabulary] alike, found {tuple(reference.shape)} and {tuple(candidate.shape)}"
        )
    reference, candidate = reference.double().cpu(), candidate.double().cpu()
    if not (reference.isfinite().all() and candidate.isfinite().all()):
        raise ValueError("logits are not finite (inf or nan): the engines cannot be compared")
    first, second = reference.argmax(-1), candidate.argmax(-1)  # [B, steps]
    differ = (first != second).any(0).nonzero()
    if not len(differ):
        return None
    step = int(differ[0])
    row = int((first[:, step] != second[:, step]).nonzero()[0])
    scores = reference[row, step]
    mine, other = int(first[row, step]), int(second[row, step])
    margin = float(scores[mine] - scores[other])
    threshold = ROUNDINGS[dtype] * torch.finfo(dtype).eps / 2 * float(scores.abs().max())
    return Divergence(step, row, mine, other, margin, threshold, margin <= threshold)
