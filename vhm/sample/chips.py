"""Scenes → chips, cut on a grid inside each region.

A chip is kept if every pixel is valid and its region's land cover holds in it. A label belongs to a chip if its box
lies completely inside. A box that the chip's edge truncates is not a label but is kept in `truncated`: it is never an
answer, but it prevents a claim of absence, and it is compared with the object that may be the largest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from shapely.geometry import LineString
from shapely.geometry import box as rectangle

from vhm.sample.scenes import Label, Pixels, Point, Region, Scene, all_scenes


@dataclass(frozen=True)
class Chip:
    """An image and everything that is known about it; boxes and polygons are in the chip's pixels.

    `complete` names the labels that miss no object, `absent` those that are proven to be absent.
    `cover` gives the bounds (low, high) of each land cover's share of the chip's area.
    """

    name: str
    scene: str
    package: str
    split: str
    pixels: Pixels
    gsd: float
    sensor: str
    location: str
    modality: str | None
    scene_class: str | None
    setting: str | None
    labels: tuple[Label, ...]
    truncated: tuple[Label, ...]
    complete: frozenset[str]
    absent: frozenset[str]
    cover: dict[str, tuple[float, float]]
    road: bool

    @property
    def size(self) -> int:
        """Side length in pixels."""
        return int(self.pixels.shape[0])


def all_chips() -> Iterator[Chip]:
    """Yield every chip of the sample, in a fixed order."""
    for scene in all_scenes():
        for region in scene.regions:
            x0, y0, x1, y1 = region.rect
            for y in range(y0, y1 - region.size + 1, region.stride):
                for x in range(x0, x1 - region.size + 1, region.stride):
                    chip = cut_chip(scene, region, x, y)
                    if chip is not None:
                        yield chip


def cut_chip(scene: Scene, region: Region, x: int, y: int) -> Chip | None:
    """Return the chip whose upper left pixel is (x, y); None if it is not valid."""
    size = region.size
    window = (slice(y, y + size), slice(x, x + size))
    if not scene.valid[window].all():
        return None
    cover = {
        name: (float(masks.sure[window].mean()), float(masks.possible[window].mean()))
        for name, masks in scene.cover.items()
    }
    labels, truncated = _labels_in(scene.labels, x, y, size)
    pixels = np.ascontiguousarray(scene.pixels[window])
    absent = frozenset(
        name for name in scene.complete if _no_box_near(scene.labels, name, x, y, size) and not _has_shadow(pixels)
    )
    scene_class = region.scene_class
    if scene_class == "trees":
        trees = sum(label.name == "tree" for label in labels)
        scene_class = "forest" if trees >= 5 else "meadow" if "tree" in absent else None
    water, _ = cover.get("water", (0.0, 0.0))
    if (scene_class == "water" and water < 0.9) or (scene_class in ("forest", "farmland", "city") and water > 0.1):
        return None
    return Chip(
        f"{scene.name}_{x:04d}_{y:04d}",
        scene.name,
        scene.package,
        region.split,
        pixels,
        scene.gsd,
        scene.sensor,
        scene.location,
        scene.modality,
        scene_class,
        region.setting,
        labels,
        truncated,
        scene.complete,
        absent,
        cover,
        _road_crosses(scene.roads, x, y, size),
    )


def _labels_in(labels: tuple[Label, ...], x: int, y: int, size: int) -> tuple[tuple[Label, ...], tuple[Label, ...]]:
    """Return the labels completely inside and the truncated ones, both in the chip's pixels."""
    inside: list[Label] = []
    truncated: list[Label] = []
    for label in labels:
        x0, y0, x1, y1 = (a - b for a, b in zip(label.box, (x, y, x, y), strict=True))
        if x1 <= 0 or y1 <= 0 or x0 >= size or y0 >= size:
            continue
        shifted = Label(label.name, (x0, y0, x1, y1), tuple((px - x, py - y) for px, py in label.polygon))
        complete = x0 >= 0 and y0 >= 0 and x1 <= size and y1 <= size
        (inside if complete else truncated).append(shifted)
    return tuple(inside), tuple(truncated)


def _no_box_near(labels: tuple[Label, ...], name: str, x: int, y: int, size: int, margin: int = 10) -> bool:
    """Return whether no box of `name` touches the chip grown by `margin` pixels: boxes are drawn loosely."""
    return all(
        label.box[2] < x - margin
        or label.box[3] < y - margin
        or label.box[0] > x + size + margin
        or label.box[1] > y + size + margin
        for label in labels
        if label.name == name
    )


def _has_shadow(pixels: Pixels, block: int = 10, dark: float = 75) -> bool:
    """Return whether the chip contains a shadow, that is, at least two dark blocks of 1 m².

    The shadow may be that of an object without a label, such as a dead trunk, so the chip proves no absence.
    """
    grey = pixels.mean(-1)
    size = len(grey) // block * block
    blocks = grey[:size, :size].reshape(size // block, block, size // block, block).mean((1, 3))
    return bool((blocks < dark).sum() >= 2)


def _road_crosses(roads: tuple[tuple[Point, ...], ...], x: int, y: int, size: int) -> bool:
    """Return whether a road runs for at least half the chip's width, a tenth of it away from the edge."""
    margin = size / 10
    inner = rectangle(x + margin, y + margin, x + size - margin, y + size - margin)
    return any(LineString(road).intersection(inner).length >= size / 2 for road in roads)
