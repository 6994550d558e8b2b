"""A difference of greedy choice is found at its step, with its margin, and a near-tie is told from a fault."""

from __future__ import annotations

import pytest
import torch

from fourstage.engines.agreement import first_divergence


def logits(*steps: list[float]) -> torch.Tensor:
    return torch.tensor([steps])


def vocabulary(seed: int = 0) -> torch.Tensor:
    """Logits [1, 3, 500] with a standard deviation of about 1; token 7 leads token 9 by 0.02 at step 1."""
    scores = torch.randn(1, 3, 500, generator=torch.Generator().manual_seed(seed)).clamp(-3, 3)
    scores[0, 1, 7], scores[0, 1, 9] = 4.02, 4.0
    return scores


def disturbed(scores: torch.Tensor, by: float) -> torch.Tensor:
    """The same logits with noise, by which token 9 comes first at step 1."""
    other = scores + by * torch.randn(scores.shape, generator=torch.Generator().manual_seed(5))
    other[0, 1, 7], other[0, 1, 9] = 4.0, 4.01
    return other


def test_equal_choices_diverge_nowhere() -> None:
    one = logits([1.0, 5.0], [4.0, 0.0])
    assert first_divergence(one, one + 0.1, torch.bfloat16) is None


def test_a_near_tie_is_one_and_its_margin_is_the_references() -> None:
    scores = vocabulary()
    scores[0, 0, 3] = scores[0, 2, 3] = 9.0
    found = first_divergence(scores, disturbed(scores, 0.05), torch.bfloat16)
    assert found is not None
    assert (found.step, found.row, found.reference_id, found.candidate_id) == (1, 0, 7, 9)
    assert found.margin == pytest.approx(0.02, abs=1e-5)
    assert found.threshold == pytest.approx(6 * 0.05, rel=0.1)
    assert found.noise == pytest.approx(0.05, rel=0.15)
    assert found.near_tie


def test_noise_that_rounding_does_not_explain_is_a_fault_whatever_the_margin() -> None:
    scores = vocabulary()
    scores[0, 0, 3] = scores[0, 2, 3] = 9.0
    bf16, fp16 = (first_divergence(scores, disturbed(scores, 0.05), dtype) for dtype in (torch.bfloat16, torch.float16))
    assert bf16 is not None
    assert fp16 is not None
    assert (bf16.near_tie, fp16.near_tie) == (True, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_clear_choice_that_differs_is_no_near_tie(dtype: torch.dtype) -> None:
    scores = vocabulary()
    other = scores.clone()
    scores[0, 1, 7] = 6.0  # a lead of 2 that the other engine does not see
    other[0, 1, 9] = 4.03
    found = first_divergence(scores, other, dtype)
    assert found is not None
    assert found.margin == pytest.approx(2.0, abs=1e-5)
    assert not found.near_tie


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        first_divergence(logits([1.0, 2.0]), logits([1.0, value]), torch.float32)


def test_unlike_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="alike"):
        first_divergence(torch.zeros(1, 2, 3), torch.zeros(1, 3, 3), torch.float32)
