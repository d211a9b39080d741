"""Windows of real scenes, the ways in which they return in a training set, and what unrelated images share."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from vhm.sample.scenes import all_scenes

SIDE = 256
_MIN_SIDE = 500  # of a scene that windows are cut from
_AREAS = {"landsat_224077": "landsat", "landsat_224078": "landsat"}  # neighbouring scenes share ground

Pixels = np.ndarray


@dataclass(frozen=True)
class Window:
    """A window of 256×256 pixels of a scene."""

    scene: str
    top: int
    left: int

    @property
    def area(self) -> str:
        """Windows of different areas show different ground."""
        return _AREAS.get(self.scene, self.scene)

    def shares_ground(self, other: Window) -> bool:
        """Whether the windows overlap; windows of the two neighbouring Landsat scenes are not compared."""
        near = abs(self.top - other.top) < SIDE and abs(self.left - other.left) < SIDE
        return self.scene == other.scene and near

    def moved(self, down: int, right: int) -> Window | None:
        height, width = scenes()[self.scene].shape[:2]
        top, left = self.top + down, self.left + right
        inside = 0 <= top <= height - SIDE and 0 <= left <= width - SIDE
        return Window(self.scene, top, left) if inside else None

    def pixels(self, size: int = SIDE, down: int = 0, right: int = 0) -> Pixels:
        top, left = self.top + down, self.left + right
        return np.ascontiguousarray(scenes()[self.scene][top : top + size, left : left + size])


@functools.cache
def scenes() -> dict[str, Pixels]:
    """The sample's scenes that are large enough for windows."""
    return {scene.name: scene.pixels for scene in all_scenes() if min(scene.pixels.shape[:2]) >= _MIN_SIDE}


def windows(seed: int, areas: set[str] | None = None) -> Iterator[Window]:
    """Random windows that show something: not mostly no-data, not all water."""
    random = np.random.default_rng(seed)
    names = [name for name in scenes() if areas is None or _AREAS.get(name, name) in areas]
    while True:
        name = names[random.integers(len(names))]
        height, width = scenes()[name].shape[:2]
        window = Window(name, int(random.integers(0, height - SIDE)), int(random.integers(0, width - SIDE)))
        pixels = window.pixels()
        if pixels.std() >= 8 and (pixels.max(2) == 0).mean() <= 0.3:
            yield window


def jpeg(pixels: Pixels, quality: int = 80) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


# --- how evaluation images return ----------------------------------------------------------------

Change = Callable[[Window, np.random.Generator], "Pixels | None"]


def shifted(share: float, diagonal: bool = False, size: int = SIDE) -> Change:
    """A neighbour that shares that part of the area, resized to `size`; None where the scene ends."""

    def change(window: Window, random: np.random.Generator) -> Pixels | None:
        along = round(SIDE * (1 - (math.sqrt(share) if diagonal else share)))
        steps = [(along * a, along * b) for a in (-1, 0, 1) for b in (-1, 0, 1) if abs(a) + abs(b) == 1 + diagonal]
        for step in random.permutation(steps).tolist():
            neighbour = window.moved(*step)
            if neighbour is not None:
                return resized(neighbour.pixels(), (size, size))
        return None

    return change


def crop(share: float) -> Change:
    def change(window: Window, random: np.random.Generator) -> Pixels:
        side = round(SIDE * math.sqrt(share))
        down, right = random.integers(0, SIDE - side + 1, 2).tolist()
        return window.pixels(side, down, right)

    return change


def rotated(expand: bool) -> Change:
    def change(window: Window, random: np.random.Generator) -> Pixels:
        image = Image.fromarray(window.pixels())
        return np.asarray(image.rotate(random.uniform(3, 357), Image.Resampling.BICUBIC, expand=expand))

    return change


def rotated_part(window: Window, random: np.random.Generator) -> Pixels:
    """The middle of a rotated image, without black corners: half of its area."""
    return rotated(False)(window, random)[37:219, 37:219]


def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize(size))


def watermark(pixels: Pixels) -> Pixels:
    image = Image.fromarray(pixels)
    text = image.copy()
    for y in range(20, SIDE, 60):
        ImageDraw.Draw(text).text((4, y), "© COPYRIGHT", fill="white", font_size=38)
    return np.asarray(Image.blend(image, text, 0.45))


def bar(pixels: Pixels) -> Pixels:
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    pen.rectangle([0, 230, 255, 255], fill="black")
    pen.text((8, 232), "0     100     200 m", fill="white", font_size=18)
    return np.asarray(image)


def padded(pixels: Pixels) -> Pixels:
    square = np.full((SIDE, SIDE, 3), (122, 116, 104), np.uint8)
    square[38:218] = resized(pixels, (SIDE, 180))
    return square


def of_pixels(function: Callable[[Pixels], Pixels]) -> Change:
    return lambda window, random: function(window.pixels())


