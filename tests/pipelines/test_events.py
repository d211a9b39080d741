"""Events of kfp.local: real runs of a small pipeline, with a loop in parallel, a cache and a failure."""

# No `from __future__ import annotations`: KFP reads the types of a component's arguments.
import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kfp import dsl, local
from kfp.local import task_dispatcher
from kfp.local.orchestrator import task_executor

from pipelines.events import Event, TaskFinished, TaskOutput, TaskStarted, watch


@dsl.component(base_image="python", install_kfp_package=False)
def speak(kind: str, split: int) -> str:
    print("vhm| one line,", end="")
    print(f" {kind} {split}", flush=True)
    return f"{kind} {split}"


@dsl.component(base_image="python", install_kfp_package=False)
def end(words: list, status: int) -> None:
    print("vhm| ending", flush=True)
    raise SystemExit(status)


@dsl.pipeline(name="small")
def small(splits: list[int], status: int) -> None:
    with dsl.ParallelFor(splits) as split:
        spoken = speak(kind="sft", split=split)
    end(words=dsl.Collected(spoken.output), status=status)


def run(root: Path, runner: object, status: int) -> tuple[list[Event], str, bool]:
    """The events and the log of a run, and whether it succeeded."""
    events: list[Event] = []
    log = io.StringIO()
    with watch(events.append, log):
        local.init(runner, pipeline_root=str(root), raise_on_error=True, enable_caching=True)
        try:
            small(splits=[0, 1], status=status)
            passed = True
        except RuntimeError:
            passed = False
    return events, log.getvalue(), passed


def ends(events: list[Event]) -> list[tuple[str, object, str]]:
    return sorted(
        (event.task.component, event.task.arguments.get("split", ""), event.outcome)
        for event in events
        if isinstance(event, TaskFinished)
    )


class Containers:
    """Docker's API as far as kfp.local uses it: a "container" is a process of this machine."""

    def __init__(self) -> None:
        self.options: list[dict[str, Any]] = []

    def run(self, image: str, command: list[str], environment: dict[str, str], **options: Any) -> SimpleNamespace:
        self.options.append(options)
        command = [part.replace("python3", sys.executable) if "ephemeral" in part else part for part in command]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        lines = done.stdout.splitlines(keepends=True)
        return SimpleNamespace(logs=lambda stream: iter(lines), wait=lambda: {"StatusCode": done.returncode})


@pytest.fixture(params=["subprocess", "docker"])
def runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    if request.param == "subprocess":
        yield local.SubprocessRunner(use_venv=False)
        return
    image = SimpleNamespace(tags=["python:latest"], attrs={"RepoDigests": []})
    client = SimpleNamespace(
        containers=Containers(),
        images=SimpleNamespace(list=lambda: [image]),
        info=dict,
        close=lambda: None,
    )
    monkeypatch.setattr("docker.from_env", lambda: client)
    yield local.DockerRunner(environment=dict(os.environ))


def test_a_failing_run_and_the_next_give_their_events(runner: object, tmp_path: Path) -> None:
    handlers, patched = (
        logging.getLogger().handlers[:],
        (
            task_executor.execute_single_task,
            task_dispatcher.run_single_task_implementation,
        ),
    )
    events, log, passed = run(tmp_path, runner, status=3)
    assert not passed
    assert ends(events) == [("end", "", "failed"), ("speak", 0, "done"), ("speak", 1, "done")]
    started = [event.task for event in events if isinstance(event, TaskStarted)]
    assert [task.arguments.get("kind") for task in started] == ["sft", "sft", None]
    lines = [(e.task.component, e.line) for e in events if isinstance(e, TaskOutput) and e.line.startswith("vhm|")]
    assert sorted(lines) == [
        ("end", "vhm| ending"),
        ("speak", "vhm| one line, sft 0"),
        ("speak", "vhm| one line, sft 1"),
    ]
    assert "vhm| one line, sft 1" in log
    assert "\x1b" not in log

    events, _, passed = run(tmp_path, runner, status=0)
    assert passed
    assert ends(events) == [("end", "", "done"), ("speak", 0, "cached"), ("speak", 1, "cached")]
    assert [event.task.component for event in events if isinstance(event, TaskStarted)] == ["end"]
    assert logging.getLogger().handlers == handlers
    assert patched == (task_executor.execute_single_task, task_dispatcher.run_single_task_implementation)
