"""Boxes and polygons in the text of records, as polygons in fractions of the image's sides.

Coordinates are normalised to [0, 1000). Only the boxes in answers of evaluation files are in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

from vhm.data.coordinates import BRACKETS, has_points, numbers_in
from vhm.data.validation.findings import Outline

_MAX_TEXT = 100_000  # characters


def shapes(text: str, size: tuple[int, int] | None = None) -> Iterator[Outline]:
    """The boxes (as their four corners) and polygons in a text.

    `size` is (width, height) in pixels if boxes are in pixels.
    """
    if "[" not in text:
        return
    for match in BRACKETS.finditer(text[:_MAX_TEXT]):
        numbers = numbers_in(match.group())
        is_box = len(numbers) == 4 and not has_points(match.group())
        if is_box:
            x0, y0, x1, y1 = numbers
            numbers = (x0, y0, x1, y0, x1, y1, x0, y1)
        if len(numbers) < 6 or len(numbers) % 2:
            continue
        width, height = size if size is not None and is_box else (1000, 1000)
        yield tuple((x / width, y / height) for x, y in zip(numbers[::2], numbers[1::2], strict=True))


def bounds(outline: Outline) -> tuple[float, float, float, float]:
    """The bounding box (x0, y0, x1, y1) of a polygon."""
    xs, ys = zip(*outline, strict=True)
    return min(xs), min(ys), max(xs), max(ys)
