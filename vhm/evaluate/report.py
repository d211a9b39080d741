"""An evaluation's result and predictions → report.html: one self-contained page with images and explanations."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from vhm.data.images import load_image
from vhm.data.images.stores import open_store
from vhm.errors import ImageError
from vhm.evaluate.answer_types.base import AnswerType, Row
from vhm.evaluate.predict import questions
from vhm.evaluate.predictions import predictions_file, read_predictions
from vhm.evaluate.results import Baseline, EvaluationResult, TaskResult
from vhm.evaluate.tasks import Task
from vhm.inference import geometry
from vhm.io import write_text

_EXAMPLES = 4
_THUMBNAIL = 224


@dataclass(frozen=True)
class Example:
    """One answered question as the report shows it.

    `parsed` is the prediction as the scorer parsed it, if that differs from its text. Rings are SVG points
    in percent of the image's sides.
    """

    image: str
    query: str
    target: str
    prediction: str
    parsed: str | None
    right: bool | None
    target_rings: list[str]
    predicted_rings: list[str]


@dataclass(frozen=True)
class Bar:
    """A task's primary metric in per cent with its interval, and its baselines (None for an absent one)."""

    metric: str
    value: float
    low: float
    high: float
    majority: float | None
    blind: float | None


@dataclass(frozen=True)
class Section:
    """One task of the report."""

    task: Task
    result: TaskResult
    bar: Bar | None
    metrics: list[tuple[str, float]]
    examples: list[Example]


def write_report(out: Path, data: Path, result: EvaluationResult) -> None:
    """Write `out`/report.html; the predictions are in `out`/predictions."""
    from jinja2 import Environment

    template = resources.files("vhm.evaluate").joinpath("report.html.j2").read_text()
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    sections = [
        Section(task, scored, _bar(scored), _further_metrics(scored), list(_examples(task, scored, data, out)))
        for task, scored in result.tasks.items()
    ]
    write_text(out / "report.html", page.render(evaluation=result, sections=sections))


def _bar(result: TaskResult) -> Bar | None:
    if result.primary is None:
        return None

    def percent(baseline: Baseline | None) -> float | None:
        return None if baseline is None else 100 * baseline.value

    return Bar(
        metric=result.primary.name,
        value=100 * result.primary.value,
        low=100 * (result.primary.low or 0.0),
        high=100 * (result.primary.high or 0.0),
        majority=percent(result.baseline("majority")),
        blind=percent(result.baseline("blind")),
    )


def _further_metrics(result: TaskResult) -> list[tuple[str, float]]:
    margins = [(f"margin over {baseline.name}", baseline.margin.value) for baseline in result.baselines]
    return [(metric.name, metric.value) for metric in result.metrics] + margins


def _examples(task: Task, result: TaskResult, data: Path, out: Path) -> Iterator[Example]:
    """A few answers spread over the task from worst to best."""
    predictions = read_predictions(predictions_file(out / "predictions", task))
    answered = [
        (outcome, prediction)
        for outcome, prediction in zip(result.outcomes, predictions, strict=True)
        if outcome is not None
    ]
    answered.sort(key=lambda pair: (pair[0].value or 0, pair[1].index))
    store = open_store(data)
    images = {question.index: question.image for question in questions(task, data)}
    step = max(1, len(answered) // _EXAMPLES)
    for outcome, prediction in answered[step // 2 :: step][:_EXAMPLES]:
        row = prediction.row()
        yield Example(
            image=_thumbnail(store.read(images[prediction.index])),
            query=row.query,
            target=row.target,
            prediction=row.prediction,
            parsed=outcome.parsed if outcome.parsed != row.prediction else None,
            right=None if outcome.value is None else outcome.value >= 0.5,
            target_rings=_rings(row.target, row, result.type, result.type.target_coordinates == "pixels"),
            predicted_rings=_rings(row.prediction, row, result.type, in_pixels=False),
        )


def _rings(text: str, row: Row, answer_type: AnswerType, in_pixels: bool) -> list[str]:
    """The shapes in an answer as SVG points; none where the type is not drawn or the answer is unreadable."""
    if answer_type.drawn is None:
        return []
    width, height = row.image_size() if in_pixels else (1000, 1000)
    rings = geometry.polygons(text) if answer_type.drawn == "polygon" else _box_rings(text)
    return [" ".join(f"{100 * x / width:.2f},{100 * y / height:.2f}" for x, y in ring) for ring in rings]


def _box_rings(text: str) -> list[geometry.Polygon]:
    box = geometry.box(text)
    if box is None:
        return []
    x0, y0, x1, y1 = box
    return [[(x0, y0), (x1, y0), (x1, y1), (x0, y1)]]


def _thumbnail(content: bytes) -> str:
    """The image as a data URI; empty when it cannot be read."""
    try:
        image = load_image(content)
    except ImageError:
        return ""
    image = image.resize((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
