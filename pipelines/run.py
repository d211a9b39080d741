"""Run the pipeline on this machine, or submit it to a cluster.

A run's directory contains:

    model/         the promoted Hugging Face directory        scores.json report.html  the evaluation
    deployment/    the answers of the deployed model          verdict.json             the gate's checks
    recipe.yaml    resolved                                   lineage.json             content hashes
    pipeline.log   everything that the components printed     kfp/                     artifacts and cache
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.local import Artifact, image_id, run_locally
from pipelines.report import RunReport, StageRow
from pipelines.vhm import vhm
from vhm.artifacts.lineage import code_hash, environment_hash, write_lineage
from vhm.artifacts.model_card import finish_model
from vhm.errors import InputError
from vhm.io import JsonObject, read_json_object, sha256_tree, whole_directory, write_text
from vhm.recipe import Recipe
from vhm.storage.s3 import is_uri, parse_uri
from vhm.storage.versions import open_published, publish

log = logging.getLogger("vhm.pipelines")  # same handler as the package's logger


@dataclass(frozen=True)
class RunResult:
    """The end of a run; `refusal` is the gate's reason when the model was not promoted."""

    out: Path
    stages: list[StageRow]
    table: str
    refusal: str | None = None

    def to_dict(self) -> JsonObject:
        return {
            "passed": self.refusal is None,
            "stages": [row.to_dict() for row in self.stages],
            "out": str(self.out),
            "table": self.table,
        }


def run_pipeline(recipe: Recipe, out: Path, runner: str = "subprocess") -> RunResult:
    """Run every stage of the pipeline on this machine; stages of an earlier run are taken from KFP's cache.

    Raises CheckFailed with the one-line reason of the stage that failed, InputError when the data are absent.
    """
    image = image_id(runner)
    root = _data_root(recipe)
    out = out.absolute()
    (out / "kfp").mkdir(parents=True, exist_ok=True)
    write_text(out / "recipe.yaml", recipe.text())
    arguments = arguments_of(recipe, str(root), sha256_tree(root), image)
    splits = {"check_data": recipe.data.splits, "evaluate": recipe.evaluation.splits}
    outputs, report = run_locally(arguments, splits, runner, root, out)
    return _collect(recipe, out, root, outputs, report)


def arguments_of(recipe: Recipe, data: str, data_hash: str, image: str) -> dict[str, object]:
    """The pipeline's arguments.

    KFP's cache keys on them, on the components' commands and on an image's tag. Everything else that a result
    depends on (contents of data and code, installed packages, the image itself) is passed as hashes.
    """
    return {
        "recipe": recipe.text(),
        "data": data,
        "data_hash": data_hash,
        "code": hashlib.sha256(f"{code_hash()} {environment_hash()} {image}".encode()).hexdigest(),
        "data_splits": list(range(recipe.data.splits)),
        "evaluation_splits": list(range(recipe.evaluation.splits)),
    }


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
            f"Kubeflow Pipelines at {host} did not accept the run ({type(error).__name__}: {error})"
        ) from None
    return str(created.run_id)


def _version_of(data: str) -> str:
    """The version of the data that the cluster's pods read: of a published or of a local directory.

    Data that cannot be read from this machine count as new each time: a stage may then be computed twice, but it never
    uses the result for other data.
    """
    if is_uri(data):
        published = open_published(parse_uri(data))
        return published.version if published else uuid.uuid4().hex
    return sha256_tree(Path(data)) if Path(data).is_dir() else uuid.uuid4().hex


def _data_root(recipe: Recipe) -> Path:
    root = Path(recipe.data.root).absolute()
    if not root.exists():
        if not recipe.data.sample:
            raise InputError(f"data root {root} does not exist: set data.root")
        log.info("building the embedded sample in %s", root)
        from vhm.sample import build_tracked_sample

        build_tracked_sample(root)
    return root


def _collect(recipe: Recipe, out: Path, root: Path, outputs: Mapping[str, Artifact], report: RunReport) -> RunResult:
    """Copy the results to their names in `out`, write the lineage, and publish a promoted model."""
    evaluation = Path(outputs["evaluation"].path)
    for name in ("scores.json", "report.html"):
        shutil.copyfile(evaluation / name, out / name)
    shutil.copyfile(outputs["verdict"].path, out / "verdict.json")
    inputs = {"data": root}
    refusal = _refusal(out / "verdict.json")
    if refusal is None:
        inputs["model"] = _promote(recipe, out, Path(outputs["model"].path), evaluation)
    scores = read_json_object(out / "scores.json")
    write_lineage(out, "run", inputs, recipe, scores["summary"], output=out / "scores.json")
    lines = [report.table(), "", f"report  {out / 'report.html'}"]
    if refusal is None:
        lines += _publish(recipe, out)
        lines += [f"model   {out / 'model'}", f"answer  {out / 'deployment' / 'answer.png'}"]
    return RunResult(out, report.rows(), "\n".join(lines), refusal)


def _refusal(verdict: Path) -> str | None:
    """Why the gate did not promote the model: the first check that failed."""
    for check in read_json_object(verdict)["checks"]:
        if not check["passed"]:
            return f"gate: not promoted: {check['name']} is {check['value']}, see {verdict}"
    return None


def _promote(recipe: Recipe, out: Path, model: Path, evaluation: Path) -> Path:
    """Copy the model to `out` with its scores, card and lineage, and its deployment next to it."""
    with whole_directory(out / "model", "lineage.json") as folder:
        shutil.copytree(model, folder, dirs_exist_ok=True)
        shutil.copyfile(evaluation / "scores.json", folder / "scores.json")
        finish_model(folder, "model/promoted", {"model": model, "evaluation": evaluation}, recipe)
    deployment = _deployment_of(out / "kfp", sha256_tree(model))
    if deployment is not None:
        with whole_directory(out / "deployment", "deployment.json") as folder:
            shutil.copytree(deployment, folder, dirs_exist_ok=True)
    return out / "model"


def _deployment_of(root: Path, model_hash: str) -> Path | None:
    """The newest deployment of this model among the runs' artifacts."""
    deployments = [
        path.parent
        for path in sorted(root.rglob("deployment/model.json"), key=lambda p: p.stat().st_mtime)
        if read_json_object(path)["sha256"] == model_hash
    ]
    return deployments[-1] if deployments else None


def _publish(recipe: Recipe, out: Path) -> list[str]:
    """Publish the promoted model if the recipe names a location; returns a line with the location."""
    if recipe.storage.models is None:
        return []
    prefix = parse_uri(recipe.storage.models) / recipe.name
    return [f"stored  {prefix / publish(out / 'model', prefix)}"]
