"""The stages of a run as functions of paths: what a KFP component and a `vhm` command have in common.

Each takes the resolved recipe as text and directories, does one stage, and returns its metrics. Inside a
component a stage's log lines begin with `vhm| `, which is how the local runner tells them from others.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vhm.data.images import Limits
from vhm.data.images.stores import join
from vhm.errors import InputError
from vhm.io import read_json, sha256_tree, write_json, write_text
from vhm.recipe import Recipe, parse_recipe

if TYPE_CHECKING:
    from vhm.data.validation.chunks import ValidationRequest

log = logging.getLogger(__name__)

LOG_PREFIX = "vhm| "


def check_data(kind: str, shard: int, recipe: str, data: str, part: str) -> None:
    """Check one shard of the lists of `kind`, for `validate_data` to join."""
    settings = _begin(recipe)
    from vhm.data.validation.chunks import check_split

    check_split(_validation(kind, settings, Path(data)), Path(part), (int(shard), settings.data.splits))


def validate_data(
    kind: str,
    parts: Sequence[str],
    recipe: str,
    data: str,
    manifest: str,
    report: str,
    summary: str,
    metrics: str,
) -> dict[str, Any]:
    """Join what was checked of the lists of `kind` ("pretrain", "sft", "eval"); CheckFailed when it is refused."""
    settings = _begin(recipe)
    from vhm.data.validation.report import report_html, report_markdown
    from vhm.data.validation.validate import require_passed, validate

    out = Path(manifest)
    request = _validation(kind, settings, Path(data))
    result = validate(
        request, out, settings.data.max_rejected, settings.data.expect, merge=[Path(part) for part in parts]
    )
    write_text(Path(report), report_html(result, out))
    write_text(Path(summary), report_markdown(result))
    log.info("%s: %d of %d records accepted", kind, result.accepted, result.total)
    require_passed(result, out)
    return _keep(
        metrics,
        {"kind": kind, "accepted": result.accepted, "rejected": result.rejected, "refusals": result.refusal_share},
    )


def _validation(kind: str, settings: Recipe, root: Path) -> ValidationRequest:
    from vhm.data.validation.chunks import ValidationRequest

    if kind not in ("pretrain", "sft", "eval"):
        raise InputError(f"kind {kind!r} is unknown: use pretrain, sft or eval")
    evaluation = root / settings.data.evaluation
    if kind == "eval":
        lists, images, against = [evaluation], evaluation, []
    else:
        lists = [root / name for name in settings.data.lists(kind)]  # type: ignore[arg-type]
        images, against = join(root, settings.data.images), [evaluation]  # type: ignore[assignment]
    return ValidationRequest(
        lists,
        images,
        kind,  # type: ignore[arg-type]
        against,
        max_text=settings.data.max_text,
        limits=Limits(max_pixels=settings.data.max_pixels),
        bands=settings.data.bands,
    )


def warm_start(recipe: str, data: str, manifests: Sequence[str], model: str, metrics: str) -> dict[str, Any]:
    """The model to pretrain: the base with a trained projector in it, or with one that `align` trains now."""
    settings = _begin(recipe)
    from vhm.model.warm_start import warm_start as run
    from vhm.train import train

    root, out = Path(data), Path(model)
    base = root / settings.base.model
    if settings.base.parts is not None:
        from vhm.model.assemble import assemble_base

        parts = settings.base.parts
        base = out.with_name("base")
        assemble_base(
            root / parts.vision_tower,
            root / parts.language_model,
            base,
            parts.vision_feature_layer,
            parts.template,
            settings.seed,
        )
    if settings.base.projector is not None:
        report = run(base, out, root / settings.base.projector, settings.base.source_layer).to_json()
        return _keep(metrics, {"projector": report["projector"], **report["exactness"]})
    manifest = find_manifest("pretrain", manifests)
    train("align", settings, base, manifest, join(root, settings.data.images), out)
    return _keep(metrics, {"projector": "align", **_training_metrics(out)})


def train_stage(
    stage: str, recipe: str, data: str, manifests: Sequence[str], model: str, trained: str, curve: str, metrics: str
) -> dict[str, Any]:
    """Train `stage` from `model` on the manifest of its kind."""
    settings = _begin(recipe)
    from vhm.artifacts.model_card import curve_svg
    from vhm.train import train

    out = Path(trained)
    train(stage, settings, Path(model), find_manifest(stage, manifests), join(data, settings.data.images), out)
    write_text(Path(curve), f"<!doctype html><title>{stage}</title>{curve_svg(out / 'train_log.jsonl')}")
    return _keep(metrics, _training_metrics(out))


def predict(recipe: str, data: str, model: str, shard: int, predictions: str) -> dict[str, Any]:
    """Answer one shard of the evaluation questions."""
    settings = _begin(recipe)
    from vhm.evaluate.predict import predict as run
    from vhm.evaluate.tasks import tasks_in

    _share_cores(settings.evaluation.splits)
    directory = Path(data) / settings.data.evaluation
    tasks = tasks_in(directory, settings.evaluation.tasks)
    part = (int(shard), settings.evaluation.splits)
    run(Path(model), directory, Path(predictions), tasks, settings.evaluation, part)
    return {"shard": int(shard), "tasks": len(tasks)}


def score(
    recipe: str, data: str, model: str, shards: Sequence[str], evaluation: str, report: str, metrics: str
) -> dict[str, Any]:
    """Merge the shards' predictions, score them, write scores.json and the report."""
    settings = _begin(recipe)
    from vhm.evaluate.predict import merge_predictions
    from vhm.evaluate.run import score_run

    out = Path(evaluation)
    merge_predictions([Path(shard) for shard in shards], out)
    result = score_run(Path(model), Path(data) / settings.data.evaluation, out, settings)
    shutil.copyfile(out / "report.html", report)
    primary = {task.name: scored.primary.value for task, scored in result.tasks.items() if scored.primary is not None}
    log.info("mean of primary metrics %.3f over %d tasks", result.summary.mean, result.summary.tasks)
    return _keep(metrics, {"mean": result.summary.mean, **primary})


