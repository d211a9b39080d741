"""ciou: outlines of buildings as polygons, coordinates normalised to [0, 1000).

The complexity-aware IoU is IoU × (1 − |N − N*| / (N + N*)), N the vertices predicted and N* those of the target
(Girard et al. 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

from vhm.errors import InputError
from vhm.evaluate.answer_types.base import AnswerType, Metric, Outcome, Row, Scored, mean_metric
from vhm.inference import geometry


def _strict(rows: Sequence[Row]) -> Scored:
    """An unreadable prediction has IoU 0."""
    outcomes, ious, unreadable = [], [], 0
    for row in rows:
        width, height = row.image_size()
        targets, predictions = geometry.polygons(row.target), geometry.polygons(row.prediction)
        if not targets:
            raise InputError(f"the answer {row.target[:60]!r} is not a list of polygons")
        unreadable += not predictions
        iou = _polygon_iou(predictions, targets, width, height) if predictions else 0.0
        ious.append(iou)
        outcomes.append(Outcome(iou * _complexity(predictions, targets)))
    return Scored(outcomes, (mean_metric("mean_iou", ious), Metric("unreadable", unreadable, "count")))


def _published(rows: Sequence[Row]) -> Scored:
    """Rasterised, y scaled by the width; rows with an unreadable polygon are skipped: the kit's mean fails on them."""
    outcomes, ious = [], []
    for row in rows:
        width, _ = row.image_size()
        targets, predictions = geometry.polygons(row.target), geometry.polygons(row.prediction)
        if not (targets and predictions):
            outcomes.append(Outcome(None))
            continue
        ious.append(_raster_iou(predictions, targets, width))
        outcomes.append(Outcome(ious[-1] * _complexity(predictions, targets)))
    return Scored(outcomes, (mean_metric("mean_iou", ious), Metric("skipped", len(rows) - len(ious), "count")))


def _complexity(predictions: Sequence[geometry.Polygon], targets: Sequence[geometry.Polygon]) -> float:
    predicted, expected = sum(map(len, predictions)), sum(map(len, targets))
    return 1 - abs(predicted - expected) / (predicted + expected)


def _polygon_iou(
    predictions: Sequence[geometry.Polygon], targets: Sequence[geometry.Polygon], width: int, height: int
) -> float:
    from shapely import Polygon, make_valid, union_all
    from shapely.affinity import scale

    shapes = []
    for rings in (predictions, targets):
        merged = union_all([make_valid(Polygon(ring)) for ring in rings])
        shapes.append(scale(merged, width / 1000, height / 1000, origin=(0, 0)))
    union = shapes[0].union(shapes[1]).area
    return float(shapes[0].intersection(shapes[1]).area / union) if union else 0.0


def _raster_iou(predictions: Sequence[geometry.Polygon], targets: Sequence[geometry.Polygon], width: int) -> float:
    from pycocotools import mask

    masks = []
    for rings in (predictions, targets):
        flat = [[value * width / 1000 for point in ring for value in point] for ring in rings]
        masks.append(mask.merge(mask.frPyObjects(flat, width, width)))
    union = int(mask.area(mask.merge(masks)))
    return int(mask.area(mask.merge(masks, intersect=True))) / union if union else 0.0


TYPES = (
    AnswerType(
        name="ciou",
        description="outlines as polygons",
        strict=_strict,
        published=_published,
        primary_metric="ciou",
        primary_kind="mean",
        binary=False,
        constant_baseline=False,
        drawn="polygon",
        target_coordinates="normalised",
        example=Row("Outline the building.", "[[[0, 0], [9, 0], [9, 9]]]", "[[[0, 0], [9, 0], [9, 9]]]", (1000, 1000)),
    ),
)
