"""Perceptual hashes of 64 bits: the signs of the lowest 8×8 DCT coefficients around their median (Zauner 2010)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

from vhm.data.images.resize import compiled

CELLS = 32  # pixels of a side of the thumbnail that is hashed
COEFFICIENTS = 8  # of a side
_COSINES: NDArray[np.float32] = dct(np.eye(CELLS), axis=0, norm="ortho")[:COEFFICIENTS].astype(np.float32)


def perceptual_hash(cells: NDArray[np.float32]) -> np.uint64:
    """The hash of a thumbnail [32, 32]."""
    flat = (_COSINES @ cells @ _COSINES.T).ravel()
    bits = flat > np.partition(flat[1:], 31)[31]
    return np.uint64(np.packbits(bits, bitorder="little").view(np.uint64)[0])


@compiled
def hamming(one: np.uint64, other: np.uint64) -> int:
    """The number of bits in which two hashes differ."""
    differ = one ^ other
    differ -= differ >> np.uint64(1) & np.uint64(0x5555555555555555)
    differ = (differ & np.uint64(0x3333333333333333)) + (differ >> np.uint64(2) & np.uint64(0x3333333333333333))
    differ = (differ + (differ >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int(differ * np.uint64(0x0101010101010101) >> np.uint64(56))
