"""color: shared colours relative to the longer list, with the interval of a mean."""

from __future__ import annotations

import pytest

from tests.support.predictions import accuracy, prediction_row
from vhm.evaluate.metrics import score


@pytest.mark.parametrize(
    ("answer", "pred", "strict", "published"),
    [
        ("red, white", "White and red.", 1, 1),
        ("red", "red, blue", 0.5, 1),
        ("red", "a colored roof", 0, 1),
        ("gray", "grey", 1, 0),
    ],
)
def test_colors_are_words_and_in_the_kit_substrings(answer: str, pred: str, strict: float, published: float) -> None:
    assert accuracy("color", answer, pred) == strict
    assert accuracy("color", answer, pred, mode="rsevalkit") == published


def test_exact_counts_the_rows_with_all_colors_and_no_other() -> None:
    rows = [prediction_row("red", "red"), prediction_row("red", "red, blue"), prediction_row("red", "blue")]
    metrics = score("color", rows)
    assert (metrics["accuracy"], metrics["exact"]) == (pytest.approx(0.5), pytest.approx(1 / 3))


def test_the_interval_of_twenty_equal_rows_has_no_width() -> None:
    metrics = score("color", [prediction_row("red", "red, blue")] * 20)
    assert (metrics["accuracy"], metrics["accuracy_low"], metrics["accuracy_high"]) == (0.5, 0.5, 0.5)
