"""95 % intervals of a metric over n answers, and of the difference between two models on the same questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vhm.evaluate.answer_types.base import PrimaryKind


@dataclass(frozen=True)
class Margin:
    """Difference of two means over the same rows, with its 95 % interval."""

    value: float
    low: float
    high: float


def interval(values: Sequence[float], kind: PrimaryKind) -> tuple[float, float]:
    """The 95 % interval of the mean of `values` in [0, 1]: Wilson's for a proportion, Student's t for other means."""
    return wilson(float(np.mean(values)), len(values)) if kind == "proportion" else mean_interval(values)


def wilson(proportion: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    centre = (proportion + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(max(proportion * (1 - proportion), 0) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of values in [0, 1] by Student's t, clipped to [0, 1]; (0, 1) below two values.

    Where all values are 0 or all are 1, they are a proportion, and Wilson's interval is used: Student's would have no
    width, as if nothing else could happen.
    """
    from scipy.special import stdtrit  # scipy is slow to import

    n = len(values)
    if n < 2:
        return 0.0, 1.0
    mean = float(np.mean(values))
    if mean in (0.0, 1.0):
        return wilson(mean, n)
    half = float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(n))
    return max(0.0, mean - half), min(1.0, mean + half)


def paired_margin(values: Sequence[float], baseline: Sequence[float], resamples: int = 2000, seed: int = 0) -> Margin:
    """Mean of `values` minus mean of `baseline`, both over the same rows; percentile bootstrap."""
    difference = np.asarray(values, float) - np.asarray(baseline, float)
    generator = np.random.Generator(np.random.PCG64(seed))
    means = difference[generator.integers(0, len(difference), (resamples, len(difference)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Margin(float(difference.mean()), float(low), float(high))
