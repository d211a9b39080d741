"""bbox: IoU by hand, scaling by width and height, unreadable boxes."""

from __future__ import annotations

import pytest

from tests.support.predictions import prediction_row
from vhm.evaluate.answer_types.boxes import box_iou
from vhm.evaluate.metrics import score


def test_boxes_are_scaled_by_width_and_height() -> None:
    """The target in pixels of a 200×100 image, the prediction normalised; the published kit swaps the sides."""
    rows = [prediction_row("[20, 50, 60, 100]", "[100, 500, 300, 999]", size=[200, 100])]
    assert score("bbox", rows)["precision"] == 1
    assert score("bbox", rows)["mean_iou"] == pytest.approx(49.9 / 50)
    assert score("bbox", rows, "rsevalkit")["precision"] == 0


def test_an_unreadable_box_is_wrong_and_the_kit_repeats_the_row_before() -> None:
    rows = [prediction_row("[0, 0, 50, 50]", pred) for pred in ("[0, 0, 500, 500]", "nowhere")]
    assert (score("bbox", rows)["precision"], score("bbox", rows)["unreadable"]) == (0.5, 1)
    assert score("bbox", rows, "rsevalkit")["precision"] == 1


def test_precision_by_area() -> None:
    pairs = (("[0, 0, 20, 20]", "[0, 0, 200, 200]"), ("[0, 0, 50, 50]", "[900, 900, 950, 950]"))
    metrics = score("bbox", [prediction_row(*pair) for pair in pairs])
    assert (metrics["precision_small"], metrics["precision_medium"]) == (1, 0)
    assert "precision_large" not in metrics


def test_iou_by_hand() -> None:
    assert box_iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert box_iou((0, 0, 1, 1), (1, 0, 2, 1)) == 0
    assert box_iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0
