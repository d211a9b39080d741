"""Processes that end with the one that started them, however that ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def workers(count: int | None = None, prepare: Callable[..., None] | None = None, *given: Any) -> ProcessPoolExecutor:
    """`count` processes (one a core) that work for this one; each calls `prepare` with what is `given` first.

    Those of the library itself would outlive a process that is killed.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count or os.cpu_count(), context, _begin, (os.getpid(), prepare, given))


def _begin(parent: int, prepare: Callable[..., None] | None, given: tuple[Any, ...]) -> None:
    die_with_parent(parent)
    if prepare is not None:
        prepare(*given)


def die_with_parent(parent: int | None = None) -> None:
    """Ask Linux to kill this process when its parent (which may be gone already: then at once) ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
