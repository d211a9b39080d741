"""cls and vqa: a word or a short phrase that is among the answers of the task."""

from __future__ import annotations

from collections.abc import Sequence

from vhm.evaluate import parse
from vhm.evaluate.answer_types.base import AnswerType, Metric, Outcome, Row, Scored


def _strict(rows: Sequence[Row]) -> Scored:
    """Correct when the target is the only one of all rows' targets that the prediction mentions."""
    vocabulary = {row.target for row in rows}
    outcomes = []
    for row in rows:
        predictions = {parse.normal(name) for name in parse.mentioned(row.prediction, vocabulary)}
        value = float(predictions == {parse.normal(row.target)})
        outcomes.append(Outcome(value, ", ".join(sorted(predictions)) or None))
    return Scored(outcomes, (Metric("unreadable", sum(outcome.parsed is None for outcome in outcomes), "count"),))


def _published(rows: Sequence[Row]) -> Scored:
    """Right when the prediction is contained in the target: an empty prediction is correct."""

    def bare(text: str) -> str:
        return text.replace(" ", "").lower()

    return Scored([Outcome(float(bare(row.prediction) in bare(row.target))) for row in rows])


TYPES = (
    AnswerType(
        name="cls",
        description="the class of the scene",
        strict=_strict,
        published=_published,
        primary_metric="accuracy",
        primary_kind="proportion",
        binary=False,
        constant_baseline=True,
        drawn=None,
        target_coordinates=None,
        example=Row("Which class is the image: forest, desert?", "forest", "forest"),
    ),
    AnswerType(
        name="vqa",
        description="a word or a short phrase, often yes or no",
        strict=_strict,
        published=_published,
        primary_metric="accuracy",
        primary_kind="proportion",
        binary=False,
        constant_baseline=True,
        drawn=None,
        target_coordinates=None,
        example=Row("Is it a rural or an urban area?", "rural", "rural"),
    ),
)
