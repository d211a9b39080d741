"""Boxes and polygons of other conventions → coordinates normalised to [0, 1000), or pixels for evaluation files.

    [x0, y0, x1, y1]                       0–1, 0–100, 0–1000 inclusive, or pixels: decided for a whole source
    {<x0><y0><x1><y1>|<degrees>}           0–100, rotated about its centre: GeoChat; without the angle: VRSBench
    <box>(x0,y0),(x1,y1)</box>             0–1000: Qwen-VL; <|box_start|>…<|box_end|> too; <quad> is a polygon
    <box>[[x0, y0, x1, y1]]</box>          0–1000: InternVL

A rotated box is turned in the image's pixels. It becomes the polygon of its four corners, or a box if its sides stay
parallel to the image's. In evaluation files, whose answers are boxes, it becomes the axis-aligned box around it.
Source: the model cards and evaluation scripts of GeoChat, VRSBench, Qwen-VL and InternVL.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vhm.data.coordinates import BRACKETS, NUMBER, is_shape, numbers_in
from vhm.data.importing.rows import Convention, Shape
from vhm.errors import RecordError

_BRACES = re.compile(rf"\{{\s*((?:<\s*{NUMBER}\s*>\s*){{4,}})(?:\|\s*<\s*({NUMBER})\s*>)?\s*\}}")
_PAIR = rf"\(\s*{NUMBER}\s*,\s*{NUMBER}\s*\)"
_TAGGED = re.compile(
    rf"(?:<box>|<quad>|<\|box_start\|>|<\|quad_start\|>)\s*({_PAIR}(?:\s*,?\s*{_PAIR})+)\s*"
    r"(?:</box>|</quad>|<\|box_end\|>|<\|quad_end\|>)"
)
_NESTED = re.compile(r"<box>\s*\[(\[[^<>]*\])\]\s*</box>")
_BOX_TAGS = re.compile(r"</?box>|<\|box_(?:start|end)\|>")
_PHRASE_TAGS = re.compile(r"</?(?:p|ref|delim)>|<\|object_ref_(?:start|end)\|>")
_PLACEHOLDER = re.compile(r"<bbox>")
_SIDES = {"0-1": 1.0, "0-100": 100.0, "0-1000": 1000.0}
_MIN_BOXES = 10  # fewer boxes, all up to 100, may be in any convention


@dataclass
class BoxReader:
    """Converts the boxes in the texts of one source, and counts what was converted.

    `brackets` is the convention of [x0, y0, x1, y1] in text.
    """

    brackets: Convention = "0-1000"
    converted: Counter[str] = field(default_factory=Counter)

    def convert(
        self, text: str, size: tuple[int, int] | None, shapes: list[tuple[Shape, Convention]], pixels: bool
    ) -> str:
        """The text with its boxes converted; each `<bbox>` takes the first of `shapes`, and removes it.

        `size` is the image's (width, height), needed where one side of the conversion is pixels. Raises RecordError.
        """
        if "<" not in text and "[" not in text:
            return text

        def render(shape: Shape, convention: Convention, label: str) -> str:
            rendered = render_shape(shape, convention, size, pixels)
            before = "box" if len(shape) == 4 else "rotated box" if len(shape) == 5 else "polygon"
            after = "polygon" if rendered.startswith("[[") else "box"
            self.converted[f"{label}: {before if before == after else f'{before} → {after}'}"] += 1
            return rendered

        def brackets(match: re.Match[str]) -> str:
            numbers = numbers_in(match.group())
            if not is_shape(match.group(), numbers) or (
                self.brackets == "0-1000" and not pixels and 1000 not in numbers
            ):
                return match.group()
            return render(numbers, self.brackets, f"[…] {self.brackets}")

        def braces(match: re.Match[str]) -> str:
            shape = numbers_in(match.group(1))
            if match.group(2) is not None and len(shape) == 4:
                sides = size or (100, 100)  # a square, if the image's size is not known
                corners = tuple(value * side / 100 for value, side in zip(shape, (*sides, *sides), strict=True))
                convention: Convention = "pixels" if size else "0-100"
                return render(_rotated(corners, float(match.group(2))), convention, "{<…>|<angle>} 0-100")
            return render(shape, "0-100", "{<…>} 0-100")

        def tagged(match: re.Match[str]) -> str:
            return render(numbers_in(match.group(1)), "0-1000", "<box>(…),(…)</box> 0-1000")

        def placeholder(match: re.Match[str]) -> str:
            if not shapes:
                raise RecordError("bad_number", "the text has more <bbox> than the record has boxes")
            shape, convention = shapes.pop(0)
            return render(shape, convention, f"boxes of the annotation, {convention}")

        text = _NESTED.sub(r"\1", text) if "<box>" in text else text
        text = BRACKETS.sub(brackets, text) if "[" in text else text
        if "<" in text:
            text = _PLACEHOLDER.sub(placeholder, _TAGGED.sub(tagged, _BRACES.sub(braces, text)))
            text = _PHRASE_TAGS.sub(lambda tag: ", " if tag.group() == "<delim>" else "", _BOX_TAGS.sub("", text))
        return text


def render_shape(shape: Shape, convention: Convention, size: tuple[int, int] | None, pixels: bool) -> str:
    """`[x0, y0, x1, y1]` or `[[x, y], …]` of a shape, in pixels or normalised to [0, 1000). Raises RecordError."""
    points = _points(shape)
    fractions = [_fraction(point, convention, size) for point in points]
    if all(x <= 0 for x, _ in fractions) or all(x >= 1 for x, _ in fractions):
        raise RecordError("bad_number", f"the box {list(shape)} is outside the image")
    if all(y <= 0 for _, y in fractions) or all(y >= 1 for _, y in fractions):
        raise RecordError("bad_number", f"the box {list(shape)} is outside the image")
    if any(not math.isfinite(v) or not -0.5 <= v <= 1.5 for point in fractions for v in point):
        raise RecordError("bad_number", f"the box {list(shape)} is far outside the convention {convention}")
    placed = [_place(point, size, pixels) for point in fractions]
    if len(placed) == 2 or pixels:
        xs, ys = zip(*placed, strict=True)
        return f"[{min(xs)}, {min(ys)}, {max(xs)}, {max(ys)}]"
    return "[" + ", ".join(f"[{x}, {y}]" for x, y in placed) + "]"


def bracketed(texts: Iterable[str]) -> list[Shape]:
    """The boxes [x0, y0, x1, y1] and polygons in the texts."""
    found = [(match, numbers_in(match)) for text in texts if "[" in text for match in BRACKETS.findall(text)]
    return [numbers for match, numbers in found if is_shape(match, numbers)]


def has_foreign_boxes(text: str) -> bool:
    """Whether a text has boxes in braces or tags, which no list of this project has."""
    return "<" in text and (_BRACES.search(text) is not None or _TAGGED.search(text) is not None)


def guess_convention(shapes: Sequence[Shape]) -> tuple[Convention, str]:
    """The convention of a source's boxes [x0, y0, x1, y1], and the numbers that led to it."""
    numbers = [value for shape in shapes for value in shape]
    if not numbers:
        return "0-1000", "no boxes [x0, y0, x1, y1]"
    largest = max(numbers)
    seen = f"{len(shapes)} boxes [x0, y0, x1, y1] were examined, their largest coordinate is {largest:g}"
    if largest <= 1 and any(value != int(value) for value in numbers):
        return "0-1", seen
    if largest > 1000:
        return "pixels", seen
    if 1 < largest <= 100 and len(shapes) >= _MIN_BOXES:
        return "0-100", seen
    return "0-1000", seen


