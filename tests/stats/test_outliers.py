"""Outliers are labelled and stay."""

from __future__ import annotations

from fourstage.records.summary import summarise
from fourstage.stats.outliers import outliers

# outliers


def test_outliers_are_labelled_and_stay() -> None:
    values = [*range(1, 12), 20, -40]  # of these 13 the quartiles are 3 and 9: fences at -6, 18 and -15, 27
    found = outliers(values)
    assert found.mild.tolist() == [11]
    assert found.severe.tolist() == [12]
    assert summarise(values).n == 13


def test_calm_values_and_none_at_all_have_no_outliers() -> None:
    for values in ([], [1.0], [1.0, 2.0, 3.0]):
        assert not len(outliers(values).mild)
        assert not len(outliers(values).severe)
