"""How the pipeline is run: on this machine by `kfp.local`, or submitted to a cluster.

What a run leaves in its directory:

    model/         the promoted Hugging Face directory        scores.json report.html  the evaluation
    deployment/    what the deployed model answered           verdict.json             the gate's checks
    recipe.yaml    resolved                                   lineage.json             content hashes
    pipeline.log   everything that the components printed     kfp/                     artifacts and cache
"""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import logging
import os
import re
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components import IMAGE
from pipelines.vhm import vhm
from vhm.artifacts.lineage import code_hash, environment_hash, write_lineage
from vhm.artifacts.model_card import finish_model
from vhm.errors import CheckFailed, InputError, VhmError, first_line
from vhm.io import read_json, sha256_tree, whole_directory, write_text
from vhm.recipe import Recipe
from vhm.stages import LOG_PREFIX
from vhm.storage.s3 import is_uri, parse_uri
from vhm.storage.versions import open_published, publish

log = logging.getLogger("vhm.pipelines")  # shown like the rooms' own lines

_EVENT = re.compile(r"(Executing task|Task) '?([\w-]+)'?(?: (finished with status (\w+)|cache hit.*))?")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_REASON = re.compile(r"vhm\.errors\.(\w+): (.+)")


def run_pipeline(recipe: Recipe, out: Path, runner: str = "subprocess") -> dict[str, Any]:
    """Run every stage of the pipeline here; finished stages of an earlier run are taken from KFP's cache.

    Returns {"passed", "stages", "table", …}. Raises CheckFailed with the one-line reason of the stage that
    said no, InputError when the data are absent.
    """
    from kfp import local

    root = _data_root(recipe)
    out = out.absolute()
    (out / "kfp").mkdir(parents=True, exist_ok=True)
    write_text(out / "recipe.yaml", recipe.text())
    arguments = arguments_of(recipe, str(root), sha256_tree(root), _image_id(runner))
    os.environ["VHM_COMPONENT"] = "1"
    stages = _Stages()
    with _watched(stages, out / "pipeline.log"):
        local.init(
            _runner(local, runner, root, out),
            pipeline_root=str(out / "kfp"),
            workspace_root=str(out / "kfp" / "workspace"),
            raise_on_error=True,
            enable_caching=True,
        )
        try:
            task = vhm(**arguments)
        except Exception as error:
            stages.finish()
            if stages.reason is None:
                raise CheckFailed(f"the pipeline failed ({error}): see {out / 'pipeline.log'}") from None
            raise CheckFailed(f"{stages.failed}: {stages.reason}") from None
    stages.finish()
    return _collect(recipe, out, root, task.outputs, stages)


def arguments_of(recipe: Recipe, data: str, data_hash: str, image: str) -> dict[str, Any]:
    """The pipeline's arguments. KFP's cache keys on them, on the components' commands and on an image's tag: what
    else a result depends on (bytes of data and code, installed packages, the image itself) is in them as hashes."""
    return {
        "recipe": recipe.text(),
        "data": data,
        "data_hash": data_hash,
        "code": hashlib.sha256(f"{code_hash()} {environment_hash()} {image}".encode()).hexdigest(),
        "parts": list(range(recipe.data.splits)),
        "shards": list(range(recipe.evaluation.splits)),
    }


def _image_id(runner: str) -> str:
    """The content address of the image that components run in; none where they run in this environment."""
    if runner != "docker":
        return ""
    import docker

    try:
        return str(docker.from_env().images.get(IMAGE).id)
    except docker.errors.DockerException as error:
        raise InputError(f"image {IMAGE} cannot be used ({first_line(error)}): make it with `make image`") from None


def _version_of(data: str) -> str:
    """The version of data that the cluster's pods read: of a publication, or of a directory that is here as well.

    Data that cannot be looked at from here count as new each time: better computed twice than taken for other data.
    """
    if is_uri(data):
        published = open_published(parse_uri(data))
        return published.version if published else uuid.uuid4().hex
    return sha256_tree(Path(data)) if Path(data).is_dir() else uuid.uuid4().hex


