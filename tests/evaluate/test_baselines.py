"""Baselines over the same rows: the most common answer, and the answers without the image."""

from __future__ import annotations

import pytest

from tests.support.predictions import prediction_row
from vhm.evaluate.answer_types import find_answer_type
from vhm.evaluate.answer_types.base import Mode
from vhm.evaluate.baselines import blind_baseline, majority_baseline
from vhm.evaluate.metrics import assess
from vhm.evaluate.predictions import Prediction, parse_predictions
from vhm.evaluate.results import TaskResult


def assessed(
    answer_type: str, pairs: list[tuple[str, str | None]], mode: Mode = "strict"
) -> tuple[TaskResult, list[Prediction]]:
    predictions = parse_predictions([prediction_row(*pair) for pair in pairs])
    return assess(find_answer_type(answer_type), predictions, mode), predictions


def test_majority_answers_what_is_most_common_among_the_answered_rows() -> None:
    pairs = [("yes", "yes"), ("yes", "no"), ("no", "no"), ("no", None), ("no", None)]
    majority = majority_baseline(*assessed("presence", pairs), "strict", 100)
    assert majority is not None
    assert majority.value == pytest.approx(2 / 3)  # "yes" on three answered rows
    assert majority.margin.value == pytest.approx(0)


@pytest.mark.parametrize("answer_type", ["false_premise", "ciou", "bbox", "mae", "ml"])
def test_types_without_a_constant_baseline_have_no_majority(answer_type: str) -> None:
    row = find_answer_type(answer_type).example
    predictions = [Prediction(0, "a.png", row.size, row.query, row.target, row.prediction)]
    result = assess(find_answer_type(answer_type), predictions, "strict")
    assert majority_baseline(result, predictions, "strict", 100) is None


def test_blind_compares_the_questions_answered_both_ways() -> None:
    result, predictions = assessed("presence", [("yes", "yes"), ("no", "no"), ("no", None), ("yes", "no")])
    _, blind = assessed("presence", [("yes", "yes"), ("no", "yes"), ("no", "no"), ("yes", None)])
    baseline = blind_baseline(result, predictions, blind, "strict", 100)
    assert baseline is not None
    assert (baseline.value, baseline.margin.value) == (0.5, 0.5)
    assert blind_baseline(result, predictions, [], "strict", 100) is None


def test_rows_that_the_published_profile_skips_are_not_in_the_margin() -> None:
    result, predictions = assessed("counting", [("3", "many"), ("3", "3"), ("4", "5")], "rsevalkit")
    majority = majority_baseline(result, predictions, "rsevalkit", 100)
    assert majority is not None
    assert (majority.value, majority.margin.value) == (0.5, 0)
