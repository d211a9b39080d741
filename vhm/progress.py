"""How long work shows itself: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


def track(items: Iterable[T], what: str, total: int | None = None, every: float = 5.0) -> Iterator[T]:
    """The items, with progress and time left on stderr while they are consumed."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as rich_track

        yield from rich_track(items, what, total=total, console=Console(stderr=True))
        return
    start = shown = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - shown >= every:
            shown = now
            left = f", {(now - start) / done * (total - done):.0f} s left" if total else ""
            log.info("%s: %d%s%s", what, done, f" of {total}" if total else "", left)
