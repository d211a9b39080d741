"""Georeferenced images: shared ground is exact, in any coordinate system; disjoint ground is no overlap."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rasterio.warp import transform

from tests.support.terrain import terrain
from vhm.data.validation.findings import Leak
from vhm.data.validation.similarity import LeakFinder, fingerprint
from vhm.data.validation.similarity.evaluation import prepare
from vhm.data.validation.similarity.footprints import read_footprint

UTM = "EPSG:32631"
EAST, NORTH = 500_000.0, 5_600_000.0  # metres: 3° east, 50.5° north


def geotiff(seed: int, east: float, north: float, crs: str | None = UTM, gsd: float = 10.0, side: int = 256) -> bytes:
    """A GeoTIFF of random terrain whose upper left corner is at (east, north)."""
    place = {} if crs is None else {"crs": CRS.from_string(crs), "transform": Affine(gsd, 0, east, 0, -gsd, north)}
    with MemoryFile() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the image without a place
        with memory.open(driver="GTiff", width=side, height=side, count=3, dtype="uint8", **place) as image:
            image.write(np.asarray(terrain(seed).resize((side, side))).transpose(2, 0, 1))
        return bytes(memory.read())


@pytest.fixture(scope="module")
def finder() -> LeakFinder:
    return LeakFinder(prepare([("scene", fingerprint(geotiff(1, EAST, NORTH)))]))


def find(finder: LeakFinder, content: bytes) -> Leak | None:
    return finder.find(fingerprint(content))


def test_shared_ground_is_an_overlap_whatever_the_images_show(finder: LeakFinder) -> None:
    leak = find(finder, geotiff(2, EAST + 640, NORTH))
    assert leak is not None
    assert (leak.evaluation, leak.kind, leak.score) == ("scene", "overlap", 1.0)
    assert leak.matched_area == pytest.approx(0.75, abs=0.002)
    assert sorted({round(x, 2) for x, _ in leak.outline}) == [0, 0.75]
    assert sorted({round(x, 2) for x, _ in leak.evaluation_outline}) == [0.25, 1]


def test_less_than_half_of_the_area_is_no_leak(finder: LeakFinder) -> None:
    assert find(finder, geotiff(2, EAST + 1360, NORTH)) is None


def test_a_footprint_inside_another_is_a_part(finder: LeakFinder) -> None:
    leak = find(finder, geotiff(2, EAST + 400, NORTH - 600, side=100))
    assert leak is not None
    assert (leak.kind, leak.matched_area) == ("part", 1.0)


def test_coordinate_systems_may_differ(finder: LeakFinder) -> None:
    [longitude], [latitude] = transform(UTM, "EPSG:4326", [EAST], [NORTH])[:2]
    leak = find(finder, geotiff(2, longitude, latitude, "EPSG:4326", gsd=2560 / 111_200 / 256))
    assert leak is not None, "about 2.6 km north to south, and less from west to east"
    assert leak.matched_area > 0.95


def test_similar_images_of_other_ground_do_not_overlap() -> None:
    """The left half of one shows what the right half of the other shows, a thousand kilometres away."""
    ground = np.asarray(terrain(7, 384))

    def window(left: int, east: float) -> bytes:
        with MemoryFile() as memory:
            place = {"crs": CRS.from_string(UTM), "transform": Affine(10, 0, east, 0, -10, NORTH)}
            with memory.open(driver="GTiff", width=256, height=256, count=3, dtype="uint8", **place) as image:
                image.write(ground[:256, left : left + 256].transpose(2, 0, 1))
            return bytes(memory.read())

    finder = LeakFinder(prepare([("scene", fingerprint(window(0, EAST)))]))
    near = find(finder, window(64, EAST + 640))
    assert near is not None
    assert near.kind == "overlap"
    assert find(finder, window(64, EAST + 100_000)) is None
    copy = find(finder, window(0, EAST + 100_000))
    assert copy is not None
    assert copy.kind == "re-encoded"


def test_ground_across_the_antimeridian_is_shared() -> None:
    fiji = "EPSG:32701"  # UTM zone 1 south; 180° is at about 166,000 m at the equator
    finder = LeakFinder(prepare([("east", fingerprint(geotiff(1, 160_000, 9_999_000, fiji, 60)))]))
    leak = find(finder, geotiff(2, 161_000, 9_999_000, fiji, 60))
    assert leak is not None
    assert leak.matched_area == pytest.approx(1 - 1000 / (256 * 60), abs=0.005)


@pytest.mark.parametrize("content", [b"", b"II*\0broken", b"\x89PNG", geotiff(1, EAST, NORTH, crs=None)])
def test_files_without_a_georeference_have_no_footprint(content: bytes) -> None:
    assert read_footprint(content) is None