# name: (the recall that is required, the change)
CHANGES: dict[str, tuple[float, Change]] = {
    "neighbour that shares 94 %": (0.95, shifted(0.94)),
    "neighbour that shares 75 %": (0.95, shifted(0.75)),
    "neighbour that shares 75 %, diagonal": (0.95, shifted(0.75, diagonal=True)),
    "neighbour that shares 75 %, at 60 % of the size": (0.95, shifted(0.75, size=154)),
    "neighbour that shares 50 %": (0.9, shifted(0.5)),
    "neighbour that shares 50 %, diagonal": (0.9, shifted(0.5, diagonal=True)),
    "neighbour that shares 50 %, at 60 % of the size": (0.9, shifted(0.5, size=154)),
    "rotated by any angle, black corners": (0.95, rotated(True)),
    "rotated by any angle, corners cut off": (0.95, rotated(False)),
    "middle of the image rotated by any angle": (0.9, rotated_part),
    "watermark": (0.95, of_pixels(watermark)),
    "bar with a scale": (0.95, of_pixels(bar)),
    "negative": (0.95, of_pixels(lambda pixels: 255 - pixels)),
    "JPEG quality 10": (0.95, of_pixels(lambda pixels: np.asarray(Image.open(io.BytesIO(jpeg(pixels, 10)))))),
    "resized to 40 %": (0.95, of_pixels(lambda pixels: resized(pixels, (102, 102)))),
    "resized to 200 %": (0.95, of_pixels(lambda pixels: resized(pixels, (512, 512)))),
    "stretched to 300×200": (0.95, of_pixels(lambda pixels: resized(pixels, (300, 200)))),
    "mirrored": (0.95, of_pixels(lambda pixels: pixels[:, ::-1])),
    "rotated by 90°": (0.95, of_pixels(np.rot90)),
    "brighter": (0.95, of_pixels(lambda pixels: np.clip(pixels * 1.2, 0, 255).astype(np.uint8))),
    "padded to a square": (0.9, of_pixels(padded)),
    "crop of 90 %": (0.95, crop(0.9)),
    "crop of 50 %": (0.9, crop(0.5)),
    "crop of 25 %": (0.9, crop(0.25)),
    "mirrored crop of 60 %": (0.9, lambda window, random: crop(0.6)(window, random)[:, ::-1]),
}


# --- what unrelated images share -----------------------------------------------------------------


def _painted(draw: Callable[[ImageDraw.ImageDraw], None]) -> Callable[[Pixels], Pixels]:
    def paint(pixels: Pixels) -> Pixels:
        image = Image.fromarray(pixels)
        draw(ImageDraw.Draw(image))
        return np.asarray(image)

    return paint


def _logo(pen: ImageDraw.ImageDraw) -> None:
    pen.ellipse([186, 10, 246, 70], fill=(20, 40, 140), outline="white", width=3)
    pen.polygon([(200, 55), (216, 20), (232, 55)], fill=(230, 60, 40))
    pen.text((196, 28), "SAT", fill="white", font_size=20)


def _frame(pen: ImageDraw.ImageDraw) -> None:
    pen.rectangle([0, 0, 255, 255], outline=(250, 250, 250), width=12)
    pen.rectangle([12, 12, 243, 243], outline=(0, 0, 0), width=2)


def _stripes(width: int, step: int, slope: float) -> Callable[[ImageDraw.ImageDraw], None]:
    def draw(pen: ImageDraw.ImageDraw) -> None:
        for y in range(-256, 512, step):
            pen.line([(0, y), (255, y + slope * 255)], fill="black", width=width)

    return draw


@functools.cache
def _cloud() -> Pixels:
    """[256, 256, 1]: how much of a pixel is white; about a third of the image is saturated."""
    random = np.random.default_rng(3)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    frequency[0, 0] = 1
    field = np.fft.ifft2(np.fft.fft2(random.normal(size=(SIDE, SIDE))) / frequency**1.8).real
    return np.clip((field - np.quantile(field, 0.5)) / np.ptp(field) * 6, 0, 1)[..., None]


def _clouds(pixels: Pixels) -> Pixels:
    return np.rint(pixels * (1 - _cloud()) + 255 * _cloud()).astype(np.uint8)


MASKS: dict[str, Callable[[Pixels], Pixels]] = {
    "nothing": lambda pixels: pixels,
    "black wedge": _painted(lambda pen: pen.polygon([(0, 0), (180, 0), (0, 220)], fill="black")),
    "white wedge": _painted(lambda pen: pen.polygon([(255, 255), (60, 255), (255, 40)], fill="white")),
    "swath edge": _painted(lambda pen: pen.polygon([(0, 0), (130, 0), (95, 255), (0, 255)], fill="black")),
    "corner": _painted(lambda pen: pen.rectangle([0, 0, 120, 120], fill="black")),
    "frame": _painted(_frame),
    "scale bar": bar,
    "logo": _painted(_logo),
    "wide stripes": _painted(_stripes(8, 32, 0.15)),
    "narrow stripes": _painted(_stripes(2, 32, 0.15)),
    "clouds": _clouds,
}
