"""What may be said of a chip, and what may not: each rule answers, or returns None for "not provable".

Rules: absence is never claimed over what the labels do not cover; thresholds have a margin on both
sides; a box that the edge cuts is neither counted as whole nor absent; grounding needs an outstanding
object; positions near a boundary between two answers are not asked.
"""

from __future__ import annotations

import numpy as np

from vhm.sample.chips import Chip
from vhm.sample.scenes import Label

Box = tuple[float, float, float, float]


def present(chip: Chip, name: str) -> bool | None:
    """Whether an object or a land cover is in the chip."""
    if name in chip.cover:
        low, high = chip.cover[name]
        return True if low >= 0.10 else False if high <= 0.005 else None
    if any(label.name == name for label in chip.labels):
        return True
    return False if name in chip.absent else None


def count(chip: Chip, name: str) -> int | None:
    """How many objects lie wholly in the chip; None when the labels may miss some."""
    if name not in chip.complete:
        return None
    number = sum(label.name == name for label in chip.labels)
    return number if number or name in chip.absent else None


def outstanding(chip: Chip, name: str, ratio: float = 1.25) -> Label | None:
    """The one object of its kind, or the one whose box is `ratio` times larger than any other.

    Objects that the edge cuts and buildings that trees hide are rivals, too, but never the answer.
    """
    rivals = [label for label in (*chip.labels, *chip.cut) if label.name in (name, f"hidden {name}")]
    rivals.sort(key=lambda label: -area(label.box))
    if not rivals or (len(rivals) > 1 and area(rivals[0].box) < ratio * area(rivals[1].box)):
        return None
    return rivals[0] if rivals[0].name == name and rivals[0] in chip.labels else None


def nearest_centre(chip: Chip, name: str, margin: float = 0.08) -> Label | None:
    """The object whose centre is nearer to the chip's centre than any other's, by `margin` of its side."""

    def distance(label: Label) -> float:
        x0, y0, x1, y1 = label.box
        return float(np.hypot((x0 + x1) / 2 - chip.size / 2, (y0 + y1) / 2 - chip.size / 2))

    if name not in chip.complete:
        return None
    rivals = sorted((label for label in (*chip.labels, *chip.cut) if label.name == name), key=distance)
    if not rivals or rivals[0] not in chip.labels:
        return None
    if len(rivals) > 1 and distance(rivals[1]) < distance(rivals[0]) + margin * chip.size:
        return None
    return rivals[0]


def own_point(chip: Chip, label: Label) -> list[int] | None:
    """The centre of the object's box in thousandths, when it lies in no other box."""
    x, y = (label.box[0] + label.box[2]) / 2, (label.box[1] + label.box[3]) / 2
    others = (other.box for other in (*chip.labels, *chip.cut) if other is not label)
    if any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in others):
        return None
    return thousandths(chip, (x, y, x, y))[:2]


def cell(chip: Chip, box: Box) -> str | None:
    """Where the box's centre lies on a 3×3 grid ("top left", …, "centre"); None near a grid line."""
    names = []
    for centre, words in (
        ((box[1] + box[3]) / 2, ("top", "", "bottom")),
        ((box[0] + box[2]) / 2, ("left", "", "right")),
    ):
        place = 3 * centre / chip.size
        if min(abs(place - 1), abs(place - 2)) < 0.2:
            return None
        names.append(words[min(int(place), 2)])
    return " ".join(filter(None, names)) or "centre"


def densest_quadrant(chip: Chip, name: str) -> str | None:
    """The quarter of the chip with at least two more objects than any other quarter has."""
    if name not in chip.complete:
        return None
    counts = {"top left": 0, "top right": 0, "bottom left": 0, "bottom right": 0}
    for box in (label.box for label in (*chip.labels, *chip.cut) if label.name == name):
        x, y = ((max(a, 0) + min(b, chip.size)) / 2 for a, b in ((box[0], box[2]), (box[1], box[3])))
        counts[f"{'top' if y < chip.size / 2 else 'bottom'} {'left' if x < chip.size / 2 else 'right'}"] += 1
    first, second = sorted(counts.values())[:-3:-1]
    return max(counts, key=lambda name: counts[name]) if first >= second + 2 else None


def direction(chip: Chip, box: Box, other: Box) -> str | None:
    """Where `box` lies seen from `other`: left, right, above or below; None when diagonal or close."""
    dx = (box[0] + box[2] - other[0] - other[2]) / 2
    dy = (box[1] + box[3] - other[1] - other[3]) / 2
    far, near = max(abs(dx), abs(dy)), min(abs(dx), abs(dy))
    if far < 0.15 * chip.size or far < 1.7 * near:
        return None
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "below" if dy > 0 else "above"


def larger_cover(chip: Chip, first: str, second: str, margin: float = 0.1) -> bool | None:
    """Whether `first` covers more of the chip than `second`, where the bounds leave no doubt."""
    if first not in chip.cover or second not in chip.cover:
        return None
    (low1, high1), (low2, high2) = chip.cover[first], chip.cover[second]
    return True if low1 > high2 + margin else False if low2 > high1 + margin else None


def mostly_water(chip: Chip) -> bool | None:
    """Whether water covers over half: by its bounds, or because a person named the area otherwise."""
    low, high = chip.cover.get("water", (0.0, 1.0))
    if low >= 0.65:
        return True
    dry = chip.scene_class in ("forest", "meadow", "farmland", "city", "residential", "barren land")
    return False if high <= 0.35 or dry else None


def more_trees_left(chip: Chip) -> bool | None:
    """Whether the left half has at least two more tree crowns, and half as many again, than the right."""
    if "tree" not in chip.complete:
        return None
    trees = [label.box for label in (*chip.labels, *chip.cut) if label.name == "tree"]
    centres = [(max(box[0], 0) + min(box[2], chip.size)) / 2 / chip.size for box in trees]
    left, right = sum(c < 0.5 for c in centres), sum(c > 0.5 for c in centres)
    few, many = min(left, right), max(left, right)
    return left > right if many >= few + 2 and many >= 1.5 * few else None


_HUES = ((10, 45, "brown"), (50, 95, "green"), (100, 150, "blue"))


def dominant_colour(chip: Chip) -> str | None:
    """The colour that at least 60 % of the pixels have; None when none has, or in doubt of the display."""
    if chip.modality != "natural-colour":
        return None
    from PIL import Image

    hue, saturation, value = np.moveaxis(np.asarray(Image.fromarray(chip.pixels).convert("HSV")), -1, 0)
    coloured = (saturation > 60) & (value > 40)
    for low, high, name in _HUES:
        if (coloured & (hue >= low) & (hue < high)).mean() >= 0.6:
            return name
    return "black" if (value < 45).mean() >= 0.85 else None


def thousandths(chip: Chip, box: Box) -> list[int]:
    """A pixel box as integers in [0, 1000) thousandths of the chip's sides."""
    return [min(999, max(0, round(1000 * v / chip.size))) for v in box]


def metres(chip: Chip, box: Box) -> tuple[float, float]:
    """Width and height of a pixel box on the ground, in metres."""
    return (box[2] - box[0]) * chip.gsd, (box[3] - box[1]) * chip.gsd


def area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
