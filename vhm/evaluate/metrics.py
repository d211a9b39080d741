"""Predictions → figures, in two scoring profiles.

`strict` reads answers as a person would and counts what cannot be read against the model. `rsevalkit`
reproduces the published kit, faults included, so that figures can be set beside published ones; where
the kit would stop with an error, ours says how many rows it left out.

A row is {"query", "answer", "pred", "size": [width, height]}; `pred` is None where generation failed:
such rows are counted in `failed` and never scored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from vhm.errors import InputError
from vhm.evaluate import parse
from vhm.evaluate.intervals import wilson
from vhm.inference import geometry

Mode = Literal["strict", "rsevalkit"]
Row = Mapping[str, Any]
Figures = dict[str, float]

COLORS = "red orange yellow green blue purple pink brown black white gray grey silver gold beige cyan".split()
_BUCKETS = ((0, 2), (2, 6), (6, 12), (12, math.inf))
_AREAS = (("small", 0, 32**2), ("medium", 32**2, 96**2), ("large", 96**2, math.inf))


@dataclass
class Judged:
    """What a scorer found: one value in [0, 1] a row, and further figures over all rows."""

    values: list[float]
    figures: Figures = field(default_factory=dict)
    main: str = "accuracy"


def score(task_type: str, rows: Sequence[Row], mode: Mode = "strict") -> Figures:
    """Figures of a task type over its rows: `n`, `failed`, the main figure with its 95 % interval, and others.

    Raises InputError for an unknown type or mode, or for a row without its fields.
    """
    judged, usable = judge(task_type, rows, mode)
    figures: Figures = {"n": len(rows), "failed": len(rows) - len(usable)}
    if judged.values:
        mean = float(np.mean(judged.values))
        figures[judged.main] = mean
        low, high = wilson(mean, len(judged.values))
        figures |= {f"{judged.main}_low": low, f"{judged.main}_high": high}
    return figures | {name: _finite(value) for name, value in judged.figures.items()}


def judge(task_type: str, rows: Sequence[Row], mode: Mode = "strict") -> tuple[Judged, list[Row]]:
    """As `score`, with the value of each row; also the rows that were scored, in order."""
    if mode not in ("strict", "rsevalkit"):
        raise InputError(f"mode {mode!r} is unknown: use strict or rsevalkit")
    if task_type not in _SCORERS:
        raise InputError(f"task type {task_type!r} is unknown: use one of {', '.join(_SCORERS)}")
    for number, row in enumerate(rows, start=1):
        missing = [name for name in ("query", "answer", "pred") if name not in row]
        if missing:
            raise InputError(f"row {number} lacks {', '.join(missing)}")
        if not (row["pred"] is None or isinstance(row["pred"], str)) or not isinstance(row["query"], str):
            raise InputError(f"row {number}: 'query' and 'pred' must be text")
    usable: list[Row] = [{**row, "answer": _text(row["answer"])} for row in rows if row["pred"] is not None]
    strict, published = _SCORERS[task_type]
    return (strict if mode == "strict" else published)(usable), usable


# --- yes and no ----------------------------------------------------------------------------------


def _presence(rows: Sequence[Row]) -> Judged:
    said = [parse.yes_or_no(row["pred"]) for row in rows]
    true = [parse.yes_or_no(row["answer"]) or row["answer"].strip().lower() for row in rows]
    hits = [float(a == b) for a, b in zip(said, true, strict=True)]
    positive = sum(a == "yes" == b for a, b in zip(said, true, strict=True))
    precision = positive / max(sum(a == "yes" for a in said), 1)
    recall = positive / max(sum(b == "yes" for b in true), 1)
    figures = {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, 1e-12),
        "yes_share": sum(a == "yes" for a in said) / max(len(said), 1),
        "unreadable": sum(a is None for a in said),
    }
    return Judged(hits, figures)


def _presence_published(rows: Sequence[Row]) -> Judged:
    hits = []
    for row in rows:
        text = row["pred"]
        yes = "yes" in text.lower()
        no = "no" in text or "false" in text
        said = "yes" if yes and not no else "no" if no and not yes else "unknown"
        hits.append(float(said == row["answer"].strip().lower()))
    return Judged(hits)


def _false_premise(rows: Sequence[Row]) -> Judged:
    return Judged([float(parse.denies(row["pred"])) for row in rows])


def _unscored(rows: Sequence[Row]) -> Judged:
    return Judged([])


# --- words ---------------------------------------------------------------------------------------


def _color(rows: Sequence[Row]) -> Judged:
    values = []
    for row in rows:
        true = {_grey(name) for name in row["answer"].lower().split(",") if name.strip()}
        said = {_grey(name) for name in parse.mentioned(row["pred"], [*COLORS, *true])}
        values.append(len(true & said) / max(len(true), len(said), 1))
    return Judged(values, {"exact": sum(v == 1 for v in values) / max(len(values), 1)})


def _color_published(rows: Sequence[Row]) -> Judged:
    values = []
    for row in rows:
        said = row["pred"].replace(" ", "").lower()
        true = row["answer"].replace(" ", "").lower().split(",")
        values.append(sum(name in said for name in true) / len(true))
    return Judged(values)


def _words(rows: Sequence[Row]) -> Judged:
    """Right when the answer is the only one of all rows' answers that the prediction mentions."""
    vocabulary = {row["answer"] for row in rows}
    hits, unreadable = [], 0
    for row in rows:
        said = {parse.normal(name) for name in parse.mentioned(row["pred"], vocabulary)}
        unreadable += not said
        hits.append(float(said == {parse.normal(row["answer"])}))
    return Judged(hits, {"unreadable": unreadable})