def gate(recipe: str, evaluation: str, verdict: str) -> bool:
    """Whether the model may be promoted; every check is written to `verdict`."""
    settings = _begin(recipe)
    from vhm.evaluate.gate import gate as run

    checks = run(read_json(Path(evaluation) / "scores.json"), settings.gate)
    for check in checks:
        log.info("%s %s", "pass" if check.passed else "FAIL", check)
    passed = all(check.passed for check in checks)
    listed = [vars(check) | {"passed": check.passed} for check in checks]
    write_json(Path(verdict), {"passed": passed, "checks": listed})
    return passed


def deploy(recipe: str, data: str, model: str, deployment: str, report: str) -> dict[str, Any]:
    """Serve the promoted model on this machine, ask the golden questions, show an answer."""
    settings = _begin(recipe)
    from vhm.serve.golden import ask_golden_questions

    root, out = Path(data), Path(deployment)
    write_text(out / "recipe.yaml", settings.text())
    answers = ask_golden_questions(
        Path(model), root / settings.data.evaluation, root / settings.data.golden, out / "recipe.yaml", out
    )
    write_json(out / "model.json", {"sha256": sha256_tree(Path(model))})
    write_text(Path(report), _deployment_html(out))
    return {"golden": len(answers)}


def find_manifest(kind: str, manifests: Sequence[str]) -> Path:
    """Of several validated directories, the manifest that was made for `kind`. InputError when there is none."""
    for folder in manifests:
        if read_json(Path(folder) / "validation.json")["kind"] == kind:
            return Path(folder) / "manifest.parquet"
    raise InputError(f"none of the {len(manifests)} manifests was validated for {kind!r}")


def _begin(recipe: str) -> Recipe:
    """Set up logging for a stage that runs in a process of its own, and read the recipe."""
    if not logging.getLogger().handlers or os.environ.get("VHM_COMPONENT"):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(f"{LOG_PREFIX}%(message)s"))
        own = logging.getLogger("vhm")
        own.handlers, own.propagate = [handler], False
        own.setLevel(logging.INFO)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not Path("/dev/nvidiactl").exists():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    return parse_recipe(yaml.safe_load(recipe))


def _keep(path: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """Write the metrics to their artifact's file: KFP's cache takes an artifact without a file for lost."""
    write_json(Path(path), metrics)
    return metrics


def _share_cores(processes: int) -> None:
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


def _training_metrics(out: Path) -> dict[str, Any]:
    training = read_json(out / "training.json")
    return {name: training[name] for name in ("samples", "steps", "first_loss", "last_loss")}


def _deployment_html(out: Path) -> str:
    import base64
    from html import escape

    picture = base64.b64encode((out / "answer.png").read_bytes()).decode()
    rows = "".join(
        f"<tr><td>{escape(a['family'])}<td>{escape(a['question'])}<td><b>{escape(a['answer'])}</b><td>{escape(a['target'])}"
        for a in read_json(out / "deployment.json")["golden"]
    )
    return (
        "<!doctype html><title>deployment</title><h1>What the deployed model answers</h1>"
        f"<img alt='an answer drawn on its picture' src='data:image/png;base64,{picture}'>"
        f"<table><tr><th>family<th>question<th>answer<th>target{rows}</table>"
    )
