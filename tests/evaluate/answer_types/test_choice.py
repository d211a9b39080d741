"""mc: the letter, the option's words, and the published first capital."""

from __future__ import annotations

import pytest

from tests.support.predictions import accuracy, prediction_row
from vhm.evaluate.metrics import score

OPTIONS = "Where? A. top left B. bottom right C. centre D. there is none Answer with the letter."


@pytest.mark.parametrize(
    ("answer", "pred", "strict", "published"),
    [
        ("B", "B", 1, 1),
        ("B", "b.", 1, 0),
        ("B", "Based on the image, C.", 0, 1),  # the kit reads "Based" as option B
        ("B", "It is at the bottom right.", 1, 0),
        ("A", "The answer is A", 1, 1),
    ],
)
def test_an_option_is_chosen_by_letter_or_words(answer: str, pred: str, strict: float, published: float) -> None:
    assert accuracy("mc", answer, pred, OPTIONS) == strict
    assert accuracy("mc", answer, pred, OPTIONS, "rsevalkit") == published


def test_a_prediction_that_chooses_nothing_is_unreadable() -> None:
    assert score("mc", [prediction_row("A", "somewhere", OPTIONS)])["unreadable"] == 1
