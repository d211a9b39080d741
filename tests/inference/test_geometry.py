"""Boxes and polygons in answers."""

from __future__ import annotations

import pytest

from vhm.inference import geometry


@pytest.mark.parametrize("digits", [10, 400])
def test_polygons_with_absurd_coordinates_are_unreadable(digits: int) -> None:
    assert geometry.polygons(f"[[[0, 0], [{'9' * digits}, 0], [9, 9]]]") == []
    assert geometry.polygons("[[[0, 0], [9, 0], [9, 9]]]") == [[(0, 0), (9, 0), (9, 9)]]
