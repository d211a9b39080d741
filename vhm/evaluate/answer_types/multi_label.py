"""ml: all classes of the image, from the list in the question."""

from __future__ import annotations

from collections.abc import Sequence

from vhm.evaluate import parse
from vhm.evaluate.answer_types.base import AnswerType, Metric, Outcome, Row, Scored, mean_metric, precision_recall

_Labels = tuple[set[str], set[str]]


def _strict(rows: Sequence[Row]) -> Scored:
    """Correct when prediction and target mention the same classes of the question's list."""
    pairs = []
    for row in rows:
        classes = parse.query_classes(row.query)
        pairs.append((parse.mentioned(row.prediction, classes), parse.mentioned(row.target, classes)))
    precision, recall, f1 = precision_recall(
        sum(len(predictions & targets) for predictions, targets in pairs),
        sum(len(predictions) for predictions, _ in pairs),
        sum(len(targets) for _, targets in pairs),
    )
    metrics = (
        Metric("precision", precision, "ratio"),
        Metric("recall", recall, "ratio"),
        Metric("micro_f1", f1, "ratio"),
        mean_metric("macro_f1", _class_f1(pairs), "ratio"),
    )
    outcomes = [
        Outcome(float(predictions == targets), ", ".join(sorted(predictions)) or None) for predictions, targets in pairs
    ]
    return Scored(outcomes, metrics)


def _class_f1(pairs: Sequence[_Labels]) -> list[float]:
    """The F1 of every class that is predicted or a target, in alphabetical order."""
    scores = []
    for name in sorted({name for predictions, targets in pairs for name in predictions | targets}):
        both = sum(name in predictions and name in targets for predictions, targets in pairs)
        either = sum(name in predictions for predictions, _ in pairs) + sum(name in targets for _, targets in pairs)
        scores.append(2 * both / max(either, 1))
    return scores


def _published(rows: Sequence[Row]) -> Scored:
    """The mean over classes of their precision; a class counts as predicted when its name occurs anywhere."""
    hits: dict[str, int] = {}
    predicted: dict[str, int] = {}
    for row in rows:
        for part in row.query.partition(":")[2][:-1].split(","):
            name = part.strip()
            occurs = name.lower() in row.prediction.lower()
            predicted[name] = predicted.get(name, 0) + occurs
            hits[name] = hits.get(name, 0) + (occurs and name.lower() in row.target.lower())
    precisions = [hits[name] / predicted[name] if predicted[name] else 0.0 for name in predicted]
    return Scored([Outcome(None) for _ in rows], (mean_metric("average_precision", precisions, "ratio"),))


TYPES = (
    AnswerType(
        name="ml",
        description="several classes out of the question's list",
        strict=_strict,
        published=_published,
        primary_metric="accuracy",
        primary_kind="proportion",
        binary=False,
        constant_baseline=False,
        drawn=None,
        target_coordinates=None,
        example=Row("Which of these: water, road.", "water, road", "water, road"),
    ),
)
