"""What is found by comparing images: leaks of evaluation images into training lists, and suspicious training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

LeakKind = Literal["identical", "re-encoded", "transformed", "part", "overlap"]
SuspicionKind = Literal["near-duplicate", "blank"]
FindingKind = LeakKind | SuspicionKind
LEAK_KINDS: tuple[LeakKind, ...] = get_args(LeakKind)
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


@dataclass(frozen=True)
class LeakLine:
    """One line of leaks.jsonl: the image of record `index` shows an evaluation image. `rejected`: for that reason."""

    index: int
    image: str
    evaluation_image: str
    kind: LeakKind
    score: float
    matched_area: float
    outline: Outline
    evaluation_outline: Outline
    rejected: bool


@dataclass(frozen=True)
class SuspicionLine:
    """One line of suspicious.jsonl: the image of record `index` is blank, or nearly equals an earlier record's image.

    `other_index` and `other_image` are that record and its image; `score` is the similarity in [0, 1].
    """

    index: int
    image: str
    kind: SuspicionKind
    other_index: int | None
    other_image: str | None
    score: float
    rejected: bool


@dataclass(frozen=True)
class FindingCount:
    """Numbers of records with a kind of finding: all of them, and those that are rejected because of it."""

    found: int
    rejected: int


@dataclass(frozen=True)
class Comparison:
    """What the images of the lists were compared with.

    `lists` are the evaluation lists, `stores` where their images were read from. `evaluation_images` were named by
    them, of which `unreadable` could not be read (`examples` has the first ones with the reason). `training_images`
    were compared with the others.
    """

    lists: tuple[str, ...]
    stores: tuple[str, ...]
    evaluation_images: int
    unreadable: int
    examples: tuple[str, ...]
    training_images: int
