"""The gate: thresholds, margins, regressions, and scores that cannot be compared."""

from __future__ import annotations

import pytest

from vhm.errors import InputError
from vhm.evaluate.gate import gate
from vhm.evaluate.tasks import task_table
from vhm.recipe import GateRecipe, parse_recipe

PRESENCE = {"type": "presence", "accuracy": 0.8, "margin_majority_low": 0.1, "margin_blind_low": -0.02}


def test_gate_requires_thresholds_margins_and_no_regression() -> None:
    settings = GateRecipe(thresholds={"presence.accuracy": 0.7}, beat_majority=["presence"], beat_blind=["presence"])
    checks = gate({"tasks": {"presence": PRESENCE}}, settings)
    assert [check.passed for check in checks] == [True, True, False]
    grounding = {"type": "bbox", "precision": 0.3}
    before = {"tasks": {"presence": PRESENCE | {"accuracy": 0.86}, "grounding": grounding}}
    checks = gate({"tasks": {"presence": PRESENCE}}, GateRecipe(max_regression=0.05), before)
    assert [(check.passed, check.value) for check in checks] == [(False, 0.8), (False, None)]
    assert checks[1].name == "grounding.precision against the baseline"


def test_the_gate_knows_the_tasks_of_the_recipe() -> None:
    custom = {"building_age": {"file": "age.json", "type": "mc"}}
    table = task_table(parse_recipe({"evaluation": {"custom_tasks": custom}}).evaluation)
    age = {"type": "mc", "accuracy": 0.8, "margin_majority_low": 0.1}
    settings = GateRecipe(thresholds={"building_age.accuracy": 0.7}, beat_majority=["building_age"])
    before = {"tasks": {"building_age": age | {"accuracy": 0.9}}}
    checks = gate({"tasks": {"building_age": age}}, settings, before, table)
    assert [check.passed for check in checks] == [True, True, False]
    with pytest.raises(InputError, match="did you mean building_age"):
        gate({"tasks": {}}, GateRecipe(thresholds={"bulding_age.accuracy": 0.7}), None, table)


def test_the_primary_metric_is_that_of_the_type_not_the_one_named_in_the_scores() -> None:
    before = {"tasks": {"footprints": {"type": "ciou", "ciou": 0.5, "figure": "mean_iou", "mean_iou": 0.9}}}
    candidate = {"tasks": {"footprints": {"type": "ciou", "ciou": 0.6}}}
    assert [(check.name, check.passed) for check in gate(candidate, GateRecipe(), before)] == [
        ("footprints.ciou against the baseline", True)
    ]


def test_a_task_without_a_primary_metric_cannot_regress() -> None:
    before = {"tasks": {"resolution": {"type": "mae", "mae": 3.0}}}
    assert gate({"tasks": {}}, GateRecipe(), before) == []


@pytest.mark.parametrize(("field", "values"), [("data_sha256", ("a", "b")), ("mode", ("strict", "rsevalkit"))])
def test_gate_does_not_compare_different_conditions(field: str, values: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=f"differ in {field}"):
        gate({"tasks": {}, field: values[0]}, GateRecipe(), {"tasks": {}, field: values[1]})


@pytest.mark.parametrize("content", [[], {}, {"tasks": 3}, {"tasks": {"presence": 0.5}}])
def test_content_other_than_a_scores_file_is_refused(content: object) -> None:
    with pytest.raises(InputError, match=r"the candidate is not a scores\.json"):
        gate(content, GateRecipe())


def test_a_threshold_without_a_metric_is_named() -> None:
    with pytest.raises(InputError, match=r"write it as TASK\.METRIC"):
        gate({"tasks": {}}, GateRecipe(thresholds={"presence": 0.5}))
