"""The stages of a run as functions of paths: the code that KFP components and `vhm` commands share.

Each stage takes the resolved recipe as text and paths, runs, writes its artifacts, and returns its metrics. A process
that runs a component (VHM_COMPONENT is set) writes lines to stderr that the local runner reads:

    vhm| pretrain step 10 of 80 …                          a log line to show
    vhm! {"error": "CheckFailed", "message": "…", …}       why the stage failed

Functions that take a `Recipe` instead of its text are called by `vhm` commands, too.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeAlias, TypeVar

import yaml

from vhm.data.images import Limits
from vhm.data.images.options import SourceOptions
from vhm.data.images.stores import join
from vhm.errors import InputError, VhmError, first_line
from vhm.io import JsonObject, read_json, read_json_object, sha256_tree, write_json, write_text
from vhm.recipe import Recipe, parse_recipe

if TYPE_CHECKING:
    from vhm.data.validation.record_checks import Kind
    from vhm.data.validation.request import ValidationRequest
    from vhm.evaluate.gate import Check
    from vhm.evaluate.tasks import Task
    from vhm.model.warm_start import WarmStart

log = logging.getLogger(__name__)

LOG_PREFIX = "vhm| "
ERROR_PREFIX = "vhm! "
KINDS: tuple[Kind, ...] = ("pretrain", "sft", "eval")

Metrics: TypeAlias = dict[str, str | int | float | None]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class StageError:
    """Why a stage failed: the class of the error, its message in one line, and whether it was raised on purpose."""

    error: str
    message: str
    expected: bool

    def to_line(self) -> str:
        """The line of output that `from_line` reads."""
        return f"{ERROR_PREFIX}{json.dumps(asdict(self))}"

    @classmethod
    def from_line(cls, line: str) -> StageError | None:
        """The error that a line of a stage's output reports, if it reports one."""
        if not line.startswith(ERROR_PREFIX):
            return None
        try:
            return cls(**json.loads(line.removeprefix(ERROR_PREFIX)))
        except (ValueError, TypeError):
            return None


def _reports_errors(stage: Callable[P, T]) -> Callable[P, T]:
    """Report why the stage failed to the runner of the component, then let the error end the process."""

    @functools.wraps(stage)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return stage(*args, **kwargs)
        except Exception as error:
            if os.environ.get("VHM_COMPONENT"):
                expected = isinstance(error, VhmError)
                message = " ".join(str(error).split()) if expected else f"{type(error).__name__}: {first_line(error)}"
                sys.stderr.write(StageError(type(error).__name__, message, expected).to_line() + "\n")
            raise

    return run


@_reports_errors
def check_data(kind: str, split: int, recipe: str, data: str, chunks: str) -> None:
    """Check one split of the lists of `kind` ("pretrain", "sft", "eval"), for `validate_data` to merge."""
    settings = start_stage(recipe)
    from vhm.data.validation.splits import check_split

    if kind == "eval":  # a task without its file must not come to light after the training
        evaluation_tasks(settings, Path(data))
    request = validation_request(settings, parse_kind(kind), Path(data))
    check_split(request, Path(chunks), (int(split), settings.data.splits))


@_reports_errors
def validate_data(
    kind: str, splits: Sequence[str], recipe: str, data: str, manifest: str, report: str, summary: str, metrics: str
) -> Metrics:
    """Merge the checked splits of the lists of `kind` into a manifest. Raises CheckFailed when too much is rejected."""
    settings = start_stage(recipe)
    from vhm.data.validation.report import report_markdown
    from vhm.data.validation.validate import require_passed, validate

    out = Path(manifest)
    request = validation_request(settings, parse_kind(kind), Path(data))
    merge = [Path(split) for split in splits]
    result = validate(request, out, settings.data.max_rejected, settings.data.expect, merge=merge)
    shutil.copyfile(out / "report.html", report)
    write_text(Path(summary), report_markdown(result))
    log.info("%s: %d of %d records accepted", kind, result.accepted, result.total)
    require_passed(result, out)
    counts = {"accepted": result.accepted, "rejected": result.rejected, "refusals": result.refusal_share}
    return _write_metrics(metrics, {"kind": kind, **counts})


def parse_kind(text: str) -> Kind:
    """The kind of a list. Raises InputError when there is no such kind."""
    for kind in KINDS:
        if kind == text:
            return kind
    raise InputError(f"kind {text!r} is unknown: use pretrain, sft or eval")


