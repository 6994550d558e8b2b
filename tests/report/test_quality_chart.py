"""Speed against quality: which runs are on the front."""

from __future__ import annotations

from fourstage.report.quality_chart import front


def test_the_front_has_the_runs_that_no_other_beats_in_both() -> None:
    assert front([(0.2, 90.0), (0.1, 80.0), (0.3, 85.0)]) == [0, 1]
    assert front([(0.2, 90.0), (0.2, 80.0)]) == [0]  # as fast and worse
    assert front([(0.2, 90.0), (0.3, 90.0)]) == [0]  # as good and slower


def test_equal_runs_are_on_it_together() -> None:
    assert front([(0.2, 90.0), (0.2, 90.0)]) == [0, 1]
