"""Scorers test themselves: figures worked out by hand, both profiles, the published faults one by one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vhm.errors import InputError
from vhm.evaluate.intervals import paired_margin, wilson
from vhm.evaluate.metrics import box_iou, score
from vhm.evaluate.tasks import TASKS, TYPES, find_task, find_type


def row(answer: str, pred: str | None, query: str = "Q?", size: list[int] | None = None) -> dict[str, Any]:
    return {"filename": "a.png", "size": size or [100, 100], "query": query, "answer": answer, "pred": pred}


def accuracy(kind: str, answer: str, pred: str, query: str = "Q?", mode: str = "strict") -> float:
    return score(kind, [row(answer, pred, query)], mode)["accuracy"]  # type: ignore[arg-type]


OPTIONS = "Where? A. top left B. bottom right C. centre D. there is none Answer with the letter."


@pytest.mark.parametrize(
    ("kind", "answer", "pred", "query", "strict", "published"),
    [
        ("presence", "yes", "Yes, there is.", "", 1, 1),
        ("presence", "no", "No.", "", 1, 0),  # a capital is not seen
        ("presence", "no", "There is no ship.", "", 1, 1),
        ("presence", "yes", "yes, to the north", "", 1, 0),  # "north" holds "no"
        ("presence", "yes", "", "", 0, 0),
        ("cls", "forest", "forest", "", 1, 1),
        ("cls", "forest", "It is a forest.", "", 1, 0),
        ("cls", "forest", "", "", 0, 1),  # an empty answer is right
        ("cls", "bareland", "Bare Land", "", 0, 1),
        ("vqa", "yes", "Yes", "", 1, 1),
        ("mc", "B", "B", OPTIONS, 1, 1),
        ("mc", "B", "b.", OPTIONS, 1, 0),
        ("mc", "B", "Based on the picture, C.", OPTIONS, 0, 1),  # "Based" is option B
        ("mc", "B", "It is at the bottom right.", OPTIONS, 1, 0),
        ("mc", "A", "The answer is A", OPTIONS, 1, 1),
        ("color", "red, white", "White and red.", "", 1, 1),
        ("color", "red", "red, blue", "", 0.5, 1),
        ("color", "red", "a colored roof", "", 0, 1),
        ("color", "gray", "grey", "", 1, 0),
    ],
)
def test_words(kind: str, answer: str, pred: str, query: str, strict: float, published: float) -> None:
    assert accuracy(kind, answer, pred, query) == strict
    assert accuracy(kind, answer, pred, query, "rsevalkit") == published


def test_cls_sees_the_longer_name_first() -> None:
    rows = [row("water", "waterway"), row("waterway", "waterway"), row("water", "water")]
    assert score("cls", rows)["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("pred", "right"),
    [
        ("There is no ship.", 1),
        ("I cannot see a ship", 1),
        ("There isn't one", 1),
        ("The ship is red", 0),
        ("snow", 0),
        ("", 0),
    ],
)
def test_false_premises_want_a_denial(pred: str, right: int) -> None:
    assert accuracy("false_premise", "There is no ship.", pred) == right
    assert "accuracy" not in score("false_premise", [row("x", pred)], "rsevalkit")


def test_counting_by_hand() -> None:
    rows = [
        row("3", "three"),
        row("10", "There are 12 ships"),
        row("0", "none"),
        row("7", "many"),
        row("21", "twenty-one"),
    ]
    figures = score("counting", rows)
    assert figures["accuracy"] == pytest.approx(3 / 5)
    assert figures["unreadable"] == 1
    assert figures["mae"] == pytest.approx(2 / 4)
    assert figures["mape"] == pytest.approx((0 + 0.2 + 0) / 3)
    assert (figures["accuracy_2_6"], figures["accuracy_6_12"], figures["accuracy_12_inf"]) == (1, 0, 1)


def test_measurement_by_hand() -> None:
    rows = [row("10 and 20", "11 and 20"), row("10", "about 12 m"), row("10 and 20", "10")]
    figures = score("mae", rows)
    assert figures["within_10_percent"] == pytest.approx(1 / 3)
    assert figures["mae"] == pytest.approx((1 + 0 + 2) / 3)
    assert figures["mape"] == pytest.approx((0.1 + 0 + 0.2) / 3)
    assert figures["unreadable"] == 1


def test_boxes_are_scaled_by_width_and_height() -> None:
    """The answer in pixels of a 200×100 picture, the prediction in thousandths; the published kit swaps the sides."""
    wide = [row("[20, 50, 60, 100]", "[100, 500, 300, 999]", size=[200, 100])]
    assert score("bbox", wide)["precision"] == 1
    assert score("bbox", wide)["mean_iou"] == pytest.approx(49.9 / 50)
    assert score("bbox", wide, "rsevalkit")["precision"] == 0


def test_an_unreadable_box_is_wrong_or_keeps_the_row_before() -> None:
    rows = [row("[0, 0, 50, 50]", "[0, 0, 500, 500]"), row("[0, 0, 50, 50]", "nowhere")]
    assert (score("bbox", rows)["precision"], score("bbox", rows)["unreadable"]) == (0.5, 1)
    assert score("bbox", rows, "rsevalkit")["precision"] == 1


def test_precision_by_area() -> None:
    rows = [row("[0, 0, 20, 20]", "[0, 0, 200, 200]"), row("[0, 0, 50, 50]", "[900, 900, 950, 950]")]
    figures = score("bbox", rows)
    assert (figures["precision_small"], figures["precision_medium"]) == (1, 0)
    assert "precision_large" not in figures


def test_iou_by_hand() -> None:
    assert box_iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert box_iou((0, 0, 1, 1), (1, 0, 2, 1)) == 0
    assert box_iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0


def test_ciou_weighs_the_number_of_vertices() -> None:
    square = "[[[0, 0], [500, 0], [500, 500], [0, 500]]]"
    more = "[[[0, 0], [250, 0], [500, 0], [500, 250], [500, 500], [0, 500]]]"
    figures = score("ciou", [row(square, more), row(square, square), row(square, "no polygon")])
    assert figures["ciou"] == pytest.approx((1 - 2 / 10 + 1 + 0) / 3)
    assert figures["mean_iou"] == pytest.approx(2 / 3)
    published = score("ciou", [row(square, square), row(square, "no polygon")], "rsevalkit")
    assert (published["ciou"], published["skipped"]) == (1, 1)


def test_multi_label_by_hand() -> None:
    query = "Which of these: water, waterway, road."
    rows = [row("water", "waterway", query), row("water, road", "water and road", query), row("road", "", query)]
    figures = score("ml", rows)
    assert figures["accuracy"] == pytest.approx(1 / 3)
    assert figures["precision"] == pytest.approx(2 / 3)
    assert figures["recall"] == pytest.approx(2 / 4)
    published = score("ml", rows, "rsevalkit")
    assert published["average_precision"] == pytest.approx((2 / 2 + 0 / 1 + 1 / 1) / 3)


def test_failed_rows_are_counted_and_never_scored() -> None:
    figures = score("presence", [row("yes", "yes"), row("no", None)])
    assert (figures["n"], figures["failed"], figures["accuracy"]) == (2, 1, 1)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(TYPES), st.text(max_size=60), st.sampled_from(["strict", "rsevalkit"]))
def test_no_prediction_breaks_a_scorer(kind: str, pred: str, mode: Any) -> None:
    answer = {"bbox": "[1, 2, 30, 40]", "ciou": "[[[0, 0], [9, 0], [9, 9]]]", "mae": "3", "counting": "3"}.get(
        kind, "yes"
    )
    figures = score(kind, [row(answer, pred, "Which: yes, no.")], mode)
    assert figures["n"] == 1
    assert all(0 <= v <= 1 for k, v in figures.items() if k in ("accuracy", "precision", "ciou", "within_10_percent"))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([t for t in TYPES if t != "false_premise"]))
def test_the_answer_itself_is_right(kind: str) -> None:
    answer = {
        "bbox": "[10, 20, 30, 40]",
        "ciou": "[[[0, 0], [9, 0], [9, 9]]]",
        "mae": "3",
        "counting": "3",
        "mc": "B",
    }.get(kind, "yes")
    pred = "[100, 200, 300, 400]" if kind == "bbox" else answer
    figures = score(kind, [row(answer, pred, "Which: yes, no.")])
    assert max(figures.get(k, 0) for k in ("accuracy", "precision", "ciou", "within_10_percent")) == pytest.approx(1)


@pytest.mark.parametrize(
    ("rows", "kind", "words"),
    [
        ([{"query": "q", "answer": "a"}], "cls", "row 1 lacks pred"),
        ([row("a", "b") | {"pred": 3}], "cls", "must be text"),
        ([row("nothing", "[1, 2, 3, 4]")], "bbox", "is not a box"),
        ([row("[1, 2, 3, 4]", "[1, 2, 3, 4]") | {"size": None}], "bbox", "must be .width, height."),
        ([row("a", "b")], "clss", "unknown"),
    ],
)
def test_unusable_rows_are_named(rows: list[dict[str, Any]], kind: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        score(kind, rows)


def test_wilson_and_bootstrap() -> None:
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(1.0, 10)[0] == pytest.approx(0.7225, abs=1e-4)
    margin = paired_margin([1] * 80 + [0] * 20, [0] * 100)
    assert margin.value == pytest.approx(0.8)
    assert 0.70 < margin.low < 0.75 < 0.85 < margin.high < 0.9
    assert paired_margin([1, 0] * 20, [0, 1] * 20).low < 0


def test_the_task_table_keeps_the_published_keys() -> None:
    assert len({task.name for task in TASKS} | {task.key.lower() for task in TASKS}) >= len(TASKS)
    assert find_task("rs_vg").name == "grounding"
    assert find_type("vqa_HR-pre") == "vqa"
    assert find_type("bbox") == "bbox"
    assert find_task("rs_color_false_pan_open").type == "false_premise"
