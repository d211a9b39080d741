"""Perceptual hashes of 64 bits: the signs of the lowest 8×8 DCT coefficients around their median (Zauner 2010).

Hashes near another are found by multi-index hashing (Norouzi et al. 2012): of two hashes that differ in at most 11
bits, one of four words of 16 bits differs in at most 2.
"""

from __future__ import annotations

import functools
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from vhm.data.images.resize import compiled

CELLS = 32  # pixels of a side of the thumbnail that is hashed
MAX_DISTANCE = 11  # bits

_COEFFICIENTS = 8  # of a side
_SIGNS = np.where(np.arange(_COEFFICIENTS) % 2, -1, 1).astype(np.float32)
_MAX_MATCHES = 20_000  # hashes near one hash


def _cosines() -> NDArray[np.float32]:
    """The lowest rows [8, 32] of the orthonormal DCT-II: scipy.fft has it, but takes half a second to import."""
    row, column = np.ogrid[:_COEFFICIENTS, :CELLS]
    norm = np.where(row, np.sqrt(2 / CELLS), np.sqrt(1 / CELLS))
    return np.asarray(np.cos(np.pi * row * (2 * column + 1) / (2 * CELLS)) * norm, np.float32)


_COSINES = _cosines()


def low_coefficients(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """The lowest DCT coefficients [8, 8] of a thumbnail [32, 32]."""
    return np.asarray(_COSINES @ cells @ _COSINES.T, np.float32)


def hash_of(coefficients: NDArray[np.float32]) -> np.uint64:
    """The hash of an image with these coefficients [8, 8]."""
    flat = coefficients.ravel()
    bits = flat > np.partition(flat[1:], 31)[31]
    return np.uint64(np.packbits(bits, bitorder="little").view(np.uint64)[0])


def oriented(coefficients: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The coefficients of an image rotated by 0°, 90°, 180° and 270° anticlockwise, then of its mirror image, then of
    the negatives of these 8."""
    orientations = []
    for rotated in (coefficients, coefficients * _SIGNS[None, :]):  # mirroring negates odd columns
        for _ in range(4):
            orientations.append(rotated)
            rotated = rotated.T * _SIGNS[:, None]  # rotating by 90° anticlockwise transposes and negates odd rows
    negatives = [-rotated for rotated in orientations]
    for negative, rotated in zip(negatives, orientations, strict=True):
        negative[0, 0] = rotated[0, 0]  # the mean of a negative is positive, too
    return orientations + negatives


@compiled
def hamming(one: np.uint64, other: np.uint64) -> int:
    """The number of bits in which two hashes differ."""
    differ = one ^ other
    differ -= differ >> np.uint64(1) & np.uint64(0x5555555555555555)
    differ = (differ & np.uint64(0x3333333333333333)) + (differ >> np.uint64(2) & np.uint64(0x3333333333333333))
    differ = (differ + (differ >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int(differ * np.uint64(0x0101010101010101) >> np.uint64(56))


class HashIndex:
    """64-bit hashes [N]; finds those within `MAX_DISTANCE` bits of another."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self._hashes = hashes
        words = hashes.view(np.uint16).reshape(-1, 4)
        self._order = np.stack([np.argsort(words[:, word], kind="stable").astype(np.int32) for word in range(4)])
        counts = np.stack([np.bincount(words[:, word], minlength=1 << 16) for word in range(4)])
        self._starts = np.concatenate([np.zeros((4, 1), np.int32), np.cumsum(counts, 1, np.int32)], 1)
        # Most words are in no hash: a table of one bit per word fits in the processor's first-level cache.
        self._present = np.packbits(counts > 0, axis=1, bitorder="little")

    def find(self, hash_: np.uint64) -> NDArray[np.int64]:
        """The positions of the hashes near `hash_`, the nearest first, then in their order."""
        matches = np.empty(_MAX_MATCHES, np.int64)
        for limit in range(MAX_DISTANCE, -1, -1):
            count = _probe(self._hashes, self._order, self._starts, self._present, hash_, _flips(), limit, matches)
            if count < _MAX_MATCHES:  # otherwise the nearest may be among those that did not fit
                break
        return np.unique(matches[:count]) & 0xFFFFFFFF  # a near hash shares several words


@functools.cache
def _flips() -> NDArray[np.uint16]:
    """All words of 16 bits with at most two bits set."""
    return np.array([sum(1 << b for b in bits) for n in range(3) for bits in combinations(range(16), n)], np.uint16)


@compiled
def _probe(
    hashes: NDArray[np.uint64],
    order: NDArray[np.int32],
    starts: NDArray[np.int32],
    present: NDArray[np.uint8],
    hash_: np.uint64,
    flips: NDArray[np.uint16],
    limit: int,
    matches: NDArray[np.int64],
) -> int:
    """Fill `matches` with distance · 2³² + position; return how many there are."""
    count = 0
    for word in range(4):
        own = (hash_ >> np.uint64(16 * word)) & np.uint64(0xFFFF)
        for flip in flips:
            value = int(own ^ np.uint64(flip))
            if not present[word, value >> 3] >> (value & 7) & 1:
                continue
            for place in range(starts[word, value], starts[word, value + 1]):
                position = order[word, place]
                bits = hamming(hashes[position], hash_)
                if bits <= limit:
                    matches[count] = bits << 32 | int(position)
                    count += 1
                    if count == len(matches):
                        return count
    return count
