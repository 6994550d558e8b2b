"""Which token comes next: greedy, or sampled as transformers' processors define it, in what a graph can hold.

The noise comes from torch's own counter-based generator. A captured graph advances its state at each replay, so that
the sequence of one seed repeats. It leaves out beams.

    token = choose(logits, sampling)   # [B] int64
"""

from __future__ import annotations

import torch
from torch import Tensor

from fourstage.stages import Sampling


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """Token ids [B] from logits [B, V] fp32; `generator` None: torch's default one of the device."""
    if sampling.greedy:
        return logits.argmax(-1)
    return sample(filtered(logits, sampling).softmax(-1), generator)


def filtered(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits [B, V] divided by the temperature, -inf where top_k or top_p removes a token.

    The order and the ties are those of transformers' TemperatureLogitsWarper, TopKLogitsWarper and TopPLogitsWarper.
    """
    scores = logits / sampling.temperature
    if sampling.top_k > 0:
        least = scores.topk(min(sampling.top_k, scores.shape[-1])).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if sampling.top_p < 1:
        ascending, order = scores.sort(dim=-1)
        removed = ascending.softmax(-1).cumsum(-1) <= 1 - sampling.top_p
        removed[:, -1] = False
        scores = scores.masked_fill(removed.scatter(1, order, removed), -torch.inf)
    return scores


def sample(probabilities: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One id [B] of each row of probabilities [B, V]: the first of independent exponential clocks to ring.

    P(argmax p / e = i) = p_i for independent e ~ Exp(1): the Gumbel-max trick without logarithms, and without the
    synchronisation of torch.multinomial.
    """
    clocks = torch.empty_like(probabilities).exponential_(generator=generator)
    return (probabilities / clocks.clamp_min(torch.finfo(clocks.dtype).tiny)).argmax(-1)
