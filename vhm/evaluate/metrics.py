"""Predictions → metrics, in two scoring profiles.

`strict` reads answers as a person would and counts unreadable ones as wrong. `rsevalkit`
reproduces the published kit, faults included, so that metrics can be compared with published ones. Rows on which
the kit stops with an error are skipped.

A row is {"query", "answer", "pred", "size": [width, height]}; `pred` is None where generation failed:
such rows are counted in `failed` and never scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vhm.errors import InputError
from vhm.evaluate.answer_types import find_answer_type
from vhm.evaluate.answer_types.base import AnswerType, Metric, Mode, Outcome
from vhm.evaluate.intervals import interval
from vhm.evaluate.predictions import Prediction, parse_predictions, read_predictions
from vhm.evaluate.results import TaskResult, metrics_json


def score(task_type: str, rows: Sequence[Mapping[str, object]], mode: Mode = "strict") -> dict[str, float]:
    """Metrics of a task type over its rows: `n`, `failed`, the primary metric with its 95 % interval, and others.

    Raises InputError for an unknown type or mode, or for a row without its fields.
    """
    return metrics_json(assess(find_answer_type(task_type), parse_predictions(rows), mode))


def score_file(task_type: str, path: Path, mode: Mode = "strict") -> dict[str, float]:
    """As `score`, over the rows of a predictions file. Raises InputError when there are none."""
    predictions = read_predictions(path)
    if not predictions:
        raise InputError(f"{path} holds no predictions")
    return metrics_json(assess(find_answer_type(task_type), predictions, mode))


def assess(answer_type: AnswerType, predictions: Sequence[Prediction], mode: Mode) -> TaskResult:
    """The predictions' metrics and outcomes, without baselines. InputError as `score`."""
    answered = [number for number, prediction in enumerate(predictions) if prediction.pred is not None]
    scored = answer_type.scorer(mode)([predictions[number].row() for number in answered])
    outcomes = dict(zip(answered, scored.outcomes, strict=True))
    return TaskResult(
        type=answer_type,
        primary=_primary_metric(answer_type, scored.outcomes),
        metrics=scored.metrics,
        outcomes=[outcomes.get(number) for number in range(len(predictions))],
    )


def _primary_metric(answer_type: AnswerType, outcomes: Sequence[Outcome]) -> Metric | None:
    values = [outcome.value for outcome in outcomes if outcome.value is not None]
    if not values:
        return None
    low, high = interval(values, answer_type.primary_kind)
    return Metric(answer_type.primary_metric, float(np.mean(values)), answer_type.primary_kind, low, high)