def _words_published(rows: Sequence[Row]) -> Judged:
    def bare(text: str) -> str:
        return text.replace(" ", "").lower()

    return Judged([float(bare(row["pred"]) in bare(row["answer"])) for row in rows])


def _choice(rows: Sequence[Row]) -> Judged:
    said = [parse.letter(row["pred"], row["query"]) for row in rows]
    true = [parse.letter(row["answer"], row["query"]) for row in rows]
    hits = [float(a is not None and a == b) for a, b in zip(said, true, strict=True)]
    return Judged(hits, {"unreadable": sum(a is None for a in said)})


def _choice_published(rows: Sequence[Row]) -> Judged:
    hits = []
    for row in rows:
        found = re.search("[A-E]", row["pred"])
        hits.append(float(found is not None and found.group().lower() in row["answer"].lower()))
    return Judged(hits)


def _multi_label(rows: Sequence[Row]) -> Judged:
    pairs = []
    for row in rows:
        classes = parse.query_classes(row["query"])
        pairs.append((parse.mentioned(row["pred"], classes), parse.mentioned(row["answer"], classes)))
    names = sorted({name for said, true in pairs for name in said | true})
    hits = sum(len(said & true) for said, true in pairs)
    precision = hits / max(sum(len(said) for said, _ in pairs), 1)
    recall = hits / max(sum(len(true) for _, true in pairs), 1)
    by_class = []
    for name in names:
        both = sum(name in said and name in true for said, true in pairs)
        either = sum(name in said for said, _ in pairs) + sum(name in true for _, true in pairs)
        by_class.append(2 * both / max(either, 1))
    figures = {
        "precision": precision,
        "recall": recall,
        "micro_f1": 2 * precision * recall / max(precision + recall, 1e-12),
        "macro_f1": float(np.mean(by_class)) if by_class else 0.0,
    }
    return Judged([float(said == true) for said, true in pairs], figures)


def _multi_label_published(rows: Sequence[Row]) -> Judged:
    hits: dict[str, int] = {}
    said: dict[str, int] = {}
    for row in rows:
        for name in row["query"].partition(":")[2][:-1].split(","):
            name = name.strip()
            predicted = name.lower() in row["pred"].lower()
            said[name] = said.get(name, 0) + predicted
            hits[name] = hits.get(name, 0) + (predicted and name.lower() in row["answer"].lower())
    shares = [hits[name] / said[name] if said[name] else 0.0 for name in said]
    return Judged([], {"average_precision": float(np.mean(shares)) if shares else 0.0})


# --- numbers -------------------------------------------------------------------------------------


