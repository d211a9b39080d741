"""Near-duplicates: copies are found with the image that they resemble, other images are not."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageEnhance

from tests.support.terrain import terrain
from vhm.data.images import load_pixels
from vhm.data.validation.similarity import ImageSummary, near_duplicates, summarise


def pairs(summaries: list[ImageSummary]) -> list[tuple[int, int, float]]:
    hashes = np.array([summary.hash for summary in summaries], np.uint64)
    thumbnails = np.frombuffer(b"".join(s.thumbnail for s in summaries), np.uint8).reshape(-1, 32, 32)
    return list(near_duplicates(hashes, thumbnails))


def jpeg(image: Image.Image, quality: int) -> ImageSummary:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return summarise(load_pixels(buffer.getvalue()))


def test_changed_copies_are_found_once_each_with_their_original() -> None:
    images = [terrain(seed) for seed in range(40)]
    summaries = [jpeg(image, 90) for image in images]
    summaries += [jpeg(image, 40) for image in images]
    summaries += [jpeg(image.resize((120, 120)), 80) for image in images]
    summaries += [jpeg(ImageEnhance.Brightness(image).enhance(0.85), 80) for image in images]
    found = pairs(summaries)
    assert [later for later, _, _ in found] == list(range(40, 160))
    assert all(earlier < later and earlier % 40 == later % 40 for later, earlier, _ in found)
    assert all(0.97 <= score <= 1 for _, _, score in found)


def test_different_images_are_not_duplicates() -> None:
    assert pairs([jpeg(terrain(seed), 85) for seed in range(200)]) == []


def test_uniform_images_are_not_duplicates() -> None:
    lakes = [np.full((64, 64, 3), level, np.uint8) for level in (0, 0, 90, 90, 91, 255)]
    assert pairs([summarise(lake) for lake in lakes]) == []


def test_no_images_have_no_duplicates() -> None:
    assert pairs([]) == []
