"""Output of a run: one line per event on stderr, and at the end a table with one row per task.

stage                       start      time  result
check data · sft · 1/2        0:00     4.1 s  done ‖
check data · sft · 2/2        0:00     4.3 s  done ‖
pretrain                      0:31    61.0 s  done
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from pipelines.events import Event, Task, TaskFinished, TaskOutput, TaskStarted
from vhm.stages import LOG_PREFIX, StageError

_NO_REASON = StageError("", "its process ended without a reason", expected=False)


@dataclass(frozen=True)
class StageRow:
    """A task of the run; `start` and `seconds` are wall time, `start` from the start of the run."""

    name: str
    start: float
    seconds: float
    result: Literal["done", "cached", "failed"]
    parallel: bool = False

    def to_dict(self) -> dict[str, str | float | bool]:
        return asdict(self)


class RunReport:
    """Subscribes to the events of a run. `splits` are the numbers of splits by component."""

    def __init__(self, splits: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        self._splits = splits
        self._clock = clock
        self._began = clock()
        self._running: dict[Task, float] = {}
        self._ended: list[StageRow] = []
        self._errors: dict[Task, StageError] = {}
        self.failure: str | None = None

    def __call__(self, event: Event) -> None:
        """Handle one event."""
        name = label(event.task, self._splits)
        if isinstance(event, TaskStarted):
            self._running[event.task] = self._passed()
            self._show(f"{name} …")
        elif isinstance(event, TaskOutput):
            self._take_line(event.task, name, event.line)
        else:
            self._take_end(event, name)

    def rows(self) -> list[StageRow]:
        """The tasks that have ended, in the order of their starts."""
        ended = sorted(self._ended, key=lambda row: row.start)
        return [_mark_parallel(row, ended) for row in ended]

    def table(self) -> str:
        """The rows, and the wall time of the run."""
        rows = self.rows()
        width = max([22, *(len(row.name) for row in rows)])
        lines = [f"{'stage':{width}}  {'start':>6}  {'time':>8}  result"]
        lines += [
            f"{row.name:{width}}  {_clock_time(row.start):>6}  {row.seconds:6.1f} s  {row.result}"
            f"{' ‖' if row.parallel else ''}"
            for row in rows
        ]
        cached = sum(row.result == "cached" for row in rows)
        note = f"  ({cached} of {len(rows)} stages cached)" if cached else ""
        lines.append(f"{'total':{width}}  {'':6}  {self._passed():6.1f} s{note}")
        if any(row.parallel for row in rows):
            lines.append("‖ in parallel with another stage")
        return "\n".join(lines)

    def _take_line(self, task: Task, name: str, line: str) -> None:
        if error := StageError.from_line(line):
            self._errors[task] = error
        elif line.startswith(LOG_PREFIX):
            text = line.removeprefix(LOG_PREFIX)
            self._show(f"{name}: {text}" if len(self._running) > 1 else text)

    def _take_end(self, event: TaskFinished, name: str) -> None:
        now = self._passed()
        start = self._running.pop(event.task, now)
        self._ended.append(StageRow(name, start, now - start, event.outcome))
        if event.outcome == "cached":
            self._show(f"{name}: cached")
        if event.outcome == "failed" and self.failure is None:
            error = self._errors.get(event.task, _NO_REASON)
            self.failure = f"{name}: {error.message}{'' if error.expected else ', see pipeline.log'}"

    def _show(self, text: str) -> None:
        print(f"[{_clock_time(self._passed()):>6}] {text}", file=sys.stderr, flush=True)

    def _passed(self) -> float:
        return self._clock() - self._began


def label(task: Task, splits: Mapping[str, int]) -> str:
    """The task's name in words, with its list and its split: "check data · sft · 1/2"."""
    arguments = task.arguments
    words = [str(arguments.get("stage", task.component.replace("_", " ")))]
    if "kind" in arguments:
        words.append(str(arguments["kind"]))
    count = splits.get(task.component, 1)
    if "split" in arguments and count > 1:
        words.append(f"{int(float(str(arguments['split']))) + 1}/{count}")  # KFP turns a loop's integers into floats
    return " · ".join(words)


def _mark_parallel(row: StageRow, rows: list[StageRow]) -> StageRow:
    end = row.start + row.seconds
    parallel = row.result != "cached" and any(
        other is not row and other.result != "cached" and other.start < end and row.start < other.start + other.seconds
        for other in rows
    )
    return StageRow(row.name, row.start, row.seconds, row.result, parallel)


def _clock_time(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
