"""presence: whether a ship is in the image, yes or no."""

from __future__ import annotations

from collections.abc import Sequence

from vhm.evaluate import parse
from vhm.evaluate.answer_types.base import AnswerType, Metric, Outcome, Row, Scored, precision_recall


def _strict(rows: Sequence[Row]) -> Scored:
    predictions = [parse.yes_or_no(row.prediction) for row in rows]
    targets = [parse.yes_or_no(row.target) or row.target.strip().lower() for row in rows]
    pairs = list(zip(predictions, targets, strict=True))
    predicted_yes = sum(prediction == "yes" for prediction in predictions)
    true_positives = sum(prediction == "yes" == target for prediction, target in pairs)
    precision, recall, f1 = precision_recall(true_positives, predicted_yes, sum(target == "yes" for target in targets))
    metrics = (
        Metric("precision", precision, "ratio"),
        Metric("recall", recall, "ratio"),
        Metric("f1", f1, "ratio"),
        Metric("yes_share", predicted_yes / max(len(rows), 1), "proportion"),
        Metric("unreadable", sum(prediction is None for prediction in predictions), "count"),
    )
    return Scored([Outcome(float(prediction == target), prediction) for prediction, target in pairs], metrics)


def _published(rows: Sequence[Row]) -> Scored:
    """`yes` in the lower-cased prediction against `no` or `false` in the prediction as written."""
    outcomes = []
    for row in rows:
        yes = "yes" in row.prediction.lower()
        no = "no" in row.prediction or "false" in row.prediction
        prediction = "yes" if yes and not no else "no" if no and not yes else "unknown"
        outcomes.append(Outcome(float(prediction == row.target.strip().lower()), prediction))
    return Scored(outcomes)


TYPES = (
    AnswerType(
        name="presence",
        description="yes or no, whether an object is in the image",
        strict=_strict,
        published=_published,
        primary_metric="accuracy",
        primary_kind="proportion",
        binary=True,
        constant_baseline=True,
        drawn=None,
        target_coordinates=None,
        example=Row("Is there a ship in the image?", "yes", "yes"),
    ),
)
