"""Options of whole sources: missing bands in one line, sources that no record has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.images.test_decode import raster
from tests.support.lists import validate
from vhm.data.images.options import ImageOptions, SourceOptions
from vhm.data.validation.validate import Validation

BANDS = ImageOptions((4, 3, 2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Records of GeoTIFFs: 3 of `s2` with 4 bands, 4 of `drone` and 1 without a source with 3 bands."""
    draw, records = np.random.default_rng(0), []
    for number, (source, bands) in enumerate([("s2", 4)] * 3 + [("drone", 3)] * 4 + [("", 3)]):
        path = tmp_path / "images" / source / f"{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raster(draw.integers(0, 3000, (bands, 40, 40), dtype=np.uint16)))
        for question in ("What?", "Where?"):
            turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": f"Field {number}."}]
            source_dataset = {"source_dataset": source} if source else {}
            records.append(source_dataset | {"image": path.name, "conversations": turns})
    (tmp_path / "list.json").write_text(json.dumps(records))
    return tmp_path


def check(folder: Path, options: SourceOptions) -> Validation:
    out = folder / "out"
    return validate(folder / "list.json", folder / "images", out, image_options=options, max_rejected=0.9)


def test_images_that_lack_a_band_are_reported_by_source(folder: Path) -> None:
    result = check(folder, SourceOptions(BANDS))
    assert result.reasons == {"image_mode": 10}
    assert result.failures[:2] == (
        "records without a source: 1 of 1 images have 3 bands, bands [4, 3, 2] were requested: set data.bands",
        "source drone: 4 of 4 images have 3 bands, bands [4, 3, 2] were requested: set data.sources.drone.bands",
    )
    assert json.loads((folder / "out" / "validation.json").read_text())["failures"] == list(result.failures)


def test_options_of_the_source_make_its_images_readable(folder: Path) -> None:
    result = check(folder, SourceOptions(sources={"s2": BANDS, "drone": ImageOptions((1, 2, 3))}))
    assert (result.accepted, result.failures, result.warnings) == (16, (), ())


def test_a_few_images_that_lack_a_band_are_a_warning(folder: Path) -> None:
    (folder / "images" / "s2" / "0.tif").write_bytes(raster(np.full((1, 40, 40), 7, np.uint16)))
    result = check(folder, SourceOptions(sources={"s2": BANDS}))
    assert result.passed
    assert result.reasons == {"image_mode": 2}
    [line] = result.warnings
    assert line == "source s2: 1 of 3 images have 1 band, bands [4, 3, 2] were requested: set data.sources.s2.bands"


def test_a_source_of_the_recipe_that_no_record_has_is_a_warning(folder: Path) -> None:
    result = check(folder, SourceOptions(sources={"drones": ImageOptions((1, 2, 3))}))
    assert result.passed
    assert result.warnings == ("data.sources names 'drones', but no record has this source; did you mean 'drone'?",)
    assert "data.sources names &#39;drones&#39;" in (folder / "out" / "report.html").read_text()
