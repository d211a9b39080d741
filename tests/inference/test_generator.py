"""Answers of a real model: independent of the batch, equal to plain transformers, failures kept apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vhm.inference.generator import Failure, Generation, Generator, Question, Sampling
from vhm.inference.prompts import build_prompt
from vhm.inference.streaming import cut_at_stop


@pytest.fixture(scope="module")
def generator(sample: Path) -> Generator:
    return Generator(sample / "base", dtype="float32")


def question(seed: int, text: str) -> Question:
    return Question(np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8), text)


QUESTIONS = [
    question(0, "What is this?"),
    question(1, "Is there water in this image? Answer yes or no."),
    question(2, "?"),
]


def test_answers_equal_plain_transformers(generator: Generator) -> None:
    model, processor = generator.model, generator.processor
    for item, generation in zip(QUESTIONS, generator.generate(QUESTIONS, Sampling(8)), strict=True):
        inputs = processor(
            images=item.image, text=build_prompt(item.text, processor), add_special_tokens=False, return_tensors="pt"
        )
        output = model.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
        assert generation.text == processor.tokenizer.decode(output, skip_special_tokens=True).strip()
        assert generation.prompt_tokens == inputs["input_ids"].shape[1]


def test_one_failing_question_does_not_affect_the_others(generator: Generator) -> None:
    answers = generator.generate_each([QUESTIONS[0], question(3, "a </s> inside"), QUESTIONS[1]], Sampling(4))
    assert [type(answer) for answer in answers] == [Generation, Failure, Generation]
    assert "special_token" in answers[1].reason  # type: ignore[union-attr]
    assert generator.generate_each([], Sampling(4)) == []


def test_streamed_text_is_the_answer(generator: Generator) -> None:
    received: list[str] = []
    [generation] = generator.generate([QUESTIONS[0]], Sampling(12), received.append)
    assert "".join(received) == generation.text


def test_cancelling_ends_generation(generator: Generator) -> None:
    [generation] = generator.generate([QUESTIONS[0]], Sampling(200), cancelled=lambda: True)
    assert generation.completion_tokens == 1


def test_a_seed_makes_sampling_repeatable(generator: Generator) -> None:
    sampling = Sampling(12, temperature=1.0, seed=5)
    first, second = (generator.generate([QUESTIONS[0]], sampling)[0].text for _ in range(2))
    assert first == second
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("a river. A road.", (".",), ("a river", True)),
        ("a river", ("x",), ("a river", False)),
        ("one two three", ("three", "two"), ("one ", True)),
    ],
)
def test_text_is_cut_at_the_first_stop_string(text: str, stop: tuple[str, ...], expected: tuple[str, bool]) -> None:
    assert cut_at_stop(text, stop) == expected
