"""Boxes and polygons in text: lists of numbers in brackets.

A box is [x0, y0, x1, y1]; a polygon is [[x, y], …] or [x, y, x, y, …] of three points or more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NUMBER = r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_POINT = rf"\[\s*{NUMBER}\s*,\s*{NUMBER}\s*\]"
BRACKETS = re.compile(rf"\[\s*(?:{_POINT}\s*(?:,\s*)?)+\]|\[\s*(?:{NUMBER}\s*,\s*)+{NUMBER}\s*\]")


def numbers_in(text: str) -> tuple[float, ...]:
    """All numbers in a text."""
    return tuple(map(float, re.findall(NUMBER, text)))


def is_shape(match: str, numbers: Sequence[float]) -> bool:
    """Whether a match of BRACKETS is a box or a polygon, not a year or a list of counts."""
    return has_points(match) or len(numbers) == 4 or (len(numbers) >= 6 and len(numbers) % 2 == 0)


def has_points(match: str) -> bool:
    """Whether a match of BRACKETS is a list of points [x, y]."""
    return "[" in match[1:]
