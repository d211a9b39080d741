"""counting and mae: exact counts, measurements within ten per cent, and their errors."""

from __future__ import annotations

import pytest

from tests.support.predictions import prediction_row
from vhm.evaluate.metrics import score

COUNTS = (("3", "three"), ("10", "There are 12 ships"), ("0", "none"), ("7", "many"), ("21", "twenty-one"))


def test_counting_by_hand() -> None:
    metrics = score("counting", [prediction_row(*pair) for pair in COUNTS])
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    assert metrics["unreadable"] == 1
    assert metrics["mae"] == pytest.approx(2 / 4)
    assert metrics["mape"] == pytest.approx((0 + 0.2 + 0) / 3)
    assert (metrics["accuracy_2_6"], metrics["accuracy_6_12"], metrics["accuracy_12_inf"]) == (1, 0, 1)


def test_the_published_count_skips_rows_without_a_number() -> None:
    metrics = score("counting", [prediction_row(*pair) for pair in COUNTS], "rsevalkit")
    assert metrics["accuracy"] == pytest.approx(3 / 4)
    assert (metrics["n"], metrics["failed"]) == (5, 0)


def test_measurement_by_hand() -> None:
    pairs = (("10 and 20", "11 and 20"), ("10", "about 12 m"), ("10 and 20", "10"))
    rows = [prediction_row(*pair) for pair in pairs]
    metrics = score("mae", rows)
    assert metrics["within_10_percent"] == pytest.approx(1 / 3)
    assert metrics["mae"] == pytest.approx((1 + 0 + 2) / 3)
    assert metrics["mape"] == pytest.approx((0.1 + 0 + 0.2) / 3)
    assert metrics["unreadable"] == 1
    published = score("mae", rows, "rsevalkit")
    assert "within_10_percent" not in published
    assert published["mae"] == pytest.approx((1 + 0 + 2) / 3)
