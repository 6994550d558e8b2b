"""A difference of greedy choice is found at its step, with its margin, and a near-tie is told from a fault."""

from __future__ import annotations

import pytest
import torch

from fourstage.engines.agreement import first_divergence


def logits(*steps: list[float]) -> torch.Tensor:
    return torch.tensor([steps])


def test_equal_choices_diverge_nowhere() -> None:
    one = logits([1.0, 5.0], [4.0, 0.0])
    assert first_divergence(one, one + 0.1, torch.bfloat16) is None


def test_a_near_tie_is_one_and_its_margin_is_the_references() -> None:
    found = first_divergence(
        logits([9.0, 1.0], [8.0, 7.97]), logits([9.0, 1.0], [7.9, 8.0]), torch.bfloat16
    )
    assert found is not None
    assert (found.step, found.row, found.reference_id, found.candidate_id) == (1, 0, 0, 1)
    assert found.margin == pytest.approx(0.03, abs=1e-5)
    assert found.threshold == pytest.approx(4 * 8 / 256)
    assert found.near_tie


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_clear_choice_that_differs_is_no_near_tie(dtype: torch.dtype) -> None:
    found = first_divergence(logits([8.0, 7.0]), logits([7.0, 8.0]), dtype)
    assert found is not None
    assert not found.near_tie


def test_the_same_margin_is_a_near_tie_in_bf16_and_a_fault_in_fp32() -> None:
    pair = logits([8.0, 7.97]), logits([7.9, 8.0])
    tie, fault = (first_divergence(*pair, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert tie is not None
    assert fault is not None
    assert (tie.near_tie, fault.near_tie) == (True, False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        first_divergence(logits([1.0, 2.0]), logits([1.0, value]), torch.float32)


def test_unlike_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="alike"):
        first_divergence(torch.zeros(1, 2, 3), torch.zeros(1, 3, 3), torch.float32)
