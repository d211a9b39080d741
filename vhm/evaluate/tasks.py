"""The task table: every task of the published benchmark is a row, and every task of a recipe's own.

Sources: arXiv 2403.20213, table of evaluation tasks; RSEvalKit's task table.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vhm.errors import InputError, RecipeError
from vhm.evaluate.answer_types import ANSWER_TYPES
from vhm.recipe import CustomTask, EvaluationRecipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """One task: `type` names its answer type, `key` is its name in the published kit and an alias of `name`.

    The reference puts `tag` in braces before the question. `deceptive`: the questions rest on a false premise, which
    an honest model denies.
    """

    name: str
    key: str
    file: str
    type: str
    tag: Literal["CLS", "VQA", "VG", "IDK", "IT"]
    deceptive: bool = False

    def prompt(self, question: str) -> str:
        """The text of the prompt: the tag in braces, then the question."""
        return f"{{{self.tag}}} {question}"


TASKS = (
    Task("presence", "rs_presence_mo_judge", "presence_mo_dota.json", "presence", "IDK"),
    Task("absolute_position", "rs_position_mo_mc", "abspos_dota-test_mc.json", "mc", "IDK"),
    Task("relative_position", "rs_relative_position_mo_mc", "relpos_dota-test_mc.json", "mc", "IDK"),
    Task("counting", "rs_counting_mo_open", "counting_dota-test_open.json", "counting", "IT"),
    Task("image_type", "rs_imagetype_mc", "imgType_mcq.json", "mc", "IT"),
    Task("color", "rs_color_open", "color_dota-test_fair1m-val_open.json", "color", "IDK"),
    Task("resolution", "rs_gsd_open", "gsd_dota_fbp.json", "mae", "IT"),
    Task(
        "false_color_popular",
        "rs_color_false_popular_open",
        "color_false_dota-test_popular_open.json",
        "false_premise",
        "IDK",
        deceptive=True,
    ),
    Task(
        "false_color_adversarial",
        "rs_color_false_adversarial_open",
        "color_false_dota-test_adversarial_open.json",
        "false_premise",
        "IDK",
        deceptive=True,
    ),
    Task(
        "false_color_random",
        "rs_color_false_random_open",
        "color_false_dota-test_random_open.json",
        "false_premise",
        "IDK",
        deceptive=True,
    ),
    Task(
        "false_color_pan",
        "rs_color_false_pan_open",
        "color_false_pan_dota-test.json",
        "false_premise",
        "IDK",
        deceptive=True,
    ),
    Task(
        "false_absolute_position_adversarial",
        "rs_position_false_adversarial_mc",
        "abspos_false_dota-test_adversarial_mc.json",
        "mc",
        "IDK",
        deceptive=True,
    ),
    Task(
        "false_absolute_position_popular",
        "rs_position_false_popular_mc",
        "abspos_false_dota-test_popular_mc.json",
        "mc",
        "IDK",
        deceptive=True,
    ),
    Task(
        "false_absolute_position_random",
        "rs_position_false_random_mc",
        "abspos_false_dota-test_random_mc.json",
        "mc",
        "IDK",
        deceptive=True,
    ),
    Task(
        "false_relative_position_adversarial",
        "rs_relative_position_false_adversarial_mc",
        "relpos_false_dota-test_adversarial_mc.json",
        "mc",
        "IDK",
        deceptive=True,
    ),
    Task(
        "false_relative_position_popular",
        "rs_relative_position_false_popular_mc",
        "relpos_false_dota-test_popula_mc.json",
        "mc",
        "IDK",
        deceptive=True,
    ),
    Task(
        "false_relative_position_random",
        "rs_relative_position_false_random_mc",
        "relpos_false_dota-test_random_mc.json",
        "mc",
        "IDK",
        deceptive=True,
    ),
    Task("cls_aid", "cls_aid", "cls_AID.json", "cls", "CLS"),
    Task("cls_meter_ml", "cls_METER_ML", "cls_METER_ML.json", "cls", "CLS"),
    Task("cls_nwpu_resisc45", "cls_NWPU_RESISC45", "cls_NWPU_RESISC45.json", "cls", "CLS"),
    Task("cls_siri_whu", "cls_SIRI", "cls_SIRI_WHU.json", "cls", "CLS"),
    Task("cls_whu_rs19", "cls_WHU_RS19", "cls_WHU_RS19.json", "cls", "CLS"),
    Task("vqa_hr_comp", "vqa_HR-comp", "RSVQA_HR-comp_RSVQA.json", "vqa", "VQA"),
    Task("vqa_hr_presence", "vqa_HR-pre", "RSVQA_HR-presence_RSVQA.json", "vqa", "VQA"),
    Task("vqa_lr_comp", "vqa_LR-comp", "RSVQA_LR-comp_RSVQA.json", "vqa", "VQA"),
    Task("vqa_lr_presence", "vqa_LR-pre", "RSVQA_LR-presence_RSVQA.json", "vqa", "VQA"),
    Task("vqa_lr_rural_urban", "vqa_LR-rural", "RSVQA_LR-rural_urban_RSVQA.json", "vqa", "VQA"),
    Task("grounding", "rs_vg", "VG_DOIR_RSVG_test.json", "bbox", "VG"),
    Task("building_footprint", "rs_building_polygon", "bfv_crowdai_val.json", "ciou", "IT"),
    Task("measurement", "rs_meas", "obj_meas_dota_test.json", "mae", "IT"),
    Task("multilabel_gid", "rs_ml_gid", "mlc_gid_test.json", "ml", "IT"),
    Task("multilabel_fbp", "rs_ml_fbp", "mlc_fbp_test.json", "ml", "IT"),
)


def task_table(settings: EvaluationRecipe) -> tuple[Task, ...]:
    """The published tasks and the recipe's own. Raises RecipeError, which names the task and the key that is wrong."""
    tasks: tuple[Task, ...] = TASKS
    for name, task in settings.custom_tasks.items():
        tasks += (_custom_task(name, task, tasks),)
    return tasks


