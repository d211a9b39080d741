"""One model, many questions: waiting questions are answered together, up to a batch, in one thread.

A question that finds `max_queue` others waiting is refused at once (`Busy`): the caller can come back.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vhm.errors import ServeError
from vhm.inference.generator import Generator, Question
from vhm.model.build import bands_of
from vhm.recipe import ServingRecipe


class Busy(ServeError):
    """Too many questions wait already."""


@dataclass(frozen=True)
class Sampling:
    """How an answer is generated; temperature 0 is greedy."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    @property
    def batchable(self) -> bool:
        """Whether others may share the batch: sampling from a seed and stop strings need one of their own."""
        return self.temperature == 0 and not self.stop


@dataclass(frozen=True)
class Generation:
    """`finish_reason` is "stop" or "length", as in the OpenAI API."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str


@dataclass
class _Request:
    asked: Question
    sampling: Sampling
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Generation]
    pieces: asyncio.Queue[str | None] | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)


class Scheduler:
    """Answers questions with the model of `directory` until `close`."""

    def __init__(self, directory: Path, limits: ServingRecipe) -> None:
        self.limits = limits
        self.bands = bands_of(directory)
        self._generator = Generator(directory)
        self.special_tokens = frozenset(self._generator.processor.tokenizer.get_added_vocab())
        self._waiting: deque[_Request] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="vhm-engine", daemon=True)
        self._thread.start()

    async def ask(self, asked: Question, sampling: Sampling) -> Generation:
        """The answer. Raises Busy when the queue is full, ServeError when generation fails."""
        job = self._enqueue(asked, sampling, stream=False)
        try:
            return await job.done
        except asyncio.CancelledError:
            job.cancelled.set()
            raise

    async def stream(self, asked: Question, sampling: Sampling) -> AsyncIterator[str | Generation]:
        """Pieces of the answer as they are generated, then the whole Generation. Raises as `ask`."""
        job = self._enqueue(asked, sampling, stream=True)
        assert job.pieces is not None
        try:
            while (piece := await job.pieces.get()) is not None:
                yield piece
            yield await job.done
        finally:
            job.cancelled.set()

    def close(self) -> None:
        """Generation what waits, then end the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout=30)

    def _enqueue(self, asked: Question, sampling: Sampling, stream: bool) -> _Request:
        loop = asyncio.get_running_loop()
        job = _Request(asked, sampling, loop, loop.create_future(), asyncio.Queue() if stream else None)
        with self._wake:
            if self._closed:
                raise Busy("the server is shutting down")
            if len(self._waiting) >= self.limits.max_queue:
                raise Busy(f"{self.limits.max_queue} questions are waiting already: try again in a moment")
            self._waiting.append(job)
            self._wake.notify()
        return job

    # --- in the engine's thread ---

    def _work(self) -> None:
        while jobs := self._next_batch():
            try:
                if jobs[0].pieces is not None or not jobs[0].sampling.batchable:
                    self._answer_alone(jobs[0])
                else:
                    self._answer_together(jobs)
            except Exception as error:  # the thread must outlive any one batch
                for job in jobs:
                    _deliver(job, error=ServeError(f"generation failed ({type(error).__name__})"))

    def _next_batch(self) -> list[_Request]:
        """Wait for a question, and a moment for others that may share its batch; [] when closed and empty."""
        with self._wake:
            while not self._waiting and not self._closed:
                self._wake.wait()
            if not self._waiting:
                return []
            first = self._waiting[0]
            alone = first.pieces is not None or not first.sampling.batchable
            until = time.monotonic() + self.limits.max_wait_ms / 1000
            while not alone and len(self._waiting) < self.limits.max_batch and not self._closed:
                if not self._wake.wait(until - time.monotonic()):
                    break
            taken: list[_Request] = []
            while self._waiting and len(taken) < (1 if alone else self.limits.max_batch):
                job = self._waiting[0]
                if taken and (job.pieces is not None or job.sampling != taken[0].sampling):
                    break
                self._waiting.popleft()
                if job.cancelled.is_set():
                    continue
                taken.append(job)
        return taken or self._next_batch()

    def _answer_together(self, jobs: list[_Request]) -> None:
        inputs = self._generator.inputs([job.asked for job in jobs])
        output = self._generate(inputs, jobs[0].sampling)
        for job, prompt, row in zip(jobs, inputs["attention_mask"], output, strict=True):
            _deliver(job, self._finished(row, int(prompt.sum()), job.sampling))

    def _answer_alone(self, job: _Request) -> None:
        inputs = self._generator.inputs([job.asked])
        streamer = _Pieces(job, self._generator.processor.tokenizer) if job.pieces is not None else None
        output = self._generate(inputs, job.sampling, streamer=streamer, job=job)
        answer = self._finished(output[0], int(inputs["attention_mask"].sum()), job.sampling)
        if streamer is not None:
            streamer.flush(answer.text)
        _deliver(job, answer)

    def _generate(
        self, inputs: dict[str, Any], sampling: Sampling, streamer: Any = None, job: _Request | None = None
    ) -> Any:
        import torch
        from transformers import StoppingCriteriaList

        settings: dict[str, Any] = {"max_new_tokens": sampling.max_new_tokens}
        if sampling.temperature > 0:
            settings |= {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        if sampling.stop:
            settings |= {"stop_strings": list(sampling.stop), "tokenizer": self._generator.processor.tokenizer}
        if job is not None:
            settings["stopping_criteria"] = StoppingCriteriaList([_Cancelled(job)])
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        with torch.inference_mode():
            output = self._generator.model.generate(**inputs, **settings, streamer=streamer)
        return output[:, inputs["input_ids"].shape[1] :]

    def _finished(self, row: Any, prompt_tokens: int, sampling: Sampling) -> Generation:
        tokenizer = self._generator.processor.tokenizer
        ids = row.tolist()
        ended = tokenizer.eos_token_id in ids
        if ended:
            ids = ids[: ids.index(tokenizer.eos_token_id) + 1]
        text = tokenizer.decode(ids, skip_special_tokens=True).strip()
        for stop in sampling.stop:
            if stop in text:
                text, ended = text[: text.index(stop)], True
        return Generation(text, prompt_tokens, len(ids), "stop" if ended else "length")


class _Pieces:
    """A transformers streamer that hands text on whenever it can no longer change."""

    def __init__(self, job: _Request, tokenizer: Any) -> None:
        self._job, self._tokenizer = job, tokenizer
        self._ids: list[int] = []
        self._sent = ""
        self._prompt = True
        self._held = max((len(stop) for stop in job.sampling.stop), default=0)

    def put(self, value: Any) -> None:
        if self._prompt:
            self._prompt = False
            return
        self._ids += value.flatten().tolist()
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True).lstrip()
        # A half-decoded character ends in U+FFFD; a stop string may still be cut off.
        if not text.endswith("\ufffd"):
            self._send(text[: len(text) - self._held].rstrip() if self._held else text.rstrip())

    def end(self) -> None:
        pass

    def flush(self, text: str) -> None:
        self._send(text)

    def _send(self, text: str) -> None:
        assert self._job.pieces is not None
        if len(text) > len(self._sent) and text.startswith(self._sent):
            self._job.loop.call_soon_threadsafe(self._job.pieces.put_nowait, text[len(self._sent) :])
            self._sent = text


class _Cancelled:
    """Ends generation when nobody waits for it any more."""

    def __init__(self, job: _Request) -> None:
        self._job = job

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        return torch.full((input_ids.shape[0],), self._job.cancelled.is_set(), device=input_ids.device)


def _deliver(job: _Request, answer: Generation | None = None, error: Exception | None = None) -> None:
    def set_result() -> None:
        if not job.done.done():
            job.done.set_exception(error) if error else job.done.set_result(answer)  # type: ignore[arg-type]
        if job.pieces is not None:
            job.pieces.put_nowait(None)

    job.loop.call_soon_threadsafe(set_result)
