"""Cached pixels never outlive the file or the transform they were made with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.images.test_decode import ramps, raster
from vhm.data.images import load_pixels
from vhm.data.images.cache import DiskCache
from vhm.data.images.options import ImageOptions, SourceOptions
from vhm.data.images.pixel_cache import PixelCache
from vhm.data.images.stores import open_store
from vhm.data.images.transform import Aspect, ImageTransform


def test_cached_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    """From memory, from disk, and read again when the file or the transform changes."""
    noise = np.random.default_rng(0).integers(0, 255, (2, 50, 50, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / "a.png"
    Image.fromarray(noise[0]).save(path)
    disk = DiskCache(tmp_path / "disk", 10**8)

    def read(aspect: Aspect = "pad") -> np.ndarray:
        return PixelCache(open_store(tmp_path / "images"), ImageTransform(28, aspect), disk=disk).read("a.png")

    first = read()
    assert np.array_equal(first, ImageTransform(28).resize(noise[0]))
    path.rename(tmp_path / "images" / "b.png")
    (tmp_path / "images" / "b.png").rename(path)
    assert np.array_equal(read(), first)
    assert len([p for p in (tmp_path / "disk").rglob("*") if p.is_file() and p.name != ".lock"]) == 1
    read("crop")
    assert len([p for p in (tmp_path / "disk").rglob("*") if p.is_file() and p.name != ".lock"]) == 2
    Image.fromarray(noise[1]).save(path)
    assert np.array_equal(read(), ImageTransform(28).resize(noise[1]))


def test_an_image_of_two_sources_is_cached_for_each(tmp_path: Path) -> None:
    """Two records may show one file under sources with different options."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.tif").write_bytes(raster(ramps(4)))
    options = SourceOptions(sources={"s2": ImageOptions((4, 3, 2))})
    disk = DiskCache(tmp_path / "disk", 10**8)
    cache = PixelCache(open_store(tmp_path / "images"), ImageTransform(28, options=options), disk=disk)
    expected = {
        source: ImageTransform(28).resize(load_pixels(raster(ramps(4)), options=options.of(source)))
        for source in ("s2", "")
    }
    assert not np.array_equal(expected["s2"], expected[""])
    for source in ("s2", "", "s2"):
        assert np.array_equal(cache.read("a.tif", source), expected[source])
    again = PixelCache(open_store(tmp_path / "images"), ImageTransform(28, options=options), disk=disk)
    for source in ("", "s2"):
        assert np.array_equal(again.read("a.tif", source), expected[source])
