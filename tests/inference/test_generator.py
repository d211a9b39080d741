"""Answers of a real model: independent of the batch, equal to plain transformers, failures kept apart."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vhm.inference.generator import Failure, Generation, Generator, Question, Sampling
from vhm.inference.prompts import build_prompt
from vhm.inference.streaming import TextStreamer, cut_at_stop


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
    first, second, other = (
        generator.generate([QUESTIONS[0]], Sampling(12, temperature=1.0, seed=seed))[0].text for seed in (5, 5, 6)
    )
    assert first == second != other


def test_a_seed_does_not_affect_later_answers_without_one(generator: Generator) -> None:
    state = torch.get_rng_state()
    generator.generate([QUESTIONS[0]], Sampling(4, temperature=1.0, seed=5))
    assert torch.equal(torch.get_rng_state(), state)


def test_generation_stops_at_a_stop_string(generator: Generator) -> None:
    [complete] = generator.generate([QUESTIONS[0]], Sampling(12))
    stop = re.findall("[A-Za-z]{2}", complete.text[1:])[0]
    received: list[str] = []
    [stopped] = generator.generate([QUESTIONS[0]], Sampling(12, stop=(stop,)), received.append)
    assert stopped.text == "".join(received) == complete.text[: complete.text.index(stop)]
    assert stopped.finish_reason == "stop"
    assert stopped.completion_tokens < complete.completion_tokens


def test_only_one_question_can_be_streamed(generator: Generator) -> None:
    with pytest.raises(ValueError, match="only one question can be streamed, not 2"):
        generator.generate(QUESTIONS[:2], Sampling(4), lambda _: None)


class LetterTokenizer:
    """Each id is one code point, 0 ends the answer; "\U0001f6a2" is two ids, the first of which decodes to U+FFFD."""

    eos_token_id = 0

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        text = "".join(chr(number) for number in ids if number)
        return text.replace("\ufffd!", "\U0001f6a2")


def stream(tokens: list[str], final: str, stop: tuple[str, ...] = ()) -> list[str]:
    received: list[str] = []
    streamer = TextStreamer(received.append, LetterTokenizer(), stop)  # type: ignore[arg-type]
    streamer.put(torch.tensor([[ord("?")]]))  # the prompt
    for token in tokens:
        streamer.put(torch.tensor([ord(letter) for letter in token]))
    streamer.finish(final)
    return received


@pytest.mark.parametrize(
    ("tokens", "final", "stop", "expected"),
    [
        ([" a", " b", " "], "a b", (), ["a", " b"]),
        (["a", "\ufffd", "!"], "a\U0001f6a2", (), ["a", "\U0001f6a2"]),
        (["a", "\ufffd"], "a\ufffd", (), ["a", "\ufffd"]),
        (["abc", "d", "e. F"], "abcde", (".",), ["ab", "c", "de"]),  # the last token has text after the stop string
        (["a river", "\n"], "a river", ("\n",), ["a rive", "r"]),
        (["on", "e t", "wo"], "one ", ("two",), ["on", "e "]),
        (["tw", "o"], "", ("two",), []),
    ],
)
def test_chunks_are_text_that_no_longer_changes(
    tokens: list[str], final: str, stop: tuple[str, ...], expected: list[str]
) -> None:
    assert stream(tokens, final, stop) == expected


@pytest.mark.parametrize(
    ("answer", "stop", "text", "reason"),
    [
        (" a river \0", (), "a river", "stop"),
        (" a river ", (), "a river", "length"),
        ("a river\n", ("\n",), "a river", "stop"),  # white space at the end is a stop string, too
        ("one two", ("two",), "one ", "stop"),
        (" ", (" ",), "", "stop"),
    ],
)
def test_an_answers_text_and_why_it_ended(
    answer: str, stop: tuple[str, ...], text: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = object.__new__(Generator)
    monkeypatch.setattr(generator, "processor", SimpleNamespace(tokenizer=LetterTokenizer()), raising=False)
    ids = [ord(letter) for letter in answer]
    length = len(ids) if reason == "length" else 20
    expected = Generation(text, 3, len(ids), reason)  # type: ignore[arg-type]
    assert generator._generation(ids, 3, Sampling(length, stop=stop)) == expected


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
