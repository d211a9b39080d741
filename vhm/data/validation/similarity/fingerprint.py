"""What the comparison of images needs of one image: a hash of its bytes, grey levels, and where it is on Earth."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vhm.data.images import load_pixels
from vhm.data.images.resize import compiled
from vhm.data.validation.similarity.footprints import Footprint, read_footprint

Grey = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels

SIDE = 128  # pixels, the square root of the area of a view
DETAIL = 2  # a fingerprint has up to this many times the resolution of a view

MIN_CONTENT = 0.1  # of an image's width and height: less content is not compared
MIN_CONSTANT_AREA = 0.004  # fraction of a view: smaller areas of one colour are roofs and shadows
_CONSTANT_STEP = 1  # grey levels between neighbouring pixels of an area of one colour
_CONSTANT_SPAN = 6  # grey levels in such an area: JPEG changes it by less, a calm lake varies more
_BLACK, _WHITE = 12, 243  # grey levels beyond which all are the same: JPEG blurs the edges of no-data
_MARGIN = 3  # pixels around it, which resampling and JPEG mix with it


@dataclass(frozen=True)
class Fingerprint:
    """`grey` [H, W] has an area of at most 256×256 pixels; `footprint` is None unless the file is georeferenced."""

    sha256: str
    grey: Grey
    footprint: Footprint | None


@dataclass(frozen=True)
class View:
    """A grey image [H, W], and where it shows something: `valid` is 0 in no-data, padding and areas of one colour."""

    grey: Grey
    valid: Grey


def fingerprint(content: bytes, pixels: NDArray[np.uint8] | None = None) -> Fingerprint:
    """The fingerprint of an image file's bytes; `pixels` [H, W, 3] if it is already decoded. Raises ImageError."""
    import cv2

    decoded = load_pixels(content) if pixels is None else pixels
    grey = np.asarray(cv2.cvtColor(decoded, cv2.COLOR_RGB2GRAY), np.uint8)
    if grey.size > (DETAIL * SIDE) ** 2:
        grey = resized(grey, DETAIL)
    return Fingerprint(hashlib.sha256(content).hexdigest(), grey, read_footprint(content))


def view(grey: Grey, scale: float = 1.0) -> View:
    """A grey image at `scale` times the common resolution of views, with its mask."""
    grey = resized(grey, scale)
    return View(grey, _valid(np.clip(grey, _BLACK, _WHITE), max(int(MIN_CONSTANT_AREA * grey.size), 32)))


def resized(grey: Grey, scale: float) -> Grey:
    """The image with an area of (`scale` · `SIDE`)² pixels."""
    import cv2

    height, width = grey.shape
    factor = scale * SIDE / (height * width) ** 0.5
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(grey, size, interpolation=interpolation), np.uint8)


def content_box(valid: Grey) -> Box | None:
    """The smallest box around what is valid; None if that is hardly anything."""
    rows, columns = np.flatnonzero(valid.any(1)), np.flatnonzero(valid.any(0))
    if len(rows) < MIN_CONTENT * valid.shape[0] or len(columns) < MIN_CONTENT * valid.shape[1]:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@compiled
def _valid(grey: Grey, min_area: int) -> Grey:
    """1 outside the connected areas of one colour that have at least `min_area` pixels, and not next to them."""
    height, width = grey.shape
    flat = np.zeros((height, width), np.uint8)
    count = 0
    for y in range(height - 1):
        for x in range(width - 1):
            level = int(grey[y, x])
            right, below = abs(level - int(grey[y, x + 1])), abs(level - int(grey[y + 1, x]))
            flat[y, x] = right <= _CONSTANT_STEP and below <= _CONSTANT_STEP
            count += flat[y, x]
    valid = np.ones((height, width), np.uint8)
    if count < min_area:
        return valid
    area = np.empty(count, np.int64)
    for start in range(height * width):
        if flat[start // width, start % width]:
            size, span = _flood(grey, flat, start, area)
            if size >= min_area and span <= _CONSTANT_SPAN:
                for position in area[:size]:
                    y, x = position // width, position % width
                    # The area reaches one pixel further down and right than its flat pixels.
                    top, left = max(y - _MARGIN, 0), max(x - _MARGIN, 0)
                    valid[top : y + _MARGIN + 2, left : x + _MARGIN + 2] = 0
    return valid


@compiled
def _flood(grey: Grey, flat: Grey, start: int, area: NDArray[np.int64]) -> tuple[int, int]:
    """Collect the connected flat pixels from `start`, which become 0; their number and span of grey levels."""
    height, width = grey.shape
    area[0] = start
    flat[start // width, start % width] = 0
    size, done = 1, 0
    low = high = int(grey[start // width, start % width])
    while done < size:
        y, x = area[done] // width, area[done] % width
        done += 1
        low, high = min(low, int(grey[y, x])), max(high, int(grey[y, x]))
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            row, column = y + dy, x + dx
            if 0 <= row < height and 0 <= column < width and flat[row, column]:
                flat[row, column] = 0
                area[size] = row * width + column
                size += 1
    return size, high - low
