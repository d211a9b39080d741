"""Embedded images: small, from any store, with the bands of their source."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.terrain import terrain
from vhm.data.images.options import ImageOptions, SourceOptions
from vhm.data.shards.pack import pack
from vhm.data.validation.report.thumbnails import MAX_BYTES, SIDE, ImageRef, Thumbnail, thumbnails
from vhm.data.validation.request import ValidationRequest
from vhm.data.validation.validate import validate
from vhm.errors import InputError


def decoded(thumbnail: Thumbnail) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(thumbnail.uri.removeprefix("data:image/jpeg;base64,"))))


def test_thumbnails_keep_the_shape_and_are_never_enlarged(tmp_path: Path) -> None:
    terrain(0, 1200).crop((0, 0, 1200, 400)).save(tmp_path / "wide.jpg")
    terrain(1, 40).save(tmp_path / "small.png")
    wide, small = thumbnails([ImageRef("wide.jpg"), ImageRef("small.png")], ValidationRequest([], tmp_path)).values()
    assert wide.size == decoded(wide).size == (SIDE, SIDE // 3)
    assert small.size == (40, 40)


def test_even_noise_is_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    Image.fromarray(noise[:SIDE, :SIDE]).save(tmp_path / "noise.png")
    [thumbnail] = thumbnails([ImageRef("noise.png")], ValidationRequest([], tmp_path)).values()
    assert len(base64.b64decode(thumbnail.uri.partition(",")[2])) <= MAX_BYTES


def test_images_have_the_bands_of_their_source(tmp_path: Path) -> None:
    import rasterio

    (tmp_path / "ms").mkdir()
    profile = {"width": 8, "height": 8, "count": 5, "dtype": "uint8", "transform": rasterio.Affine(1, 0, 9, 0, -1, 9)}
    with rasterio.open(tmp_path / "ms" / "a.tif", "w", **profile) as raster:
        raster.write(np.stack([np.full((8, 8), value, np.uint8) for value in (0, 60, 120, 180, 240)]))
    options = SourceOptions(sources={"ms": ImageOptions(bands=(5, 4, 3))})
    images = [ImageRef("ms/a.tif", "ms"), ImageRef("ms/a.tif", "other")]
    shown = thumbnails(images, ValidationRequest([], tmp_path, image_options=options))
    colours = [decoded(shown[image]).getpixel((4, 4)) for image in images]
    assert colours == [pytest.approx((240, 180, 120), abs=4), pytest.approx((0, 60, 120), abs=4)]


def test_images_come_from_shards_as_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    terrain(2, 50).save(tmp_path / "images" / "a.jpg")
    turns = '[{"from": "human", "value": "<image>\\nWhat?"}, {"from": "gpt", "value": "Ground."}]'
    (tmp_path / "list.json").write_text(f'[{{"image": "a.jpg", "conversations": {turns}}}]')
    request = ValidationRequest([tmp_path / "list.json"], tmp_path / "images")
    validate(request, tmp_path / "out")
    pack(tmp_path / "out" / "manifest.parquet", tmp_path / "images", tmp_path / "shards", 10**6)
    image = ImageRef("a.jpg")
    packed = thumbnails([image], ValidationRequest([], tmp_path / "shards"))[image]
    assert packed.uri
    assert packed == thumbnails([image], request)[image]


def test_a_store_that_fails_is_an_error_and_an_image_that_is_missing_is_none(tmp_path: Path) -> None:
    image = ImageRef("absent.jpg")
    assert thumbnails([image], ValidationRequest([], tmp_path))[image].note == "The image file does not exist"
    with pytest.raises(InputError):
        thumbnails([image], ValidationRequest([], tmp_path / "nowhere"))
