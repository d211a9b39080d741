"""ml: the set of classes, and the published precision per class."""

from __future__ import annotations

import pytest

from tests.support.predictions import prediction_row
from vhm.evaluate.metrics import score


def test_multi_label_by_hand() -> None:
    query = "Which of these: water, waterway, road."
    pairs = (("water", "waterway"), ("water, road", "water and road"), ("road", ""))
    rows = [prediction_row(answer, pred, query) for answer, pred in pairs]
    metrics = score("ml", rows)
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert metrics["precision"] == pytest.approx(2 / 3)
    assert metrics["recall"] == pytest.approx(2 / 4)
    assert metrics["micro_f1"] == pytest.approx(4 / 7)
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)  # road, waterway, water
    published = score("ml", rows, "rsevalkit")
    assert published["average_precision"] == pytest.approx((2 / 2 + 0 / 1 + 1 / 1) / 3)
    assert "accuracy" not in published
