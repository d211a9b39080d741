"""mc: the letter of one of the options in the question."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vhm.evaluate import parse
from vhm.evaluate.answer_types.base import AnswerType, Metric, Outcome, Row, Scored


def _strict(rows: Sequence[Row]) -> Scored:
    predictions = [parse.letter(row.prediction, row.query) for row in rows]
    targets = [parse.letter(row.target, row.query) for row in rows]
    outcomes = [
        Outcome(float(prediction is not None and prediction == target), prediction)
        for prediction, target in zip(predictions, targets, strict=True)
    ]
    return Scored(outcomes, (Metric("unreadable", sum(prediction is None for prediction in predictions), "count"),))


def _published(rows: Sequence[Row]) -> Scored:
    """The first capital A to E anywhere in the prediction, contained in the target in either case."""
    outcomes = []
    for row in rows:
        match = re.search("[A-E]", row.prediction)
        right = match is not None and match.group().lower() in row.target.lower()
        outcomes.append(Outcome(float(right), match.group() if match else None))
    return Scored(outcomes)


TYPES = (
    AnswerType(
        name="mc",
        description="the letter of one option",
        strict=_strict,
        published=_published,
        primary_metric="accuracy",
        primary_kind="proportion",
        binary=False,
        constant_baseline=True,
        drawn=None,
        target_coordinates=None,
        example=Row("Where is it? A. top left B. bottom right", "B", "B"),
    ),
)
