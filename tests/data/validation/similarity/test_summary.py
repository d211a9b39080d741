"""The summary of an image: brightness, whether it is blank, hash and thumbnail."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.support.terrain import terrain
from vhm.data.images import load_pixels
from vhm.data.validation.similarity import summarise


def uniform(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((256, 256, 3), colour, np.uint8)


def jpeg(pixels: np.ndarray, quality: int = 60) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return load_pixels(buffer.getvalue())


def half_black_half_white() -> np.ndarray:
    pixels = uniform((0, 0, 0))
    pixels[:, 128:] = 255
    return pixels


def lake(spread: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, spread, (256, 256, 3))
    return np.clip(np.rint(np.array([40, 80, 110]) + noise), 0, 255).astype(np.uint8)


def with_ship(pixels: np.ndarray, side: int) -> np.ndarray:
    pixels = pixels.copy()
    pixels[100 : 100 + side, 60 : 60 + side] = (200, 60, 30)
    return pixels


@pytest.mark.parametrize(
    ("pixels", "blank"),
    [
        (uniform((0, 0, 0)), True),
        (uniform((90, 120, 60)), True),
        (jpeg(uniform((201, 13, 77))), True),
        (half_black_half_white(), False),
        (with_ship(uniform((90, 120, 60)), 3), True),
        (with_ship(uniform((90, 120, 60)), 20), False),
        (with_ship(uniform((0, 0, 0)), 20), False),
        (lake(3), False),
        (np.asarray(terrain(3)), False),
    ],
)
def test_an_image_without_content_is_blank(pixels: np.ndarray, blank: bool) -> None:
    assert summarise(pixels).blank is blank


def test_brightness_is_the_mean_grey_level() -> None:
    assert summarise(uniform((50, 50, 50))).brightness == 50
    assert summarise(half_black_half_white()).brightness == 127.5
    assert summarise(uniform((255, 0, 0))).brightness == pytest.approx(0.299 * 255, abs=1)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (31, 33), (1000, 700)])
def test_the_thumbnail_is_that_of_a_resized_image(size: tuple[int, int]) -> None:
    image = terrain(4).resize(size)
    thumbnail = np.frombuffer(summarise(np.asarray(image)).thumbnail, np.uint8).reshape(32, 32)
    expected = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), float)
    assert np.abs(thumbnail - expected).mean() < 4


def test_hashes_of_copies_are_near_and_those_of_other_images_far() -> None:
    def distance(one: Image.Image, other: np.ndarray) -> int:
        return (summarise(np.asarray(one)).hash ^ summarise(other).hash).bit_count()

    for seed in range(5):
        image = terrain(seed)
        assert distance(image, jpeg(np.asarray(image), 30)) <= 4
        assert distance(image, np.asarray(image.resize((100, 100)))) <= 4
        assert distance(image, np.asarray(ImageEnhance.Brightness(image).enhance(0.8))) <= 4
        assert distance(image, np.asarray(terrain(seed + 50))) > 12