def find_task(name: str, tasks: Sequence[Task] = TASKS) -> Task:
    """The task of a name or a published key. Raises InputError, which names the nearest one."""
    by_name = _by_name(tasks)
    task = by_name.get(name.lower())
    if task is None:
        raise InputError(f"task {name!r} is unknown; {_hint(name.lower(), by_name, [t.name for t in tasks])}")
    return task


def find_type(name: str, tasks: Sequence[Task] = TASKS) -> str:
    """The answer type's name of a task name, a published key, or a type's own name."""
    return name if name in ANSWER_TYPES else find_task(name, tasks).type


def tasks_in(directory: Path, names: list[str] | str = "all", tasks: Sequence[Task] = TASKS) -> list[Task]:
    """The named tasks; "all" are the published ones whose file is in `directory`, and all others of `tasks`.

    Raises InputError when a file is absent.
    """
    if not directory.is_dir():
        raise InputError(f"{directory} does not exist: give the folder of the evaluation files")
    if names == "all":
        chosen = [task for task in tasks if task not in TASKS or (directory / task.file).is_file()]
        if not chosen:
            raise InputError(f"{directory} holds none of the evaluation files (such as {TASKS[0].file})")
        _warn_of_files_without_task(directory, tasks)
    else:
        chosen = list(dict.fromkeys(find_task(name, tasks) for name in names))
    for task in chosen:
        if not (directory / task.file).is_file():
            close = difflib.get_close_matches(task.file, [path.name for path in directory.glob("*.json")], 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"task {task.name} needs {directory / task.file}, which does not exist{hint}")
    return chosen


def _custom_task(name: str, task: CustomTask, others: Sequence[Task]) -> Task:
    key = f"evaluation.custom_tasks.{name}"
    if not re.fullmatch(r"[\w-]+", name):  # it becomes a file's name, and a threshold of the gate is TASK.METRIC
        raise RecipeError(f"{key}: a task's name has letters, digits, - and _ only")
    if name.lower() in _by_name(others) or name in ANSWER_TYPES:
        what = "another task" if name.lower() in _by_name(others) else "an answer type"
        raise RecipeError(f"{key}: {what} has this name already; choose another, such as my_{name}")
    if task.type not in ANSWER_TYPES:
        raise RecipeError(f"{key}.type: {task.type!r} is unknown; {_hint(task.type, ANSWER_TYPES, ANSWER_TYPES)}")
    if Path(task.file).name != task.file:
        raise RecipeError(f"{key}.file: {task.file!r} is not the name of a file in the evaluation directory")
    return Task(name, name, task.file, task.type, task.tag, task.deceptive)


def _by_name(tasks: Sequence[Task]) -> dict[str, Task]:
    return {alias.lower(): task for task in tasks for alias in (task.name, task.key)}


def _hint(name: str, candidates: Collection[str], known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, candidates, 1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


def _warn_of_files_without_task(directory: Path, tasks: Sequence[Task]) -> None:
    unused = sorted({path.name for path in directory.glob("*.json")} - {task.file for task in tasks})
    if unused:
        names = f"{', '.join(unused[:3])}{f' and {len(unused) - 3} more' if len(unused) > 3 else ''}"
        log.warning("%s: no task reads %s: name a task for each in evaluation.custom_tasks", directory, names)
