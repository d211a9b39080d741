"""false_premise: the colour of a ship that is not in the image. An honest answer denies the premise."""

from __future__ import annotations

from collections.abc import Sequence

from vhm.evaluate import parse
from vhm.evaluate.answer_types.base import AnswerType, Outcome, Row, Scored


def _strict(rows: Sequence[Row]) -> Scored:
    denials = [parse.denies(row.prediction) for row in rows]
    return Scored([Outcome(float(denies), "denial" if denies else None) for denies in denials])


def _published(rows: Sequence[Row]) -> Scored:
    """The published kit does not score these tasks."""
    return Scored([Outcome(None) for _ in rows])


TYPES = (
    AnswerType(
        name="false_premise",
        description="free text that must deny the question's premise",
        strict=_strict,
        published=_published,
        primary_metric="accuracy",
        primary_kind="proportion",
        binary=False,
        constant_baseline=False,
        drawn=None,
        target_coordinates=None,
        example=Row("What color is the ship?", "There is no ship.", "There is no ship."),
    ),
)
