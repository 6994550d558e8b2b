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

NOISE = {torch.float32: 1e-4, torch.bfloat16: 0.15, torch.float16: 0.03}
"""The largest root-mean-square difference of logits, over their standard deviation, that rounding explains.

32 layers of random weights in bf16 gave 0.07 beside fp32 in transformers' loop and 0.045 in the graph engine, and
0.09 between the two (docs/engines.md); trained weights amplify less.
"""
WIDTH = 6.0  # root-mean-square differences that a near-tie may be wide: two tokens' errors, each of three


@dataclass(frozen=True)
class Divergence:
    """The first step at which two engines choose different tokens."""

    step: int
    row: int
    reference_id: int
    candidate_id: int
    margin: float  # between the two tokens, in the reference's logits
    threshold: float  # the largest margin of a near-tie at this step, in logits
    noise: float  # root-mean-square difference of the two engines' logits over the reference's standard deviation
    near_tie: bool  # margin <= threshold, and noise no larger than rounding explains

    @property
    def text(self) -> str:
        """The divergence in words, for a check's detail."""
        return (
            f"token {self.step + 1} is {self.candidate_id}, generate() gives {self.reference_id}: "
            f"{'near-tie' if self.near_tie else 'no near-tie'}, margin {self.margin:.3g} of at most "
            f"{self.threshold:.3g} logits, noise {self.noise:.2g}"
        )


def first_divergence(reference: Tensor, candidate: Tensor, dtype: torch.dtype) -> Divergence | None:
    """The first difference of greedy choice between logits [B, steps, V] of two engines; None where there is none.

    `dtype` is that of the models' weights. At the step that differs, the root-mean-square difference of the two
    engines' logits over the vocabulary is their noise. A margin of at most `WIDTH` times the noise is a near-tie,
    as long as the noise itself is at most `NOISE[dtype]` of the logits' standard deviation: an engine that computes
    something else has much more. Raises ValueError where shapes differ or logits are not finite.
    """
    if reference.shape != candidate.shape or reference.ndim != 3:
        raise ValueError(
            "logits must be [batch, steps, vocabulary], alike: "
            f"found {tuple(reference.shape)} and {tuple(candidate.shape)}"
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
    mine, other = int(first[row, step]), int(second[row, step])
    return divergence(step, reference[row, step], candidate[row, step], mine, other, dtype, row=row)


def divergence(
    step: int,
    reference: Tensor,
    candidate: Tensor,
    reference_id: int,
    candidate_id: int,
    dtype: torch.dtype,
    tie: float = 0,
    row: int = 0,
) -> Divergence:
    """What parts two engines at one step, from both their logits [V] and the tokens that they chose.

    `tie`: a margin that is a near-tie whatever the noise, as a share of the reference's largest logit.
    """
    scores, theirs = reference.double().cpu().flatten(), candidate.double().cpu().flatten()
    margin = abs(float(scores[reference_id] - scores[candidate_id]))
    rms = float((theirs - scores).pow(2).mean().sqrt())
    noise = rms / max(float(scores.std()), torch.finfo(torch.float32).tiny)
    threshold = max(WIDTH * rms, tie * float(scores.abs().max()))
    near_tie = margin <= threshold and noise <= NOISE[dtype]
    return Divergence(step, row, reference_id, candidate_id, margin, threshold, noise, near_tie)
