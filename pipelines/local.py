"""A run of the pipeline on this machine by `kfp.local`, in processes or in containers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from components import IMAGE
from pipelines.events import watch
from pipelines.report import RunReport
from pipelines.vhm import vhm
from vhm.errors import CheckFailed, InputError, first_line

if TYPE_CHECKING:
    from kfp.local import DockerRunner, SubprocessRunner

RUNNERS = ("subprocess", "docker")


class Artifact(Protocol):
    """An output of the pipeline that lies in a file or a directory."""

    path: str


def run_locally(
    arguments: Mapping[str, object], splits: Mapping[str, int], runner: str, root: Path, out: Path
) -> tuple[Mapping[str, Artifact], RunReport]:
    """Run every stage that is not in KFP's cache; returns the pipeline's outputs and the report of the run.

    `splits` are the numbers of splits by component. Raises CheckFailed with the reason of the stage that failed.
    """
    from kfp import local

    log = out / "pipeline.log"
    report = RunReport(splits)
    with log.open("w") as file, _environment(VHM_COMPONENT="1"), watch(report, file):
        local.init(
            make_runner(runner, root),
            pipeline_root=str(out / "kfp"),
            workspace_root=str(out / "kfp" / "workspace"),
            raise_on_error=True,
            enable_caching=True,
        )
        try:
            task = vhm(**arguments)
        except Exception as error:
            raise CheckFailed(report.failure or f"the pipeline failed ({first_line(error)}): see {log}") from None
    return task.outputs, report


def image_id(runner: str) -> str:
    """The content address of the image that components run in; empty if they run in this environment.

    Raises InputError when the runner is unknown or the image cannot be used.
    """
    if runner not in RUNNERS:
        raise InputError(f"--runner {runner!r} is unknown: use {' or '.join(RUNNERS)}")
    if runner == "subprocess":
        return ""
    import docker

    try:
        return str(docker.from_env().images.get(IMAGE).id)
    except docker.errors.DockerException as error:
        raise InputError(f"image {IMAGE} cannot be used ({first_line(error)}): build it with `make image`") from None


def make_runner(name: str, root: Path) -> SubprocessRunner | DockerRunner:
    """The runner `name` of kfp.local; a container reads the data root and writes to KFP's pipeline root."""
    from kfp import local

    if name == "subprocess":
        return local.SubprocessRunner(use_venv=False)
    from docker.types import Mount

    return local.DockerRunner(  # KFP itself mounts the pipeline root
        mounts=[Mount(target=str(root), source=str(root), type="bind", read_only=True)],
        network_mode="host",
        entrypoint="",  # the image's own is `vhm`
        user=f"{os.getuid()}:{os.getgid()}",  # who may write to the pipeline root
        environment={"VHM_COMPONENT": "1"},
    )


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