def _rotated(corners: Shape, angle: float) -> Shape:
    """GeoChat's box and angle as a rotated box; as corners if it is not turned."""
    x0, y0, x1, y1 = corners
    if angle % 180 == 0:
        return corners
    return ((x0 + x1) / 2, (y0 + y1) / 2, abs(x1 - x0), abs(y1 - y0), angle)


def _points(shape: Shape) -> list[tuple[float, float]]:
    """The two corners of a box, or the points of a polygon."""
    if len(shape) == 5:
        cx, cy, width, height, degrees = shape
        if degrees % 90 == 0:
            across, along = (width, height) if degrees % 180 == 0 else (height, width)
            return [(cx - across / 2, cy - along / 2), (cx + across / 2, cy + along / 2)]
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        corners = [(-width, -height), (width, -height), (width, height), (-width, height)]
        return [(cx + (cos * x - sin * y) / 2, cy + (sin * x + cos * y) / 2) for x, y in corners]
    if len(shape) < 4 or len(shape) % 2:
        raise RecordError("bad_number", f"{list(shape)} is neither a box nor a polygon")
    return list(zip(shape[::2], shape[1::2], strict=True))


def _fraction(point: tuple[float, float], convention: Convention, size: tuple[int, int] | None) -> tuple[float, float]:
    if convention != "pixels":
        side = _SIDES[convention]
        return point[0] / side, point[1] / side
    if size is None:
        raise RecordError("image_size", "boxes in pixels need the image's size: give --images, or width and height")
    return point[0] / size[0], point[1] / size[1]


def _place(fraction: tuple[float, float], size: tuple[int, int] | None, pixels: bool) -> tuple[int, int]:
    x, y = (min(max(value, 0.0), 1.0) for value in fraction)
    if not pixels:
        return min(round(1000 * x), 999), min(round(1000 * y), 999)
    if size is None:
        raise RecordError("image_size", "boxes of evaluation files are in pixels: the image's size is needed")
    return round(x * size[0]), round(y * size[1])
