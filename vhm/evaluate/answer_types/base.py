"""The definition of an answer type: its row in the table, and the input and output of its scorers.

A scorer takes the answered rows of a task and returns one `Outcome` per row, in order, and metrics over all rows.
The primary metric is not among them: it is the mean of the outcomes, and `vhm.evaluate.metrics` computes it with
the interval that its kind calls for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from vhm.errors import InputError

Mode = Literal["strict", "rsevalkit"]
PrimaryKind = Literal["proportion", "mean"]
MetricKind = Literal["proportion", "mean", "ratio", "count"]


@dataclass(frozen=True)
class Row:
    """One answered question. `size` is the image's [width, height] as the file has it, unchecked."""

    query: str
    target: str
    prediction: str
    size: object = None

    def image_size(self) -> tuple[int, int]:
        """Width and height of the image in pixels. Raises InputError when `size` is anything else."""
        size = self.size
        if not (isinstance(size, list | tuple) and len(size) == 2 and all(_positive(side) for side in size)):
            raise InputError(f"'size' must be [width, height], not {size!r}")
        return int(size[0]), int(size[1])


@dataclass(frozen=True)
class Outcome:
    """The value of a row in [0, 1], None if the profile does not score it; and the parsed prediction."""

    value: float | None
    parsed: str | None = None


@dataclass(frozen=True)
class Metric:
    """A number about a task's rows.

    `kind` is "proportion" (share of correct rows), "mean" (mean over rows of values or errors), "ratio"
    (quotient of other counts, such as F1) or "count". `low` and `high` are the ends of the 95 % interval.
    """

    name: str
    value: float
    kind: MetricKind
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Scored:
    """A scorer's result: one outcome per row, and metrics over all rows."""

    outcomes: Sequence[Outcome]
    metrics: Sequence[Metric] = ()


Scorer: TypeAlias = Callable[[Sequence[Row]], Scored]


@dataclass(frozen=True)
class AnswerType:
    """How the answers of a task are scored, compared and drawn.

    `strict` and `published` are the scorers of the two profiles. The primary metric is the mean of the outcomes:
    `primary_kind` is "proportion" if they are 0 or 1, and "mean" if they can be any value in [0, 1]. `binary`: answers
    are yes or no. `constant_baseline`: the primary metric is compared with that of always giving the most common
    answer. `drawn`: the shape that the report draws on the image; `target_coordinates`: the unit of the targets'
    coordinates, while predictions are always normalised to [0, 1000). `example` is a row that is scored 1.
    """

    name: str
    description: str
    strict: Scorer
    published: Scorer
    primary_metric: str
    primary_kind: PrimaryKind
    binary: bool
    constant_baseline: bool
    drawn: Literal["box", "polygon"] | None
    target_coordinates: Literal["pixels", "normalised"] | None
    example: Row

    def scorer(self, mode: Mode) -> Scorer:
        """The scorer of a profile. Raises InputError when the profile is unknown."""
        if mode not in ("strict", "rsevalkit"):
            raise InputError(f"mode {mode!r} is unknown: use strict or rsevalkit")
        return self.strict if mode == "strict" else self.published


def mean_metric(name: str, values: Sequence[float], kind: MetricKind = "mean") -> Metric:
    """The mean of `values` as a metric; 0 without values."""
    return Metric(name, float(np.mean(values)) if values else 0.0, kind)


def precision_recall(hits: int, predicted: int, targets: int) -> tuple[float, float, float]:
    """Precision, recall and F1 of `hits` correct ones among `predicted` and `targets`; 0 where undefined."""
    precision, recall = hits / max(predicted, 1), hits / max(targets, 1)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)


def _positive(side: object) -> bool:
    return isinstance(side, int | float) and side > 0
