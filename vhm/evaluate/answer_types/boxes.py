"""bbox: one box [x0, y0, x1, y1], in pixels in targets, normalised to [0, 1000) in predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vhm.errors import InputError
from vhm.evaluate.answer_types.base import AnswerType, Metric, Outcome, Row, Scored, mean_metric
from vhm.inference import geometry

_AREAS = (("small", 0, 32**2), ("medium", 32**2, 96**2), ("large", 96**2, math.inf))


def _strict(rows: Sequence[Row]) -> Scored:
    """Correct at an IoU of at least 0.5; an unreadable box has IoU 0."""
    ious, areas, unreadable = [], [], 0
    for row in rows:
        size = row.image_size()
        target, prediction = geometry.box(row.target), geometry.box(row.prediction)
        if target is None:
            raise InputError(f"the answer {row.target!r} is not a box [x0, y0, x1, y1] in pixels")
        unreadable += prediction is None
        ious.append(0.0 if prediction is None else box_iou(_to_pixels(prediction, *size), target))
        areas.append(_area(target))
    return _scored(ious, areas, (Metric("unreadable", unreadable, "count"),))


def _published(rows: Sequence[Row]) -> Scored:
    """The kit takes `size` as [height, width], and repeats the IoU of the previous row for an unreadable box."""
    ious, areas = [], []
    iou = 0.0
    for row in rows:
        height, width = row.image_size()
        target, prediction = _four_numbers(row.target), _four_numbers(row.prediction)
        if target is not None and prediction is not None:
            iou = box_iou(_to_pixels(prediction, width, height), target)
        ious.append(iou)
        areas.append(_area(target) if target is not None else 0)
    return _scored(ious, areas)


def box_iou(first: geometry.Box, second: geometry.Box) -> float:
    """Intersection over union of two (x0, y0, x1, y1) boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    intersection = max(width, 0.0) * max(height, 0.0)
    union = sum(_area(box) for box in (first, second)) - intersection
    return intersection / union if union > 0 else 0.0


def _scored(ious: Sequence[float], areas: Sequence[float], metrics: Sequence[Metric] = ()) -> Scored:
    """Outcomes at IoU 0.5, the mean IoU, and precision by area of the target."""
    hits = [float(iou >= 0.5) for iou in ious]
    further = [mean_metric("mean_iou", ious), *metrics]
    for name, low, high in _AREAS:
        inside = [hit for hit, area in zip(hits, areas, strict=True) if low <= area < high]
        if inside:
            further.append(mean_metric(f"precision_{name}", inside, "proportion"))
    return Scored([Outcome(hit) for hit in hits], further)


def _four_numbers(text: str) -> geometry.Box | None:
    numbers = geometry.list_numbers(text) or []
    return (numbers[0], numbers[1], numbers[2], numbers[3]) if len(numbers) == 4 else None


def _to_pixels(box: geometry.Box, width: int, height: int) -> geometry.Box:
    return box[0] * width / 1000, box[1] * height / 1000, box[2] * width / 1000, box[3] * height / 1000


def _area(box: geometry.Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


TYPES = (
    AnswerType(
        name="bbox",
        description="one bounding box",
        strict=_strict,
        published=_published,
        primary_metric="precision",
        primary_kind="proportion",
        binary=False,
        constant_baseline=False,
        drawn="box",
        target_coordinates="pixels",
        example=Row("Where is the ship?", "[10, 20, 30, 40]", "[100, 200, 300, 400]", (100, 100)),
    ),
)
