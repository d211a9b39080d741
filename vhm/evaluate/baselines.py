"""Baselines of a primary metric: always the most common answer, and the same model without the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from vhm.evaluate.answer_types.base import Mode
from vhm.evaluate.intervals import paired_margin
from vhm.evaluate.metrics import assess
from vhm.evaluate.predictions import Prediction
from vhm.evaluate.results import Baseline, TaskResult


def majority_baseline(
    result: TaskResult, predictions: Sequence[Prediction], mode: Mode, resamples: int
) -> Baseline | None:
    """The most common answer given to every answered question. None when the type has no such baseline."""
    if not result.type.constant_baseline or result.primary is None:
        return None
    answered = [prediction for prediction in predictions if prediction.pred is not None]
    common = Counter(prediction.answer for prediction in answered).most_common(1)[0][0]
    constant = [p if p.pred is None else replace(p, pred=common) for p in predictions]
    return _baseline("majority", result, assess(result.type, constant, mode), resamples)


def blind_baseline(
    result: TaskResult,
    predictions: Sequence[Prediction],
    blind: Sequence[Prediction],
    mode: Mode,
    resamples: int,
) -> Baseline | None:
    """The model's answers without the image, over the questions answered both ways; None without any such question."""
    if result.primary is None:
        return None
    without_image = {prediction.index: prediction.pred for prediction in blind if prediction.pred is not None}
    both = [p for p in predictions if p.pred is not None and p.index in without_image]
    with_image = assess(result.type, both, mode)
    without = assess(result.type, [replace(p, pred=without_image[p.index]) for p in both], mode)
    return _baseline("blind", with_image, without, resamples)


def _baseline(
    name: Literal["majority", "blind"], result: TaskResult, other: TaskResult, resamples: int
) -> Baseline | None:
    """`result` against `other` over the rows that are scored in both."""
    pairs = [(a, b) for a, b in zip(result.values, other.values, strict=True) if a is not None and b is not None]
    if not pairs:
        return None
    baseline = [value for _, value in pairs]
    margin = paired_margin([value for value, _ in pairs], baseline, resamples)
    return Baseline(name, sum(baseline) / len(baseline), margin)
