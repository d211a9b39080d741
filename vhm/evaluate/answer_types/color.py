"""color: the colours of an object, separated by commas."""

from __future__ import annotations

from collections.abc import Sequence

from vhm.evaluate import parse
from vhm.evaluate.answer_types.base import AnswerType, Metric, Outcome, Row, Scored

COLORS = "red orange yellow green blue purple pink brown black white gray grey silver gold beige cyan".split()


def _strict(rows: Sequence[Row]) -> Scored:
    """Colours that prediction and target share, relative to the longer list; "grey" is "gray"."""
    outcomes = []
    for row in rows:
        targets = {_gray(name) for name in row.target.lower().split(",") if name.strip()}
        predictions = {_gray(name) for name in parse.mentioned(row.prediction, [*COLORS, *targets])}
        value = len(targets & predictions) / max(len(targets), len(predictions), 1)
        outcomes.append(Outcome(value, ", ".join(sorted(predictions)) or None))
    exact = sum(outcome.value == 1 for outcome in outcomes) / max(len(outcomes), 1)
    return Scored(outcomes, (Metric("exact", exact, "proportion"),))


def _published(rows: Sequence[Row]) -> Scored:
    """The share of the target's colours that occur in the prediction, as parts of words too."""
    outcomes = []
    for row in rows:
        prediction = row.prediction.replace(" ", "").lower()
        targets = row.target.replace(" ", "").lower().split(",")
        outcomes.append(Outcome(sum(name in prediction for name in targets) / len(targets)))
    return Scored(outcomes)


def _gray(name: str) -> str:
    return name.strip().replace("grey", "gray")


TYPES = (
    AnswerType(
        name="color",
        description="colours separated by commas",
        strict=_strict,
        published=_published,
        primary_metric="accuracy",
        primary_kind="mean",
        binary=False,
        constant_baseline=True,
        drawn=None,
        target_coordinates=None,
        example=Row("What color is the plane?", "red, white", "red, white"),
    ),
)
