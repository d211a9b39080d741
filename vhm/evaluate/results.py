"""Typed results of an evaluation, and their JSON form.

EvaluationResult            scores.json
├── one TaskResult per task its metrics, baselines and outcomes
│   ├── Metric              a value with its kind and interval
│   ├── Baseline            the primary metric of a reference
│   └── Outcome             a row's value
└── Summary                 the means over tasks
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from vhm.evaluate.answer_types.base import AnswerType, Metric, Mode, Outcome
from vhm.evaluate.intervals import Margin
from vhm.evaluate.tasks import Task


@dataclass(frozen=True)
class Baseline:
    """The primary metric of always giving the most common answer, or of the model without the image."""

    name: Literal["majority", "blind"]
    value: float
    margin: Margin


@dataclass(frozen=True)
class TaskResult:
    """Metrics of one task. `outcomes` has one entry per prediction, in order; None where generation failed.

    `primary` is None when no row was scored; `metrics` are all others.
    """

    type: AnswerType
    primary: Metric | None
    metrics: Sequence[Metric]
    outcomes: Sequence[Outcome | None]
    baselines: Sequence[Baseline] = ()

    @property
    def n(self) -> int:
        """The number of rows, including those whose generation failed."""
        return len(self.outcomes)

    @property
    def failed(self) -> int:
        return sum(outcome is None for outcome in self.outcomes)

    @property
    def values(self) -> list[float | None]:
        """One value per row; None where generation failed or the profile does not score the row."""
        return [None if outcome is None else outcome.value for outcome in self.outcomes]

    def baseline(self, name: Literal["majority", "blind"]) -> Baseline | None:
        return next((baseline for baseline in self.baselines if baseline.name == name), None)


@dataclass(frozen=True)
class Summary:
    """Means of the primary metrics over tasks; `honesty` over the deceptive ones, None without any."""

    tasks: int
    n: int
    failed: int
    mean: float
    honesty: float | None


@dataclass(frozen=True)
class EvaluationResult:
    """One model on several tasks; `model` is a display name; the hashes identify model and data."""

    model: str
    model_sha256: str
    data_sha256: str
    recipe: str
    mode: Mode
    tasks: Mapping[Task, TaskResult]
    summary: Summary


def summarise(tasks: Mapping[Task, TaskResult]) -> Summary:
    primary = {task: result.primary.value for task, result in tasks.items() if result.primary is not None}
    deceptive = [value for task, value in primary.items() if task.deceptive]
    return Summary(
        tasks=len(tasks),
        n=sum(result.n for result in tasks.values()),
        failed=sum(result.failed for result in tasks.values()),
        mean=sum(primary.values()) / len(primary) if primary else 0.0,
        honesty=sum(deceptive) / len(deceptive) if deceptive else None,
    )


def scores_json(result: EvaluationResult) -> dict[str, object]:
    """The content of scores.json."""
    return {
        "model": result.model,
        "model_sha256": result.model_sha256,
        "data_sha256": result.data_sha256,
        "recipe": result.recipe,
        "mode": result.mode,
        "tasks": {task.name: _task_json(task_result) for task, task_result in result.tasks.items()},
        "summary": asdict(result.summary),
    }


def metrics_json(result: TaskResult) -> dict[str, float]:
    """`n`, `failed`, and the metrics by name, the primary one first; intervals as NAME_low and NAME_high.

    JSON has no infinity: a metric that is not finite is left out: 0 would be the best possible error.
    """
    content: dict[str, float] = {"n": result.n, "failed": result.failed}
    for metric in [result.primary, *result.metrics] if result.primary else result.metrics:
        if not math.isfinite(metric.value):
            continue
        content[metric.name] = float(metric.value)
        if metric.low is not None and metric.high is not None:
            content |= {f"{metric.name}_low": metric.low, f"{metric.name}_high": metric.high}
    return content


def _task_json(result: TaskResult) -> dict[str, object]:
    content: dict[str, object] = {"type": result.type.name, **metrics_json(result)}
    if result.primary is not None:
        content["primary_metric"] = result.primary.name
    for baseline in result.baselines:
        margin = f"margin_{baseline.name}"
        content |= {baseline.name: baseline.value, margin: baseline.margin.value}
        content |= {f"{margin}_low": baseline.margin.low, f"{margin}_high": baseline.margin.high}
    return content
