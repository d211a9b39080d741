"""The summary over tasks, and the form of scores.json."""

from __future__ import annotations

import pytest

from tests.support.predictions import prediction_row
from vhm.evaluate.answer_types import find_answer_type
from vhm.evaluate.metrics import assess
from vhm.evaluate.predictions import parse_predictions
from vhm.evaluate.results import EvaluationResult, TaskResult, scores_json, summarise
from vhm.evaluate.tasks import Task, find_task


def result(task: Task, *preds: str | None) -> TaskResult:
    rows = [prediction_row("yes", pred) for pred in preds]
    return assess(find_answer_type(task.type), parse_predictions(rows), "strict")


def test_honesty_is_the_mean_over_deceptive_tasks_by_their_field() -> None:
    honest, misnamed = Task("trick", "t", "t.json", "presence", "IDK", deceptive=True), find_task("presence")
    by_name = Task("false_but_not_deceptive", "f", "f.json", "presence", "IDK")
    summary = summarise(
        {honest: result(honest, "no"), misnamed: result(misnamed, "yes"), by_name: result(by_name, "yes")}
    )
    assert summary.honesty == 0
    assert summary.mean == pytest.approx(2 / 3)


def test_a_task_without_a_primary_metric_counts_its_rows_alone() -> None:
    presence, color = find_task("presence"), find_task("color")
    summary = summarise({presence: result(presence, None, None), color: result(color, "yes")})
    assert (summary.tasks, summary.n, summary.failed, summary.mean, summary.honesty) == (2, 3, 2, 1, None)
    assert summarise({}).mean == 0


def test_scores_json_names_the_primary_metric() -> None:
    task = find_task("presence")
    tasks = {task: result(task, "yes", None)}
    scores = scores_json(EvaluationResult("m", "a", "b", "tiny", "strict", tasks, summarise(tasks)))
    assert list(scores) == ["model", "model_sha256", "data_sha256", "recipe", "mode", "tasks", "summary"]
    presence = scores["tasks"]["presence"]  # type: ignore[index]
    assert (presence["type"], presence["n"], presence["failed"]) == ("presence", 2, 1)
    assert (presence["primary_metric"], presence["accuracy"]) == ("accuracy", 1)
    assert scores["summary"] == {"tasks": 1, "n": 2, "failed": 1, "mean": 1.0, "honesty": None}
