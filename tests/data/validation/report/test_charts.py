"""Histograms: every value is in a bar, and axes have round numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest

from vhm.data.validation.report.charts import Histogram, Scale, density_map, histogram, number


def counts(chart: Histogram) -> list[int]:
    return [int(re.findall(r": ([\d,]+) ", bar.label)[0].replace(",", "")) for bar in chart.bars]


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize(("low", "high"), [(1, 20_000), (100, 130), (0.001, 99.5), (255, 256.5)])
def test_every_value_is_counted_once(scale: Scale, low: float, high: float) -> None:
    values = np.r_[low, np.random.default_rng(0).uniform(low, high, 500), high]
    chart = histogram("Size", values, "side, pixels", "images", " px", scale)
    assert chart is not None
    assert sum(counts(chart)) == 502
    assert 5 < len(chart.bars) <= 50
    assert all(bar.x >= 0 and bar.x + bar.width <= 370 for bar in chart.bars)
    assert 2 <= len(chart.x_ticks) <= 9


def test_a_few_integers_have_a_bar_each() -> None:
    chart = histogram("Turns", np.array([2, 2, 4, 2, 8]), "turns", "records")
    assert chart is not None
    assert [bar.label for bar in chart.bars] == ["2: 3 records", "4: 1 records", "8: 1 records"]
    assert [tick.text for tick in chart.x_ticks] == ["2", "4", "8"]
    assert chart.summary == "5 records: 2 to 8, median 2, 95 % at most 8"
    heights = [bar.height for bar in chart.bars]
    assert heights[0] == pytest.approx(3 * heights[1], rel=0.01)


def test_equal_values_and_no_values() -> None:
    chart = histogram("Side", np.full(7, 512), "pixels", "images", " px", "log")
    assert chart is not None
    assert chart.summary == "7 images, all 512 px"
    assert histogram("Side", np.zeros(0), "pixels", "images") is None
    assert histogram("Side", np.array([np.nan, np.inf]), "pixels", "images") is None
    same = histogram("Brightness", np.full(3, 0.25), "level", "images")
    assert same is not None
    assert counts(same) == [3]


def test_numbers_for_people() -> None:
    assert [number(value) for value in (0, 12345, 0.01234, 1.5, 1234.5, float("nan"))] == [
        *("0", "12,345", "0.0123", "1.5", "1,234", "–"),
    ]


def test_a_density_map_counts_points_where_they_are() -> None:
    chart = density_map("Boxes", np.array([0.01, 0.01, 1.0]), np.array([0.99, 0.99, 0.0]), "three")
    assert chart is not None
    assert [(cell.x, cell.y, cell.share) for cell in chart.cells] == [(15, 0, 0.5), (0, 15, 1.0)]
