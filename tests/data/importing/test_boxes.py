"""Boxes of other conventions, with results worked out by hand."""

from __future__ import annotations

import math

import pytest

from vhm.data.importing.boxes import BoxReader, guess_convention
from vhm.data.importing.rows import Convention, Shape
from vhm.errors import RecordError

SIZE = (200, 100)


def convert(
    text: str, brackets: Convention = "0-1000", size: tuple[int, int] | None = SIZE, pixels: bool = False
) -> str:
    return BoxReader(brackets).convert(text, size, [], pixels)


@pytest.mark.parametrize(
    ("text", "brackets", "converted"),
    [
        ("at [0.1, 0.2, 0.5, 1.0].", "0-1", "at [100, 200, 500, 999]."),
        ("at [10, 20, 50, 100]", "0-100", "at [100, 200, 500, 999]"),
        ("at [10, 20, 50, 1000]", "0-1000", "at [10, 20, 50, 999]"),
        ("at [10, 20.5, 50, 999]", "0-1000", "at [10, 20.5, 50, 999]"),
        ("at [20, 10, 100, 50]", "pixels", "at [100, 100, 500, 500]"),
        ("[[20, 10], [100, 10], [100, 50]]", "pixels", "[[100, 100], [500, 100], [500, 500]]"),
        ("[20, 10, 100, 10, 100, 50]", "pixels", "[[100, 100], [500, 100], [500, 500]]"),
        ("in [2015, 2016] and [7]", "pixels", "in [2015, 2016] and [7]"),
        ("{<10><20><50><100>}", "0-1000", "[100, 200, 500, 999]"),
        ("{<10><20><50><100>|<0>}", "0-1000", "[100, 200, 500, 999]"),
        ("{<10><20><50><100>|<180>}", "0-1000", "[100, 200, 500, 999]"),
        ("<p>ship</p> {<10><20><50><60>}<delim>{<0><0><1><1>}", "0-1000", "ship [100, 200, 500, 600], [0, 0, 10, 10]"),
        ("<ref>ship</ref><box>(10,20),(50,1000)</box>", "0-1000", "ship[10, 20, 50, 999]"),
        ("<|box_start|>(10,20),(50,60)<|box_end|>", "0-1000", "[10, 20, 50, 60]"),
        ("<quad>(0,0),(10,0),(10,10),(0,10)</quad>", "0-1000", "[[0, 0], [10, 0], [10, 10], [0, 10]]"),
        ("<box>[[10, 20, 50, 60]]</box>", "0-1000", "[10, 20, 50, 60]"),
        ("5 < 6 <b>", "0-1000", "5 < 6 <b>"),
    ],
)
def test_each_convention_becomes_ours(text: str, brackets: Convention, converted: str) -> None:
    assert convert(text, brackets) == converted


def test_a_rotated_box_is_turned_in_pixels() -> None:
    # {<25><40><75><60>} of 200 × 100 pixels is 100 × 20 pixels about (100, 50); by 90° it is 20 × 100 pixels
    assert convert("{<25><40><75><60>|<90>}") == "[450, 0, 550, 999]"
    # without the image's size, a square is assumed: 50 × 20 of 100, by 90° it is 20 × 50
    assert convert("{<25><40><75><60>|<90>}", size=None) == "[400, 250, 600, 750]"
    # a square of 20 × 20 pixels, by 45°: its corners are 10·√2 pixels from the centre
    half = 10 * math.sqrt(2)
    x, y = round(1000 * half / 200), round(1000 * half / 100)
    expected = f"[[500, {500 - y}], [{500 + x}, 500], [500, {500 + y}], [{500 - x}, 500]]"
    assert convert("{<45><40><55><60>|<45>}") == expected


def test_evaluation_files_have_axis_aligned_boxes_in_pixels() -> None:
    assert convert("{<10><20><50><100>}", pixels=True) == "[20, 20, 100, 100]"
    half = 10 * math.sqrt(2)
    expected = [round(100 - half), round(50 - half), round(100 + half), round(50 + half)]
    assert convert("{<45><40><55><60>|<45>}", pixels=True) == str(expected)


@pytest.mark.parametrize(
    ("text", "brackets", "size", "reason"),
    [
        ("[20, 10, 100, 50]", "pixels", None, "image_size"),
        ("[300, 10, 350, 50]", "pixels", SIZE, "bad_number"),
        ("[0.1, 0.2, 7, 0.9]", "0-1", SIZE, "bad_number"),
        ("find <bbox>", "0-1000", SIZE, "bad_number"),
    ],
)
def test_what_cannot_be_placed_is_refused(
    text: str, brackets: Convention, size: tuple[int, int] | None, reason: str
) -> None:
    with pytest.raises(RecordError) as raised:
        convert(text, brackets, size)
    assert raised.value.reason == reason


def test_a_box_that_ends_outside_the_image_is_cut() -> None:
    assert convert("[-10, 10, 210, 50]", "pixels") == "[0, 100, 999, 500]"


@pytest.mark.parametrize(
    ("shapes", "convention"),
    [
        ([], "0-1000"),
        ([(0.1, 0.2, 0.5, 1.0)], "0-1"),
        ([(1, 2, 50, 99)] * 10, "0-100"),
        ([(1, 2, 50, 99)] * 9, "0-1000"),
        ([(1, 2, 50, 101)] * 10, "0-1000"),
        ([(1, 2, 50, 1000)], "0-1000"),
        ([(1, 2, 50, 1001)], "pixels"),
    ],
)
def test_the_convention_is_guessed_from_the_numbers_of_a_source(shapes: list[Shape], convention: str) -> None:
    guessed, seen = guess_convention(shapes)
    assert guessed == convention
    assert not shapes or f"{len(shapes)} boxes" in seen


def test_what_was_converted_is_counted() -> None:
    reader = BoxReader("0-100")
    reader.convert("[1, 2, 3, 4] {<1><2><3><4>|<30>} {<1><2><3><4>|<90>}", SIZE, [], pixels=False)
    assert reader.converted == {
        "[…] 0-100: box": 1,
        "{<…>|<angle>} 0-100: rotated box → polygon": 1,
        "{<…>|<angle>} 0-100: rotated box → box": 1,
    }
