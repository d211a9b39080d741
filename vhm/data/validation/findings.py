"""What is found by comparing images: leaks of evaluation images into training lists, and suspicious training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LeakKind = Literal["identical", "re-encoded", "transformed", "part", "overlap"]
SuspicionKind = Literal["near-duplicate", "blank"]
FindingKind = LeakKind | SuspicionKind
Outline = tuple[tuple[float, float], ...]  # corners (x, y) of a polygon, as fractions of an image's width and height


@dataclass(frozen=True)
class Leak:
    """A training image shows what the evaluation image `evaluation` shows.

    identical     the same bytes
    re-encoded    the same image in another file: other format, quality, resolution or brightness
    transformed   the same image mirrored, rotated, inverted or padded
    part          one image is a part of the other
    overlap       the images share at least half of the smaller one's area

    `score` is the confidence in [0, 1]; `matched_area` the shared fraction of the smaller image's area. `outline` is
    the shared area in the training image, `evaluation_outline` in the evaluation image; empty if it is everything.
    """

    evaluation: str
    kind: LeakKind
    score: float
    matched_area: float = 1.0
    outline: Outline = ()
    evaluation_outline: Outline = ()
