"""Times two implementations of the same function alternately."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """`ours` and `baseline` are medians of alternating runs, in seconds."""

    name: str
    baseline_name: str
    ours: float
    baseline: float

    def __str__(self) -> str:
        ratio = self.baseline / self.ours
        return f"{self.name:44} {1e3 * self.ours:9.2f} ms  {ratio:5.2f}× faster than {self.baseline_name}"


def compare(
    name: str, baseline_name: str, ours: Callable[[], object], baseline: Callable[[], object], seconds: float = 2.0
) -> Comparison:
    """Time both alternately for about `seconds`, but at least 9 times each, after one warm-up run."""
    ours(), baseline()
    times: tuple[list[float], list[float]] = ([], [])
    while len(times[0]) < 9 or sum(map(sum, times)) < seconds:
        for index, function in enumerate((ours, baseline)):
            start = time.perf_counter()
            function()
            times[index].append(time.perf_counter() - start)
    return Comparison(name, baseline_name, statistics.median(times[0]), statistics.median(times[1]))
