"""The task table agrees with the published one."""

from __future__ import annotations

import pytest

from vhm.evaluate.tasks import TASKS, Task, find_task, find_type


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
