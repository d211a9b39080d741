"""Words and numbers of turns: what is refused, and what only looks like it."""

from __future__ import annotations

import pytest

from vhm.data.validation.text_rules import check_turn, is_boilerplate, is_refusal, lacks_options
from vhm.errors import RecordError


@pytest.mark.parametrize(
    "text",
    [
        "[0, 0, 999, 999.9]",
        "[[1, 2], [3, 4], [5, 6]] and [10,20,30,40]",
        "[1, 2, 3, 4, 5, 6]",
        "in the years [2015, 2016, 2017]",
        "[0, 0, 1, 1]",
        "[see note], [a, b, c, d], []",
        "[-5] degrees",
        "two [[10, 20], [30, 20], [30, 40]], [[1, 1], [2, 1], [2, 2], [1, 2]]",
    ],
)
def test_coordinates_that_are_right_or_none(text: str) -> None:
    check_turn("gpt", text, "turn 1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[0, 0, 1000, 10]", "thousandths"),
        ("[-0.5, 0, 10, 10]", "thousandths"),
        ("[20, 0, 10, 10]", "not in order"),
        ("[[1, 2], [3, 4]]", "three points"),
        ("[[1, 2], [3, 4], [5, 1e3]]", "thousandths"),
        ("[10, 2 [[1, 2], [3, 4], [5000, 6]] 0, 30]", "thousandths"),
        ("[0.25, 0.5, 0.75, 1.0]", "shares of 1"),
        ("[0, 0, NaN, 4]", "no numbers"),
    ],
)
def test_coordinates_that_are_wrong(text: str, said: str) -> None:
    with pytest.raises(RecordError, match=said) as raised:
        check_turn("gpt", f"A ship at {text}.", "turn 1")
    assert raised.value.reason == "bad_number"


def test_evaluation_writes_boxes_in_pixels() -> None:
    check_turn("gpt", "[1200, 300, 2000, 900]", "turn 1", pixels=2000)
    check_turn("gpt", "[[0.5, 0.1], [1, 1], [0, 999]]", "turn 1", pixels=300)
    for wrong in ("[1200, 300, 2001, 900]", "[-1, 0, 5, 5]", "[20, 0, 10, 10]"):
        with pytest.raises(RecordError):
            check_turn("gpt", wrong, "turn 1", pixels=2000)


@pytest.mark.parametrize("opening", ["[" * 20_000, "[1, " * 5_000, "[[1, 2]" + " " * 20_000, "[" + "nan " * 5_000])
def test_no_text_takes_long(opening: str) -> None:
    """Each would take a matcher that tries again from every bracket hours; this one no time worth noting."""
    check_turn("gpt", opening, "turn 1")


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I cannot see it.",
        "I\u2019m sorry, this is not possible.",
        "As a large language model I have no eyes.",
        "I am not able to say.",
        "It is unable to view the picture.",
    ],
)
def test_refusals(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text", ["A sorry row of huts.", "Ships unable to dock wait outside.", "As an aid to pilots, …"]
)
def test_no_refusals(text: str) -> None:
    assert not is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "Sure! The image shows a river.",
        "Here is a detailed description of the image: a river.",
        "A river. I hope this helps!",
        "Lorem ipsum dolor sit amet",
        "No description available.",
    ],
)
def test_boilerplate(text: str) -> None:
    assert is_boilerplate(text)


@pytest.mark.parametrize("text", ["Here is where the river bends.", "The sure sign of a port is its crane."])
def test_no_boilerplate(text: str) -> None:
    assert not is_boilerplate(text)


@pytest.mark.parametrize(
    ("question", "lacking"),
    [
        ("Which? Answer with the option's letter from the given choices directly.", True),
        ("Which?\nA. river\nB. lake\nAnswer with the option's letter from the given choices directly.", False),
        ("Which? (A) river (B) lake. Answer with the letter.", False),
        ("Which? a) river b) lake. Answer with the letter.", False),
        ("Which? A. river. Answer with the letter.", True),
        ("<image>\nPlease choose the correct option.", True),
        ("Choose one of the following options: rural, urban", False),
        ("Is it red or blue? Pick one of the options.", False),
        ("What letter is painted on the runway?", False),
    ],
)
def test_questions_without_options(question: str, lacking: bool) -> None:
    assert lacks_options(question) is lacking