def submit(recipe: Recipe, host: str, data: str, data_version: str | None = None) -> str:
    """Create a run on the Kubeflow Pipelines at `host`; returns its id."""
    from kfp import client

    arguments = arguments_of(recipe, data, data_version or _version_of(data), "")
    try:
        created = client.Client(host=host).create_run_from_pipeline_func(
            vhm, arguments=arguments, run_name=f"vhm {recipe.name}", enable_caching=True
        )
    except Exception as error:
        raise InputError(
            f"Kubeflow Pipelines at {host} did not take the run ({type(error).__name__}: {error})"
        ) from None
    return str(created.run_id)


def _data_root(recipe: Recipe) -> Path:
    root = Path(recipe.data.root).absolute()
    if not root.exists():
        if not recipe.data.sample:
            raise InputError(f"data root {root} does not exist: set data.root")
        log.info("building the embedded sample in %s", root)
        from vhm.sample import build_tracked_sample

        build_tracked_sample(root)
    return root


def _runner(local: Any, name: str, root: Path, out: Path) -> Any:
    if name == "subprocess":
        return local.SubprocessRunner(use_venv=False)
    if name == "docker":
        volumes = {str(path): {"bind": str(path), "mode": mode} for path, mode in ((root, "ro"), (out, "rw"))}
        log.info("running in image %s", IMAGE)
        return local.DockerRunner(volumes=volumes, network_mode="host", environment={"VHM_COMPONENT": "1"})
    raise InputError(f"--runner {name!r} is unknown: use subprocess or docker")


def _collect(recipe: Recipe, out: Path, root: Path, outputs: dict[str, Any], stages: _Stages) -> dict[str, Any]:
    """Put what the run made under its plain names, write the lineage, and give the verdict."""
    model, evaluation = Path(outputs["model"].path), Path(outputs["evaluation"].path)
    for name in ("scores.json", "report.html"):
        shutil.copyfile(evaluation / name, out / name)
    shutil.copyfile(outputs["verdict"].path, out / "verdict.json")
    inputs = {"data": root}
    passed = bool(outputs["passed"])
    if passed:
        with whole_directory(out / "model", "lineage.json") as folder:
            shutil.copytree(model, folder, dirs_exist_ok=True)
            shutil.copyfile(evaluation / "scores.json", folder / "scores.json")
            finish_model(folder, "model/promoted", {"model": model, "evaluation": evaluation}, recipe)
        inputs["model"] = out / "model"
        deployment = _deployment_of(out / "kfp", sha256_tree(model))
        if deployment is not None:
            with whole_directory(out / "deployment", "deployment.json") as folder:
                shutil.copytree(deployment, folder, dirs_exist_ok=True)
    scores = read_json(out / "scores.json")
    write_lineage(out, "run", inputs, recipe, scores["summary"], output=out / "scores.json")
    table = stages.table()
    table += f"\n\nreport  {out / 'report.html'}\n"
    if not passed:
        failing = [c for c in read_json(out / "verdict.json")["checks"] if not c["passed"]]
        print(table)
        raise CheckFailed(
            f"gate: not promoted: {failing[0]['name']} is {failing[0]['value']}, see {out / 'verdict.json'}"
        )
    if recipe.storage.models is not None:
        place = parse_uri(recipe.storage.models) / recipe.name
        table += f"stored  {place / publish(out / 'model', place)}\n"
    table += f"model   {out / 'model'}\nanswer  {out / 'deployment' / 'answer.png'}"
    return {"passed": passed, "stages": [vars(s) for s in stages.rows()], "out": str(out), "table": table}


def _deployment_of(root: Path, model_hash: str) -> Path | None:
    """The newest deployment of this very model among the runs' artifacts."""
    found = [
        path.parent
        for path in sorted(root.rglob("deployment/model.json"), key=lambda p: p.stat().st_mtime)
        if read_json(path)["sha256"] == model_hash
    ]
    return found[-1] if found else None


# --- watching ------------------------------------------------------------------------------------


@dataclass
class StageRow:
    """One line of the final table."""

    name: str
    seconds: float = 0.0
    result: str = "running"
    note: str = ""


