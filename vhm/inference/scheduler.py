"""Batches the questions of many clients: one thread takes queued questions and answers them with one model.

A question that arrives when `max_queue` others are waiting is refused at once (`Busy`): the client can retry.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from vhm.errors import ServeError, first_line
from vhm.inference.generator import Generation, Generator, Question, Sampling
from vhm.recipe import ServingRecipe

log = logging.getLogger(__name__)


class Busy(ServeError):
    """Too many questions are waiting, or the server is shutting down."""


@dataclass(eq=False)
class _Request:
    question: Question
    sampling: Sampling
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Generation]
    chunks: asyncio.Queue[str | None] | None = None  # of a stream: text, then None
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def batchable(self) -> bool:
        """Whether it may share a batch: streams and sampled answers run alone."""
        return self.chunks is None and self.sampling.batchable


class Scheduler:
    """Answers questions with `generator` until `close`."""

    def __init__(self, generator: Generator, limits: ServingRecipe) -> None:
        self.generator, self.limits = generator, limits
        self._waiting: deque[_Request] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="vhm-scheduler", daemon=True)
        self._thread.start()

    async def ask(self, question: Question, sampling: Sampling) -> Generation:
        """The answer. Raises Busy when the queue is full, ServeError when generation fails."""
        request = self._enqueue(question, sampling, stream=False)
        try:
            return await request.done
        except asyncio.CancelledError:
            request.cancelled.set()
            raise

    async def stream(self, question: Question, sampling: Sampling) -> AsyncGenerator[str | Generation, None]:
        """Chunks of the answer's text as they are generated, then the complete Generation. Raises as `ask`."""
        request = self._enqueue(question, sampling, stream=True)
        assert request.chunks is not None
        try:
            while (chunk := await request.chunks.get()) is not None:
                yield chunk
            yield await request.done
        finally:
            request.cancelled.set()
            request.done.cancel()

    def close(self) -> None:
        """Answer the questions that are waiting, then end the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout=30)

    def _enqueue(self, question: Question, sampling: Sampling, stream: bool) -> _Request:
        loop = asyncio.get_running_loop()
        request = _Request(question, sampling, loop, loop.create_future(), asyncio.Queue() if stream else None)
        with self._wake:
            if self._closed:
                raise Busy("the server is shutting down")
            if len(self._waiting) >= self.limits.max_queue:
                raise Busy(f"{self.limits.max_queue} questions are waiting already: try again in a moment")
            self._waiting.append(request)
            self._wake.notify()
        return request

    # --- in the scheduler's thread ---

    def _run(self) -> None:
        while (requests := self._next_batch()) is not None:
            try:
                self._answer(requests)
            except Exception as error:  # one failed batch must not end the thread
                log.error("a batch of %d questions failed: %s", len(requests), first_line(error))
                for request in requests:
                    _deliver_error(request, ServeError(f"generation failed ({type(error).__name__})"))

    def _next_batch(self) -> list[_Request] | None:
        """Wait for a question, and briefly for others that may share its batch; None when closed and empty.

        The batch is empty when all its questions were cancelled.
        """
        with self._wake:
            while not self._waiting and not self._closed:
                self._wake.wait()
            if not self._waiting:
                return None
            until = time.monotonic() + self.limits.max_wait_ms / 1000
            while self._may_grow() and self._wake.wait(until - time.monotonic()):
                pass
            return self._take()

    def _may_grow(self) -> bool:
        return self._waiting[0].batchable and len(self._waiting) < self.limits.max_batch and not self._closed

    def _take(self) -> list[_Request]:
        """The next requests that share one batch; cancelled ones are dropped."""
        batch: list[_Request] = []
        while self._waiting and len(batch) < self.limits.max_batch:
            request = self._waiting[0]
            if not request.cancelled.is_set():
                if batch and not _can_share(batch[0], request):
                    break
                batch.append(request)
            self._waiting.popleft()
        return batch

    def _answer(self, batch: list[_Request]) -> None:
        if not batch:
            return
        first = batch[0]
        if first.batchable:
            generations = self.generator.generate([request.question for request in batch], first.sampling)
        else:
            generations = self.generator.generate(
                [first.question], first.sampling, _sender(first), first.cancelled.is_set
            )
        for request, generation in zip(batch, generations, strict=True):
            _deliver(request, generation)


def _can_share(first: _Request, other: _Request) -> bool:
    return first.batchable and other.batchable and first.sampling == other.sampling


def _sender(request: _Request) -> Callable[[str], None] | None:
    """What passes text to a stream's client; None for a request that is not a stream."""
    chunks = request.chunks
    if chunks is None:
        return None
    return lambda text: _call(request, lambda: chunks.put_nowait(text))


def _deliver(request: _Request, generation: Generation) -> None:
    def set_result() -> None:
        if not request.done.done():
            request.done.set_result(generation)
        _end_stream(request)

    _call(request, set_result)


def _deliver_error(request: _Request, error: ServeError) -> None:
    def set_exception() -> None:
        if not request.done.done():
            request.done.set_exception(error)
        _end_stream(request)

    _call(request, set_exception)


def _end_stream(request: _Request) -> None:
    if request.chunks is not None:
        request.chunks.put_nowait(None)


def _call(request: _Request, function: Callable[[], None]) -> None:
    """Call `function` in the client's event loop. If the loop is closed, the client is gone, and nothing happens."""
    with suppress(RuntimeError):
        request.loop.call_soon_threadsafe(function)
