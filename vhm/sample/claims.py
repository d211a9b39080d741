"""What the labels of a chip prove: each rule returns an answer, or None if nothing can be proven.

Rules: absence is never claimed of what the labels do not cover; thresholds have a margin on both sides; an object
that the chip's edge truncates is neither counted nor absent; grounding needs an object that is clearly the largest;
positions near a boundary between two answers are not asked.
"""

from __future__ import annotations

import numpy as np

from vhm.sample.chips import Chip
from vhm.sample.scenes import Label

Box = tuple[float, float, float, float]


def present(chip: Chip, name: str) -> bool | None:
    """Return whether an object or a land cover is in the chip."""
    if name in chip.cover:
        low, high = chip.cover[name]
        return True if low >= 0.10 else False if high <= 0.005 else None
    if any(label.name == name for label in chip.labels):
        return True
    return False if name in chip.absent else None


def count(chip: Chip, name: str) -> int | None:
    """Return how many objects lie completely inside the chip; None if the labels may miss some."""
    if name not in chip.complete:
        return None
    number = sum(label.name == name for label in chip.labels)
    return number if number or name in chip.absent else None


def clearly_largest(chip: Chip, name: str, ratio: float = 1.25) -> Label | None:
    """Return the only object of its kind, or the one whose box is at least `ratio` times larger than any other.

    Truncated objects and buildings under trees are compared, too, but are never the answer.
    """
    candidates = [label for label in (*chip.labels, *chip.truncated) if label.name in (name, f"hidden {name}")]
    candidates.sort(key=lambda label: -area(label.box))
    if not candidates or (len(candidates) > 1 and area(candidates[0].box) < ratio * area(candidates[1].box)):
        return None
    return candidates[0] if candidates[0].name == name and candidates[0] in chip.labels else None


def nearest_centre(chip: Chip, name: str, margin: float = 0.08) -> Label | None:
    """Return the object whose centre is nearest to the chip's centre, by at least `margin` of the chip's side."""

    def distance(label: Label) -> float:
        x0, y0, x1, y1 = label.box
        return float(np.hypot((x0 + x1) / 2 - chip.size / 2, (y0 + y1) / 2 - chip.size / 2))

    if name not in chip.complete:
        return None
    candidates = sorted((label for label in (*chip.labels, *chip.truncated) if label.name == name), key=distance)
    if not candidates or candidates[0] not in chip.labels:
        return None
    if len(candidates) > 1 and distance(candidates[1]) < distance(candidates[0]) + margin * chip.size:
        return None
    return candidates[0]


def distinct_point(chip: Chip, label: Label) -> list[int] | None:
    """Return the normalised centre of the object's box; None if it lies in another box, too."""
    x, y = (label.box[0] + label.box[2]) / 2, (label.box[1] + label.box[3]) / 2
    others = (other.box for other in (*chip.labels, *chip.truncated) if other is not label)
    if any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in others):
        return None
    return normalised(chip, (x, y, x, y))[:2]


def grid_cell(chip: Chip, box: Box) -> str | None:
    """Return the cell of a 3×3 grid that holds the box's centre ("top left", …, "centre"); None near a grid line."""
    names = []
    for centre, words in (
        ((box[1] + box[3]) / 2, ("top", "", "bottom")),
        ((box[0] + box[2]) / 2, ("left", "", "right")),
    ):
        position = 3 * centre / chip.size
        if min(abs(position - 1), abs(position - 2)) < 0.2:
            return None
        names.append(words[min(int(position), 2)])
    return " ".join(filter(None, names)) or "centre"


def densest_quadrant(chip: Chip, name: str) -> str | None:
    """Return the quarter of the chip that has at least two more objects than any other."""
    if name not in chip.complete:
        return None
    counts = {"top left": 0, "top right": 0, "bottom left": 0, "bottom right": 0}
    for box in (label.box for label in (*chip.labels, *chip.truncated) if label.name == name):
        x, y = ((max(a, 0) + min(b, chip.size)) / 2 for a, b in ((box[0], box[2]), (box[1], box[3])))
        counts[f"{'top' if y < chip.size / 2 else 'bottom'} {'left' if x < chip.size / 2 else 'right'}"] += 1
    first, second = sorted(counts.values())[:-3:-1]
    return max(counts, key=lambda name: counts[name]) if first >= second + 2 else None


def direction(chip: Chip, box: Box, other: Box) -> str | None:
    """Return where `box` lies relative to `other`: left, right, above or below; None if diagonal or close."""
    dx = (box[0] + box[2] - other[0] - other[2]) / 2
    dy = (box[1] + box[3] - other[1] - other[3]) / 2
    far, near = max(abs(dx), abs(dy)), min(abs(dx), abs(dy))
    if far < 0.15 * chip.size or far < 1.7 * near:
        return None
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "below" if dy > 0 else "above"


def larger_cover(chip: Chip, first: str, second: str, margin: float = 0.1) -> bool | None:
    """Return whether `first` covers more of the chip than `second`; None if their bounds overlap."""
    if first not in chip.cover or second not in chip.cover:
        return None
    (low1, high1), (low2, high2) = chip.cover[first], chip.cover[second]
    return True if low1 > high2 + margin else False if low2 > high1 + margin else None


def mostly_water(chip: Chip) -> bool | None:
    """Return whether water covers more than half, by its bounds or because a person labelled the area as dry."""
    low, high = chip.cover.get("water", (0.0, 1.0))
    if low >= 0.65:
        return True
    dry = chip.scene_class in ("forest", "meadow", "farmland", "city", "residential", "barren land")
    return False if high <= 0.35 or dry else None


def more_trees_left(chip: Chip) -> bool | None:
    """Return whether the left half has more tree crowns than the right; None unless one has 2 and 50 % more."""
    if "tree" not in chip.complete:
        return None
    trees = [label.box for label in (*chip.labels, *chip.truncated) if label.name == "tree"]
    centres = [(max(box[0], 0) + min(box[2], chip.size)) / 2 / chip.size for box in trees]
    left, right = sum(c < 0.5 for c in centres), sum(c > 0.5 for c in centres)
    few, many = min(left, right), max(left, right)
    return left > right if many >= few + 2 and many >= 1.5 * few else None


_HUES = ((10, 45, "brown"), (50, 95, "green"), (100, 150, "blue"))


def dominant_colour(chip: Chip) -> str | None:
    """Return the colour of at least 60 % of the pixels; None if there is none, or the image is not natural-colour."""
    if chip.modality != "natural-colour":
        return None
    from PIL import Image

    hue, saturation, value = np.moveaxis(np.asarray(Image.fromarray(chip.pixels).convert("HSV")), -1, 0)
    coloured = (saturation > 60) & (value > 40)
    for low, high, name in _HUES:
        if (coloured & (hue >= low) & (hue < high)).mean() >= 0.6:
            return name
    return "black" if (value < 45).mean() >= 0.85 else None


def normalised(chip: Chip, box: Box) -> list[int]:
    """Return a pixel box with integer coordinates normalised to [0, 1000)."""
    return [min(999, max(0, round(1000 * v / chip.size))) for v in box]


def metres(chip: Chip, box: Box) -> tuple[float, float]:
    """Return the width and height of a pixel box on the ground, in metres."""
    return (box[2] - box[0]) * chip.gsd, (box[3] - box[1]) * chip.gsd


def area(box: Box) -> float:
    """Return the area of a box in square pixels."""
    return (box[2] - box[0]) * (box[3] - box[1])
