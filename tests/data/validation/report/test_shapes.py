"""Boxes and polygons in text."""

from __future__ import annotations

from typing import Any

from vhm.data.validation.report.shapes import bounds, shapes
from vhm.data.validation.report.statistics import record_outlines


def test_boxes_are_found_as_their_four_corners() -> None:
    [box] = shapes("a tree at [100, 200, 300, 400.0], and a list [1, 2, 3]")
    assert box == ((0.1, 0.2), (0.3, 0.2), (0.3, 0.4), (0.1, 0.4))
    assert bounds(box) == (0.1, 0.2, 0.3, 0.4)


def test_polygons_are_lists_of_points_or_of_numbers() -> None:
    triangle = ((0.0, 0.0), (0.5, 0.0), (0.5, 0.25))
    assert list(shapes("[[0, 0], [500, 0], [500, 250]]")) == [triangle]
    assert list(shapes("[[[0, 0], [500, 0], [500, 250]]]")) == [triangle]
    assert list(shapes("[0, 0, 500, 0, 500, 250]")) == [triangle]
    assert list(shapes("[[0, 0], [500, 0]] and [1, 2, 3, 4, 5]")) == []


def test_boxes_but_not_polygons_are_in_the_pixels_of_a_size() -> None:
    assert list(shapes("[20, 10, 40, 30]", (200, 100))) == [((0.1, 0.1), (0.2, 0.1), (0.2, 0.3), (0.1, 0.3))]
    assert list(shapes("[[0, 0], [500, 0], [500, 250]]", (200, 100))) == [((0.0, 0.0), (0.5, 0.0), (0.5, 0.25))]


def test_only_answers_of_evaluation_records_have_boxes_in_pixels() -> None:
    turns = [{"from": "human", "value": "in [100, 100, 200, 200]?"}, {"from": "gpt", "value": "[20, 10, 40, 30]"}]
    record: dict[str, Any] = {"size": [200, 100], "conversations": turns}
    question = (0.1, 0.1, 0.2, 0.2)
    assert [bounds(one) for one in record_outlines(record, "eval")] == [question, (0.1, 0.1, 0.2, 0.3)]
    assert [bounds(one) for one in record_outlines(record, "sft")] == [question, (0.02, 0.01, 0.04, 0.03)]
