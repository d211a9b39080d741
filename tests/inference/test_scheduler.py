"""Scheduling without a model: which questions share a batch, and one client's failure does not affect the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from vhm.errors import ServeError
from vhm.inference.generator import Generation, Question, Sampling
from vhm.inference.scheduler import Busy, Scheduler
from vhm.recipe import ServingRecipe

GREEDY = Sampling(8)


class FakeGenerator:
    """Answers with the question's text in capitals and records its batches; it answers while `open` is set."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.started, self.open = threading.Event(), threading.Event()
        self.open.set()

    def generate(
        self,
        questions: Sequence[Question],
        sampling: Sampling,
        on_text: Callable[[str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[Generation]:
        self.batches.append([question.text for question in questions])
        self.started.set()
        assert self.open.wait(10)
        if any(question.text == "fail" for question in questions):
            raise RuntimeError("out of memory\nsecond line")
        if on_text is not None:
            for letter in questions[0].text.upper():
                on_text(letter)
        return [Generation(question.text.upper(), 3, 1, "stop") for question in questions]


@pytest.fixture
def generator() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def scheduler(generator: FakeGenerator) -> Iterator[Scheduler]:
    scheduler = Scheduler(generator, ServingRecipe(max_batch=4, max_queue=6, max_wait_ms=50))  # type: ignore[arg-type]
    yield scheduler
    generator.open.set()
    scheduler.close()


def question(text: str) -> Question:
    return Question(np.zeros((2, 2, 3), np.uint8), text)


async def hold(scheduler: Scheduler, generator: FakeGenerator) -> asyncio.Task[Generation]:
    """Keep the scheduler's thread at a first question until `generator.open` is set."""
    generator.open.clear()
    generator.started.clear()
    task = asyncio.create_task(scheduler.ask(question("first"), Sampling(1)))
    await asyncio.to_thread(generator.started.wait, 10)
    return task


async def collect(scheduler: Scheduler, text: str, sampling: Sampling = GREEDY) -> list[str | Generation]:
    return [chunk async for chunk in scheduler.stream(question(text), sampling)]


async def start(coroutine) -> asyncio.Task:
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)  # it is enqueued now
    return task


def test_questions_with_equal_sampling_share_batches_up_to_the_limit(scheduler, generator) -> None:
    async def run() -> list[Generation]:
        first = await hold(scheduler, generator)
        tasks = [await start(scheduler.ask(question(text), GREEDY)) for text in "abcdef"]
        generator.open.set()
        return [await task for task in (first, *tasks)]

    assert [answer.text for answer in asyncio.run(run())] == ["FIRST", *"ABCDEF"]
    assert generator.batches == [["first"], ["a", "b", "c", "d"], ["e", "f"]]


@pytest.mark.parametrize(
    ("sampling", "batches"),
    [
        (GREEDY, [["a", "b", "c"]]),
        (Sampling(9), [["a"], ["b"], ["c"]]),
        (Sampling(8, temperature=1.0), [["a"], ["b"], ["c"]]),
        (Sampling(8, stop=(".",)), [["a"], ["b"], ["c"]]),
    ],
)
def test_questions_with_other_sampling_get_another_batch_in_order(scheduler, generator, sampling, batches) -> None:
    async def run() -> None:
        first = await hold(scheduler, generator)
        settings = zip("abc", (GREEDY, sampling, GREEDY), strict=True)
        tasks = [await start(scheduler.ask(question(text), own)) for text, own in settings]
        generator.open.set()
        await asyncio.gather(first, *tasks)

    asyncio.run(run())
    assert generator.batches[1:] == batches


def test_equal_random_sampling_is_never_batched(scheduler, generator) -> None:
    async def run() -> None:
        first = await hold(scheduler, generator)
        tasks = [await start(scheduler.ask(question(t), Sampling(8, temperature=1.0, seed=1))) for t in "ab"]
        generator.open.set()
        await asyncio.gather(first, *tasks)

    asyncio.run(run())
    assert generator.batches[1:] == [["a"], ["b"]]


def test_a_stream_gives_chunks_then_the_complete_answer(scheduler) -> None:
    assert asyncio.run(collect(scheduler, "abc")) == ["A", "B", "C", Generation("ABC", 3, 1, "stop")]


def test_a_cancelled_question_before_a_stream_leaves_the_stream_alone(scheduler, generator) -> None:
    async def run() -> tuple[list[str | Generation], Generation]:
        first = await hold(scheduler, generator)
        cancelled = await start(scheduler.ask(question("cancelled"), GREEDY))
        stream = await start(collect(scheduler, "s"))
        after = await start(scheduler.ask(question("after"), GREEDY))
        cancelled.cancel()
        await asyncio.sleep(0)
        generator.open.set()
        await first
        return await asyncio.wait_for(stream, 10), await asyncio.wait_for(after, 10)

    chunks, after = asyncio.run(run())
    assert (chunks[-1].text, after.text) == ("S", "AFTER")
    assert generator.batches == [["first"], ["s"], ["after"]]


def test_a_closed_stream_cancels_its_generation(scheduler, generator) -> None:
    conditions: list[Callable[[], bool]] = []
    generate = generator.generate
    generator.generate = lambda questions, sampling, on_text=None, cancelled=None: (  # type: ignore[method-assign]
        conditions.append(cancelled) or generate(questions, sampling, on_text, cancelled)
    )

    async def run() -> None:
        stream = scheduler.stream(question("abc"), GREEDY)
        assert await anext(stream) == "A"
        assert not conditions[0]()
        await stream.aclose()

    asyncio.run(run())
    assert conditions[0]()


def test_a_client_whose_event_loop_has_closed_does_not_end_the_scheduler(scheduler, generator) -> None:
    async def give_up() -> None:
        await hold(scheduler, generator)

    asyncio.run(give_up())  # the pending task is cancelled, then the loop is closed
    generator.open.set()
    assert asyncio.run(scheduler.ask(question("next"), GREEDY)).text == "NEXT"


def test_a_failed_batch_fails_its_questions_and_no_others(scheduler, caplog) -> None:
    with pytest.raises(ServeError, match=r"generation failed \(RuntimeError\)"):
        asyncio.run(scheduler.ask(question("fail"), GREEDY))
    with pytest.raises(ServeError, match=r"generation failed \(RuntimeError\)"):
        asyncio.run(collect(scheduler, "fail"))
    assert asyncio.run(scheduler.ask(question("next"), GREEDY)).text == "NEXT"
    assert "a batch of 1 questions failed: out of memory" in caplog.text


def test_a_full_queue_refuses_the_next_question(scheduler, generator) -> None:
    async def run() -> None:
        first = await hold(scheduler, generator)
        waiting = [await start(scheduler.ask(question(text), GREEDY)) for text in "abcdef"]
        with pytest.raises(Busy, match="6 questions are waiting"):
            await scheduler.ask(question("g"), GREEDY)
        with pytest.raises(Busy, match="6 questions are waiting"):
            await collect(scheduler, "g")
        generator.open.set()
        await asyncio.gather(first, *waiting)

    asyncio.run(run())


def test_closing_answers_the_waiting_questions_and_refuses_new_ones(scheduler, generator) -> None:
    async def run() -> list[str]:
        first = await hold(scheduler, generator)
        waiting = [await start(scheduler.ask(question(text), GREEDY)) for text in "ab"]
        closing = asyncio.create_task(asyncio.to_thread(scheduler.close))
        await asyncio.sleep(0.05)
        with pytest.raises(Busy, match="shutting down"):
            await scheduler.ask(question("c"), GREEDY)
        generator.open.set()
        await closing
        return [(await task).text for task in (first, *waiting)]

    assert asyncio.run(run()) == ["FIRST", "A", "B"]
