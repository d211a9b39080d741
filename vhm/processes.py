"""Child processes that do not outlive the process that started them, even if it is killed."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor


def workers(
    count: int | None = None, initializer: Callable[..., None] | None = None, *arguments: object
) -> ProcessPoolExecutor:
    """A pool of `count` processes (default: one per core); each calls `initializer(*arguments)` first.

    Unlike those of a plain ProcessPoolExecutor, the workers end when this process is killed.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count or os.cpu_count(), context, _start_worker, (os.getpid(), initializer, arguments))


def _start_worker(parent: int, initializer: Callable[..., None] | None, arguments: tuple[object, ...]) -> None:
    die_with_parent(parent)
    if initializer is not None:
        initializer(*arguments)


def die_with_parent(parent: int | None = None) -> None:
    """Ask Linux to kill this process when its parent ends; at once if process `parent` has already ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