def validation_request(settings: Recipe, kind: Kind, root: Path) -> ValidationRequest:
    """The lists of `kind` and their images by the data section, with the evaluation lists to search for leaks."""
    from vhm.data.validation.request import ValidationRequest

    evaluation = evaluation_root(settings, root)
    data = settings.data
    lists = [evaluation] if kind == "eval" else [root / name for name in data.lists(kind)]
    return ValidationRequest(
        lists,
        evaluation if kind == "eval" else image_root(settings, root),
        kind,
        () if kind == "eval" else [evaluation],
        max_text=data.max_text,
        limits=Limits(max_pixels=data.max_pixels),
        image_options=SourceOptions.from_recipe(data),
        reject=data.reject,
        max_unreadable=data.max_unreadable,
    )


def image_root(settings: Recipe, root: str | Path) -> str | Path:
    """The image root of the training lists: a folder, packed shards, or an s3:// address of either."""
    return join(root, settings.data.images)


def evaluation_root(settings: Recipe, root: str | Path) -> Path:
    """The directory of the evaluation files."""
    return Path(root) / settings.data.evaluation


def evaluation_tasks(settings: Recipe, root: str | Path) -> list[Task]:
    """The tasks to evaluate. Raises InputError when the file of one is absent."""
    from vhm.evaluate.tasks import task_table, tasks_in

    return tasks_in(evaluation_root(settings, root), settings.evaluation.tasks, task_table(settings.evaluation))


@_reports_errors
def warm_start(recipe: str, data: str, manifests: Sequence[str], model: str, metrics: str) -> Metrics:
    """Build the model that pretraining starts from, see `start_model`."""
    settings = start_stage(recipe)
    captions = [find_manifest("pretrain", manifests)] if settings.base.projector is None else []
    start = start_model(settings, Path(data), captions, Path(model))
    if start is None or start.projector is None:
        return _write_metrics(metrics, {"projector": "align", **_training_metrics(Path(model))})
    return _write_metrics(metrics, {"projector": start.projector.name, **asdict(start.projector.exactness)})


def start_model(
    settings: Recipe,
    root: Path,
    manifests: Sequence[str | Path],
    out: Path,
    base: Path | None = None,
    projector: Path | None = None,
    source_layer: int | None = None,
    feature_layers: list[int] | None = None,
) -> WarmStart | None:
    """Write to `out` the recipe's base model with a trained projector.

    The base is the directory that the recipe names, or is assembled from its parts next to `out`. The projector is the
    recipe's, or `align` trains one on `manifests`. `base`, `projector` and `source_layer` override the recipe.
    Returns what the warm start did; None when `align` trained the projector.
    """
    from vhm.model.warm_start import warm_start as run
    from vhm.train import train

    start = base or _base_model(settings, root, out)
    if projector is None and settings.base.projector is not None:
        projector = root / settings.base.projector
    if projector is not None:
        layer = settings.base.source_layer if source_layer is None else source_layer
        return run(start, out, projector, layer, feature_layers)
    if not manifests:
        raise InputError(
            f"recipe {settings.name} names no base.projector, so `align` trains one: give its manifest with --data"
        )
    train("align", settings, start, manifests, image_root(settings, root), out)
    return None


def _base_model(settings: Recipe, root: Path, out: Path) -> Path:
    parts = settings.base.parts
    if parts is None:
        return root / settings.base.model
    from vhm.model.assemble import assemble_base

    base = out.with_name(f"{out.name}-base")
    tower, language_model = root / parts.vision_tower, root / parts.language_model
    assemble_base(tower, language_model, base, parts.vision_feature_layer, parts.template, settings.seed)
    return base


@_reports_errors
def train_stage(
    stage: str, recipe: str, data: str, manifests: Sequence[str], model: str, trained: str, curve: str, metrics: str
) -> Metrics:
    """Train `stage` from `model` on the manifest of its kind."""
    settings = start_stage(recipe)
    from vhm.artifacts.model_card import curve_svg
    from vhm.train import train

    out = Path(trained)
    train(stage, settings, Path(model), find_manifest(stage, manifests), image_root(settings, data), out)
    write_text(Path(curve), f"<!doctype html><title>{stage}</title>{curve_svg(out / 'train_log.jsonl')}")
    return _write_metrics(metrics, _training_metrics(out))


def find_manifest(kind: str, manifests: Sequence[str]) -> Path:
    """The manifest of `kind` among several validated directories. Raises InputError when there is none."""
    for folder in manifests:
        if read_json_object(Path(folder) / "validation.json")["kind"] == kind:
            return Path(folder) / "manifest.parquet"
    raise InputError(f"none of the {len(manifests)} manifests was validated for {kind!r}")


@_reports_errors
def predict(recipe: str, data: str, model: str, split: int, predictions: str) -> Metrics:
    """Answer one split of the evaluation questions."""
    settings = start_stage(recipe)
    from vhm.evaluate.predict import predict as run

    _share_cores(settings.evaluation.splits)
    directory = evaluation_root(settings, data)
    tasks = evaluation_tasks(settings, data)
    run(
        Path(model),
        directory,
        Path(predictions),
        tasks,
        settings.evaluation,
        (int(split), settings.evaluation.splits),
    )
    return {"split": int(split), "tasks": len(tasks)}


