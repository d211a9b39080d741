"""What is kept of every image: brightness, whether it is blank, and a hash and a thumbnail for finding duplicates.

At most 256 rows of an image are read, spread evenly, so that the cost hardly grows with the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vhm.data.images.resize import compiled
from vhm.data.validation.similarity.hashes import CELLS, hash_of, low_coefficients

BLANK_SHARE = 0.995  # of an image's pixels; a ship of 20×20 pixels on calm water is more than the rest of 256×256
BLANK_LEVELS = 5  # neighbouring grey levels: JPEG spreads a uniform colour over fewer, calm water over more

_MAX_ROWS = 8  # of one cell


@dataclass(frozen=True)
class ImageSummary:
    """`brightness` is the mean grey level (0–255), `thumbnail` the 32×32 grey levels, row by row.

    `blank` images show nothing: at least 99.5 % of their pixels have one colour, which may stand for no data.
    `hash` has 64 bits; those of near-duplicates differ in few.
    """

    brightness: float
    blank: bool
    hash: int
    thumbnail: bytes


def summarise(pixels: NDArray[np.uint8]) -> ImageSummary:
    """The summary of an image, uint8 [H, W, 3]."""
    cells, histogram = _summarise(np.ascontiguousarray(pixels).reshape(len(pixels), -1), _rows(len(pixels)))
    return ImageSummary(
        brightness=float(cells.mean()),
        blank=_is_blank(histogram),
        hash=int(hash_of(low_coefficients(cells))),
        thumbnail=np.rint(cells).astype(np.uint8).tobytes(),
    )


def _rows(height: int) -> NDArray[np.int64]:
    """The rows that are read: the same number, at most 8, in each of the 32 rows of cells."""
    count = CELLS * min(max(height // CELLS, 1), _MAX_ROWS)
    return (2 * np.arange(count) + 1) * height // (2 * count)


@compiled
def _summarise(pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The mean grey level of each of 32×32 cells, and the histogram of an eighth of the pixels that were read.

    `pixels` are [H, W·3]: one loop over all bytes of a row is vectorised.
    """
    length = pixels.shape[1]
    width = length // 3
    cells = np.empty((CELLS, CELLS), np.float32)
    histogram = np.zeros(256, np.int64)
    sums = np.empty(length, np.uint16)
    per_cell = rows.size // CELLS
    for cell_row in range(CELLS):
        sums[:] = 0
        for index in range(cell_row * per_cell, (cell_row + 1) * per_cell):
            row = pixels[rows[index]]
            for x in range(length):
                sums[x] += row[x]
            for x in range(3 * (index & 7), length, 24):
                histogram[(77 * row[x] + 150 * row[x + 1] + 29 * row[x + 2]) >> 8] += 1
        for cell in range(CELLS):
            first = cell * width // CELLS
            last = max((cell + 1) * width // CELLS, first + 1)
            total = 0
            for x in range(3 * first, 3 * last, 3):
                total += 77 * int(sums[x]) + 150 * int(sums[x + 1]) + 29 * int(sums[x + 2])
            cells[cell_row, cell] = total / (256 * per_cell * (last - first))
    return cells, histogram


def _is_blank(histogram: NDArray[np.int64]) -> bool:
    nearly_equal = np.convolve(histogram, np.ones(BLANK_LEVELS, np.int64)).max()
    return bool(nearly_equal >= BLANK_SHARE * histogram.sum())
