"""Intervals: what a figure on n answers can be trusted to say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Margin:
    """Difference of two means over the same rows, with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(mean: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(max(mean * (1 - mean), 0) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_margin(values: Sequence[float], baseline: Sequence[float], resamples: int = 2000, seed: int = 0) -> Margin:
    """Mean of `values` minus mean of `baseline`, row by row the same questions; percentile bootstrap."""
    difference = np.asarray(values, float) - np.asarray(baseline, float)
    generator = np.random.Generator(np.random.PCG64(seed))
    draws = difference[generator.integers(0, len(difference), (resamples, len(difference)))].mean(1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Margin(float(difference.mean()), float(low), float(high))