@_reports_errors
def score(
    recipe: str, data: str, model: str, splits: Sequence[str], evaluation: str, report: str, metrics: str
) -> Metrics:
    """Merge the splits' predictions, score them, and write scores.json and the report."""
    settings = start_stage(recipe)
    from vhm.evaluate.predict import merge_predictions
    from vhm.evaluate.run import score_run

    out = Path(evaluation)
    merge_predictions([Path(split) for split in splits], out)
    result = score_run(Path(model), evaluation_root(settings, data), out, settings)
    shutil.copyfile(out / "report.html", report)
    primary = {task.name: scored.primary.value for task, scored in result.tasks.items() if scored.primary is not None}
    log.info("mean of primary metrics %.3f over %d tasks", result.summary.mean, result.summary.tasks)
    return _write_metrics(metrics, {"mean": result.summary.mean, **primary})


@_reports_errors
def gate(recipe: str, evaluation: str, verdict: str) -> bool:
    """Whether the model may be promoted; every check is written to `verdict`."""
    settings = start_stage(recipe)
    checks = gate_checks(read_json_object(Path(evaluation) / "scores.json"), settings)
    for check in checks:
        log.info("%s %s", "pass" if check.passed else "FAIL", check)
    if not checks:
        log.warning("the gate of recipe %s checks nothing: every model passes", settings.name)
    result = verdict_of(checks)
    write_json(Path(verdict), result)
    return bool(result["passed"])


def gate_checks(candidate: JsonObject, settings: Recipe, baseline: JsonObject | None = None) -> list[Check]:
    """Every check of the gate on `candidate`, the content of a scores.json."""
    from vhm.evaluate.gate import gate as run
    from vhm.evaluate.tasks import task_table

    return run(candidate, settings.gate, baseline, task_table(settings.evaluation))


def verdict_of(checks: Sequence[Check]) -> JsonObject:
    """The content of verdict.json: whether all checks passed, and each check."""
    listed = [asdict(check) | {"passed": check.passed} for check in checks]
    return {"passed": all(check.passed for check in checks), "checks": listed}


@_reports_errors
def deploy(recipe: str, data: str, model: str, deployment: str, report: str) -> Metrics:
    """Serve the promoted model on this machine, ask it the golden questions, and draw an answer."""
    settings = start_stage(recipe)
    from vhm.serve.golden import ask_golden_questions

    out, golden = Path(deployment), Path(data) / settings.data.golden
    write_text(out / "recipe.yaml", settings.text())
    answers = ask_golden_questions(Path(model), evaluation_root(settings, data), golden, out / "recipe.yaml", out)
    write_json(out / "model.json", {"sha256": sha256_tree(Path(model))})
    write_text(Path(report), _deployment_html(out))
    return {"golden": len(answers)}


def start_stage(recipe: str) -> Recipe:
    """Set up logging and libraries in a component's process, and read the recipe."""
    if not logging.getLogger().handlers or os.environ.get("VHM_COMPONENT"):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(f"{LOG_PREFIX}%(message)s"))
        package = logging.getLogger("vhm")
        package.handlers, package.propagate = [handler], False
        package.setLevel(logging.INFO)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not Path("/dev/nvidiactl").exists():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    return parse_recipe(yaml.safe_load(recipe))


def _write_metrics(path: str, metrics: Mapping[str, str | int | float | None]) -> Metrics:
    """Write the metrics to their artifact's file: KFP's cache treats an artifact without a file as missing."""
    write_json(Path(path), dict(metrics))
    return dict(metrics)


def _share_cores(processes: int) -> None:
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


def _training_metrics(out: Path) -> Metrics:
    training = read_json_object(out / "training.json")
    return {name: training[name] for name in ("samples", "steps", "first_loss", "last_loss")}


def _deployment_html(out: Path) -> str:
    import base64
    from html import escape

    image = base64.b64encode((out / "answer.png").read_bytes()).decode()
    rows = "".join(
        f"<tr><td>{escape(row['family'])}<td>{escape(row['question'])}<td><b>{escape(row['answer'])}</b>"
        f"<td>{escape(row['target'])}"
        for row in read_json(out / "deployment.json")["golden"]
    )
    return (
        "<!doctype html><title>deployment</title><h1>Answers of the deployed model</h1>"
        f"<img alt='an answer drawn on its image' src='data:image/png;base64,{image}'>"
        f"<table><tr><th>family<th>question<th>answer<th>target{rows}</table>"
    )