@dataclass
class _Stages:
    """What has run so far, from the log lines of kfp.local and of the stages themselves."""

    began: float = field(default_factory=time.monotonic)
    order: list[str] = field(default_factory=list)
    starts: dict[str, list[float]] = field(default_factory=dict)
    done: dict[str, StageRow] = field(default_factory=dict)
    failed: str | None = None
    reason: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def event(self, line: str) -> None:
        """A log line of kfp.local."""
        match = _EVENT.search(_COLOUR.sub("", line))
        if not match:
            return
        what, name, tail, status = match.groups()
        with self.lock:
            if what == "Executing task":
                self.starts.setdefault(name, []).append(time.monotonic())
                self.show(f"{_plain(name)} …")
            elif tail and tail.startswith("cache hit"):
                self._end(name, "cached")
                self.show(f"{_plain(name)}: finished before, taken from the cache")
            elif status:
                self._end(name, {"SUCCESS": "done", "FAILURE": "FAILED"}.get(status, status))

    def line(self, line: str) -> None:
        """A line that a stage or kfp.local printed."""
        text = line.strip()
        if " - INFO - " in text or " - ERROR - " in text:
            self.event(text)
        elif text.startswith(LOG_PREFIX):
            self.show(text.removeprefix(LOG_PREFIX))
        elif match := _REASON.search(text):
            kind, reason = match.groups()
            if kind in _ERRORS:
                self.reason = reason

    def show(self, text: str) -> None:
        passed = int(time.monotonic() - self.began)
        print(f"[{passed // 60:2}:{passed % 60:02}] {text}", file=sys.stderr, flush=True)

    def finish(self) -> None:
        self.failed = next((row.name for row in self.rows() if row.result == "FAILED"), "pipeline")

    def rows(self) -> list[StageRow]:
        return [self.done[name] for name in self.order]

    def table(self) -> str:
        total = time.monotonic() - self.began
        lines = [f"{'stage':22} {'time':>8}  result"]
        lines += [f"{row.name:22} {row.seconds:6.1f} s  {row.result}" for row in self.rows()]
        cached = sum(row.result == "cached" for row in self.rows())
        note = f"  ({cached} of {len(self.order)} stages were finished before)" if cached else ""
        return "\n".join([*lines, f"{'all':22} {total:6.1f} s{note}"])

    def _end(self, name: str, result: str) -> None:
        now = time.monotonic()
        begun = self.starts.get(name, [])
        key = name
        while key in self.done:
            key += "+"
        self.done[key] = StageRow(_plain(name), now - (begun.pop(0) if begun else now), result)
        self.order.append(key)


_ERRORS = {cls.__name__ for cls in VhmError.__subclasses__()} | {
    sub.__name__ for cls in VhmError.__subclasses__() for sub in cls.__subclasses__()
}
_NAMES = {"train": "pretrain", "train-2": "sft"}


def _plain(task: str) -> str:
    """The stage's name as people say it."""
    bare = re.sub(r"-iteration-\d+$|-for-loop.*$", "", task)
    return _NAMES.get(bare, bare).replace("-", " ")


@contextlib.contextmanager
def _watched(stages: _Stages, log_file: Path) -> Iterator[None]:
    """Send what kfp.local logs and prints to `log_file`, and to `stages` on its way."""
    with log_file.open("w") as file:
        lock = threading.Lock()

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                stages.event(record.getMessage())
                with lock:
                    file.write(_COLOUR.sub("", record.getMessage()) + "\n")

        class Lines:
            def write(self, text: str) -> int:
                with lock:
                    file.write(text)
                for line in text.splitlines():
                    stages.line(line)
                return len(text)

            def flush(self) -> None:
                with lock:
                    file.flush()

        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        own = logging.getLogger("vhm")
        own_handlers, own_propagate = own.handlers[:], own.propagate
        root.handlers = [Handler()]
        root.setLevel(logging.INFO)
        printed = builtins.print
        try:
            with contextlib.redirect_stdout(Lines()):  # type: ignore[type-var]
                yield
        finally:
            builtins.print = printed
            root.handlers = handlers
            root.setLevel(level)
            own.handlers, own.propagate = own_handlers, own_propagate
