"""Perceptual hashes: near hashes are found, the nearest first, and orientations are those of the turned image."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.fft import dctn

from tests.support.terrain import terrain
from vhm.data.validation.similarity.hashes import MAX_DISTANCE, HashIndex, hash_of, low_coefficients, oriented


def near(hashes: np.ndarray, bits: int, seed: int) -> np.ndarray:
    """Each hash with that many of its bits flipped."""
    random = np.random.default_rng(seed)
    flips = [sum(1 << int(bit) for bit in random.choice(64, bits, replace=False)) for _ in hashes]
    return hashes ^ np.array(flips, np.uint64)


def test_the_coefficients_are_those_of_scipy() -> None:
    cells = np.random.default_rng(0).uniform(0, 255, (32, 32)).astype(np.float32)
    expected = dctn(cells.astype(np.float64), norm="ortho")[:8, :8]
    assert np.allclose(low_coefficients(cells), expected, rtol=1e-4, atol=1e-2)


def test_the_index_finds_what_an_exhaustive_search_finds() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 3000, dtype=np.uint64)
    hashes = np.concatenate([hashes, *(near(hashes[:50], bits, bits) for bits in range(8, 15))])
    index = HashIndex(hashes)
    for query in hashes[:50]:
        distances = np.bitwise_count(query ^ hashes)
        nearest = np.argsort(distances, kind="stable")
        assert index.find(query).tolist() == [i for i in nearest.tolist() if distances[i] <= MAX_DISTANCE]


def test_the_nearest_hash_is_found_among_too_many_matches() -> None:
    query = np.array([0x0123456789ABCDEF], np.uint64)
    hashes = np.concatenate([near(np.repeat(query, 25_000), 6, 1), near(query, 2, 2)])
    assert HashIndex(hashes).find(query[0])[0] == 25_000


def test_the_hashes_of_orientations_are_those_of_the_turned_image() -> None:
    cells = np.asarray(terrain(1).convert("L").resize((32, 32), Image.Resampling.BOX), np.float32)
    turned = [np.rot90(side, turns) for side in (cells, cells[:, ::-1]) for turns in range(4)]
    turned += [255 - image for image in turned]
    hashes = [hash_of(coefficients) for coefficients in oriented(low_coefficients(cells))]
    expected = [hash_of(low_coefficients(np.ascontiguousarray(image))) for image in turned]
    differences = [int(one ^ other).bit_count() for one, other in zip(hashes, expected, strict=True)]
    assert max(differences) <= 1, "the median coefficient itself is on either side in the negative"
