"""ciou: overlap and number of vertices, both profiles with the mean IoU."""

from __future__ import annotations

import pytest

from tests.support.predictions import prediction_row
from vhm.evaluate.metrics import score

SQUARE = "[[[0, 0], [500, 0], [500, 500], [0, 500]]]"
SIX_VERTICES = "[[[0, 0], [250, 0], [500, 0], [500, 250], [500, 500], [0, 500]]]"


def test_ciou_weighs_the_number_of_vertices() -> None:
    metrics = score("ciou", [prediction_row(SQUARE, pred) for pred in (SIX_VERTICES, SQUARE, "no polygon")])
    assert metrics["ciou"] == pytest.approx((1 - 2 / 10 + 1 + 0) / 3)
    assert metrics["mean_iou"] == pytest.approx(2 / 3)
    assert metrics["unreadable"] == 1


def test_the_published_ciou_skips_unreadable_rows_and_lists_the_mean_iou() -> None:
    half = "[[[0, 0], [250, 0], [250, 500], [0, 500]]]"
    rows = [prediction_row(SQUARE, pred) for pred in (half, SIX_VERTICES, "no polygon")]
    published = score("ciou", rows, "rsevalkit")
    assert published["mean_iou"] == pytest.approx((0.5 + 1) / 2)
    assert published["ciou"] == pytest.approx((0.5 + 1 - 2 / 10) / 2)
    assert (published["n"], published["skipped"]) == (3, 1)


def test_the_interval_of_ciou_is_that_of_a_mean() -> None:
    metrics = score("ciou", [prediction_row(SQUARE, SIX_VERTICES)] * 20)
    assert metrics["ciou_low"] == pytest.approx(0.8) == metrics["ciou_high"]
