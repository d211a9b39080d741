"""Scenes → chips: cut on a grid inside each region.

A chip is kept when every pixel is valid and its region's land cover holds in it. A label belongs to a
chip when its box lies wholly inside; a box that the edge cuts is dropped from the chip's labels and kept
in `cut`: it is nobody's answer, but it forbids an absence and rivals whatever claims to be the largest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from shapely.geometry import LineString
from shapely.geometry import box as rectangle

from vhm.sample.scenes import Label, Pixels, Region, Scene, all_scenes


@dataclass(frozen=True)
class Chip:
    """A picture and everything that is known of it; boxes and polygons in the chip's own pixels.

    `complete` labels miss no object, `absent` ones are proven not to be there.
    `cover` gives for each land cover the bounds (low, high) of its share of the chip's area.
    """

    name: str
    scene: str
    package: str
    split: str
    pixels: Pixels
    gsd: float
    sensor: str
    place: str
    modality: str | None
    scene_class: str | None
    setting: str | None
    labels: tuple[Label, ...]
    cut: tuple[Label, ...]
    complete: frozenset[str]
    absent: frozenset[str]
    cover: dict[str, tuple[float, float]]
    road: bool

    @property
    def size(self) -> int:
        return self.pixels.shape[0]


def all_chips() -> Iterator[Chip]:
    """Every chip of the sample, in a fixed order."""
    for scene in all_scenes():
        for region in scene.regions:
            x0, y0, x1, y1 = region.rect
            for y in range(y0, y1 - region.size + 1, region.stride):
                for x in range(x0, x1 - region.size + 1, region.stride):
                    chip = cut(scene, region, x, y)
                    if chip is not None:
                        yield chip


def cut(scene: Scene, region: Region, x: int, y: int) -> Chip | None:
    """The chip whose upper left pixel is (x, y), or None where the scene cannot give one."""
    size = region.size
    window = (slice(y, y + size), slice(x, x + size))
    if not scene.valid[window].all():
        return None
    cover = {
        name: (float(masks.sure[window].mean()), float(masks.possible[window].mean()))
        for name, masks in scene.cover.items()
    }
    labels, cut_labels = _labels_in(scene.labels, x, y, size)
    pixels = np.ascontiguousarray(scene.pixels[window])
    absent = frozenset(
        name for name in scene.complete if _nothing_near(scene.labels, name, x, y, size) and not _shadows(pixels)
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
        scene.place,
        scene.modality,
        scene_class,
        region.setting,
        labels,
        cut_labels,
        scene.complete,
        absent,
        cover,
        _road_crosses(scene.roads, x, y, size),
    )


def _labels_in(labels: tuple[Label, ...], x: int, y: int, size: int) -> tuple[tuple[Label, ...], tuple[Label, ...]]:
    """Labels wholly inside, and labels that the edge cuts, both in the chip's pixels."""
    whole: list[Label] = []
    cut_labels: list[Label] = []
    for label in labels:
        x0, y0, x1, y1 = (a - b for a, b in zip(label.box, (x, y, x, y), strict=True))
        if x1 <= 0 or y1 <= 0 or x0 >= size or y0 >= size:
            continue
        moved = Label(label.name, (x0, y0, x1, y1), tuple((px - x, py - y) for px, py in label.polygon))
        inside = x0 >= 0 and y0 >= 0 and x1 <= size and y1 <= size
        (whole if inside else cut_labels).append(moved)
    return tuple(whole), tuple(cut_labels)


def _nothing_near(labels: tuple[Label, ...], name: str, x: int, y: int, size: int, margin: int = 10) -> bool:
    """Whether no box of `name` touches the chip grown by `margin` pixels: boxes are drawn loosely."""
    return all(
        label.box[2] < x - margin
        or label.box[3] < y - margin
        or label.box[0] > x + size + margin
        or label.box[1] > y + size + margin
        for label in labels
        if label.name == name
    )


def _shadows(pixels: Pixels, block: int = 10, dark: float = 75) -> bool:
    """Whether a shadow of at least two square metres (two dark blocks of 1 m) lies in the chip. What casts
    one stands, labelled or not: dead trunks carry no box, and their chips prove no absence."""
    grey = pixels.mean(-1)
    size = len(grey) // block * block
    blocks = grey[:size, :size].reshape(size // block, block, size // block, block).mean((1, 3))
    return bool((blocks < dark).sum() >= 2)


def _road_crosses(roads: tuple[tuple[tuple[float, float], ...], ...], x: int, y: int, size: int) -> bool:
    """Whether some road runs at least half a chip's width well inside it (a tenth away from the edge)."""
    margin = size / 10
    inner = rectangle(x + margin, y + margin, x + size - margin, y + size - margin)
    return any(LineString(road).intersection(inner).length >= size / 2 for road in roads)
