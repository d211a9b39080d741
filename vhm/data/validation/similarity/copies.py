"""Finds the evaluation images that resemble an image as a whole, in any of 8 orientations, or as its negative.

Images are compared by perceptual hashes of their content: without borders of one colour, and with no-data replaced by
the mean of the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vhm.data.validation.similarity.fingerprint import Box, View, content_box
from vhm.data.validation.similarity.hashes import CELLS, HashIndex, hash_of, low_coefficients, oriented

Matrix = NDArray[np.float64]

ORIENTATIONS = 16  # 4 rotations, of the image and of its mirror image, then the same of its negative
_MAX_CANDIDATES = 4  # that are compared


@dataclass(frozen=True)
class Content:
    """The lowest DCT coefficients [8, 8] of an image's content, and the box that it fills."""

    coefficients: NDArray[np.float32]
    box: Box


@dataclass(frozen=True)
class Copy:
    """Evaluation image `number` resembles an image when it is mirrored first, if at all, and moved by `matrix`."""

    number: int
    mirrored: bool
    inverted: bool
    matrix: Matrix


def content(image: View) -> Content | None:
    """The content of an image; None if it has hardly any."""
    import cv2

    box = content_box(image.valid)
    if box is None:
        return None
    left, top, right, bottom = box
    grey, valid = image.grey[top:bottom, left:right], image.valid[top:bottom, left:right]
    if not valid.all():
        grey = np.where(valid, grey, np.uint8(grey[valid != 0].mean()))
    cells = cv2.resize(grey.astype(np.float32), (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    return Content(low_coefficients(np.asarray(cells, np.float32)), box)


class CopyFinder:
    """Looks images up among the contents of evaluation images; None stands for an image without content."""

    def __init__(self, contents: Sequence[Content | None], sizes: Sequence[tuple[int, int]]) -> None:
        self._numbers = [number for number, found in enumerate(contents) if found is not None]
        self._contents = [found for found in contents if found is not None]
        self._sizes = sizes
        hashes = [hash_of(turned) for found in self._contents for turned in oriented(found.coefficients)]
        self._index = HashIndex(np.array(hashes, np.uint64))

    def find(self, image: Content) -> Iterator[Copy]:
        """The evaluation images whose hashes are nearest, nearest first."""
        for place in self._index.find(hash_of(image.coefficients))[:_MAX_CANDIDATES].tolist():
            position, orientation = divmod(place, ORIENTATIONS)
            number, other = self._numbers[position], self._contents[position]
            mirrored, turns = bool(orientation // 4 % 2), orientation % 4
            box = _mirrored(other.box, self._sizes[number][0]) if mirrored else other.box
            yield Copy(number, mirrored, orientation >= 8, _box_to_box(box, image.box, turns))


def _mirrored(box: Box, width: int) -> Box:
    return width - box[2], box[1], width - box[0], box[3]


def _box_to_box(box: Box, onto: Box, turns: int) -> Matrix:
    """[2, 3]: maps one box onto another, rotated anticlockwise by `turns` · 90°."""
    import cv2

    def corners(box: Box) -> NDArray[np.float32]:
        left, top, right, bottom = box
        return np.array([(left, top), (left, bottom), (right, bottom), (right, top)], np.float32)

    turned = np.roll(corners(onto), -turns, axis=0)
    return np.asarray(cv2.getAffineTransform(corners(box)[:3], turned[:3]), np.float64)