def _counting(rows: Sequence[Row], read: Callable[[str], int | None] = parse.count) -> Judged:
    said = [read(row["pred"]) for row in rows]
    true = [parse.count(row["answer"]) for row in rows]
    known = [(a, b) for a, b in zip(said, true, strict=True) if a is not None and b is not None]
    hits = [float(a is not None and a == b) for a, b in zip(said, true, strict=True)]
    figures: Figures = {"unreadable": sum(a is None for a in said)} | _errors(known)
    for low, high in _BUCKETS:
        inside = [hit for hit, b in zip(hits, true, strict=True) if b is not None and low < b <= high]
        if inside:
            figures[f"accuracy_{low}_{high}"] = float(np.mean(inside))
    return Judged(hits, figures)


def _counting_published(rows: Sequence[Row]) -> Judged:
    def read(text: str) -> int | None:
        found = re.search(r"\d+", text)
        if found:
            return int(found.group())
        number = parse.count_words(text)
        return number if number is not None and number < 100 else None

    return _counting([row for row in rows if read(row["pred"]) is not None], read)


def _measurement(rows: Sequence[Row], read: Callable[[str], list[float]] = parse.numbers) -> Judged:
    """Right within ten per cent; a row whose numbers are not as many as the answer's is unreadable."""
    values, pairs, unreadable = [], [], 0
    for row in rows:
        said, true = read(row["pred"]), read(row["answer"])
        if len(said) != len(true) or not true:
            unreadable += 1
            values.append(0.0)
            continue
        pairs += list(zip(said, true, strict=True))
        values.append(float(all(abs(a - b) <= 0.1 * abs(b) for a, b in zip(said, true, strict=True))))
    return Judged(values, {"unreadable": unreadable} | _errors(pairs), main="within_10_percent")


def _measurement_published(rows: Sequence[Row]) -> Judged:
    def read(text: str) -> list[float]:
        return [float(n) for n in re.findall(r"\d+\.?\d*", text)]

    judged = _measurement(rows, read)
    return Judged([], judged.figures)


def _errors(pairs: Sequence[tuple[float, float]]) -> Figures:
    """Mean absolute error, and mean absolute percentage error over the answers that are not zero."""
    if not pairs:
        return {}
    relative = [abs(a - b) / abs(b) for a, b in pairs if b]
    figures = {"mae": float(np.mean([abs(a - b) for a, b in pairs]))}
    return figures | ({"mape": float(np.mean(relative))} if relative else {})


# --- places --------------------------------------------------------------------------------------


def _boxes(rows: Sequence[Row]) -> Judged:
    """Predictions in thousandths of width and height, answers in pixels; an unreadable box has IoU 0."""
    ious, areas, unreadable = [], [], 0
    for row in rows:
        width, height = _size(row)
        true = geometry.box(row["answer"])
        said = geometry.box(row["pred"])
        if true is None:
            raise InputError(f"the answer {row['answer']!r} is not a box [x0, y0, x1, y1] in pixels")
        areas.append((true[2] - true[0]) * (true[3] - true[1]))
        if said is None:
            unreadable += 1
            ious.append(0.0)
            continue
        scaled = (said[0] * width / 1000, said[1] * height / 1000, said[2] * width / 1000, said[3] * height / 1000)
        ious.append(box_iou(scaled, true))
    return _by_area(ious, areas, {"unreadable": unreadable})


def _boxes_published(rows: Sequence[Row]) -> Judged:
    ious, areas = [], []
    iou = 0.0
    for row in rows:
        height, width = _size(row)  # the kit unpacks them the wrong way round
        true = geometry.list_numbers(row["answer"]) or []
        said = geometry.list_numbers(row["pred"]) or []
        if len(said) == 4 and len(true) == 4:
            x0, y0, x1, y1 = said
            iou = box_iou(
                (x0 * width / 1000, y0 * height / 1000, x1 * width / 1000, y1 * height / 1000),
                (true[0], true[1], true[2], true[3]),
            )
        ious.append(iou)  # an unreadable box keeps the IoU of the row before
        areas.append((true[2] - true[0]) * (true[3] - true[1]) if len(true) == 4 else 0)
    return _by_area(ious, areas, {})


def _by_area(ious: list[float], areas: list[float], figures: Figures) -> Judged:
    hits = [float(iou >= 0.5) for iou in ious]
    figures = {"mean_iou": float(np.mean(ious)) if ious else 0.0} | figures
    for name, low, high in _AREAS:
        inside = [hit for hit, area in zip(hits, areas, strict=True) if low <= area < high]
        if inside:
            figures[f"precision_{name}"] = float(np.mean(inside))
    return Judged(hits, figures, main="precision")


