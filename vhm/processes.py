"""Child processes and threads that do not outlive the work they were started for.

Processes end when the process that started them is killed. Ctrl-C is for the parent alone: it ends its children, which
print nothing. `cache_bytecode` lets processes start faster.
"""

from __future__ import annotations

import ctypes
import importlib.util
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def workers(
    count: int | None = None, initializer: Callable[..., None] | None = None, *arguments: object
) -> ProcessPoolExecutor:
    """A pool of `count` processes (default: one per core); each calls `initializer(*arguments)` first.

    Unlike those of a plain ProcessPoolExecutor, the workers end when this process is killed, ignore Ctrl-C, and do not
    begin further work once the block of the pool has ended with an error.
    """
    context = multiprocessing.get_context("spawn")
    return _Workers(count or os.cpu_count(), context, _start_worker, (os.getpid(), initializer, arguments))


class _Workers(ProcessPoolExecutor):
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        # A process that is started here inherits the mask, so Ctrl-C does not end it before `_start_worker` runs.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if kind is not None:
            if issubclass(kind, KeyboardInterrupt):  # whoever presses Ctrl-C does not want to wait for running work
                for process in list((self._processes or {}).values()):
                    process.kill()
            self.shutdown(cancel_futures=True)
        return super().__exit__(kind, error, traceback)


def _start_worker(parent: int, initializer: Callable[..., None] | None, arguments: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent)
    if initializer is not None:
        initializer(*arguments)


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads that begins no further work once its block has ended with an error."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def die_with_parent(parent: int | None = None) -> None:
    """Ask Linux to kill this process when its parent ends; at once if process `parent` has already ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def cache_bytecode(folder: Path) -> None:
    """Keep compiled modules in `folder` if the installation has none and this process would not write them.

    So it is in many containers: PYTHONDONTWRITEBYTECODE is set, or packages belong to another user. Each process then
    compiles all libraries anew, which takes half of the time of its imports. Processes started later do the same.
    """
    numpy = importlib.util.find_spec("numpy")
    if numpy is None or numpy.origin is None or sys.pycache_prefix is not None:
        return
    compiled = Path(importlib.util.cache_from_source(numpy.origin))
    if compiled.exists() or (not sys.dont_write_bytecode and os.access(compiled.parents[1], os.W_OK)):
        return
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(folder)
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
