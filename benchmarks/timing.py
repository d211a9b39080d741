"""Two ways to do the same, timed in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """`ours` and `baseline` in seconds, medians of interleaved runs."""

    name: str
    baseline_name: str
    ours: float
    baseline: float

    def __str__(self) -> str:
        ratio = self.baseline / self.ours
        return f"{self.name:44} {1e3 * self.ours:9.2f} ms  {ratio:5.2f}× faster than {self.baseline_name}"


def compare(
    name: str, baseline_name: str, ours: Callable[[], object], baseline: Callable[[], object], seconds: float = 2.0
) -> Figure:
    """Time both in turns for about `seconds`, but 9 times at least, after one warm-up each."""
    ours(), baseline()
    times: tuple[list[float], list[float]] = ([], [])
    while len(times[0]) < 9 or sum(map(sum, times)) < seconds:
        for index, work in enumerate((ours, baseline)):
            start = time.perf_counter()
            work()
            times[index].append(time.perf_counter() - start)
    return Figure(name, baseline_name, statistics.median(times[0]), statistics.median(times[1]))
