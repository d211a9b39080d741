"""scores.json and predictions → report.html: one file that explains itself, offline, with pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from vhm.data.images import load_image
from vhm.data.images.stores import open_store
from vhm.errors import ImageError
from vhm.evaluate.metrics import judge
from vhm.evaluate.predict import predictions_file, questions
from vhm.evaluate.tasks import Task
from vhm.inference import geometry
from vhm.io import read_jsonl, write_text

_EXAMPLES = 4
_THUMBNAIL = 224


@dataclass(frozen=True)
class Example:
    """One answered question as the report shows it; rings are SVG points in percent of the picture."""

    picture: str
    question: str
    answer: str
    pred: str
    right: bool | None
    true_rings: list[str]
    said_rings: list[str]


@dataclass(frozen=True)
class Bar:
    """A task's main figure in per cent, with its interval and what it is compared with."""

    name: str
    type: str
    figure: str
    n: int
    failed: int
    value: float | None
    low: float
    high: float
    majority: float | None
    blind: float | None


def write_report(out: Path, data: Path, tasks: list[Task], scores: dict[str, Any]) -> None:
    """Write `out`/report.html."""
    from jinja2 import Environment

    template = resources.files("vhm.evaluate").joinpath("report.html.j2").read_text()
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    text = page.render(
        scores=scores,
        bars=[_bar(task, scores["tasks"][task.name]) for task in tasks],
        examples=[(task, list(_examples(task, data, out / "predictions", scores["mode"]))) for task in tasks],
        figures={task.name: _other_figures(scores["tasks"][task.name]) for task in tasks},
    )
    write_text(out / "report.html", text)


def _bar(task: Task, result: dict[str, Any]) -> Bar:
    name = result.get("figure", "")

    def percent(key: str) -> float | None:
        return 100 * result[key] if key in result else None

    return Bar(
        task.name,
        task.type,
        name,
        result["n"],
        result["failed"],
        percent(name) if name else None,
        percent(f"{name}_low") or 0.0,
        percent(f"{name}_high") or 0.0,
        percent("majority"),
        percent("blind"),
    )


def _other_figures(result: dict[str, Any]) -> dict[str, float]:
    shown = {"type", "figure", "n", "failed", "majority", "blind", result.get("figure")}
    return {name: value for name, value in result.items() if name not in shown and not name.endswith(("_low", "_high"))}


def _examples(task: Task, data: Path, folder: Path, mode: Any) -> Iterator[Example]:
    """A few answers spread over the task, wrong ones among them where there are some."""
    rows = [row for row in read_jsonl(predictions_file(folder, task)) if row["pred"] is not None]
    judged, _ = judge(task.type, rows, mode)
    root = open_store(data)
    values: list[float | None] = list(judged.values) or [None] * len(rows)
    images = {question.index: question.image for question in questions(task, data)}
    pairs = sorted(zip(values, rows, strict=True), key=lambda pair: (pair[0] or 0, pair[1]["index"]))
    step = max(1, len(pairs) // _EXAMPLES)
    for value, row in pairs[step // 2 :: step][:_EXAMPLES]:
        boxes = task.type in ("bbox", "ciou")
        yield Example(
            _thumbnail(root.read(images[row["index"]])),
            row["query"],
            row["answer"],
            row["pred"],
            None if value is None else value >= 0.5,
            _rings(row["answer"], row["size"], in_pixels=task.type == "bbox") if boxes else [],
            _rings(row["pred"], row["size"], in_pixels=False) if boxes else [],
        )


def _rings(text: str, size: list[int], in_pixels: bool) -> list[str]:
    scale = (100 / size[0], 100 / size[1]) if in_pixels else (0.1, 0.1)
    found = geometry.box(text)
    rings = geometry.polygons(text)
    if found and not rings:
        x0, y0, x1, y1 = found
        rings = [[(x0, y0), (x1, y0), (x1, y1), (x0, y1)]]
    return [" ".join(f"{x * scale[0]:.2f},{y * scale[1]:.2f}" for x, y in ring) for ring in rings]


def _thumbnail(content: bytes) -> str:
    try:
        image = load_image(content)
    except ImageError:
        return ""
    image = image.resize((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
