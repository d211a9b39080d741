"""Where georeferenced images are on Earth, and how much of their area two of them share.

A GeoTIFF's outline is projected to an equal-area projection of the Earth (EPSG:6933), in which areas of any two
images compare.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vhm.data.images.rasters import open_raster

log = logging.getLogger(__name__)

Point = tuple[float, float]

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_EQUAL_AREA = "EPSG:6933"
_WORLD = 2 * 17_367_530.45  # metres around the Earth in that projection
_TOLERANCE = 1e-3  # of the side of shared ground, by which its outline may be simpler
_POINTS_PER_SIDE = 8  # a straight side of an image may be a curve in the other projection


@dataclass(frozen=True)
class Footprint:
    """The outline of an image in metres of EPSG:6933, from its upper left corner clockwise, 8 points a side."""

    outline: tuple[Point, ...]


def read_footprint(content: bytes) -> Footprint | None:
    """The footprint of an image file's bytes; None unless it is a GeoTIFF with a coordinate system and a position."""
    if content[:4] not in _TIFF:
        return None
    import rasterio

    try:
        with rasterio.Env(CPL_LOG="OFF"), open_raster(content, ("GTiff", "COG")) as image:
            if image.crs is None or image.transform.is_identity:
                return None
            return _project(image.crs, image.transform, image.width, image.height)
    except rasterio.errors.RasterioError as error:  # pixels may be readable where the georeference is not
        log.debug("the georeference is not used: %s", error)
        return None


def _project(crs: object, transform: object, width: int, height: int) -> Footprint | None:
    from affine import Affine
    from rasterio import warp

    assert isinstance(transform, Affine)
    steps = np.arange(_POINTS_PER_SIDE) / _POINTS_PER_SIDE
    zeros, ones = np.zeros_like(steps), np.ones_like(steps)
    columns = np.concatenate([steps, ones, 1 - steps, zeros]) * width
    rows = np.concatenate([zeros, steps, ones, 1 - steps]) * height
    xs = transform.a * columns + transform.b * rows + transform.c
    ys = transform.d * columns + transform.e * rows + transform.f
    projected = np.array(warp.transform(crs, _EQUAL_AREA, xs.tolist(), ys.tolist())[:2])
    if not np.isfinite(projected).all():
        return None
    if np.ptp(projected[0]) > _WORLD / 2:  # across the antimeridian
        projected[0] = np.where(projected[0] < 0, projected[0] + _WORLD, projected[0])
    return Footprint(tuple(map(tuple, projected.T.tolist())))


@dataclass(frozen=True)
class Shared:
    """Image `number` of an index shares ground with another image.

    `fraction` is of the smaller footprint's area, `fractions` of the other's and of the indexed image's. `outline` and
    `indexed_outline` are the shared ground in the other and in the indexed image, as fractions of width and height.
    """

    number: int
    fractions: tuple[float, float]
    outline: tuple[Point, ...]
    indexed_outline: tuple[Point, ...]

    @property
    def fraction(self) -> float:
        return max(self.fractions)


class FootprintIndex:
    """Finds those of many footprints that a footprint shares ground with; None stands for an image without one."""

    def __init__(self, footprints: Sequence[Footprint | None]) -> None:
        from shapely import Polygon, STRtree

        self._numbers = [number for number, footprint in enumerate(footprints) if footprint is not None]
        self._footprints = [footprint for footprint in footprints if footprint is not None]
        self._polygons = [Polygon(footprint.outline) for footprint in self._footprints]
        self._tree = STRtree(self._polygons)
        self.numbers = frozenset(self._numbers)

    def find(self, footprint: Footprint) -> Iterator[Shared]:
        """Each indexed footprint that shares ground with `footprint`."""
        from shapely import Polygon

        for shift in (0.0, -_WORLD, _WORLD):  # a footprint across the antimeridian may be on either side
            moved = Footprint(tuple((x + shift, y) for x, y in footprint.outline))
            polygon = Polygon(moved.outline)
            for position in self._tree.query(polygon, predicate="intersects").tolist():
                ground = polygon.intersection(self._polygons[position])
                if ground.area > 0 and isinstance(ground, Polygon):
                    outline = ground.simplify(_TOLERANCE * ground.area**0.5)
                    assert isinstance(outline, Polygon)
                    corners = list(outline.exterior.coords)[:-1]
                    areas = polygon.area, self._polygons[position].area
                    yield Shared(
                        self._numbers[position],
                        (min(ground.area / areas[0], 1.0), min(ground.area / areas[1], 1.0)),
                        _in_image(moved, corners),
                        _in_image(self._footprints[position], corners),
                    )


def _in_image(footprint: Footprint, points: list[Point]) -> tuple[Point, ...]:
    """Points on the ground as fractions of an image's width and height."""
    import cv2

    corners = np.array(footprint.outline[::_POINTS_PER_SIDE])
    centre, scale = corners.mean(0), np.ptp(corners)
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], np.float32)
    matrix = cv2.getPerspectiveTransform(((corners - centre) / scale).astype(np.float32), square)
    moved = ((np.array(points) - centre) / scale)[None]
    fractions = np.clip(cv2.perspectiveTransform(moved, matrix)[0], 0, 1)
    return tuple((round(float(x), 4), round(float(y), 4)) for x, y in fractions)
