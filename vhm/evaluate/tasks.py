"""The task table: every task of the published benchmark is a row.

Sources: arXiv 2403.20213, table of evaluation tasks; RSEvalKit's task table.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vhm.errors import InputError
from vhm.evaluate.answer_types import ANSWER_TYPES


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

_BY_NAME = {alias.lower(): task for task in TASKS for alias in (task.name, task.key)}


def find_task(name: str) -> Task:
    """The task of a name or a published key. Raises InputError, which names the nearest one."""
    task = _BY_NAME.get(name.lower())
    if task is None:
        close = difflib.get_close_matches(name.lower(), _BY_NAME, 1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(t.name for t in TASKS)}"
        raise InputError(f"task {name!r} is unknown; {hint}")
    return task


def find_type(name: str) -> str:
    """The answer type's name of a task name, a published key, or a type's own name."""
    return name if name in ANSWER_TYPES else find_task(name).type


def tasks_in(directory: Path, names: list[str] | str = "all") -> list[Task]:
    """The named tasks; "all" are those whose file is in `directory`. Raises InputError when a file is absent."""
    if not directory.is_dir():
        raise InputError(f"{directory} does not exist: give the folder of the evaluation files")
    if names == "all":
        present = [task for task in TASKS if (directory / task.file).is_file()]
        if not present:
            raise InputError(f"{directory} holds none of the evaluation files (such as {TASKS[0].file})")
        return present
    requested = list(dict.fromkeys(find_task(name) for name in names))
    for task in requested:
        if not (directory / task.file).is_file():
            raise InputError(f"task {task.name} needs {directory / task.file}, which does not exist")
    return requested
