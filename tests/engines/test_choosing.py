"""Sampling has the distribution of transformers' processors."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from fourstage.engines.choosing import choose, filtered
from fourstage.stages import Sampling

CASES = [
    (0.7, 1.0, 0),
    (1.0, 0.9, 0),
    (1.3, 1.0, 12),
    (0.9, 0.8, 20),
    (1.0, 1.0, 1),
    (1.0, 0.001, 0),
    (2.0, 0.999, 500),
]


def theirs(logits: torch.Tensor, temperature: float, top_p: float, top_k: int) -> torch.Tensor:
    ids = torch.zeros(len(logits), 0, dtype=torch.long)
    scores = TemperatureLogitsWarper(temperature)(ids, logits)
    if top_k:
        scores = TopKLogitsWarper(top_k)(ids, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(ids, scores)
    return scores


def sampling(temperature: float, top_p: float, top_k: int) -> Sampling:
    return Sampling(temperature=temperature, top_p=top_p, top_k=top_k, max_new_tokens=1)


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), CASES)
def test_the_tokens_that_remain_are_those_of_transformers(temperature: float, top_p: float, top_k: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 200) * 3
    logits[0, :40] = logits[0, 50]  # equals at the border of top_k
    assert torch.equal(filtered(logits, sampling(temperature, top_p, top_k)), theirs(logits, temperature, top_p, top_k))


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), CASES[:4])
def test_many_draws_have_the_distribution_of_transformers(temperature: float, top_p: float, top_k: int) -> None:
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(1)) * 2
    expected = theirs(logits, temperature, top_p, top_k).softmax(-1)[0].double()
    draws = 40_000
    ids = choose(logits.expand(draws, -1), sampling(temperature, top_p, top_k), torch.Generator().manual_seed(2))
    counts = torch.bincount(ids, minlength=40).double()
    assert counts[expected == 0].sum() == 0
    often = expected * draws >= 5  # Pearson's statistic needs cells that are not nearly empty
    observed = torch.cat([counts[often], counts[~often].sum()[None]])
    wanted = torch.cat([expected[often], expected[~often].sum()[None]]) * draws
    if wanted[-1] == 0:
        observed, wanted = observed[:-1], wanted[:-1]
    assert stats.chisquare(observed.numpy(), wanted.numpy() * observed.sum().item() / wanted.sum().item()).pvalue > 1e-3


def test_a_wrong_temperature_would_be_found() -> None:
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(1)) * 2
    expected = (logits / 1.05).softmax(-1)[0].double() * 40_000
    ids = choose(logits.expand(40_000, -1), sampling(1.0, 1.0, 0), torch.Generator().manual_seed(2))
    counts = torch.bincount(ids, minlength=40).double()
    assert stats.chisquare(counts.numpy(), (expected * counts.sum() / expected.sum()).numpy()).pvalue < 1e-3


def test_greedy_takes_the_largest() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, -1.0, 0.0]])
    assert choose(logits, sampling(0, 1, 0)).tolist() == [1, 0]
