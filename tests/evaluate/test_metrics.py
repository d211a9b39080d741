"""`score` for every type: failed and unusable rows, the primary metric and its interval, any prediction."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.predictions import prediction_row
from vhm.errors import InputError
from vhm.evaluate.answer_types import ANSWER_TYPES, find_answer_type
from vhm.evaluate.answer_types.base import AnswerType, Metric, Mode, Outcome
from vhm.evaluate.metrics import assess, score, score_file
from vhm.evaluate.predictions import parse_predictions
from vhm.evaluate.results import TaskResult, metrics_json

types = st.sampled_from(list(ANSWER_TYPES.values()))
modes = st.sampled_from(["strict", "rsevalkit"])


def example(answer_type: AnswerType, pred: str | None = None) -> dict[str, object]:
    """The type's example as a row of a predictions file, with another prediction if one is given."""
    row = answer_type.example
    prediction = row.prediction if pred is None else pred
    return {"size": row.size, "query": row.query, "answer": row.target, "pred": prediction}


def test_failed_rows_are_counted_and_never_scored() -> None:
    rows = [prediction_row("yes", "yes"), prediction_row("no", None)]
    metrics = score("presence", rows)
    assert (metrics["n"], metrics["failed"], metrics["accuracy"]) == (2, 1, 1)
    result = assess(find_answer_type("presence"), parse_predictions(rows), "strict")
    assert result.values == [1, None]
    assert result.outcomes[1] is None


def test_keys_are_in_the_order_of_the_contract() -> None:
    metrics = score("color", [prediction_row("red", "red")] * 2)
    assert list(metrics) == ["n", "failed", "accuracy", "accuracy_low", "accuracy_high", "exact"]


def test_without_an_answer_there_is_no_primary_metric() -> None:
    for name in ANSWER_TYPES:
        metrics = score(name, [prediction_row("yes", None)])
        assert (metrics["n"], metrics["failed"]) == (1, 1)
        assert find_answer_type(name).primary_metric not in metrics


@settings(max_examples=150, deadline=None)
@given(types, st.text(max_size=60), modes)
def test_no_prediction_breaks_a_scorer(answer_type: AnswerType, pred: str, mode: Mode) -> None:
    metrics = score(answer_type.name, [example(answer_type, pred)], mode)
    assert metrics["n"] == 1
    assert 0 <= metrics.get(answer_type.primary_metric, 0) <= 1


@settings(max_examples=150, deadline=None)
@given(types, st.lists(st.text(max_size=60), min_size=1, max_size=4), modes)
def test_values_of_a_proportion_are_right_or_wrong(answer_type: AnswerType, preds: list[str], mode: Mode) -> None:
    rows = [example(answer_type), *(example(answer_type, pred) for pred in preds)]
    result = assess(answer_type, parse_predictions(rows), mode)
    values = [value for value in result.values if value is not None]
    assert all(0 <= value <= 1 for value in values)
    if answer_type.primary_kind == "proportion":
        assert set(values) <= {0, 1}
    if result.primary is not None:
        assert result.primary.kind == answer_type.primary_kind
        assert result.primary.low is not None
        assert result.primary.high is not None
        assert 0 <= result.primary.low <= result.primary.value + 1e-9
        assert result.primary.value - 1e-9 <= result.primary.high <= 1


@pytest.mark.parametrize("answer_type", ANSWER_TYPES.values(), ids=list(ANSWER_TYPES))
def test_with_one_row_the_primary_metric_is_that_rows_value(answer_type: AnswerType) -> None:
    metrics = score(answer_type.name, [example(answer_type)])
    assert metrics[answer_type.primary_metric] == pytest.approx(1)


@pytest.mark.parametrize(
    ("rows", "answer_type", "words"),
    [
        ([{"query": "q", "answer": "a"}], "cls", "row 1 lacks pred"),
        ([prediction_row("a", "b") | {"pred": 3}], "cls", "must be text"),
        ([prediction_row("nothing", "[1, 2, 3, 4]")], "bbox", "is not a box"),
        ([prediction_row("[1, 2, 3, 4]", "[1, 2, 3, 4]") | {"size": None}], "bbox", "must be .width, height."),
        ([prediction_row("a", "b")], "clss", "unknown: use one of .*presence"),
    ],
)
def test_unusable_rows_are_named(rows: list[dict[str, object]], answer_type: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        score(answer_type, rows)


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(InputError, match="mode 'lenient' is unknown"):
        score("presence", [], "lenient")  # type: ignore[arg-type]


def test_an_empty_predictions_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match=r"empty\.jsonl holds no predictions"):
        score_file("presence", tmp_path / "empty.jsonl")


def test_a_metric_that_is_not_finite_is_left_out() -> None:
    error = Metric("mae", float("inf"), "mean")
    result = TaskResult(
        find_answer_type("mae"), Metric("within_10_percent", 0.0, "proportion"), (error,), (Outcome(0.0),)
    )
    assert metrics_json(result) == {"n": 1, "failed": 0, "within_10_percent": 0.0}


@pytest.mark.parametrize("prediction", ["9" * 320, "1e999", "[1e400, 1, 2, 3]"])
@pytest.mark.parametrize("task_type", ["counting", "mae"])
def test_absurd_numbers_are_unreadable_and_never_a_metric_of_zero(task_type: str, prediction: str) -> None:
    row = {"query": "How many?", "answer": "3", "pred": prediction, "size": [10, 10]}
    metrics = score(task_type, [row])
    assert metrics["n"] == 1
    assert max(metrics.get("accuracy", 0), metrics.get("within_10_percent", 0)) == 0
    assert metrics.get("mae", 1) != 0
