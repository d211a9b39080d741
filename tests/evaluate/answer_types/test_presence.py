"""presence: yes and no as words, and the published substrings."""

from __future__ import annotations

import pytest

from tests.support.predictions import accuracy, prediction_row
from vhm.evaluate.metrics import score


@pytest.mark.parametrize(
    ("answer", "pred", "strict", "published"),
    [
        ("yes", "Yes, there is.", 1, 1),
        ("no", "No.", 1, 0),  # the kit does not recognise a capital
        ("no", "There is no ship.", 1, 1),
        ("yes", "yes, to the north", 1, 0),  # "north" contains "no"
        ("yes", "", 0, 0),
    ],
)
def test_presence_accepts_words_and_the_kit_substrings(answer: str, pred: str, strict: float, published: float) -> None:
    assert accuracy("presence", answer, pred) == strict
    assert accuracy("presence", answer, pred, mode="rsevalkit") == published


def test_presence_metrics_by_hand() -> None:
    rows = [prediction_row(*pair) for pair in (("yes", "yes"), ("yes", "no"), ("no", "yes"), ("no", "perhaps"))]
    metrics = score("presence", rows)
    assert (metrics["accuracy"], metrics["precision"], metrics["recall"], metrics["f1"]) == (0.25, 0.5, 0.5, 0.5)
    assert (metrics["yes_share"], metrics["unreadable"]) == (0.5, 1)
