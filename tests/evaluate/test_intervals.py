"""Intervals against published values and independent methods."""

from __future__ import annotations

import numpy as np
import pytest

from vhm.evaluate.intervals import interval, mean_interval, paired_margin, wilson


def test_wilson_and_bootstrap() -> None:
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(1.0, 10)[0] == pytest.approx(0.7225, abs=1e-4)
    margin = paired_margin([1] * 80 + [0] * 20, [0] * 100)
    assert margin.value == pytest.approx(0.8)
    assert 0.70 < margin.low < 0.75 < 0.85 < margin.high < 0.9
    assert paired_margin([1, 0] * 20, [0, 1] * 20).low < 0


def test_the_interval_of_a_mean_is_students() -> None:
    values = [0.2, 0.4, 0.6, 0.8]
    half = 3.182446 * np.std(values, ddof=1) / 2  # t of 3 degrees of freedom, from a table
    assert mean_interval(values) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert interval(values, "mean") == mean_interval(values)


def test_the_interval_of_a_mean_is_clipped_and_unknown_below_two_values() -> None:
    assert mean_interval([0.0, 1.0]) == (0, 1)
    assert mean_interval([0.5]) == mean_interval([]) == (0, 1)
    assert mean_interval([0.5] * 20) == (0.5, 0.5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_interval_of_equal_values_at_a_bound_has_a_width(value: float) -> None:
    assert mean_interval([value] * 5) == wilson(value, 5)


def test_a_proportion_has_wilsons_interval() -> None:
    assert interval([1.0, 0.0, 1.0, 1.0], "proportion") == wilson(0.75, 4)
