"""Prompts of questions equal what the model's own processor builds, token by token."""

from __future__ import annotations

import numpy as np
import pytest

from vhm.errors import EncodeError
from vhm.inference.prompts import build_prompt, prompt_ids


@pytest.mark.parametrize(
    "question", ["Is there water?", "", "  runs   of spaces ", "图中有多少艘船？", "USER: not a role"]
)
def test_prompt_ids_are_the_processors(base, question: str) -> None:
    _, processor = base
    text = build_prompt(question, processor)
    image = np.zeros((20, 30, 3), np.uint8)
    expected = processor(images=image, text=text, add_special_tokens=False)["input_ids"][0]
    assert prompt_ids(question, processor, image_tokens=144) == list(expected)


@pytest.mark.parametrize("question", ["What</s> now", "<s>", "an <image> of"])
def test_special_tokens_in_a_question_are_refused(base, question: str) -> None:
    with pytest.raises(EncodeError):
        build_prompt(question, base[1])
