"""Parse boxes and polygons in an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

Box = tuple[float, float, float, float]
Polygon = list[tuple[float, float]]

_LARGEST = 1e6  # of a coordinate: generation can repeat a digit until its limit, and rasterising cannot


def list_numbers(text: str) -> list[float] | None:
    """The numbers between the first `[` and the last `]`; None without brackets."""
    start, end = text.find("["), text.rfind("]")
    if start < 0 or end < start:
        return None
    return [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", text[start:end])]


def box(text: str) -> Box | None:
    """The first [x0, y0, x1, y1] with x0 < x1 and y0 < y1."""
    match = re.search(r"\[+\s*((?:-?\d+(?:\.\d+)?\s*,\s*){3}-?\d+(?:\.\d+)?)\s*\]", text)
    if not match:
        return None
    x0, y0, x1, y1 = (float(v) for v in match.group(1).split(","))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def polygons(text: str) -> list[Polygon]:
    """All rings of at least three points: [[x, y], …] lists, or flat [x, y, x, y, …] lists of six or more."""
    point = r"[\[(]\s*-?\d+(?:\.\d+)?\s*,\s*-?\d+(?:\.\d+)?\s*[\])]"
    rings = [
        _points([float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", ring)])
        for ring in re.findall(rf"\[\s*{point}(?:\s*,\s*{point})*\s*\]", text)
    ]
    if not rings:
        flat = [
            [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", ring)] for ring in re.findall(r"\[([^\[\]]+)\]", text)
        ]
        rings = [_points(values) for values in flat if len(values) >= 6 and len(values) % 2 == 0]
    return [ring for ring in rings if len(ring) >= 3 and all(max(abs(x), abs(y)) <= _LARGEST for x, y in ring)]


def _points(values: Sequence[float]) -> Polygon:
    return list(zip(values[::2], values[1::2], strict=True))
