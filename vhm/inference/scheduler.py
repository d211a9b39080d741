"""Many clients, one model: queued questions are answered together, up to a batch, in one thread.

A question that finds `max_queue` others waiting is refused at once (`Busy`): the client can retry.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from vhm.errors import ServeError
from vhm.inference.generator import Generation, Generator, Question, Sampling
from vhm.recipe import ServingRecipe


class Busy(ServeError):
    """Too many questions are waiting, or the server is shutting down."""


@dataclass
class _Request:
    question: Question
    sampling: Sampling
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Generation]
    chunks: asyncio.Queue[str | None] | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def batchable(self) -> bool:
        """Whether it may share a batch: streams and sampled answers run by themselves."""
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

    async def stream(self, question: Question, sampling: Sampling) -> AsyncIterator[str | Generation]:
        """Chunks of the answer's text as they are generated, then the complete Generation. Raises as `ask`."""
        request = self._enqueue(question, sampling, stream=True)
        assert request.chunks is not None
        try:
            while (chunk := await request.chunks.get()) is not None:
                yield chunk
            yield await request.done
        finally:
            request.cancelled.set()

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
        while requests := self._next_batch():
            try:
                self._answer(requests)
            except Exception as error:  # one failed batch must not end the thread
                for request in requests:
                    _deliver(request, error=ServeError(f"generation failed ({type(error).__name__})"))

    def _next_batch(self) -> list[_Request]:
        """Wait for a question, and briefly for others that may share its batch; [] when closed and empty."""
        with self._wake:
            while not self._waiting and not self._closed:
                self._wake.wait()
            if not self._waiting:
                return []
            first = self._waiting[0]
            until = time.monotonic() + self.limits.max_wait_ms / 1000
            while first.batchable and len(self._waiting) < self.limits.max_batch and not self._closed:
                if not self._wake.wait(until - time.monotonic()):
                    break
            batch = self._take(self.limits.max_batch if first.batchable else 1)
        return batch or self._next_batch()

    def _take(self, most: int) -> list[_Request]:
        """The next requests that share one batch, cancelled ones dropped."""
        batch: list[_Request] = []
        while self._waiting and len(batch) < most:
            request = self._waiting[0]
            if batch and (not request.batchable or request.sampling != batch[0].sampling):
                break
            self._waiting.popleft()
            if not request.cancelled.is_set():
                batch.append(request)
        return batch

    def _answer(self, requests: list[_Request]) -> None:
        first = requests[0]
        if first.batchable:
            generations = self.generator.generate([request.question for request in requests], first.sampling)
        else:
            generations = self.generator.generate(
                [first.question], first.sampling, _sender(first), first.cancelled.is_set
            )
        for request, generation in zip(requests, generations, strict=True):
            _deliver(request, generation)


def _sender(request: _Request) -> Callable[[str], None] | None:
    """What passes text to a stream's client; None for a request that is not a stream."""
    chunks = request.chunks
    if chunks is None:
        return None

    def send(text: str) -> None:
        request.loop.call_soon_threadsafe(chunks.put_nowait, text)

    return send


def _deliver(request: _Request, generation: Generation | None = None, error: Exception | None = None) -> None:
    def set_result() -> None:
        if not request.done.done():
            if generation is not None:
                request.done.set_result(generation)
            else:
                request.done.set_exception(error or ServeError("generation failed"))
        if request.chunks is not None:
            request.chunks.put_nowait(None)

    request.loop.call_soon_threadsafe(set_result)
