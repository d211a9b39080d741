"""Pillow's bicubic `Image.resize` to the last bit, 2 to 3 times as fast.

Pillow (libImaging/Resample.c) filters rows, rounds to 8 bits, then filters columns, with coefficients of 22 bits.
Both passes here are sums over whole runs of memory, which the compiler turns into vector instructions: rows are
taken in blocks that are turned by 90° first.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

_BITS = 22  # PRECISION_BITS: 32 bits less 8 for the result and 2 to spare
_BLOCK = 64  # rows turned at a time


def bicubic(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] resized to [height, width, 3], both sides by the same factor.

    (Pillow's order of the passes, and with it the last bit, depends on the shape where the factors differ.)
    """
    rows, columns = pixels.shape[:2]
    if rows > 2 * columns and height < rows:  # what Pillow does with tall pictures
        return _narrowed(_shortened(pixels, height), width)
    return _shortened(_narrowed(pixels, width), height)


def _narrowed(pixels: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    rows, columns = pixels.shape[:2]
    if columns == width:
        return pixels
    made = np.empty((rows, width, 3), np.uint8)
    flat = np.ascontiguousarray(pixels).reshape(rows, columns * 3)
    _filter_rows(flat, *_coefficients(columns, width), made.reshape(rows, width * 3))
    return made


def _shortened(pixels: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    rows, columns = pixels.shape[:2]
    if rows == height:
        return pixels
    made = np.empty((height, columns, 3), np.uint8)
    flat = np.ascontiguousarray(pixels).reshape(rows, columns * 3)
    _filter_columns(flat, *_coefficients(rows, height), made.reshape(height, columns * 3))
    return made


@functools.lru_cache(256)
def _coefficients(old: int, new: int) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """For each of `new` values: the first of `old` that it sees, how many, and their weights × 2²²."""
    scale = old / new
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    first, count = np.zeros(new, np.int32), np.zeros(new, np.int32)
    weights = np.zeros((new, math.ceil(support) * 2 + 1), np.int32)
    for i in range(new):
        centre = (i + 0.5) * scale
        begin, end = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), old)
        values = [_catmull_rom((x - centre + 0.5) * (1.0 / stretch)) for x in range(begin, end)]
        total = sum(values)
        first[i], count[i] = begin, end - begin
        weights[i, : end - begin] = [int(math.copysign(0.5, v) + v / total * (1 << _BITS)) for v in values]
    return first, count, weights


def _catmull_rom(x: float, a: float = -0.5) -> float:
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def compiled(function: Callable[..., Any]) -> Any:
    """Compiled to machine code on first use and kept on disk, where that can be written."""
    try:
        return numba.njit(function, nogil=True, cache=True)
    except RuntimeError:  # a read-only installation without a home
        return numba.njit(function, nogil=True)


@compiled
def _filter_rows(source: Any, first: Any, count: Any, weights: Any, out: Any) -> None:
    height, width = source.shape
    turned = np.empty((width, _BLOCK), np.uint8)
    made = np.empty((out.shape[1], _BLOCK), np.uint8)
    sums = np.empty(_BLOCK, np.int32)
    for top in range(0, height, _BLOCK):
        rows = min(_BLOCK, height - top)
        for x in range(width):
            for r in range(rows):
                turned[x, r] = source[top + r, x]
        for x in range(out.shape[1]):
            i, channel = x // 3, x % 3
            sums[:] = 1 << (_BITS - 1)
            for k in range(count[i]):
                weight, values = weights[i, k], turned[3 * (first[i] + k) + channel]
                for r in range(_BLOCK):
                    sums[r] += np.int32(values[r]) * weight
            for r in range(_BLOCK):
                made[x, r] = min(max(sums[r] >> _BITS, 0), 255)
        for r in range(rows):
            for x in range(out.shape[1]):
                out[top + r, x] = made[x, r]


@compiled
def _filter_columns(source: Any, first: Any, count: Any, weights: Any, out: Any) -> None:
    width = source.shape[1]
    sums = np.empty(width, np.int32)
    for y in range(out.shape[0]):
        sums[:] = 1 << (_BITS - 1)
        for k in range(count[y]):
            weight, values = weights[y, k], source[first[y] + k]
            for x in range(width):
                sums[x] += np.int32(values[x]) * weight
        for x in range(width):
            out[y, x] = min(max(sums[x] >> _BITS, 0), 255)
