"""The task table agrees with the published one."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from vhm.errors import InputError, RecipeError
from vhm.evaluate.tasks import TASKS, Task, find_task, find_type, task_table, tasks_in
from vhm.recipe import parse_recipe


def reference_tag(key: str) -> str:
    """The reference's rule, by substrings of the published key."""
    name = key.lower()
    if "cls" in name:
        return "CLS"
    if "vqa" in name:
        return "VQA"
    if "vg" in name:
        return "VG"
    return "IDK" if any(word in name for word in ("color", "presence", "position")) else "IT"


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_tags_are_those_of_the_reference(task: Task) -> None:
    assert task.tag == reference_tag(task.key)
    assert task.prompt("What?") == f"{{{task.tag}}} What?"


def test_deceptive_tasks_are_the_published_false_ones() -> None:
    assert {task.key for task in TASKS if task.deceptive} == {task.key for task in TASKS if "_false_" in task.key}


def test_a_name_and_a_published_key_find_the_same_task() -> None:
    assert all(find_task(task.name) is find_task(task.key.upper()) is task for task in TASKS)


def test_the_task_table_keeps_the_published_keys() -> None:
    assert len({task.name for task in TASKS} | {task.key.lower() for task in TASKS}) >= len(TASKS)
    assert find_task("rs_vg").name == "grounding"
    assert find_type("vqa_HR-pre") == "vqa"
    assert find_type("bbox") == "bbox"
    assert find_task("rs_color_false_pan_open").type == "false_premise"


AGE = {"file": "age.json", "type": "mc", "tag": "IT", "deceptive": True}


def own(**tasks: dict[str, object]) -> tuple[Task, ...]:
    return task_table(parse_recipe({"evaluation": {"custom_tasks": tasks}}).evaluation)


def test_a_task_of_the_recipe_is_a_row_like_the_published_ones() -> None:
    table = own(building_age=AGE)
    task = Task("building_age", "building_age", "age.json", "mc", "IT", deceptive=True)
    assert table == (*TASKS, task)
    assert find_task("Building_Age", table) == task
    assert find_type("building_age", table) == "mc"
    assert task.prompt("How old?") == "{IT} How old?"
    with pytest.raises(InputError, match="'building_aeg' is unknown; did you mean building_age"):
        find_task("building_aeg", table)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("presence", {}, "custom_tasks.presence: another task has this name already; choose another, such as my_pre"),
        ("RS_VG", {}, "custom_tasks.RS_VG: another task has this name"),
        ("Age", {}, "custom_tasks.Age: another task has this name"),
        ("mae", {}, "custom_tasks.mae: an answer type has this name"),
        ("a.b", {}, "custom_tasks.a.b: a task's name has letters, digits, - and _ only"),
        ("heights", {"type": "bbbox"}, "custom_tasks.heights.type: 'bbbox' is unknown; did you mean bbox?"),
        ("heights", {"type": "essay"}, "custom_tasks.heights.type: 'essay' is unknown; known are"),
        ("heights", {"tag": "VGG"}, "evaluation.custom_tasks.heights.tag: Input should be 'CLS', 'VQA', 'VG'"),
        ("heights", {"file": "../a.json"}, "'../a.json' is not the name of a file in the evaluation directory"),
        ("heights", {"files": "a.json"}, "unknown key 'evaluation.custom_tasks.heights.files'; did you mean 'file'?"),
    ],
)
def test_a_task_that_cannot_be_added_is_refused_by_name(name: str, change: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError) as error:
        own(age=AGE, **{name: AGE | change})
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_all_tasks_of_a_directory_include_those_of_the_recipe(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = own(building_age=AGE)
    for name in ("cls_AID.json", "ages.json"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(InputError, match=r"building_age needs .*age\.json, which does not exist; did you mean 'ages"):
        tasks_in(tmp_path, "all", table)
    (tmp_path / "ages.json").rename(tmp_path / "age.json")
    (tmp_path / "other.json").write_text("[]")
    with caplog.at_level(logging.WARNING):
        assert [task.name for task in tasks_in(tmp_path, "all", table)] == ["cls_aid", "building_age"]
    assert "no task reads other.json: name a task for each in evaluation.custom_tasks" in caplog.text
    assert [task.name for task in tasks_in(tmp_path, ["building_age"], table)] == ["building_age"]
