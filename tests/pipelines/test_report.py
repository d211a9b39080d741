"""The report of a run: labels from arguments, rows from events, failures from the stages' own reports."""

from __future__ import annotations

import pytest

from pipelines.events import Task, TaskFinished, TaskOutput, TaskStarted
from pipelines.report import RunReport, StageRow, label
from vhm.stages import LOG_PREFIX, StageError

SPLITS = {"check_data": 2, "evaluate": 2}


class Clock:
    """A clock that tests set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def report(clock: Clock) -> RunReport:
    return RunReport(SPLITS, clock)


@pytest.mark.parametrize(
    ("component", "arguments", "words"),
    [
        ("check_data", {"kind": "sft", "split": 0.0}, "check data · sft · 1/2"),
        ("validate_data", {"kind": "eval", "splits": ["a", "b"]}, "validate data · eval"),
        ("train", {"stage": "pretrain"}, "pretrain"),
        ("evaluate", {"split": 1}, "evaluate · 2/2"),
        ("warm_start", {"recipe": "…"}, "warm start"),
    ],
)
def test_a_label_names_list_split_and_stage(component: str, arguments: dict[str, object], words: str) -> None:
    assert label(Task(1, component, arguments), SPLITS) == words


def test_a_single_split_is_not_numbered() -> None:
    assert label(Task(1, "check_data", {"kind": "sft", "split": 0}), {"check_data": 1}) == "check data · sft"


def test_rows_are_wall_time_in_the_order_of_the_starts(report: RunReport, clock: Clock) -> None:
    first, second = (Task(n, "evaluate", {"split": n - 1}) for n in (1, 2))
    third, cached = Task(3, "score", {}), Task(4, "gate", {})
    for now, event in (
        (1.0, TaskStarted(first)),
        (2.0, TaskStarted(second)),
        (4.0, TaskFinished(second, "done")),
        (5.0, TaskFinished(first, "done")),
        (5.0, TaskStarted(third)),
        (8.5, TaskFinished(third, "failed")),
        (8.5, TaskFinished(cached, "cached")),
    ):
        clock.now = now
        report(event)
    assert report.rows() == [
        StageRow("evaluate · 1/2", 1.0, 4.0, "done", parallel=True),
        StageRow("evaluate · 2/2", 2.0, 2.0, "done", parallel=True),
        StageRow("score", 5.0, 3.5, "failed"),
        StageRow("gate", 8.5, 0.0, "cached"),
    ]
    lines = report.table().splitlines()
    assert lines[1].split() == ["evaluate", "·", "1/2", "0:01", "4.0", "s", "done", "‖"]
    assert lines[-2].split() == ["total", "8.5", "s", "(1", "of", "4", "stages", "cached)"]


def test_lines_of_parallel_tasks_name_their_task(report: RunReport, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (Task(n, "evaluate", {"split": n - 1}) for n in (1, 2))
    report(TaskStarted(first))
    report(TaskOutput(first, f"{LOG_PREFIX}alone"))
    report(TaskStarted(second))
    report(TaskOutput(second, f"{LOG_PREFIX}together"))
    report(TaskOutput(second, "a library's line"))
    shown = [line.split("] ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["evaluate · 1/2 …", "alone", "evaluate · 2/2 …", "evaluate · 2/2: together"]


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (StageError("CheckFailed", "5 of 9 records rejected", True), "score: 5 of 9 records rejected"),
        (StageError("KeyError", "KeyError: 'x'", False), "score: KeyError: 'x', see pipeline.log"),
        (None, "score: its process ended without a reason, see pipeline.log"),
    ],
)
def test_a_failure_has_the_reason_that_the_stage_reported(
    error: StageError | None, failure: str, report: RunReport
) -> None:
    task = Task(1, "score", {})
    report(TaskStarted(task))
    report(TaskOutput(task, "vhm.errors.InputError: a traceback's last line is no report"))
    if error is not None:
        report(TaskOutput(task, error.to_line()))
    report(TaskFinished(task, "failed"))
    report(TaskFinished(Task(2, "gate", {}), "failed"))
    assert report.failure == failure


@pytest.mark.parametrize("line", ["vhm! not JSON", 'vhm! {"error": "x"}', "vhm! []", 'x vhm! {"error": "x"}'])
def test_a_line_that_is_no_report_is_ignored(line: str) -> None:
    assert StageError.from_line(line) is None
