"""counting and mae: whole numbers, and measurements such as lengths or ground sampling distances."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from vhm.evaluate import parse
from vhm.evaluate.answer_types.base import AnswerType, Metric, Outcome, Row, Scored, mean_metric

_BUCKETS = ((0, 2), (2, 6), (6, 12), (12, math.inf))


def _count(rows: Sequence[Row], read: Callable[[str], int | None] = parse.count) -> Scored:
    """Correct when the counts are equal; accuracy also by size of the target."""
    predictions = [read(row.prediction) for row in rows]
    targets = [parse.count(row.target) for row in rows]
    pairs = list(zip(predictions, targets, strict=True))
    hits = [float(prediction is not None and prediction == target) for prediction, target in pairs]
    metrics = [
        Metric("unreadable", sum(prediction is None for prediction in predictions), "count"),
        *_errors([(p, t) for p, t in pairs if p is not None and t is not None]),
    ]
    for low, high in _BUCKETS:
        inside = [hit for hit, target in zip(hits, targets, strict=True) if target is not None and low < target <= high]
        if inside:
            metrics.append(mean_metric(f"accuracy_{low}_{high}", inside, "proportion"))
    parsed = [None if prediction is None else str(prediction) for prediction in predictions]
    return Scored([Outcome(hit, text) for hit, text in zip(hits, parsed, strict=True)], metrics)


def _count_published(rows: Sequence[Row]) -> Scored:
    """Rows without a number are skipped: on them the kit stops with an error."""
    readable = [_read_count_published(row.prediction) is not None for row in rows]
    scored = _count([row for row, kept in zip(rows, readable, strict=True) if kept], _read_count_published)
    outcomes = iter(scored.outcomes)
    return Scored([next(outcomes) if kept else Outcome(None) for kept in readable], scored.metrics)


def _read_count_published(text: str) -> int | None:
    match = re.search(r"\d+", text)
    if match:
        return int(match.group())
    number = parse.count_words(text)
    return number if number is not None and number < 100 else None


def _measure(rows: Sequence[Row], read: Callable[[str], list[float]] = parse.numbers) -> Scored:
    """Correct within ten per cent; a prediction with more or fewer numbers than the target is unreadable."""
    outcomes: list[Outcome] = []
    pairs: list[tuple[float, float]] = []
    for row in rows:
        predictions, targets = read(row.prediction), read(row.target)
        if len(predictions) != len(targets) or not targets:
            outcomes.append(Outcome(0.0))
            continue
        own = list(zip(predictions, targets, strict=True))
        pairs += own
        right = all(abs(prediction - target) <= 0.1 * abs(target) for prediction, target in own)
        outcomes.append(Outcome(float(right), ", ".join(f"{prediction:g}" for prediction in predictions)))
    unreadable = sum(outcome.parsed is None for outcome in outcomes)
    return Scored(outcomes, [Metric("unreadable", unreadable, "count"), *_errors(pairs)])


def _measure_published(rows: Sequence[Row]) -> Scored:
    """Only the errors, over the readable rows."""

    def read(text: str) -> list[float]:
        return [float(number) for number in re.findall(r"\d+\.?\d*", text)]

    return Scored([Outcome(None) for _ in rows], _measure(rows, read).metrics)


def _errors(pairs: Sequence[tuple[float, float]]) -> list[Metric]:
    """Mean absolute error, and mean absolute percentage error over the targets that are not zero."""
    if not pairs:
        return []
    metrics = [mean_metric("mae", [abs(prediction - target) for prediction, target in pairs])]
    relative = [abs(prediction - target) / abs(target) for prediction, target in pairs if target]
    return [*metrics, mean_metric("mape", relative)] if relative else metrics


TYPES = (
    AnswerType(
        name="counting",
        description="how many objects",
        strict=_count,
        published=_count_published,
        primary_metric="accuracy",
        primary_kind="proportion",
        binary=False,
        constant_baseline=True,
        drawn=None,
        target_coordinates=None,
        example=Row("How many ships are in the image?", "3", "3"),
    ),
    AnswerType(
        name="mae",
        description="one or several measurements",
        strict=_measure,
        published=_measure_published,
        primary_metric="within_10_percent",
        primary_kind="proportion",
        binary=False,
        constant_baseline=False,
        drawn=None,
        target_coordinates=None,
        example=Row("What is the spatial resolution in metres?", "0.5", "0.5"),
    ),
)
