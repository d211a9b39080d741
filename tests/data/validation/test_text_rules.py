"""Rules for words and numbers in turns: rejected text, and similar text that is accepted."""

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
def test_valid_coordinates_and_other_lists_are_accepted(text: str) -> None:
    check_turn("gpt", text, "turn 1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[0, 0, 1001, 10]", "normalised to"),
        ("[-0.5, 0, 10, 10]", "normalised to"),
        ("[20, 0, 10, 10]", "must be in order"),
        ("[[1, 2], [3, 4]]", "three points"),
        ("[[1, 2], [3, 4], [5, 1e4]]", "normalised to"),
        ("[10, 2 [[1, 2], [3, 4], [5000, 6]] 0, 30]", "normalised to"),
        ("[0.25, 0.5, 0.75, 1.0]", "fractions of 1"),
        ("[0, 0, NaN, 4]", "not numbers"),
    ],
)
def test_invalid_coordinates_are_rejected(text: str, message: str) -> None:
    with pytest.raises(RecordError, match=message) as raised:
        check_turn("gpt", f"A ship at {text}.", "turn 1")
    assert raised.value.reason == "bad_number"


@pytest.mark.parametrize(
    ("text", "clamped"),
    [
        ("[0, 0, 1000, 10]", "[0, 0, 999, 10]"),
        ("a ship [1000, 5, 1000.0, 1e3], 1000 m long", "a ship [999, 5, 999, 999], 1000 m long"),
        ("[[1, 2], [3, 1000], [5, 6]] and [1000, 2000]", "[[1, 2], [3, 999], [5, 6]] and [1000, 2000]"),
        ("[0, 0, 999.5, 10]", "[0, 0, 999.5, 10]"),
    ],
)
def test_an_inclusive_1000_is_clamped(text: str, clamped: str) -> None:
    found = check_turn("gpt", text, "turn 1")
    assert found is not None
    assert found.text == clamped


def test_boxes_are_counted_with_their_largest_coordinate() -> None:
    found = check_turn("gpt", "[10, 20, 30.5, 40], [2015, 2016], [[1, 2], [3, 4], [5, 6]]", "turn 1")
    assert found is not None
    assert (found.count, found.largest) == (2, 40)
    assert check_turn("gpt", "in [2015, 2016, 2017] and [5]", "turn 1") is None
    in_pixels = check_turn("gpt", "[0, 0, 1000, 10]", "turn 1", pixels=1200)
    assert in_pixels is not None
    assert in_pixels.text == "[0, 0, 1000, 10]"


def test_boxes_of_evaluation_files_are_in_pixels() -> None:
    check_turn("gpt", "[1200, 300, 2000, 900]", "turn 1", pixels=2000)
    check_turn("gpt", "[[0.5, 0.1], [1, 1], [0, 999]]", "turn 1", pixels=300)
    for wrong in ("[1200, 300, 2001, 900]", "[-1, 0, 5, 5]", "[20, 0, 10, 10]"):
        with pytest.raises(RecordError):
            check_turn("gpt", wrong, "turn 1", pixels=2000)


@pytest.mark.parametrize("opening", ["[" * 20_000, "[1, " * 5_000, "[[1, 2]" + " " * 20_000, "[" + "nan " * 5_000])
def test_unclosed_brackets_take_linear_time(opening: str) -> None:
    """A pattern that backtracks from every bracket would take hours for each."""
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
def test_refusals_are_recognised(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text", ["A sorry row of huts.", "Ships unable to dock wait outside.", "As an aid to pilots, …"]
)
def test_similar_words_are_not_refusals(text: str) -> None:
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
def test_boilerplate_is_recognised(text: str) -> None:
    assert is_boilerplate(text)


@pytest.mark.parametrize("text", ["Here is where the river bends.", "The sure sign of a port is its crane."])
def test_similar_words_are_not_boilerplate(text: str) -> None:
    assert not is_boilerplate(text)


@pytest.mark.parametrize(
    ("question", "expected"),
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
def test_questions_without_options_are_recognised(question: str, expected: bool) -> None:
    assert lacks_options(question) is expected


@pytest.mark.parametrize(
    "marker",
    [
        *(
            "<video>",
            "<audio>",
            "<img>",
            "<Image>",
            "<IMAGE>",
            "<images>",
            "<image_1>",
            "<image1>",
            "<image_placeholder>",
        ),
        *("<ImageHere>", "<speech>", "<point_cloud>", "<|vision_start|>", "<|image_pad|>", "<|video|>", "[IMG]"),
    ],
)
@pytest.mark.parametrize("speaker", ["human", "gpt", "system"])
def test_markers_of_media_that_are_not_shown_are_rejected(marker: str, speaker: str) -> None:
    with pytest.raises(RecordError) as raised:
        check_turn(speaker, f"What is in {marker}?", "turn 0")
    assert raised.value.reason == ("special_token" if "|" in marker or "placeholder" in marker else "unknown_media")


@pytest.mark.parametrize(
    "text", ["<image>\nWhat?", "a < b > c", "<images of ships>", "<p>text</p>", "the video", "[IMGX]", '<img src="a">']
)
def test_similar_text_is_no_marker(text: str) -> None:
    check_turn("human", text, "turn 0")


def test_a_system_message_has_no_image() -> None:
    with pytest.raises(RecordError, match="the system message contains '<image>'"):
        check_turn("system", "Look at <image>.", "the system message")
