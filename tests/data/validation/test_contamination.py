"""Leaks: every way to change a picture that does not make it another one, and pictures that only look alike."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.support.terrain import terrain
from vhm.data.validation.contamination import (
    MAX_DISTANCE,
    HashIndex,
    LeakFinder,
    fingerprint,
    load_finder,
    save_fingerprints,
)

DRAW = np.random.default_rng(5)


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [terrain(seed) for seed in range(30)]


@pytest.fixture(scope="module")
def finder(pictures: list[Image.Image]) -> LeakFinder:
    return LeakFinder([(str(n), fingerprint(jpeg(picture, 95))) for n, picture in enumerate(pictures)])


def cropped(picture: Image.Image, share: float) -> Image.Image:
    """A part of that share of the area, anywhere."""
    width, height = (round(v * share**0.5) for v in picture.size)
    left, top = (int(DRAW.integers(0, v - w + 1)) for v, w in zip(picture.size, (width, height), strict=True))
    return picture.crop((left, top, left + width, top + height))


def padded(picture: Image.Image, colour: tuple[int, int, int] = (122, 116, 104)) -> Image.Image:
    square = Image.new("RGB", (256, 256), colour)
    square.paste(picture.resize((256, 180)), (0, 38))
    return square


def inside(picture: Image.Image) -> Image.Image:
    other = terrain(int(DRAW.integers(10**6, 10**7)))
    other.paste(picture.resize((170, 170)), (int(DRAW.integers(0, 86)), int(DRAW.integers(0, 86))))
    return other


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": lambda p: p.resize((128, 128)),
    "twice the size": lambda p: p.resize((512, 512)),
    "stretched": lambda p: p.resize((300, 200)),
    "brighter": lambda p: ImageEnhance.Brightness(p).enhance(1.2),
    "less contrast": lambda p: ImageEnhance.Contrast(p).enhance(0.7),
    "grey": lambda p: p.convert("L").convert("RGB"),
    "padded": padded,
    "padded black": lambda p: padded(p, (0, 0, 0)),
    **{f"turned {n}": lambda p, n=n: p.transpose(n) for n in range(7)},
    **{f"{share:.0%} of it": lambda p, share=share: cropped(p, share) for share in (0.95, 0.9, 0.8, 0.5, 0.25)},
    "a part, mirrored": lambda p: cropped(p, 0.6).transpose(0),
    "a part of a larger one": inside,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_picture_is_found(change: str, pictures: list[Image.Image], finder: LeakFinder) -> None:
    found = [finder.find(fingerprint(jpeg(CHANGES[change](picture), 75))) for picture in pictures]
    assert sum(name == str(n) for n, name in enumerate(found)) >= 29
    assert all(name in (None, str(n)) for n, name in enumerate(found))


def near(hashes: np.ndarray, bits: int, seed: int) -> np.ndarray:
    """Each hash with that many bits of it changed."""
    draw = np.random.default_rng(seed)
    flips = [sum(1 << int(bit) for bit in draw.choice(64, bits, replace=False)) for _ in hashes]
    return hashes ^ np.array(flips, np.uint64)


def test_near_hashes_are_found_as_by_looking_at_all() -> None:
    kept = np.random.default_rng(0).integers(0, 2**64, 3000, dtype=np.uint64)
    kept = np.concatenate([kept, *(near(kept[:50], bits, bits) for bits in range(8, 15))])
    wanted = kept[:50]
    distances = np.bitwise_count(wanted[:, None] ^ kept[None, :])
    expected = [(int(distances[i, j]), int(i), int(j)) for i, j in np.argwhere(distances <= MAX_DISTANCE)]
    assert list(HashIndex([kept[:2000], kept[2000:]]).find(wanted)) == [(i, j) for _, i, j in sorted(expected)]


def test_the_nearest_is_found_among_too_many() -> None:
    wanted = np.array([0x0123456789ABCDEF], np.uint64)
    kept = np.concatenate([near(np.repeat(wanted, 25_000), 6, 1), near(wanted, 2, 2)])
    assert next(HashIndex([kept]).find(wanted)) == (0, 25_000)


def test_bytes_are_enough(pictures: list[Image.Image]) -> None:
    flat = jpeg(Image.new("RGB", (64, 64), (3, 40, 90)))
    finder = LeakFinder([("lake", fingerprint(flat))])
    assert finder.find(fingerprint(flat)) == "lake"
    assert finder.find(fingerprint(jpeg(Image.new("RGB", (64, 64), (4, 41, 90))))) is None, "every calm lake looks so"


def test_others_are_not_found(finder: LeakFinder) -> None:
    for seed in range(1000, 1060):
        assert finder.find(fingerprint(jpeg(terrain(seed)))) is None


def test_islands_in_two_lakes_are_not_one() -> None:
    def lake(seed: int, left: int, top: int) -> bytes:
        water = np.random.default_rng(seed).normal((30, 90, 110), 1, (256, 256, 3))
        water[top : top + 30, left : left + 30] = (40, 60, 30)
        return jpeg(Image.fromarray(np.clip(water, 0, 255).astype(np.uint8)))

    finder = LeakFinder([("lake", fingerprint(lake(1, 180, 180)))])
    assert finder.find(fingerprint(lake(2, 226, 226))) is None


def test_kept_fingerprints_are_the_same(pictures: list[Image.Image], tmp_path: Path) -> None:
    prints = [(f"Straße {n}", fingerprint(jpeg(padded(picture)))) for n, picture in enumerate(pictures[:3])]
    save_fingerprints(tmp_path / "prints.npz", prints)
    assert load_finder(tmp_path / "prints.npz").find(fingerprint(jpeg(pictures[2]))) == "Straße 2"