def box_iou(first: geometry.Box, second: geometry.Box) -> float:
    """Intersection over union of two (x0, y0, x1, y1) boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0.0) * max(height, 0.0)
    total = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (first, second)) - shared
    return shared / total if total > 0 else 0.0


def _footprints(rows: Sequence[Row]) -> Judged:
    """Complexity-aware IoU: IoU × (1 − |N − N*| / (N + N*)), N the vertices (Girard et al. 2021)."""
    values, ious, unreadable = [], [], 0
    for row in rows:
        width, height = _size(row)
        true, said = geometry.polygons(row["answer"]), geometry.polygons(row["pred"])
        if not true:
            raise InputError(f"the answer {row['answer'][:60]!r} is not a list of polygons")
        if not said:
            unreadable += 1
            values.append(0.0)
            ious.append(0.0)
            continue
        iou = _polygon_iou(said, true, width, height)
        ious.append(iou)
        values.append(iou * _complexity(said, true))
    figures = {"mean_iou": float(np.mean(ious)) if ious else 0.0, "unreadable": unreadable}
    return Judged(values, figures, main="ciou")


def _footprints_published(rows: Sequence[Row]) -> Judged:
    values = []
    for row in rows:
        width, _ = _size(row)
        true, said = geometry.polygons(row["answer"]), geometry.polygons(row["pred"])
        if true and said:  # the kit's mean becomes an error on an unreadable polygon
            values.append(_raster_iou(said, true, width, width) * _complexity(said, true))
    return Judged(values, {"skipped": len(rows) - len(values)}, main="ciou")


def _complexity(said: list[geometry.Polygon], true: list[geometry.Polygon]) -> float:
    n, wanted = sum(map(len, said)), sum(map(len, true))
    return 1 - abs(n - wanted) / (n + wanted)


def _polygon_iou(said: list[geometry.Polygon], true: list[geometry.Polygon], width: float, height: float) -> float:
    from shapely import Polygon, make_valid, union_all
    from shapely.affinity import scale

    shapes = []
    for rings in (said, true):
        whole = union_all([make_valid(Polygon(ring)) for ring in rings])
        shapes.append(scale(whole, width / 1000, height / 1000, origin=(0, 0)))
    union = shapes[0].union(shapes[1]).area
    return float(shapes[0].intersection(shapes[1]).area / union) if union else 0.0


def _raster_iou(said: list[geometry.Polygon], true: list[geometry.Polygon], width: int, height: int) -> float:
    from pycocotools import mask

    masks = []
    for rings in (said, true):
        flat = [[v for x, y in ring for v in (x * width / 1000, y * width / 1000)] for ring in rings]
        masks.append(mask.decode(mask.merge(mask.frPyObjects(flat, height, width))).astype(bool))
    union = (masks[0] | masks[1]).sum()
    return float((masks[0] & masks[1]).sum() / union) if union else 0.0


def _size(row: Row) -> tuple[int, int]:
    size = row.get("size")
    if not isinstance(size, Sequence) or len(size) != 2 or not all(isinstance(v, int | float) and v > 0 for v in size):
        raise InputError(f"'size' must be [width, height], not {size!r}")
    return int(size[0]), int(size[1])


def _grey(name: str) -> str:
    return name.strip().replace("grey", "gray")


def _text(answer: Any) -> str:
    return answer if isinstance(answer, str) else str(answer)


def _finite(value: float) -> float:
    return float(value) if math.isfinite(value) else 0.0


_SCORERS: dict[str, tuple[Callable[[Sequence[Row]], Judged], Callable[[Sequence[Row]], Judged]]] = {
    "presence": (_presence, _presence_published),
    "color": (_color, _color_published),
    "cls": (_words, _words_published),
    "vqa": (_words, _words_published),
    "mc": (_choice, _choice_published),
    "counting": (_counting, _counting_published),
    "bbox": (_boxes, _boxes_published),
    "ml": (_multi_label, _multi_label_published),
    "mae": (_measurement, _measurement_published),
    "ciou": (_footprints, _footprints_published),
    "false_premise": (_false_premise, _unscored),
}
