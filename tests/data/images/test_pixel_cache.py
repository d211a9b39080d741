"""Cached pixels never outlive the file or the transform they were made with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vhm.data.images.cache import DiskCache
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
