"""Progress of long work: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


def track(items: Iterable[T], label: str, total: int | None = None, every: float = 5.0) -> Iterator[T]:
    """Yield the items and report progress and the remaining time on stderr, at most every `every` seconds."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as rich_track

        yield from rich_track(items, label, total=total, console=Console(stderr=True))
        return
    start = reported = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - reported >= every:
            reported = now
            remaining = f", {(now - start) / done * (total - done):.0f} s left" if total else ""
            log.info("%s: %d%s%s", label, done, f" of {total}" if total else "", remaining)
