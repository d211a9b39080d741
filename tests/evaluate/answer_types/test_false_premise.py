"""false_premise: the premise has to be denied; the published kit scores nothing."""

from __future__ import annotations

import pytest

from tests.support.predictions import accuracy, prediction_row
from vhm.evaluate.metrics import score


@pytest.mark.parametrize(
    ("pred", "right"),
    [
        ("There is no ship.", 1),
        ("I cannot see a ship", 1),
        ("There isn't one", 1),
        ("The ship is red", 0),
        ("snow", 0),
        ("", 0),
    ],
)
def test_false_premises_require_a_denial(pred: str, right: int) -> None:
    assert accuracy("false_premise", "There is no ship.", pred) == right
    assert "accuracy" not in score("false_premise", [prediction_row("x", pred)], "rsevalkit")
