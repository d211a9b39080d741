"""Histograms and a density map as geometry for the template, which draws them as SVG; coordinates are SVG units."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 380, 200
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 42  # margins around the plot
_PLOT_WIDTH, _PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
_BINS = 24
_MAX_DISTINCT = 12  # so many different integers get a bar each
_CELLS = 16  # of a density map's sides

Scale = Literal["linear", "log"]


@dataclass(frozen=True)
class Bar:
    """One bar; `label` says its range and count."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Histogram:
    """`axis` is the label of the horizontal axis with its unit, `counted` that of the vertical one."""

    title: str
    axis: str
    counted: str
    summary: str
    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Cell:
    """One cell of a density map; `x` and `y` count cells, `share` is relative to the fullest cell."""

    x: int
    y: int
    share: float
    label: str


@dataclass(frozen=True)
class DensityMap:
    """How often something is where in an image; the cells that are not empty."""

    title: str
    summary: str
    side: int
    cells: tuple[Cell, ...]


def histogram(
    title: str, values: NDArray[np.generic], axis: str, counted: str, unit: str = "", scale: Scale = "linear"
) -> Histogram | None:
    """The histogram of finite numbers; None if there are none. A logarithmic one leaves numbers ≤ 0 out."""
    numbers = values.astype(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if scale == "log":
        numbers = numbers[numbers > 0]
    if not len(numbers):
        return None
    if scale == "log" and numbers.max() < 3 * numbers.min():  # too few round numbers for a logarithmic axis
        scale = "linear"
    summary = _summary(numbers, counted, unit)
    distinct = np.unique(numbers)
    if len(distinct) <= _MAX_DISTINCT and (distinct == distinct.round()).all():
        return _bar_each(title, axis, counted, summary, numbers, distinct, unit)
    edges = _log_edges(numbers) if scale == "log" else _linear_edges(numbers)
    counts = np.histogram(numbers, edges)[0]
    place = np.log if scale == "log" else np.asarray
    at = LEFT + _PLOT_WIDTH * (place(edges) - place(edges)[0]) / (place(edges)[-1] - place(edges)[0])
    labels = [f"{number(low)} to {number(high)}{unit}" for low, high in pairwise(edges)]
    ticks = _log_ticks(edges) if scale == "log" else _linear_ticks(float(edges[0]), float(edges[-1]), 6)

    def position(value: float) -> float:
        return float(np.interp(place(np.array(value)), place(edges), at))

    x_ticks = tuple(Tick(round(position(tick), 1), number(tick)) for tick in ticks)
    return Histogram(title, axis, counted, summary, *_bars(at[:-1], at[1:], counts, labels, counted, x_ticks))


def density_map(title: str, xs: NDArray[np.float64], ys: NDArray[np.float64], summary: str) -> DensityMap | None:
    """How many points (fractions of the image's sides) are in each cell of a grid; None without points."""
    if not len(xs):
        return None
    counts = np.histogram2d(ys, xs, _CELLS, [[0, 1], [0, 1]])[0]
    cells = tuple(
        Cell(int(x), int(y), round(float(counts[y, x] / counts.max()), 3), f"{number(counts[y, x])} here")
        for y, x in np.argwhere(counts)
    )
    return DensityMap(title, summary, _CELLS, cells)


def number(value: float) -> str:
    """A number for people: 12,345 or 0.0123, with three significant digits if it is no integer."""
    if not math.isfinite(value):
        return "–"
    if abs(value - round(value)) < 1e-9 or abs(value) >= 1000:
        return f"{round(value):,}"
    return f"{value:.3g}"


def _short(count: float) -> str:
    """A count in few characters: 25k, 1.5M."""
    for power, suffix in ((1_000_000, "M"), (1000, "k")):
        if count >= 10_000 and count >= power:
            return f"{count / power:g}{suffix}"
    return number(count)


def _summary(numbers: NDArray[np.float64], counted: str, unit: str) -> str:
    low, median, high = np.percentile(numbers, [0, 50, 100])
    if low == high:
        return f"{number(len(numbers))} {counted}, all {number(low)}{unit}"
    return (
        f"{number(len(numbers))} {counted}: {number(low)} to {number(high)}{unit}, median {number(median)}{unit}, "
        f"95 % at most {number(np.percentile(numbers, 95, method='inverted_cdf'))}{unit}"
    )


def _bar_each(
    title: str,
    axis: str,
    counted: str,
    summary: str,
    numbers: NDArray[np.float64],
    distinct: NDArray[np.float64],
    unit: str,
) -> Histogram:
    """One bar for each of a few values, at even distances."""
    slot = _PLOT_WIDTH / max(len(distinct), 4)
    starts = LEFT + slot * np.arange(len(distinct), dtype=np.float64)
    counts = np.array([(numbers == value).sum() for value in distinct])
    ticks = tuple(
        Tick(round(float(start + slot / 2), 1), number(value)) for start, value in zip(starts, distinct, strict=True)
    )
    labels = [f"{tick.text}{unit}" for tick in ticks]
    return Histogram(
        title, axis, counted, summary, *_bars(starts + 0.1 * slot, starts + 0.9 * slot, counts, labels, counted, ticks)
    )


def _bars(
    lefts: NDArray[np.float64],
    rights: NDArray[np.float64],
    counts: NDArray[np.int64],
    labels: Sequence[str],
    counted: str,
    x_ticks: tuple[Tick, ...],
) -> tuple[tuple[Bar, ...], tuple[Tick, ...], tuple[Tick, ...]]:
    y_values = [tick for tick in _linear_ticks(0, float(counts.max()), 4) if tick == round(tick)]
    top = max(float(counts.max()), y_values[-1])

    def height(count: float) -> float:
        return _PLOT_HEIGHT * count / top

    bars = tuple(
        Bar(
            round(float(left) + 0.5, 1),
            round(TOP + _PLOT_HEIGHT - max(height(count), 1.5), 1),  # a single record is visible, too
            round(max(float(right - left) - 1, 0.5), 1),
            round(max(height(count), 1.5), 1),
            f"{label}: {number(count)} {counted}",
        )
        for left, right, count, label in zip(lefts, rights, counts, labels, strict=True)
        if count
    )
    y_ticks = tuple(Tick(round(TOP + _PLOT_HEIGHT - height(value), 1), _short(value)) for value in y_values)
    return bars, x_ticks, y_ticks


def _linear_edges(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = float(numbers.min()), float(numbers.max())
    whole = bool((numbers == numbers.round()).all())
    step = _nice((high - low) / _BINS, math.ceil) if high > low else 1.0
    step = max(step, 1.0) if whole else step
    first = math.floor(low / step)
    last = math.floor(high / step) + 1
    return (step * np.arange(first, last + 1)).astype(np.float64)


def _log_edges(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = _nice(float(numbers.min()), math.floor), _nice(float(numbers.max()), math.ceil)
    return np.geomspace(low, high if high > low else 2 * low, _BINS + 1)


def _log_ticks(edges: NDArray[np.float64]) -> list[float]:
    low, high = float(edges[0]), float(edges[-1])
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(ticks) <= 7:
            break
    return ticks


def _linear_ticks(low: float, high: float, count: int) -> list[float]:
    step = _nice((high - low) / count, math.ceil) if high > low else 1.0
    first = math.ceil(round(low / step, 9))
    return [step * position for position in range(first, math.floor(round(high / step, 9)) + 1)] or [low]


def _nice(value: float, direction: Callable[[float], int]) -> float:
    """The next 1, 2 or 5 times a power of ten, upwards (math.ceil) or downwards (math.floor)."""
    power = 10.0 ** math.floor(math.log10(value))
    candidates = [power, 2 * power, 5 * power, 10 * power]
    if direction is math.ceil:
        return next(candidate for candidate in candidates if candidate >= value * (1 - 1e-9))
    return next(candidate for candidate in reversed(candidates) if candidate <= value * (1 + 1e-9))
