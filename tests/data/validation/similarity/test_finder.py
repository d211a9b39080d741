"""Leaks: changed copies of an evaluation image are found, images that only look similar are not."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from tests.support.terrain import terrain
from vhm.data.validation.similarity import Fingerprint, LeakFinder, fingerprint, load_finder, save_fingerprints
from vhm.data.validation.similarity.evaluation import prepare

RANDOM = np.random.default_rng(5)


def evaluation_name(finder: LeakFinder, image: Fingerprint) -> str | None:
    leak = finder.find(image)
    return None if leak is None else leak.evaluation


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def evaluation_images() -> list[Image.Image]:
    return [terrain(seed) for seed in range(30)]


@pytest.fixture(scope="module")
def finder(evaluation_images: list[Image.Image]) -> LeakFinder:
    return LeakFinder(prepare((str(n), fingerprint(jpeg(image, 95))) for n, image in enumerate(evaluation_images)))


def cropped(image: Image.Image, area: float) -> Image.Image:
    """A crop of that fraction of the area, at a random position."""
    width, height = (round(v * area**0.5) for v in image.size)
    left, top = (int(RANDOM.integers(0, v - w + 1)) for v, w in zip(image.size, (width, height), strict=True))
    return image.crop((left, top, left + width, top + height))


def padded(image: Image.Image, colour: tuple[int, int, int] = (122, 116, 104)) -> Image.Image:
    square = Image.new("RGB", (256, 256), colour)
    square.paste(image.resize((256, 180)), (0, 38))
    return square


def pasted(image: Image.Image) -> Image.Image:
    """A larger image of which `image` is a part."""
    larger = terrain(int(RANDOM.integers(10**6, 10**7)))
    larger.paste(image.resize((170, 170)), (int(RANDOM.integers(0, 86)), int(RANDOM.integers(0, 86))))
    return larger


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": lambda p: p.resize((128, 128)),
    "twice the size": lambda p: p.resize((512, 512)),
    "stretched": lambda p: p.resize((300, 200)),
    "brighter": lambda p: ImageEnhance.Brightness(p).enhance(1.2),
    "less contrast": lambda p: ImageEnhance.Contrast(p).enhance(0.7),
    "grey": lambda p: p.convert("L").convert("RGB"),
    "padded": padded,
    "padded black": lambda p: padded(p, (0, 0, 0)),
    **{f"transpose {n}": lambda p, n=n: p.transpose(n) for n in range(7)},
    **{f"crop of {area:.0%}": lambda p, area=area: cropped(p, area) for area in (0.95, 0.9, 0.8, 0.5, 0.25)},
    "a mirrored crop": lambda p: cropped(p, 0.6).transpose(0),
    "the negative of a crop": lambda p: ImageOps.invert(cropped(p, 0.6)),
    "the negative, rotated": lambda p: ImageOps.invert(p).rotate(17),
    "pasted into a larger image": pasted,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found(change: str, evaluation_images: list[Image.Image], finder: LeakFinder) -> None:
    names = [evaluation_name(finder, fingerprint(jpeg(CHANGES[change](image), 75))) for image in evaluation_images]
    assert sum(name == str(n) for n, name in enumerate(names)) >= 28
    assert all(name in (None, str(n)) for n, name in enumerate(names))


def test_a_uniform_image_is_found_by_its_bytes_alone() -> None:
    flat = jpeg(Image.new("RGB", (64, 64), (3, 40, 90)))
    finder = LeakFinder(prepare([("lake", fingerprint(flat))]))
    assert evaluation_name(finder, fingerprint(flat)) == "lake"
    assert finder.find(fingerprint(jpeg(Image.new("RGB", (64, 64), (4, 41, 90))))) is None, (
        "every calm lake looks the same"
    )


def test_other_images_are_not_found(finder: LeakFinder) -> None:
    for seed in range(1000, 1060):
        assert finder.find(fingerprint(jpeg(terrain(seed)))) is None


def test_islands_in_two_lakes_do_not_match() -> None:
    def lake(seed: int, left: int, top: int) -> bytes:
        water = np.random.default_rng(seed).normal((30, 90, 110), 1, (256, 256, 3))
        water[top : top + 30, left : left + 30] = (40, 60, 30)
        return jpeg(Image.fromarray(np.clip(water, 0, 255).astype(np.uint8)))

    finder = LeakFinder(prepare([("lake", fingerprint(lake(1, 180, 180)))]))
    assert finder.find(fingerprint(lake(2, 226, 226))) is None


def test_a_saved_finder_finds_the_same(evaluation_images: list[Image.Image], tmp_path: Path) -> None:
    named = [(f"Straße {n}", fingerprint(jpeg(padded(image)))) for n, image in enumerate(evaluation_images[:3])]
    save_fingerprints(tmp_path / "fingerprints", named)
    finder = load_finder(tmp_path / "fingerprints")
    assert evaluation_name(finder, fingerprint(jpeg(evaluation_images[2]))) == "Straße 2"
