"""What kfp.local does in a run, as typed events.

kfp.local executes every task with one function, in the thread that prints the task's output:

    task_executor.execute_single_task                  reads the cache, executes the task on a miss
    └── task_dispatcher.run_single_task_implementation starts the process or the container, prints its output

`watch` wraps both for as long as a block runs. The outer gives the task, its arguments and its end; the inner is called
only when the task is executed, so a task that ends well without it came from the cache.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import inspect
import io
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TextIO, TypeAlias

from kfp.local import task_dispatcher
from kfp.local.orchestrator import task_executor
from kfp.local.orchestrator.orchestrator_utils import OrchestratorUtils

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Task:
    """A task of the run: its number in the order of the starts, its component, and its arguments."""

    number: int
    component: str
    arguments: Mapping[str, object] = field(hash=False)


@dataclass(frozen=True)
class TaskStarted:
    """The task was not in the cache: its process or container starts."""

    task: Task


@dataclass(frozen=True)
class TaskOutput:
    """The task printed a line."""

    task: Task
    line: str


@dataclass(frozen=True)
class TaskFinished:
    """The task ended; a cached one without having started."""

    task: Task
    outcome: Literal["done", "cached", "failed"]


Event: TypeAlias = TaskStarted | TaskOutput | TaskFinished
Subscriber: TypeAlias = Callable[[Event], None]


@contextlib.contextmanager
def watch(subscriber: Subscriber, log: TextIO) -> Iterator[None]:
    """Report what kfp.local does in the block to `subscriber`, one event at a time; write all its output to `log`."""
    watcher = _Watcher(subscriber, log)
    execute, run = task_executor.execute_single_task, task_dispatcher.run_single_task_implementation
    root = logging.getLogger()
    handlers, level, printed = root.handlers[:], root.level, builtins.print
    task_executor.execute_single_task = watcher.wrap_execute(execute)
    task_dispatcher.run_single_task_implementation = watcher.wrap_run(run)
    root.handlers = [logging.StreamHandler(watcher)]
    root.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stdout(watcher):
            yield
    finally:
        task_executor.execute_single_task, task_dispatcher.run_single_task_implementation = execute, run
        # kfp.local replaces these for each task and, with tasks in parallel, does not always restore them.
        root.handlers, builtins.print = handlers, printed
        root.setLevel(level)
        watcher.flush_line()


class _Container(Protocol):
    args: Sequence[str]


class _Executor(Protocol):
    container: _Container


class _Component(Protocol):
    executor_label: str


class _Status(Protocol):
    name: str


_Result: TypeAlias = tuple[dict[str, object], _Status]
_Function: TypeAlias = Callable[..., _Result]


class _Watcher(io.TextIOBase):
    """The stream that kfp.local prints to; it keeps the task that each thread executes."""

    def __init__(self, subscriber: Subscriber, log: TextIO) -> None:
        self._subscriber = subscriber
        self._log = log
        self._lock = threading.RLock()
        self._thread = _Thread()
        self._tasks = 0

    def wrap_execute(self, execute: _Function) -> _Function:
        signature = inspect.signature(execute)

        @functools.wraps(execute)
        def watched(*args: object, **kwargs: object) -> _Result:
            call = signature.bind(*args, **kwargs).arguments
            task = self._begin(
                _component_name(call["components"], call["executors"], call["task_spec"].component_ref.name),
                OrchestratorUtils.make_task_arguments(call["task_spec"].inputs, call["io_store"]),
            )
            outcome: Literal["done", "cached", "failed"] = "failed"
            try:
                outputs, status = execute(*args, **kwargs)
                if status.name == "SUCCESS":
                    outcome = "done" if self._thread.started else "cached"
                return outputs, status
            finally:
                self.flush_line()
                self._thread.task = None
                self._emit(TaskFinished(task, outcome))

        return watched

    def wrap_run(self, run: _Function) -> _Function:
        @functools.wraps(run)
        def watched(*args: object, **kwargs: object) -> _Result:
            if self._thread.task is not None and not self._thread.started:
                self._thread.started = True
                self._emit(TaskStarted(self._thread.task))
            return run(*args, **kwargs)

        return watched

    def write(self, text: str) -> int:
        """Write complete lines: those of tasks that run in parallel do not mix."""
        *lines, self._thread.partial = (self._thread.partial + text).split("\n")
        for line in lines:
            self._write_line(line)
        return len(text)

    def flush_line(self) -> None:
        """Write what this thread printed since its last complete line."""
        if self._thread.partial:
            self._write_line(self._thread.partial)
            self._thread.partial = ""

    def _begin(self, component: str, arguments: Mapping[str, object]) -> Task:
        with self._lock:
            self._tasks += 1
            task = Task(self._tasks, component, arguments)
        self._thread.task, self._thread.started = task, False
        return task

    def _write_line(self, line: str) -> None:
        with self._lock:
            self._log.write(f"{_COLOUR.sub('', line)}\n")
            if self._thread.task is not None:
                self._emit(TaskOutput(self._thread.task, line.strip()))

    def _emit(self, event: Event) -> None:
        with self._lock:
            self._subscriber(event)


class _Thread(threading.local):
    """The state of a thread: its task, whether the task was started, and the line that it has printed in part."""

    task: Task | None = None
    started: bool = False
    partial: str = ""


def _component_name(components: Mapping[str, _Component], executors: Mapping[str, _Executor], component: str) -> str:
    """The name of the component's function: KFP numbers the components that are used more than once."""
    arguments = list(executors[components[component].executor_label].container.args)
    return arguments[arguments.index("--function_to_execute") + 1]
