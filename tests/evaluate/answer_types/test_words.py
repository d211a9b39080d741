"""cls and vqa: the only known answer that is mentioned, and the published containment."""

from __future__ import annotations

import pytest

from tests.support.predictions import accuracy, prediction_row
from vhm.evaluate.metrics import score


@pytest.mark.parametrize(
    ("answer_type", "answer", "pred", "strict", "published"),
    [
        ("cls", "forest", "forest", 1, 1),
        ("cls", "forest", "It is a forest.", 1, 0),
        ("cls", "forest", "", 0, 1),  # the kit accepts an empty answer
        ("cls", "bareland", "Bare Land", 0, 1),
        ("vqa", "yes", "Yes", 1, 1),
    ],
)
def test_words_have_to_be_mentioned(answer_type: str, answer: str, pred: str, strict: float, published: float) -> None:
    assert accuracy(answer_type, answer, pred) == strict
    assert accuracy(answer_type, answer, pred, mode="rsevalkit") == published


def test_the_longer_class_name_is_matched_first() -> None:
    pairs = (("water", "waterway"), ("waterway", "waterway"), ("water", "water"))
    assert score("cls", [prediction_row(*pair) for pair in pairs])["accuracy"] == pytest.approx(2 / 3)


def test_predictions_without_a_known_answer_are_unreadable() -> None:
    rows = [prediction_row("forest", "desert"), prediction_row("forest", "forest")]
    assert score("cls", rows)["unreadable"] == 1
