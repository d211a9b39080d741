"""The table is complete, and a module added to the package is used everywhere without any other change."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.support.predictions import prediction_row
from vhm.evaluate import answer_types
from vhm.evaluate.answer_types import ANSWER_TYPES, collect_types
from vhm.evaluate.answer_types.base import AnswerType, Metric
from vhm.evaluate.gate import gate
from vhm.evaluate.metrics import score
from vhm.evaluate.report import write_report
from vhm.evaluate.results import EvaluationResult, scores_json, summarise
from vhm.evaluate.run import score_task
from vhm.evaluate.tasks import TASKS, Task, find_type
from vhm.recipe import EvaluationRecipe, GateRecipe

CONTRACT = {
    "presence": "accuracy",
    "color": "accuracy",
    "cls": "accuracy",
    "vqa": "accuracy",
    "mc": "accuracy",
    "counting": "accuracy",
    "ml": "accuracy",
    "false_premise": "accuracy",
    "bbox": "precision",
    "mae": "within_10_percent",
    "ciou": "ciou",
}

MODULE = """
from vhm.evaluate.answer_types.base import AnswerType, Outcome, Row, Scored


def _same(rows):
    return Scored([Outcome(float(row.prediction == row.target)) for row in rows])


TYPES = (
    AnswerType(
        name="outline",
        description="one outline in pixels",
        strict=_same,
        published=_same,
        primary_metric="exactness",
        primary_kind="proportion",
        binary=False,
        constant_baseline=True,
        drawn="polygon",
        target_coordinates="pixels",
        example=Row("Outline it.", "a", "a"),
    ),
)
"""


def test_the_types_and_primary_metrics_are_those_of_the_contract() -> None:
    assert {name: row.primary_metric for name, row in ANSWER_TYPES.items()} == CONTRACT


def test_every_task_has_a_known_type() -> None:
    assert {task.type for task in TASKS} == set(ANSWER_TYPES)


def test_the_order_of_the_table_is_that_of_the_modules() -> None:
    assert list(collect_types()) == list(ANSWER_TYPES)
    assert next(iter(ANSWER_TYPES)) == "bbox"


@pytest.mark.parametrize("row", ANSWER_TYPES.values(), ids=list(ANSWER_TYPES))
def test_every_type_has_every_field(row: AnswerType) -> None:
    assert all(field.default is dataclasses.MISSING for field in dataclasses.fields(AnswerType))
    assert row.name
    assert row.description
    assert callable(row.strict)
    assert callable(row.published)
    assert row.primary_kind in ("proportion", "mean")
    assert row.drawn in ("box", "polygon", None)
    assert row.target_coordinates in (("pixels", "normalised") if row.drawn else (None,))
    assert isinstance(row.binary, bool)
    assert isinstance(row.constant_baseline, bool)


@pytest.mark.parametrize("row", ANSWER_TYPES.values(), ids=list(ANSWER_TYPES))
@pytest.mark.parametrize("mode", ["strict", "rsevalkit"])
def test_a_scorer_returns_one_outcome_a_row_and_typed_metrics(row: AnswerType, mode) -> None:
    scored = row.scorer(mode)([row.example] * 3)
    assert len(scored.outcomes) == 3
    assert all(isinstance(metric, Metric) and metric.name != row.primary_metric for metric in scored.metrics)
    assert row.scorer(mode)([]).outcomes == []


@pytest.fixture
def extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package with one more module, as if that were in its folder."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "zz_outline.py").write_text(MODULE)
    monkeypatch.setattr(answer_types, "__path__", [*answer_types.__path__, str(tmp_path / "modules")])
    for name, row in collect_types().items():
        monkeypatch.setitem(ANSWER_TYPES, name, row)
    yield
    del sys.modules["vhm.evaluate.answer_types.zz_outline"]


@pytest.mark.usefixtures("extended")
def test_an_added_module_is_scored_compared_drawn_and_gated(tmp_path: Path) -> None:
    target, other = "[[[0, 0], [10, 0], [10, 20]]]", "[[[0, 0], [500, 0], [500, 500]]]"
    assert find_type("outline") == "outline"
    assert score("outline", [prediction_row(target, target)])["exactness"] == 1

    task = Task("outlines", "rs_outlines", "outlines.json", "outline", "IT")
    data, predictions = tmp_path / "data", tmp_path / "out" / "predictions"
    predictions.mkdir(parents=True)
    data.mkdir()
    Image.new("RGB", (20, 20)).save(data / "a.png")
    turns = [{"from": "human", "value": "Outline it."}, {"from": "gpt", "value": target}]
    (data / task.file).write_text(json.dumps([{"image": "a.png", "conversations": turns}] * 4))
    rows = [prediction_row(target, pred, size=[20, 20]) for pred in (target, target, target, other)]
    (predictions / "outlines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    result = score_task(task, predictions, EvaluationRecipe())
    majority = result.baseline("majority")
    assert majority is not None
    assert (majority.value, majority.margin.value) == (1, -0.25)

    evaluation = EvaluationResult("m", "0", "0", "r", "strict", {task: result}, summarise({task: result}))
    write_report(tmp_path / "out", data, evaluation)
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'points="0.00,0.00 50.00,0.00 50.00,100.00"' in page  # the target, of 20 pixels
    assert 'points="0.00,0.00 50.00,0.00 50.00,50.00"' in page  # the prediction, of 1000

    scores = scores_json(evaluation)
    better = {"tasks": {"outlines": {"type": "outline", "exactness": 0.9}}}
    [check] = gate(scores, GateRecipe(max_regression=0.05), better)
    assert (check.name, check.value, check.passed) == ("outlines.exactness against the baseline", 0.75, False)


def test_two_types_of_one_name_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zz_again.py").write_text("from vhm.evaluate.answer_types.choice import TYPES\n")
    monkeypatch.setattr(answer_types, "__path__", [*answer_types.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "vhm.evaluate.answer_types.zz_again", raising=False)
    with pytest.raises(ValueError, match="'mc' is defined twice"):
        collect_types()
