"""Generate, score, report: the evaluation of one model directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vhm.artifacts.lineage import write_lineage
from vhm.evaluate.answer_types import find_answer_type
from vhm.evaluate.baselines import blind_baseline, majority_baseline
from vhm.evaluate.metrics import assess
from vhm.evaluate.predict import predict
from vhm.evaluate.predictions import predictions_file, read_predictions, read_run_key
from vhm.evaluate.report import write_report
from vhm.evaluate.results import EvaluationResult, TaskResult, scores_json, summarise
from vhm.evaluate.tasks import Task, task_table, tasks_in
from vhm.io import read_json_object, write_json
from vhm.recipe import EvaluationRecipe, Recipe


def evaluate(
    model: Path,
    data: Path,
    out: Path,
    recipe: Recipe,
    tasks: list[str] | str | None = None,
    resume: bool = False,
) -> EvaluationResult:
    """Evaluate `model` on the evaluation files in `data`; writes predictions, scores.json and report.html.

    Raises InputError or CheckpointError for what cannot be read.
    """
    chosen = tasks_in(data, recipe.evaluation.tasks if tasks is None else tasks, task_table(recipe.evaluation))
    predict(model, data, out, chosen, recipe.evaluation, resume=resume)
    return score_run(model, data, out, recipe, chosen)


def score_run(model: Path, data: Path, out: Path, recipe: Recipe, tasks: list[Task] | None = None) -> EvaluationResult:
    """Score the predictions in `out` and write scores.json, report.html and lineage.json next to them."""
    chosen = tasks or tasks_in(data, recipe.evaluation.tasks, task_table(recipe.evaluation))
    key = read_run_key(out / "predictions")
    results = {task: score_task(task, out / "predictions", recipe.evaluation) for task in chosen}
    result = EvaluationResult(
        model=_display_name(model),
        model_sha256=key.model,
        data_sha256=key.data,
        recipe=recipe.name,
        mode=recipe.evaluation.mode,
        tasks=results,
        summary=summarise(results),
    )
    write_json(out / "scores.json", scores_json(result))
    write_report(out, data, result)
    write_lineage(out, "evaluation", {"model": model, "data": data}, recipe, {"mean": result.summary.mean})
    return result


def score_task(task: Task, folder: Path, settings: EvaluationRecipe) -> TaskResult:
    """Metrics and baselines of a task whose predictions are in `folder`."""
    predictions = read_predictions(predictions_file(folder, task))
    blind_file = predictions_file(folder, task, blind=True)
    blind = read_predictions(blind_file) if blind_file.exists() else []
    result = assess(find_answer_type(task.type), predictions, settings.mode)
    baselines = (
        majority_baseline(result, predictions, settings.mode, settings.bootstrap),
        blind_baseline(result, predictions, blind, settings.mode, settings.bootstrap),
    )
    return replace(result, baselines=[baseline for baseline in baselines if baseline is not None])


def _display_name(model: Path) -> str:
    """Recipe and stage of a model that this package trained, the folder's name of another one."""
    if not (model / "training.json").is_file():
        return model.name
    recipe = read_json_object(model / "lineage.json")["recipe"]["name"]
    return f"{recipe} after {read_json_object(model / 'training.json')['stage']}"
