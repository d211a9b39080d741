"""Commands that evaluate models, score predictions and gate promotion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from vhm.commands.options import (
    JsonOption,
    ModelOption,
    ModelRecipeOption,
    OutOption,
    RecipeOption,
    SetOption,
    print_result,
)
from vhm.errors import CheckFailed, InputError


def evaluate(
    model: ModelOption,
    out: OutOption,
    data: Annotated[
        Optional[Path], typer.Option(help="Folder of the evaluation files; the recipe's by default.")
    ] = None,
    tasks: Annotated[
        Optional[str], typer.Option(help="all, or names separated by commas; the recipe's by default.")
    ] = None,
    recipe: ModelRecipeOption = None,
    set_: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the answers of an interrupted run.")] = False,
    json_: JsonOption = False,
) -> None:
    """Generate answers, score them, and write the report."""
    from vhm.evaluate import evaluate as run
    from vhm.evaluate.results import scores_json
    from vhm.recipe import choose_recipe
    from vhm.stages import evaluation_root

    settings = choose_recipe(recipe, set_, model)
    names = [name.strip() for name in tasks.split(",") if name.strip()] if tasks and tasks != "all" else tasks
    evaluation = run(model, data or evaluation_root(settings, settings.data.root), out, settings, names, resume)
    lines = [
        f"{task.name:36} n {result.n:5}  {result.primary.name:18} {100 * result.primary.value:5.1f} %"
        for task, result in evaluation.tasks.items()
        if result.primary is not None
    ]
    print_result(scores_json(evaluation), json_, "\n".join([*lines, f"report: {out / 'report.html'}"]))


def score(
    task: Annotated[str, typer.Argument(help="A task or an answer type.")],
    predictions: Annotated[Path, typer.Argument(help="JSON lines of filename, size, query, answer, pred.")],
    mode: Annotated[str, typer.Option(help="strict or rsevalkit.")] = "strict",
    recipe: Annotated[Optional[str], typer.Option(help="Recipe whose own tasks are known, too.")] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Score a predictions file without a model."""
    from vhm.evaluate.metrics import score_file
    from vhm.evaluate.tasks import find_type, task_table
    from vhm.recipe import choose_recipe

    kind = find_type(task, task_table(choose_recipe(recipe, set_).evaluation))
    metrics = {"task": task, "type": kind, "mode": mode} | score_file(kind, predictions, mode)  # type: ignore[arg-type]
    print_result(metrics, json_, "\n".join(f"{name:24} {value}" for name, value in metrics.items()))


def gate(
    candidate: Annotated[Path, typer.Option(help="scores.json of the model to promote.")],
    baseline: Annotated[Optional[Path], typer.Option(help="scores.json of the deployed model.")] = None,
    recipe: RecipeOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Check thresholds and regressions; exit 1 when any of them blocks promotion."""
    from vhm.io import read_json_object
    from vhm.recipe import choose_recipe
    from vhm.stages import gate_checks, verdict_of

    settings = choose_recipe(recipe, set_)
    checks = gate_checks(read_json_object(candidate), settings, read_json_object(baseline) if baseline else None)
    if not checks:  # without checks every model would pass
        raise InputError(
            f"the gate of recipe {settings.name} has nothing to check: give a recipe with gate.thresholds, "
            "gate.beat_majority or gate.beat_blind (--recipe, --set), or a --baseline"
        )
    lines = [f"{'pass' if check.passed else 'FAIL'}  {check}" for check in checks]
    print_result(verdict_of(checks), json_, "\n".join(lines))
    blocking = [check for check in checks if not check.passed]
    if blocking:
        more = f" and {len(blocking) - 1} more" if len(blocking) > 1 else ""
        raise CheckFailed(f"not promoted: {blocking[0]}{more}")
