"""Generate, score, report: the evaluation of one model directory."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from vhm.artifacts.lineage import write_lineage
from vhm.errors import InputError
from vhm.evaluate.intervals import paired_margin
from vhm.evaluate.metrics import judge, score
from vhm.evaluate.predict import predict, predictions_file
from vhm.evaluate.report import write_report
from vhm.evaluate.tasks import Task, tasks_in
from vhm.io import read_json, read_jsonl, write_json
from vhm.recipe import EvaluationRecipe, Recipe

log = logging.getLogger(__name__)


def evaluate(
    model: Path,
    data: Path,
    out: Path,
    recipe: Recipe,
    tasks: list[str] | str | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Evaluate `model` on the evaluation files in `data`; writes predictions, scores.json and report.html.

    Returns the scores. Raises InputError or CheckpointError for what cannot be read.
    """
    chosen = tasks_in(data, recipe.evaluation.tasks if tasks is None else tasks)
    predict(model, data, out, chosen, recipe.evaluation, resume=resume)
    return score_run(model, data, out, recipe, chosen)


def score_run(model: Path, data: Path, out: Path, recipe: Recipe, tasks: list[Task] | None = None) -> dict[str, Any]:
    """Score the predictions in `out` and write scores.json, report.html and lineage.json beside them."""
    chosen = tasks or tasks_in(data, recipe.evaluation.tasks)
    run = read_json(out / "predictions" / "run.json")
    scores = {
        "model": _name_of(model),
        "model_sha256": run["model"],
        "data_sha256": run["data"],
        "recipe": recipe.name,
        "mode": recipe.evaluation.mode,
        "tasks": {task.name: _score_task(task, out / "predictions", recipe.evaluation) for task in chosen},
    }
    scores["summary"] = summarise(scores["tasks"])
    write_json(out / "scores.json", scores)
    write_report(out, data, chosen, scores)
    write_lineage(out, "evaluation", {"model": model, "data": data}, recipe, {"mean": scores["summary"]["mean"]})
    return scores


def _name_of(model: Path) -> str:
    """What people call the model: its own recipe and stage where our training made it, else its folder."""
    if not (model / "training.json").is_file():
        return model.name
    return f"{read_json(model / 'lineage.json')['recipe']['name']} after {read_json(model / 'training.json')['stage']}"


def _score_task(task: Task, folder: Path, settings: EvaluationRecipe) -> dict[str, Any]:
    rows = read_jsonl(predictions_file(folder, task))
    result: dict[str, Any] = {"type": task.type, **score(task.type, rows, settings.mode)}
    judged, usable = judge(task.type, rows, settings.mode)
    if not judged.values:
        return result
    main = judged.main
    result["figure"] = main
    answers = Counter(row["answer"] for row in usable)
    if task.type in ("cls", "vqa", "presence", "mc", "color", "counting"):
        common = answers.most_common(1)[0][0]
        majority, _ = judge(task.type, [{**row, "pred": common} for row in usable], settings.mode)
        _note_margin(result, "majority", judged.values, majority.values, settings)
    blind = predictions_file(folder, task, blind=True)
    if blind.exists():
        without = {row["index"]: row for row in read_jsonl(blind)}
        pairs = [
            (row, without[row["index"]]) for row in usable if without.get(row["index"], {}).get("pred") is not None
        ]
        if pairs:
            seeing, _ = judge(task.type, [row for row, _ in pairs], settings.mode)
            unseeing, _ = judge(task.type, [row for _, row in pairs], settings.mode)
            _note_margin(result, "blind", seeing.values, unseeing.values, settings)
    return result


def _note_margin(
    result: dict[str, Any], name: str, values: list[float], baseline: list[float], settings: EvaluationRecipe
) -> None:
    margin = paired_margin(values, baseline, settings.bootstrap)
    result[name] = sum(baseline) / len(baseline)
    result[f"margin_{name}"] = margin.value
    result[f"margin_{name}_low"] = margin.low
    result[f"margin_{name}_high"] = margin.high


def summarise(tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Mean of the tasks' main figures, answers asked and failed, and the honesty figure: mean over tasks
    with false premises."""
    mains = {name: t[t["figure"]] for name, t in tasks.items() if "figure" in t}
    honesty = [value for name, value in mains.items() if name.startswith("false_")]
    return {
        "tasks": len(tasks),
        "n": sum(t["n"] for t in tasks.values()),
        "failed": sum(t["failed"] for t in tasks.values()),
        "mean": sum(mains.values()) / len(mains) if mains else 0.0,
        "honesty": sum(honesty) / len(honesty) if honesty else None,
    }


def read_predictions(path: Path) -> list[dict[str, Any]]:
    """A predictions file's rows; InputError when there are none."""
    rows = read_jsonl(path)
    if not rows:
        raise InputError(f"{path} holds no predictions")
    return rows
