"""Near-duplicates among many images, by their 64-bit hashes and 32×32 thumbnails.

Two hashes that differ in at most 7 of 64 bits share one of four words of 16 bits, or differ by one bit in it
(multi-index hashing, Norouzi et al. 2012). A pair is confirmed by the correlation of its thumbnails and of their
details.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vhm.data.images.resize import compiled
from vhm.data.validation.similarity.hashes import CELLS, hamming

MAX_DISTANCE = 7  # bits
MIN_CORRELATION = 0.97  # of two thumbnails
MIN_DETAIL_CORRELATION = 0.85  # of their differences between neighbouring cells
MIN_CONTRAST = 1.5  # standard deviation in grey levels: uniform images are duplicates of nothing

_MAX_CANDIDATES = 64  # images whose hashes are near that an image is compared with …
_MAX_HASHES = 20_000  # … and hashes that it is compared with for one word: more are as common as calm water
_CERTAIN = 0.999  # a correlation that needs no better one
_BATCH = 100_000
_FLIPS = np.array([0, *(1 << bit for bit in range(16))], np.uint16)


def near_duplicates(hashes: NDArray[np.uint64], thumbnails: NDArray[np.uint8]) -> Iterator[tuple[int, int, float]]:
    """(later index, earlier index, score) of each image that nearly equals an earlier one, in the order of images.

    Each image is reported at most once, with the earlier image that it resembles most. `hashes` are [N] and
    `thumbnails` [N, 32, 32], as `summarise` gives them; the score is the correlation of two thumbnails, 0 to 1.
    """
    words = np.ascontiguousarray(hashes).view(np.uint16).reshape(-1, 4)
    order = np.stack([np.argsort(words[:, word], kind="stable").astype(np.int32) for word in range(4)])
    counts = np.stack([np.bincount(words[:, word], minlength=1 << 16) for word in range(4)])
    starts = np.concatenate([np.zeros((4, 1), np.int64), np.cumsum(counts, 1)], 1).astype(np.int32)
    for first in range(0, len(hashes), _BATCH):
        last = min(first + _BATCH, len(hashes))
        earlier, scores = _nearest(hashes, thumbnails.reshape(-1, CELLS, CELLS), order, starts, _FLIPS, first, last)
        for index in np.flatnonzero(earlier >= 0).tolist():
            yield first + index, int(earlier[index]), float(scores[index])


@compiled
def _nearest(
    hashes: NDArray[np.uint64],
    thumbnails: NDArray[np.uint8],
    order: NDArray[np.int32],
    starts: NDArray[np.int32],
    flips: NDArray[np.uint16],
    first: int,
    last: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The best earlier image, or -1, and its score, for each image from `first` to `last`."""
    earlier = np.full(last - first, -1, np.int64)
    scores = np.zeros(last - first, np.float32)
    for index in range(first, last):
        if not _has_contrast(thumbnails[index]):
            continue
        compared = 0
        for flip in flips:
            for word in range(4):
                value = np.int64((hashes[index] >> np.uint64(16 * word)) & np.uint64(0xFFFF) ^ np.uint64(flip))
                start = starts[word, value]
                for position in range(start, min(starts[word, value + 1], start + _MAX_HASHES)):
                    other = order[word, position]
                    if other >= index or compared == _MAX_CANDIDATES:  # a word's images are in their order
                        break
                    if hamming(hashes[index], hashes[other]) > MAX_DISTANCE:
                        continue
                    compared += 1
                    score = _similarity(thumbnails[index], thumbnails[other])
                    if score > scores[index - first]:
                        earlier[index - first], scores[index - first] = other, score
            if compared == _MAX_CANDIDATES or scores[index - first] > _CERTAIN:
                break
    return earlier, scores


@compiled
def _has_contrast(thumbnail: NDArray[np.uint8]) -> bool:
    total, squares = 0, 0
    for value in thumbnail.ravel():
        total += int(value)
        squares += int(value) * int(value)
    variance = squares / thumbnail.size - (total / thumbnail.size) ** 2
    return bool(variance >= MIN_CONTRAST**2)


@compiled
def _similarity(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """The correlation of two thumbnails; 0 when it or that of their details is too small."""
    detail = np.zeros(5)
    whole = np.zeros(5)
    for y in range(31):
        for x in range(31):
            a, b = float(one[y, x]), float(other[y, x])
            _add(whole, a, b)
            _add(detail, a - one[y, x + 1], b - other[y, x + 1])
            _add(detail, a - one[y + 1, x], b - other[y + 1, x])
    correlation = _correlation(whole, 961)
    if correlation < MIN_CORRELATION or _correlation(detail, 1922) < MIN_DETAIL_CORRELATION:
        return 0.0
    return min(correlation, 1.0)


@compiled
def _add(sums: NDArray[np.float64], a: float, b: float) -> None:
    sums[0] += a
    sums[1] += b
    sums[2] += a * a
    sums[3] += b * b
    sums[4] += a * b


@compiled
def _correlation(sums: NDArray[np.float64], count: int) -> float:
    variances = (sums[2] - sums[0] ** 2 / count) * (sums[3] - sums[1] ** 2 / count)
    return float((sums[4] - sums[0] * sums[1] / count) / np.sqrt(variances)) if variances > 0 else 0.0
